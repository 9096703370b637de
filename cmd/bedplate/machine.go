package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/bedplate/bedplate/lifecycle"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

func newMachineCommand(a *app) *cobra.Command {
	noun := newNounCommand(a, mustKind("Machine"), "Servers: what they are, do, and wait for")
	noun.AddCommand(newExplainCommand(a), newInventoryCommand(a), newTestsCommand(a), newTimelineCommand(a), newFollowCommand(a), newAcceptCommand(a), newMachineNetworkCommand(a))
	noun.AddCommand(newMachineBMCCommands(a)...)
	noun.AddCommand(newErasureCommand(a))
	noun.AddCommand(newLifeCommands(a)...)
	return noun
}

func newExplainCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "explain NAME",
		Short:             "Say what a machine is waiting for, what was seen of it, and what to do",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Machine")),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				r, err := pb.NewMachineServiceClient(c.conn).ExplainMachine(ctx, &pb.ExplainMachineRequest{Name: words[0]})
				if err != nil {
					return c.nearest(cmd.Context(), mustKind("Machine"), words[0], err)
				}
				return a.printExplanation(r)
			})
		},
	}
}

func newAcceptCommand(a *app) *cobra.Command {
	kind := mustKind("Machine")
	return &cobra.Command{
		Use:   "accept NAME...",
		Short: "Take machines that made themselves known into the pool",
		Long: `Take machines that made themselves known into the pool: those in the state
discovered, which booted on a network that discovers machines. Until they are
accepted nothing is installed on them.`,
		Example:           "  bedplate machine accept m-525400770001",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeNames(kind),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				var errs []error
				for _, name := range words {
					errs = append(errs, a.accept(cmd.Context(), c, name))
				}
				return errors.Join(errs...)
			})
		},
	}
}

// acceptAttempts bounds how often an accept is tried again when the machine
// changed meanwhile, as one does whose agent is at work.
const acceptAttempts = 5

// accept takes away the mark of a discovered machine, and leaves everything
// else as it is at that moment.
func (a *app) accept(ctx context.Context, c *client, name string) error {
	kind := mustKind("Machine")
	for attempt := 1; ; attempt++ {
		m, err := c.get(ctx, kind, name)
		if err != nil {
			return err
		}
		annotations := m.GetMetadata().GetAnnotations()
		if annotations[lifecycle.AnnotationDiscovered] == "" {
			fprintf(a.stdout, "machine/%s unchanged: it needs no accepting\n", name)
			return nil
		}
		delete(annotations, lifecycle.AnnotationDiscovered)
		_, err = c.update(ctx, kind, m, false, false)
		if codeOf(err) == codes.Aborted && attempt < acceptAttempts {
			continue
		}
		if err != nil {
			return err
		}
		fprintf(a.stdout, "machine/%s accepted\n", name)
		return nil
	}
}

func (a *app) printExplanation(r *pb.ExplainMachineResponse) error {
	p := &page{a: a}
	p.out.WriteString(table.Clean(r.GetSummary()) + "\n")
	if r.GetWaitingFor() != "" || r.GetDeadline() != nil {
		p.out.WriteString("\n")
	}
	p.line("State", a.style(a.stdout).State(resource.EnumName(r.GetMachine().GetStatus().GetState())))
	p.line("Waiting for", table.Clean(r.GetWaitingFor()))
	p.line("Since", a.ago(r.GetSince()))
	p.line("Deadline", a.ago(r.GetDeadline()))
	if len(r.GetSightings()) > 0 {
		p.section("Last seen")
		t := &table.Table{Header: []string{"BY", "AGE", "ADDRESS", "WHAT"}}
		for _, s := range r.GetSightings() {
			t.Add(clean(s.GetSource(), a.age(s.GetTime()), s.GetAddress(), s.GetDetail())...)
		}
		p.table(t)
	}
	if len(r.GetAdvice()) > 0 {
		p.section("What to do")
		for i, s := range r.GetAdvice() {
			fmt.Fprintf(&p.out, "  %d. %s\n", i+1, table.Clean(s))
		}
	}
	_, err := fmt.Fprint(a.stdout, p.out.String())
	return err
}

func newTimelineCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "timeline NAME",
		Short:             "Show the phases of a machine's last boots with their durations",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Machine")),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				r, err := pb.NewMachineServiceClient(c.conn).GetMachineTimeline(ctx, &pb.GetMachineTimelineRequest{Name: words[0]})
				if err != nil {
					return c.nearest(cmd.Context(), mustKind("Machine"), words[0], err)
				}
				if len(r.GetPhases()) == 0 {
					fprintf(a.stderr, "nothing was seen of %s yet\n", words[0])
					return nil
				}
				return a.timeline(r.GetPhases()).Write(a.stdout)
			})
		},
	}
}

// timeline makes a row of every phase, with its share drawn as a bar.
func (a *app) timeline(phases []*pb.Phase) *table.Table {
	const width = 30
	style := a.style(a.stdout)
	t := &table.Table{Header: []string{"START", "PHASE", "TOOK", "WHEN", "DETAIL"}}
	first := phases[0].GetStartTime().AsTime()
	last := first
	for _, p := range phases {
		last = laterOf(last, p.GetStartTime().AsTime().Add(a.phaseTook(p)))
	}
	whole := max(last.Sub(first), time.Millisecond)
	for _, p := range phases {
		from := int(float64(p.GetStartTime().AsTime().Sub(first)) / float64(whole) * width)
		length := max(1, int(float64(a.phaseTook(p))/float64(whole)*width))
		from = min(max(0, from), width-1)
		bar := strings.Repeat(" ", from) + strings.Repeat("=", min(length, width-from))
		took := table.Took(a.phaseTook(p))
		detail := table.Truncate(table.Clean(p.GetDetail()), maxCell)
		switch {
		case p.GetError() != "":
			detail = style.Bad("failed: " + table.Truncate(table.Clean(p.GetError()), maxCell))
		case p.GetEndTime() == nil:
			took += " so far"
		}
		t.Add(a.clock(p.GetStartTime()), table.Clean(p.GetName()), took, fmt.Sprintf("|%-*s|", width, bar), detail)
	}
	t.Add(" ", "in all", table.Took(whole))
	return t
}

func laterOf(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// phaseTook is how long a phase took, or has taken till now.
func (a *app) phaseTook(p *pb.Phase) time.Duration {
	switch {
	case p.GetDuration() != nil:
		return p.GetDuration().AsDuration()
	case p.GetEndTime() != nil:
		return p.GetEndTime().AsTime().Sub(p.GetStartTime().AsTime())
	}
	return a.now().Sub(p.GetStartTime().AsTime())
}
