package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func newStackFollowCommand(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "follow NAME",
		Short: "Show how a stack goes, layer by layer, until it is ready, failed or gone",
		Long: `Show how a stack goes, layer by layer, until it is ready, failed or gone. The
exit code is 0 when it is ready or gone, 1 when it has failed.`,
		Example:           "  bedplate apply -f stack.yaml && bedplate stack follow edge",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Stack")),
		RunE: func(cmd *cobra.Command, words []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return a.with(ctx, func(c *client) error {
				if _, err := c.get(ctx, mustKind("Stack"), words[0]); err != nil {
					return err
				}
				f := &stackFollower{app: a, screen: a.screen(a.stdout), seen: map[string]string{}}
				err := c.watch(ctx, mustKind("Stack"), words[0], "", f.change)
				err = errors.Join(f.screen.Close(), err)
				switch {
				case errors.Is(err, errStackDone):
					return f.outcome
				case errors.Is(ctx.Err(), context.DeadlineExceeded):
					return hint(fmt.Errorf("stack/%s is %s after %s", words[0], f.last, timeout), "it goes on; follow it again, or see `bedplate stack describe "+words[0]+"`")
				case codeOf(err) == codes.NotFound:
					return nil
				}
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Hour, "how long to follow")
	return cmd
}

// errStackDone ends the watch.
var errStackDone = errors.New("done")

// stackFollower prints what changes.
type stackFollower struct {
	*app
	screen  *table.Screen
	seen    map[string]string
	last    string
	outcome error
}

func (f *stackFollower) change(ch change) error {
	if ch.kind == pb.ChangeType_DELETED {
		f.line("", "gone", "nothing of it is left in its cluster")
		return errStackDone
	}
	s, ok := ch.object.(*pb.Stack)
	if !ok {
		return nil
	}
	f.last = stackState(s)
	for _, l := range s.GetStatus().GetLayers() {
		f.layer(l)
	}
	st := s.GetStatus()
	if st.GetDeleting() {
		f.tell("", "removing", st.GetCause())
		return nil
	}
	switch st.GetState() {
	case pb.StackState_STACK_FAILED:
		f.outcome = errors.New(label(s) + " has failed: " + st.GetCause())
		return errStackDone
	case pb.StackState_STACK_READY:
		f.line("", f.last, fmt.Sprintf("%s layers in %s", stackCount(s), f.took(st.GetStartTime(), st.GetEndTime())))
		return errStackDone
	case pb.StackState_STACK_PENDING:
		f.tell("", f.last, st.GetCause())
	}
	return nil
}

// layer prints a layer's new state, and keeps a line for one that is at work.
func (f *stackFollower) layer(l *pb.StackLayerStatus) {
	state := resource.EnumName(l.GetState())
	busy := slices.Contains([]pb.StackState{pb.StackState_STACK_APPLYING, pb.StackState_STACK_WAITING, pb.StackState_STACK_ROLLING_BACK, pb.StackState_STACK_REMOVING}, l.GetState())
	if busy && f.width(f.stdout) > 0 {
		f.screen.Set(l.GetName(), table.Bar{Label: l.GetName() + " " + state, Message: table.Truncate(table.Clean(firstLine(l.GetCause())), 80)})
	} else {
		f.screen.Remove(l.GetName())
	}
	cause := l.GetCause()
	if busy && f.width(f.stdout) > 0 {
		cause = "" // The line of the layer shows it as it changes.
	}
	if l.GetState() == pb.StackState_STACK_READY {
		cause = fmt.Sprintf("%s, %d objects in %s", l.GetVersion(), l.GetObjects(), f.took(l.GetStartTime(), l.GetEndTime()))
	}
	f.tell(l.GetName(), state, cause)
}

// tell prints what hasn't been said of a layer yet.
func (f *stackFollower) tell(layer, state, cause string) {
	text := state + " " + cause
	if state == "" || state == "pending" && cause == "" || f.seen[layer] == text {
		return
	}
	f.seen[layer] = text
	f.line(layer, state, cause)
}

func (f *stackFollower) line(layer, state, cause string) {
	text := fmt.Sprintf("%s %-16s %-12s %s", f.clock(nil), layer, f.style(f.stdout).State(state), table.Clean(firstLine(cause)))
	f.screen.Line(text)
}
