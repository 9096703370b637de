package workflow

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow/action"
	"github.com/bedplate/bedplate/workflow/plan"
)

// entry is one flow's place among the deadlines.
type entry struct {
	flow *flow
	at   time.Time
	// place in the heap from 1; 0: not in it.
	place int
}

// deadlines is a heap of entries, the first to come on top.
type deadlines []*entry

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = i+1, j+1
}

// Push is for package heap.
func (d *deadlines) Push(x any) {
	e := x.(*entry)
	*d = append(*d, e)
	e.place = len(*d)
}

// Pop is for package heap.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	e := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	e.place = 0
	return e
}

func (d *deadlines) set(e *entry, at time.Time) {
	e.at = at
	if e.place == 0 {
		heap.Push(d, e)
	} else {
		heap.Fix(d, e.place-1)
	}
}

func (d *deadlines) remove(e *entry) {
	if e.place != 0 {
		heap.Remove(d, e.place-1)
	}
}

// armLocked sets when the flow has to be looked at next.
func (c *Controller) armLocked(f *flow) {
	at, _, ok := c.nextDue(f)
	first := len(c.due) > 0 && c.due[0] == &f.deadline
	if !ok {
		c.due.remove(&f.deadline)
		return
	}
	if f.deadline.place != 0 && f.deadline.at.Equal(at) {
		return
	}
	c.due.set(&f.deadline, at)
	if first || c.due[0] == &f.deadline {
		select {
		case c.rewind <- struct{}{}:
		default:
		}
	}
}

// kind is what a deadline is about.
type kind string

const (
	dueMachine  kind = "machine never showed up"
	dueRun      kind = "workflow"
	dueCancel   kind = "cancel"
	dueApproval kind = "approval"
	dueAway     kind = "machine away"
	dueHung     kind = "step hung"
)

// nextDue returns the first thing that mustn't go on beyond its time.
// Called with mu.
func (c *Controller) nextDue(f *flow) (at time.Time, what kind, ok bool) {
	s := f.wf.GetStatus()
	consider := func(t time.Time, k kind) {
		if !ok || t.Before(at) {
			at, what, ok = t, k, true
		}
	}
	switch s.GetState() {
	case pb.WorkflowState_WAITING_FOR_MACHINE:
		consider(s.GetDeadline().AsTime(), dueMachine)
		return at, what, ok
	case pb.WorkflowState_RUNNING, pb.WorkflowState_WAITING_FOR_APPROVAL:
	default:
		return at, what, false
	}
	consider(s.GetRunTime().AsTime().Add(timeoutOf(f.wf)), dueRun)
	if s.GetCancelRequested() {
		consider(s.GetDeadline().AsTime(), dueCancel)
	}
	if t, waits := approvalDue(f.wf); waits {
		consider(t, dueApproval)
	}
	if st := c.stations[f.wf.GetSpec().GetMachine()]; st != nil && st.session == nil {
		consider(st.away.Add(machineTimeout(f.wf)), dueAway)
	}
	for id, since := range f.running {
		if t := stepTimeout(f.wf, id); t > 0 {
			consider(since.Add(t+stepGrace), dueHung)
		}
	}
	return at, what, ok
}

// stepTimeout is a step's own, by its template or its action; 0: unknown.
func stepTimeout(wf *pb.Workflow, id string) time.Duration {
	for i, st := range wf.GetStatus().GetSteps() {
		if st.GetId() != id {
			continue
		}
		t := wf.GetStatus().GetTemplate()
		var step *pb.Step
		if main := len(t.GetSteps()); i < main {
			step = t.Steps[i]
		} else if i-main < len(t.GetOnFailure()) {
			step = t.OnFailure[i-main]
		}
		a, _ := action.Lookup(step.GetUses())
		return durationOr(step.GetTimeout(), a.DefaultTimeout)
	}
	return 0
}

// approvalDue returns by when a person must have answered, if one is asked.
func approvalDue(wf *pb.Workflow) (time.Time, bool) {
	var at time.Time
	for _, st := range wf.GetStatus().GetSteps() {
		if st.GetState() != pb.StepState_STEP_WAITING {
			continue
		}
		due := lastAttempt(st).GetStartTime().AsTime().Add(stepTimeout(wf, st.GetId()))
		if at.IsZero() || due.Before(at) {
			at = due
		}
	}
	return at, !at.IsZero()
}

// watchDeadlines hands every flow whose time has come to the workers.
func (c *Controller) watchDeadlines(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.rewind:
		case <-timer.C:
		}
		timer.Reset(c.expire())
	}
}

// idleTime is how long the timer sleeps when there is no deadline.
const idleTime = time.Hour

// expire hands over what is due and returns how long nothing will be.
func (c *Controller) expire() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	for len(c.due) > 0 {
		if wait := c.due[0].at.Sub(now); wait > 0 {
			return min(wait, idleTime)
		}
		e := heap.Pop(&c.due).(*entry)
		name := e.flow.name
		c.work.add("deadline/"+name, func(ctx context.Context) error { return c.overdue(ctx, name) })
	}
	return idleTime
}

// overdue ends what has taken too long.
func (c *Controller) overdue(ctx context.Context, name string) error {
	_, err := c.change(ctx, name, func(t *tx) error {
		c.mu.Lock()
		at, what, ok := c.nextDue(t.f)
		away := c.awayLocked(t.wf.GetSpec().GetMachine())
		if ok && at.After(t.now) {
			c.armLocked(t.f)
		}
		c.mu.Unlock()
		if !ok || at.After(t.now) {
			return errNothing
		}
		c.metrics.overdue.WithLabelValues(string(what)).Inc()
		return t.overdue(ctx, what, away)
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

func (c *Controller) awayLocked(name string) time.Time {
	if st := c.stations[name]; st != nil && st.session == nil {
		return st.away
	}
	return time.Time{}
}

func (t *tx) overdue(ctx context.Context, what kind, away time.Time) error {
	m := t.wf.GetSpec().GetMachine()
	switch what {
	case dueMachine:
		return t.abort(ctx, fmt.Sprintf(
			"machine %s never showed up: its agent did not connect within %s; see `bedplate machine explain %s`", m, machineTimeout(t.wf), m))
	case dueRun:
		return t.abort(ctx, fmt.Sprintf("the workflow took longer than its timeout of %s%s", timeoutOf(t.wf), t.doing()))
	case dueAway:
		return t.abort(ctx, fmt.Sprintf("machine %s has been away for %s (since %s)%s; see `bedplate machine explain %s`",
			m, machineTimeout(t.wf), away.UTC().Format(time.RFC3339), t.doing(), m))
	case dueHung:
		return t.abort(ctx, fmt.Sprintf("the agent of machine %s did not end a step in time%s: it may hang; look at the machine's console", m, t.doing()))
	}
	run, err := t.plan()
	if err != nil {
		return t.end(ctx, pb.WorkflowState_WORKFLOW_FAILED, err.Error())
	}
	if what == dueCancel {
		run.Cancel(true, t.now)
		return nil
	}
	return t.unanswered(run)
}

// unanswered fails the approvals that nobody gave in time.
func (t *tx) unanswered(run *plan.Run) error {
	for _, s := range run.Steps() {
		limit := stepTimeout(t.wf, s.GetId())
		if s.GetState() != pb.StepState_STEP_WAITING || lastAttempt(s).GetStartTime().AsTime().Add(limit).After(t.now) {
			continue
		}
		if err := run.Fail(s.GetId(), fmt.Sprintf("nobody approved it within %s", limit), t.now); err != nil {
			return err
		}
		t.noteEnd(s)
	}
	return nil
}

// doing says what the workflow was doing, for a cause.
func (t *tx) doing() string {
	for _, s := range t.wf.GetStatus().GetSteps() {
		switch s.GetState() {
		case pb.StepState_STEP_RUNNING:
			return fmt.Sprintf("; step %q (%s) was running", s.GetId(), s.GetUses())
		case pb.StepState_STEP_WAITING:
			return fmt.Sprintf("; step %q waited for approval", s.GetId())
		}
	}
	return ""
}
