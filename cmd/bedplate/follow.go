package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

// What `machine follow --until` can wait for.
const (
	untilActive       = "active"
	untilAvailable    = "available"
	untilWorkflowDone = "workflow-done"
)

func untils() []string { return []string{untilActive, untilAvailable, untilWorkflowDone} }

func newFollowCommand(a *app) *cobra.Command {
	f := &follower{app: a}
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "follow NAME",
		Short: "Show what is seen of a machine, and the steps of its workflow, as it happens",
		Long: `Show what the boot services and the agent see of a machine, its changes of state,
and the steps of its workflow with their progress, as it happens.

With --until it ends when the machine is active, available, or a workflow on it
has succeeded; it fails when the machine or the workflow fails, and says why. A
restart of the server is waited out.`,
		Example:           "  bedplate machine follow web-1\n  bedplate machine follow web-1 --until active --timeout 30m",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Machine")),
		RunE: func(cmd *cobra.Command, words []string) error {
			if f.until != "" && !slices.Contains(untils(), f.until) {
				return usageError{fmt.Errorf("--until %s: not one of %s", f.until, strings.Join(untils(), ", "))}
			}
			f.name = words[0]
			return a.with(cmd.Context(), func(c *client) error {
				f.client = c
				return f.run(cmd.Context(), timeout)
			})
		},
	}
	cmd.Flags().StringVar(&f.until, "until", "", "end when this is so: "+strings.Join(untils(), "|"))
	completeFlag(cmd, "until", untils()...)
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "fail when it takes longer than this")
	return cmd
}

// follower shows one machine. Its goroutines receive; all they do with what
// came is done by the one that runs the loop.
type follower struct {
	*app
	client      *client
	name, until string

	screen *table.Screen
	feeds  sync.WaitGroup
	events chan func() error
	// workflows that were followed, and the machine's own now.
	workflows map[string]*followedWorkflow
	workflow  string
	shown     string
	lostSince bool
}

// followedWorkflow is a workflow and whether it has a feed.
type followedWorkflow struct {
	view *workflowView
	live bool
}

func (f *follower) run(ctx context.Context, timeout time.Duration) (err error) {
	f.screen, f.events, f.workflows = f.app.screen(f.stdout), make(chan func() error), map[string]*followedWorkflow{}
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		f.feeds.Wait()
		err = errors.Join(err, f.screen.Close())
	}()
	f.start(ctx, func() error { return f.followMachine(ctx) })
	var late <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		late = timer.C
	}
	for {
		select {
		case event := <-f.events:
			if err := event(); errors.Is(err, errDone) {
				return nil
			} else if err != nil {
				return err
			}
		case <-late:
			return f.late(ctx, timeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// start runs a feed, whose error ends the loop.
func (f *follower) start(ctx context.Context, run func() error) {
	f.feeds.Go(func() {
		if err := run(); err != nil {
			_ = f.do(ctx, func() error { return err })
		}
	})
}

// do has the loop call event.
func (f *follower) do(ctx context.Context, event func() error) error {
	select {
	case f.events <- event:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *follower) followMachine(ctx context.Context) error {
	machines := pb.NewMachineServiceClient(f.client.conn)
	err := feed(ctx, false, func(ctx context.Context) (grpc.ServerStreamingClient[pb.FollowMachineResponse], error) {
		return machines.FollowMachine(ctx, &pb.FollowMachineRequest{Name: f.name})
	}, func(m *pb.FollowMachineResponse) error {
		return f.do(ctx, func() error { return f.show(ctx, m) })
	}, func(err error) error {
		return f.do(ctx, func() error { return f.lost(err) })
	})
	return f.client.nearest(ctx, mustKind("Machine"), f.name, err)
}

// lost says once that the server is gone.
func (f *follower) lost(err error) error {
	if !f.lostSince {
		f.lostSince = true
		what, _ := f.explain(err)
		f.line(nil, "server", f.style(f.stdout).Busy("connection lost, trying again: "+what))
	}
	return nil
}

// line prints `12:00:01  dhcp      text`.
func (f *follower) line(at *pb.Sighting, source, text string) {
	f.screen.Line(f.prefix(f.clock(at.GetTime()), source) + text)
}

func (a *app) prefix(clock, source string) string {
	return fmt.Sprintf("%s  %-9s ", a.style(a.stdout).Dim(clock), table.Clean(source))
}

func (f *follower) show(ctx context.Context, m *pb.FollowMachineResponse) error {
	if f.lostSince {
		f.lostSince = false
		f.line(nil, "server", f.style(f.stdout).Good("connected again"))
	}
	switch e := m.GetEvent().(type) {
	case *pb.FollowMachineResponse_Machine:
		return f.machine(ctx, e.Machine)
	case *pb.FollowMachineResponse_Sighting:
		s := e.Sighting
		if strings.HasPrefix(s.GetDetail(), "step-") {
			return nil // shown by the workflow, with its progress
		}
		f.line(s, s.GetSource(), strings.Join(notEmpty(s.GetDetail(), s.GetAddress()), "  "))
	case *pb.FollowMachineResponse_Phase:
		f.phase(e.Phase)
	}
	return nil
}

// phase shows a phase while it goes on, and then how long it took. Those of
// steps are shown by their workflow.
func (f *follower) phase(p *pb.Phase) {
	if strings.HasPrefix(p.GetName(), "step ") {
		return
	}
	style, id := f.style(f.stdout), "phase "+p.GetName()
	switch {
	case p.GetError() != "":
		f.screen.Remove(id)
		f.screen.Line(f.prefix(f.clock(p.GetEndTime()), "phase") + style.Bad(p.GetName()+" failed: "+table.Clean(p.GetError())))
	case p.GetEndTime() == nil:
		f.screen.Set(id, table.Bar{Label: p.GetName(), Message: p.GetDetail()})
	default:
		f.screen.Remove(id)
		f.screen.Line(f.prefix(f.clock(p.GetEndTime()), "phase") + p.GetName() + " took " + table.Took(f.phaseTook(p)))
	}
}

// machine shows a change of state, begins to follow the machine's workflow,
// and ends the command when what it waits for is there.
func (f *follower) machine(ctx context.Context, m *pb.Machine) error {
	st := m.GetStatus()
	state := resource.EnumName(st.GetState())
	text := f.style(f.stdout).State(state)
	if cause := table.Clean(st.GetCause()); cause != "" {
		text += ": " + cause
	}
	if text != f.shown && state != "" {
		f.shown = text
		f.line(nil, "state", text)
	}
	if w := st.GetWorkflow(); w != f.workflow {
		f.workflow = w
		f.begin(ctx, w)
	}
	if f.until == "" || f.until == untilWorkflowDone {
		return nil
	}
	switch st.GetState() {
	case pb.MachineState_ACTIVE:
		if f.until == untilActive {
			return errDone
		}
	case pb.MachineState_AVAILABLE:
		if f.until == untilAvailable {
			return errDone
		}
	case pb.MachineState_FAILED, pb.MachineState_QUARANTINED, pb.MachineState_RETIRED:
		return hint(fmt.Errorf("machine/%s is %s: %s", f.name, state, table.Clean(st.GetCause())),
			fmt.Sprintf("`bedplate machine explain %s` says what to do", f.name))
	}
	return nil
}

// begin follows a workflow, unless it is followed already.
func (f *follower) begin(ctx context.Context, name string) {
	if name == "" {
		return
	}
	w := f.workflows[name]
	if w == nil {
		w = &followedWorkflow{view: newWorkflowView(f.app, f.screen, name)}
		f.workflows[name] = w
	}
	if !w.live {
		w.live = true
		f.start(ctx, func() error { return f.followWorkflow(ctx, w) })
	}
}

// followWorkflow receives until the workflow has ended. One that is deleted
// meanwhile is no concern of the machine's.
func (f *follower) followWorkflow(ctx context.Context, w *followedWorkflow) error {
	workflows := pb.NewWorkflowServiceClient(f.client.conn)
	err := feed(ctx, true, func(ctx context.Context) (grpc.ServerStreamingClient[pb.FollowWorkflowResponse], error) {
		return workflows.FollowWorkflow(ctx, &pb.FollowWorkflowRequest{Name: w.view.name})
	}, func(m *pb.FollowWorkflowResponse) error {
		ended := make(chan bool, 1)
		err := f.do(ctx, func() error {
			w.view.show(m)
			w.live = !w.view.ended()
			ended <- !w.live
			if !w.live && f.until == untilWorkflowDone {
				return orDone(w.view.result())
			}
			return nil
		})
		if err != nil {
			return err
		}
		select {
		case over := <-ended:
			if over {
				return errDone
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, func(error) error { return nil })
	if codeOf(err) == codes.NotFound {
		return f.do(ctx, func() error { w.live = false; return nil })
	}
	return err
}

// orDone makes errDone of no error.
func orDone(err error) error {
	if err == nil {
		return errDone
	}
	return err
}

// late says how far the machine has come in the time it had.
func (f *follower) late(ctx context.Context, timeout time.Duration) error {
	what := "it is not " + f.until
	if f.until == "" || f.until == untilWorkflowDone {
		what = "its workflow is not done"
	}
	err := fmt.Errorf("machine/%s: %s after %s", f.name, what, timeout)
	ctx, cancel := f.client.bounded(ctx)
	defer cancel()
	r, explainErr := pb.NewMachineServiceClient(f.client.conn).ExplainMachine(ctx, &pb.ExplainMachineRequest{Name: f.name})
	if explainErr != nil {
		return hint(err, fmt.Sprintf("`bedplate machine explain %s` says what it waits for", f.name))
	}
	err = fmt.Errorf("%w: %s", err, table.Clean(r.GetSummary()))
	if len(r.GetAdvice()) > 0 {
		return hint(err, table.Clean(r.GetAdvice()[0]))
	}
	return err
}
