package workflow

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow/plan"
)

// Cancel stops a workflow. One that hasn't started is over at once; else the
// agent is told, and what runs has a minute to stop. A workflow that has ended
// stays as it is: the error is ErrEnded.
func (c *Controller) Cancel(ctx context.Context, name, reason string) (*pb.Workflow, error) {
	return c.CancelBy(ctx, name, reason, "")
}

// CancelBy is Cancel with the person who asked for it, for the event log.
func (c *Controller) CancelBy(ctx context.Context, name, reason, actor string) (*pb.Workflow, error) {
	return c.change(ctx, name, func(t *tx) error {
		s := t.wf.Status
		if ended(s.State) {
			return fmt.Errorf("workflow %s: %w", name, ErrEnded)
		}
		if s.CancelRequested {
			return errNothing
		}
		run, err := t.plan()
		if err != nil {
			return err
		}
		t.event("CancelRequested", reason, actor, false)
		s.CancelRequested = true
		m, err := resource.Get[*pb.Machine](ctx, c.cfg.DB, t.wf.GetSpec().GetMachine())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		// An agent that is away may still be at work: it is told when it comes back.
		run.Cancel(!m.GetStatus().GetAgent().GetConnected(), t.now)
		s.Cause = joinCause(cancelling, reason)
		s.Deadline = timestamppb.New(t.now.Add(cancelGrace))
		return nil
	})
}

// cancelling begins the cause of a workflow until it is over.
const cancelling = "is being cancelled"

func joinCause(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + ": " + cut(reason, 256)
}

// Retry runs a workflow that has ended again: from the step fromStep, or from
// where it stopped when that is empty. Attempts so far are kept.
func (c *Controller) Retry(ctx context.Context, name, fromStep, actor string) (*pb.Workflow, error) {
	return c.change(ctx, name, func(t *tx) error {
		s := t.wf.Status
		if !ended(s.State) {
			return fmt.Errorf("workflow %s: %w", name, ErrNotEnded)
		}
		if s.State == pb.WorkflowState_SUCCEEDED && fromStep == "" {
			return fmt.Errorf("workflow %s has succeeded: say from which step to run it again", name)
		}
		s.CancelRequested = false
		run, err := t.plan()
		if err != nil {
			return err
		}
		s.Run++
		if err := run.Restart(fromStep, s.Run); err != nil {
			return plan.Problems{{Field: "from_step", Message: err.Error()}}
		}
		s.Steps = run.Steps()
		t.run = nil
		s.Delivery, s.RunTime, s.EndTime, s.Cause = nil, nil, nil, ""
		t.event("Retried", fmt.Sprintf("run %d%s", s.Run, fromWords(fromStep)), actor, false)
		return t.take(ctx)
	})
}

func fromWords(step string) string {
	if step == "" {
		return ""
	}
	return " from step " + step
}

// Approve lets a workflow go on past a step that waits for a person, or fails
// the step. With an empty step it is the one that waits, if it is the only one.
func (c *Controller) Approve(ctx context.Context, name, step string, reject bool, actor string) (*pb.Workflow, error) {
	return c.change(ctx, name, func(t *tx) error {
		run, err := t.plan()
		if err != nil {
			return err
		}
		if step == "" {
			if step, err = onlyWaiting(run); err != nil {
				return err
			}
		}
		if err := run.Approve(step, actor, reject, t.now); err != nil {
			return plan.Problems{{Field: "step", Message: fmt.Sprintf("step %q does not wait for approval", step)}}
		}
		reason, message := "Approved", fmt.Sprintf("step %s", step)
		if reject {
			reason = "Rejected"
		}
		t.event(reason, message, actor, reject)
		t.noteEnd(run.Step(step))
		return nil
	})
}

var errNoneWaits = errors.New("no step waits for approval")

func onlyWaiting(run *plan.Run) (string, error) {
	id := ""
	for _, s := range run.Steps() {
		if s.GetState() != pb.StepState_STEP_WAITING {
			continue
		}
		if id != "" {
			return "", plan.Problems{{Field: "step", Message: fmt.Sprintf("steps %s and %s wait for approval: say which", id, s.GetId())}}
		}
		id = s.GetId()
	}
	if id == "" {
		return "", plan.Problems{{Field: "step", Message: errNoneWaits.Error()}}
	}
	return id, nil
}
