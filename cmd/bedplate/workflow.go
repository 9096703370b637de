package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

func newWorkflowCommand(a *app) *cobra.Command {
	kind := mustKind("Workflow")
	noun := newNounCommand(a, kind, "Machines on their way through a template")
	noun.AddCommand(newRunCommand(a), newLogsCommand(a), newCancelCommand(a), newRetryCommand(a), newApproveCommand(a))
	for _, c := range noun.Commands() {
		if c.Name() == "watch" {
			watchLive(a, c)
		}
	}
	return noun
}

// watchLive makes `workflow watch NAME` show the steps of one workflow as they
// go; without a name, and with -o, it stays what it is for all kinds.
func watchLive(a *app, cmd *cobra.Command) {
	all := cmd.RunE
	cmd.Short = "Show the steps of a workflow until it ends, or changes of all workflows"
	cmd.Long = "With a name, show the steps of that workflow with their progress until it ends; the\ncommand fails if the workflow does. Without one, or with -o, show workflows and every\nchange of them."
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		if len(words) == 0 || cmd.Flags().Changed("output") {
			return all(cmd, words)
		}
		return a.with(cmd.Context(), func(c *client) error { return a.watchWorkflow(cmd.Context(), c, words[0]) })
	}
}

// watchWorkflow shows a workflow until it ends, and returns how.
func (a *app) watchWorkflow(ctx context.Context, c *client, name string) error {
	screen := a.screen(a.stdout)
	view := newWorkflowView(a, screen, name)
	err := c.followWorkflow(ctx, &pb.FollowWorkflowRequest{Name: name}, func(m *pb.FollowWorkflowResponse) error {
		view.show(m)
		if view.ended() {
			return errDone
		}
		return nil
	}, func(err error) error {
		what, _ := a.explain(err)
		view.line(nil, "server", a.style(a.stdout).Busy("connection lost, trying again: "+what))
		return nil
	})
	return errors.Join(c.nearest(ctx, mustKind("Workflow"), name, err), screen.Close(), view.result())
}

// followWorkflow passes on the messages of a workflow's stream.
func (c *client) followWorkflow(ctx context.Context, r *pb.FollowWorkflowRequest, send func(*pb.FollowWorkflowResponse) error, lost func(error) error) error {
	workflows := pb.NewWorkflowServiceClient(c.conn)
	return feed(ctx, false, func(ctx context.Context) (grpc.ServerStreamingClient[pb.FollowWorkflowResponse], error) {
		return workflows.FollowWorkflow(ctx, r)
	}, send, lost)
}

func newLogsCommand(a *app) *cobra.Command {
	l := &logPrinter{app: a}
	var follow bool
	cmd := &cobra.Command{
		Use:               "logs NAME",
		Short:             "Print what the steps of a workflow printed",
		Long:              "Print what the steps of a workflow printed. With -f go on until the workflow ends.",
		Example:           "  bedplate workflow logs -f install-web-1\n  bedplate workflow logs install-web-1 --step write --timestamps",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Workflow")),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error { return l.run(cmd.Context(), c, words[0], follow) })
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the workflow ends")
	cmd.Flags().StringVar(&l.only, "step", "", "only what this `step` printed")
	cmd.Flags().BoolVar(&l.timestamps, "timestamps", false, "begin each line with the time it was printed")
	return cmd
}

// logPrinter prints log lines, each of them once even if the stream had to be
// opened again.
type logPrinter struct {
	*app
	only       string
	timestamps bool
	// Lines up to this time have been printed, and so many of that time.
	last  time.Time
	count int
	// skip is how many more lines of that time to pass over.
	skip  int
	ended bool
}

func (l *logPrinter) run(ctx context.Context, c *client, name string, follow bool) error {
	r := &pb.FollowWorkflowRequest{Name: name, History: true, NoFollow: !follow}
	if !follow {
		stream, err := pb.NewWorkflowServiceClient(c.conn).FollowWorkflow(ctx, r)
		for err == nil {
			var m *pb.FollowWorkflowResponse
			if m, err = stream.Recv(); err == nil {
				l.show(m)
			}
		}
		if passing(err) && codeOf(err) != codes.Unavailable { // the stream has ended
			return nil
		}
		return c.nearest(ctx, mustKind("Workflow"), name, err)
	}
	err := c.followWorkflow(ctx, r, func(m *pb.FollowWorkflowResponse) error {
		l.show(m)
		return nil
	}, func(err error) error {
		if l.ended {
			return errDone
		}
		l.skip = l.count
		return nil
	})
	if errors.Is(err, errDone) {
		return nil
	}
	return c.nearest(ctx, mustKind("Workflow"), name, err)
}

func (l *logPrinter) show(m *pb.FollowWorkflowResponse) {
	if w := m.GetWorkflow(); w != nil {
		view := workflowView{last: w}
		l.ended = view.ended()
	}
	line := m.GetLog()
	if line == nil || l.seen(line) || l.only != "" && line.GetStep() != l.only {
		return
	}
	style := l.style(l.stdout)
	prefix := ""
	if l.timestamps {
		prefix = style.Dim(line.GetTime().AsTime().In(l.zone).Format(time.RFC3339)) + " "
	}
	if l.only == "" {
		prefix += style.Dim(table.Clean(line.GetStep())+" |") + " "
	}
	text := printable(line.GetText())
	if line.GetStream() == "stderr" {
		text = style.Busy(text)
	}
	fprintf(l.stdout, "%s%s\n", prefix, text)
}

// printable keeps tabs, and takes out what could change the terminal.
func printable(text string) string {
	parts := strings.Split(text, "\t")
	for i := range parts {
		parts[i] = table.Clean(parts[i])
	}
	return strings.Join(parts, "\t")
}

// seen reports whether a line was printed before the stream broke.
func (l *logPrinter) seen(line *pb.LogLine) bool {
	at := line.GetTime().AsTime()
	switch {
	case at.Equal(l.last) && l.skip > 0:
		l.skip--
		return true
	case at.Before(l.last) && l.skip > 0:
		return true
	case at.Equal(l.last):
		l.count++
	default:
		l.last, l.count, l.skip = at, 1, 0
	}
	return false
}

func newCancelCommand(a *app) *cobra.Command {
	var reason string
	cmd := workflowAction(a, "cancel", "Stop a workflow", func(ctx context.Context, c pb.WorkflowServiceClient, name string) (*pb.Workflow, error) {
		return c.CancelWorkflow(ctx, &pb.CancelWorkflowRequest{Name: name, Reason: reason})
	}, "cancel requested")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}

func newRetryCommand(a *app) *cobra.Command {
	var from string
	cmd := workflowAction(a, "retry", "Run a workflow that has ended again, from where it failed", func(ctx context.Context, c pb.WorkflowServiceClient, name string) (*pb.Workflow, error) {
		return c.RetryWorkflow(ctx, &pb.RetryWorkflowRequest{Name: name, FromStep: from})
	}, "runs again")
	cmd.Flags().StringVar(&from, "from-step", "", "first `step` to run again (default: the first that failed)")
	return cmd
}

func newApproveCommand(a *app) *cobra.Command {
	var step string
	var reject bool
	done := "approved"
	cmd := workflowAction(a, "approve", "Let a workflow go on past a step that waits for a person", func(ctx context.Context, c pb.WorkflowServiceClient, name string) (*pb.Workflow, error) {
		return c.ApproveWorkflow(ctx, &pb.ApproveWorkflowRequest{Name: name, Step: step, Reject: reject})
	}, done)
	cmd.Flags().StringVar(&step, "step", "", "the `step` that waits (default: the one that does)")
	cmd.Flags().BoolVar(&reject, "reject", false, "let the step fail instead")
	return cmd
}

// workflowAction makes a command that does one thing to one workflow.
func workflowAction(a *app, verb, short string, do func(context.Context, pb.WorkflowServiceClient, string) (*pb.Workflow, error), done string) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:               verb + " NAME",
		Short:             short,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Workflow")),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				if _, err := do(ctx, pb.NewWorkflowServiceClient(c.conn), words[0]); err != nil {
					return c.nearest(cmd.Context(), mustKind("Workflow"), words[0], err)
				}
				if rejected, _ := cmd.Flags().GetBool("reject"); rejected {
					done = "rejected"
				}
				fprintf(a.stdout, "workflow/%s %s\n", words[0], done)
				if !follow {
					return nil
				}
				return a.watchWorkflow(cmd.Context(), c, words[0])
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "show its steps until it ends")
	return cmd
}

func newRunCommand(a *app) *cobra.Command {
	var machine, name, machineTimeout string
	var inputs []string
	var follow bool
	cmd := &cobra.Command{
		Use:   "run TEMPLATE --machine NAME",
		Short: "Take a machine through a template",
		Long: `Create a workflow that takes a machine through a template.

An input is given as -i key=value, and read as the template's type for it; lists
and maps as YAML or JSON. -i key=@file takes the value from a file.`,
		Example:           "  bedplate workflow run install-image --machine web-1 -i image=debian-13 --follow",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Template")),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				t, err := c.get(cmd.Context(), mustKind("Template"), words[0])
				if err != nil {
					return err
				}
				values, err := readInputs(inputs, t.(*pb.Template).GetSpec().GetInputs())
				if err != nil {
					return err
				}
				w := &pb.Workflow{
					Metadata: &pb.Metadata{Name: orElse(name, a.newName(words[0]+"-"+machine))},
					Spec:     &pb.WorkflowSpec{Template: words[0], Machine: machine, Inputs: values, MachineTimeout: machineTimeout},
				}
				if _, err := c.create(cmd.Context(), mustKind("Workflow"), w, false); err != nil {
					return err
				}
				fprintf(a.stdout, "workflow/%s created\n", w.Metadata.Name)
				if !follow {
					return nil
				}
				return a.watchWorkflow(cmd.Context(), c, w.Metadata.Name)
			})
		},
	}
	cmd.Flags().StringVarP(&machine, "machine", "m", "", "`name` of the machine")
	cmd.Flags().StringVar(&name, "name", "", "name of the workflow (default: made from template and machine)")
	cmd.Flags().StringArrayVarP(&inputs, "input", "i", nil, "`key=value` of an input; may be given more than once")
	cmd.Flags().StringVar(&machineTimeout, "machine-timeout", "", "how long the machine may take to show up, such as 30m")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "show its steps until it ends, and fail if it does")
	if err := cmd.MarkFlagRequired("machine"); err != nil {
		panic(err)
	}
	mustComplete(cmd, "machine", a.completeNames(mustKind("Machine")))
	return cmd
}

// newName returns a name that nothing has yet, as likely as not at all.
func (a *app) newName(stem string) string {
	return fmt.Sprintf("%s-%s", stem, a.suffix())
}
