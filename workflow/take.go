package workflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow/plan"
)

// timeoutOf is the template's for the whole workflow.
func timeoutOf(wf *pb.Workflow) time.Duration {
	return durationOr(wf.GetStatus().GetTemplate().GetTimeout(), plan.DefaultTimeout)
}

func machineTimeout(wf *pb.Workflow) time.Duration {
	return durationOr(wf.GetSpec().GetMachineTimeout(), plan.DefaultMachineTimeout)
}

func durationOr(text string, otherwise time.Duration) time.Duration {
	if d, err := plan.ParseDuration(text); err == nil {
		return d
	}
	return otherwise
}

// take gives the machine to the workflow, or lets it wait for its turn.
func (t *tx) take(ctx context.Context) error {
	name := t.wf.GetSpec().GetMachine()
	m, err := resource.Get[*pb.Machine](ctx, t.c.cfg.DB, name)
	if err != nil {
		return err
	}
	s := t.wf.Status
	owner, err := t.c.holder(ctx, m, t.f.name)
	if err != nil {
		return err
	}
	t.compares = append(t.compares, resource.Unchanged(m))
	if owner != "" || m.GetSpec().GetMaintenance() {
		s.State, s.Deadline, s.Cause = pb.WorkflowState_QUEUED, nil, queuedCause(name)
		if owner == "" {
			s.Cause = "machine " + name + " is in maintenance"
		}
		return nil
	}
	next := proto.Clone(m).(*pb.Machine)
	if next.Status == nil {
		next.Status = &pb.MachineStatus{}
	}
	next.Status.Workflow, next.Status.NextBoot = t.f.name, pb.NextBoot_AGENT
	resource.Stamp(t.c.cfg.DB, next)
	t.ops = append(t.ops, resource.Put(next))
	s.State, s.Cause = pb.WorkflowState_WAITING_FOR_MACHINE, "machine "+name+" has not shown up yet"
	s.Deadline = timestamppb.New(t.now.Add(machineTimeout(t.wf)))
	if bootID, ok := t.c.connected(name); ok && bootID == m.GetStatus().GetAgent().GetBootId() {
		return t.arrive(bootID)
	}
	return nil
}

// queuedCause doesn't say which workflow has the machine: it will be another
// one by the time somebody reads it.
func queuedCause(machine string) string {
	return "waits until machine " + machine + " is done with other workflows"
}

// holder returns the workflow that has the machine; "" when none has, or only
// one that has ended or was deleted.
func (c *Controller) holder(ctx context.Context, m *pb.Machine, but string) (string, error) {
	name := m.GetStatus().GetWorkflow()
	if name == "" || name == but {
		return "", nil
	}
	wf, err := resource.Get[*pb.Workflow](ctx, c.cfg.DB, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return "", nil
	case err != nil:
		return "", err
	case ended(wf.GetStatus().GetState()) || wf.GetSpec().GetMachine() != m.GetMetadata().GetName():
		return "", nil
	}
	return name, nil
}

// arrive takes up that the machine's agent is there, in the boot bootID.
func (t *tx) arrive(bootID string) error {
	s := t.wf.Status
	switch s.State {
	case pb.WorkflowState_WAITING_FOR_MACHINE:
		s.State, s.Cause, s.EndTime = pb.WorkflowState_RUNNING, "", nil
		s.RunTime = timestamppb.New(t.now)
		if s.StartTime == nil {
			s.StartTime = s.RunTime
		}
		t.event("Started", fmt.Sprintf("machine %s is there", t.wf.GetSpec().GetMachine()), "", false)
	case pb.WorkflowState_RUNNING, pb.WorkflowState_WAITING_FOR_APPROVAL:
		if s.GetDelivery().GetBootId() == bootID {
			return errNothing
		}
	default:
		return errNothing
	}
	if n := len(s.BootIds); n == 0 || s.BootIds[n-1] != bootID {
		s.BootIds = append(s.BootIds, bootID)
	}
	s.Delivery = &pb.Delivery{BootId: bootID}
	run, err := t.plan()
	if err != nil {
		return err
	}
	for _, id := range run.Interrupt(bootID, t.now) {
		t.noteEnd(run.Step(id))
	}
	return nil
}

// end closes the workflow and gives the machine back.
func (t *tx) end(ctx context.Context, state pb.WorkflowState, cause string) error {
	s := t.wf.Status
	if s.State == state && ended(t.before.GetStatus().GetState()) {
		return nil
	}
	if rest, ok := strings.CutPrefix(s.Cause, cancelling); ok && state == pb.WorkflowState_CANCELLED {
		cause = "cancelled" + rest
	}
	cause = t.f.mask.text(cause)
	s.State, s.Cause, s.EndTime, s.Deadline = state, cut(cause, maxAttemptError), timestamppb.New(t.now), nil
	t.event(reasons[state], cause, "", state == pb.WorkflowState_WORKFLOW_FAILED)
	t.then = append(t.then, func() { t.c.metrics.ended(state) })
	if ended(t.before.GetStatus().GetState()) {
		return nil // a late failure: the machine may be somebody else's by now
	}
	return t.release(ctx)
}

var reasons = map[pb.WorkflowState]string{
	pb.WorkflowState_SUCCEEDED:       "Succeeded",
	pb.WorkflowState_WORKFLOW_FAILED: "Failed",
	pb.WorkflowState_CANCELLED:       "Cancelled",
}

// release takes the machine from the workflow: from now on it boots its disk,
// unless another workflow wants it.
func (t *tx) release(ctx context.Context) error {
	m, err := resource.Get[*pb.Machine](ctx, t.c.cfg.DB, t.wf.GetSpec().GetMachine())
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if m.GetStatus().GetWorkflow() != t.f.name {
		return nil
	}
	next := freed(m)
	resource.Stamp(t.c.cfg.DB, next)
	t.compares = append(t.compares, resource.Unchanged(m))
	t.ops = append(t.ops, resource.Put(next))
	return nil
}

func freed(m *pb.Machine) *pb.Machine {
	next := proto.Clone(m).(*pb.Machine)
	next.Status.Workflow, next.Status.NextBoot = "", pb.NextBoot_DISK
	return next
}

// free takes a machine from a workflow that was deleted, and lets the next
// one have it.
func (c *Controller) free(ctx context.Context, name, workflow string) error {
	_, err := resource.Update(ctx, c.cfg.DB, name, func(m *pb.Machine) error {
		if m.GetStatus().GetWorkflow() != workflow {
			return resource.ErrUnchanged
		}
		if _, err := resource.Get[*pb.Workflow](ctx, c.cfg.DB, workflow); !errors.Is(err, store.ErrNotFound) {
			return cmp.Or(err, resource.ErrUnchanged) // made again meanwhile
		}
		m.Status.Workflow, m.Status.NextBoot = "", pb.NextBoot_DISK
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return c.dispatch(ctx, name)
}

func (c *Controller) dispatchSoon(name string) {
	c.work.add("machine/"+name, func(ctx context.Context) error { return c.dispatch(ctx, name) })
}

// dispatch gives the machine to the workflow that has waited longest for it,
// if no other has it.
func (c *Controller) dispatch(ctx context.Context, name string) error {
	for _, next := range c.queue(name) {
		if c.owner(name) != nil {
			return nil
		}
		_, err := c.change(ctx, next, func(t *tx) error {
			if t.wf.Status.State != pb.WorkflowState_QUEUED {
				return errNothing
			}
			cause := t.wf.Status.Cause
			if err := t.take(ctx); errors.Is(err, store.ErrNotFound) {
				return t.abort(ctx, fmt.Sprintf("machine %s is not there any more", name))
			} else if err != nil {
				return err
			}
			if t.wf.Status.State == pb.WorkflowState_QUEUED && t.wf.Status.Cause == cause {
				return errNothing
			}
			return nil
		})
		switch {
		case errors.Is(err, store.ErrNotFound): // the workflow is gone
		case err != nil:
			return err
		}
	}
	return nil
}

// queue returns the names of the workflows that wait for the machine, the
// oldest first.
func (c *Controller) queue(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var waiting []*pb.Workflow
	if s := c.stations[name]; s != nil {
		for _, f := range s.flows {
			if f.wf.GetStatus().GetState() == pb.WorkflowState_QUEUED {
				waiting = append(waiting, f.wf)
			}
		}
	}
	slices.SortFunc(waiting, func(a, b *pb.Workflow) int {
		return cmp.Or(a.GetMetadata().GetCreateTime().AsTime().Compare(b.GetMetadata().GetCreateTime().AsTime()), cmp.Compare(a.GetMetadata().GetName(), b.GetMetadata().GetName()))
	})
	names := make([]string, len(waiting))
	for i, wf := range waiting {
		names[i] = wf.GetMetadata().GetName()
	}
	return names
}

// seeMachine takes up a machine that the store has in a new version: its
// agent may be another boot by now, and it may be free for a workflow.
func (c *Controller) seeMachine(m *pb.Machine) {
	name := m.GetMetadata().GetName()
	c.mu.Lock()
	s := c.stations[name]
	if s == nil {
		c.mu.Unlock()
		return
	}
	if bootID := m.GetStatus().GetAgent().GetBootId(); s.session != nil && bootID != "" && s.session.bootID != bootID &&
		m.GetMetadata().GetResourceVersion() > s.session.version {
		s.session.fence()
	}
	waiting := c.ownerLocked(name) == nil && len(s.flows) > 0 && !m.GetSpec().GetMaintenance()
	c.mu.Unlock()
	if waiting {
		c.dispatchSoon(name)
	}
}

// machineGone fails the workflows of a machine that was deleted.
func (c *Controller) machineGone(name string) {
	c.mu.Lock()
	var names []string
	if s := c.stations[name]; s != nil {
		for n := range s.flows {
			names = append(names, n)
		}
		if s.session != nil {
			s.session.fence()
		}
	}
	c.mu.Unlock()
	for _, n := range names {
		c.work.add("orphan/"+n, func(ctx context.Context) error {
			return c.fail(ctx, n, fmt.Sprintf("machine %s was deleted", name))
		})
	}
}

// fail ends a workflow, whatever it is doing.
func (c *Controller) fail(ctx context.Context, name, cause string) error {
	_, err := c.change(ctx, name, func(t *tx) error { return t.abort(ctx, cause) })
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// abort ends the workflow as failed.
func (t *tx) abort(ctx context.Context, cause string) error {
	if ended(t.wf.Status.State) {
		return errNothing
	}
	run, err := t.plan()
	if err != nil {
		return t.end(ctx, pb.WorkflowState_WORKFLOW_FAILED, cause)
	}
	run.Abort(cause, t.now)
	return nil
}
