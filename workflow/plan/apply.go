package plan

import (
	"fmt"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/action"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Start returns the change that starts step id's next attempt, or asks a
// person if that is what the step is. It is not applied yet.
func (r *Run) Start(id string) *pb.StepChange {
	i, ok := r.graph.index[id]
	if !ok {
		return nil
	}
	state := pb.StepState_STEP_RUNNING
	if r.graph.nodes[i].action.Name == action.Approval {
		state = pb.StepState_STEP_WAITING
	}
	return &pb.StepChange{Step: id, State: state, Attempt: uint32(len(r.steps[i].Attempts)) + 1}
}

// AfterFailure returns what a step whose present attempt fails now becomes:
// STEP_BACKOFF while it has retries left, else STEP_FAILED.
func (r *Run) AfterFailure(id string) pb.StepState {
	i, ok := r.graph.index[id]
	if ok && r.counted(i) < r.graph.nodes[i].retries && !r.cancelled && !(i < r.graph.main && r.failed()) {
		return pb.StepState_STEP_BACKOFF
	}
	return pb.StepState_STEP_FAILED
}

// Apply takes up one change of a step, made in the boot bootID at `now`.
// ErrStale: the step is over, or the change is known. ErrMisfit: the change
// can't be. In both cases nothing has changed.
func (r *Run) Apply(c *pb.StepChange, bootID string, now time.Time) error {
	i, ok := r.graph.index[c.GetStep()]
	if !ok {
		return misfit(c, "there is no such step")
	}
	if err := r.apply(i, c, bootID, now); err != nil {
		return err
	}
	r.settle(now)
	return nil
}

func misfit(c *pb.StepChange, why string) error {
	return fmt.Errorf("step %q becomes %s, attempt %d: %s: %w", c.GetStep(), c.GetState(), c.GetAttempt(), why, ErrMisfit)
}

func (r *Run) apply(i int, c *pb.StepChange, bootID string, now time.Time) error {
	s := r.steps[i]
	switch {
	case r.aborted != "":
		return ErrStale
	case terminal(s.State):
		return r.applyOver(i, c, bootID, now)
	}
	switch c.GetState() {
	case pb.StepState_STEP_RUNNING, pb.StepState_STEP_WAITING:
		return r.applyStart(i, c, bootID, now)
	case pb.StepState_STEP_SKIPPED:
		if s.State != pb.StepState_STEP_PENDING || !r.ready(i) {
			return misfit(c, "only a step whose turn it is can be skipped by its if")
		}
		s.State = pb.StepState_STEP_SKIPPED
		return nil
	case pb.StepState_STEP_SUCCEEDED, pb.StepState_STEP_FAILED, pb.StepState_STEP_BACKOFF, pb.StepState_STEP_CANCELLED:
		return r.applyEnd(i, c, bootID, now)
	default:
		return misfit(c, "no such state")
	}
}

// applyOver deals with news of a step that is over. All of it is stale but
// for two cases: it was passed over because another one failed while it was
// starting on the machine; and it was taken to have succeeded because it took
// the machine down, and then that went wrong.
func (r *Run) applyOver(i int, c *pb.StepChange, bootID string, now time.Time) error {
	s := r.steps[i]
	a := last(s)
	switch {
	case s.State == pb.StepState_STEP_SKIPPED && c.GetState() == pb.StepState_STEP_RUNNING &&
		i < r.graph.main && r.failed() && r.needsDone(i) && r.pending(r.graph.main, len(r.steps)):
		return r.begin(i, c, bootID, now)
	case s.State == pb.StepState_STEP_SUCCEEDED && c.GetState() == pb.StepState_STEP_FAILED &&
		a != nil && a.Leaving != "" && a.BootId == bootID && a.Number == c.GetAttempt():
		r.finish(i, c, pb.StepState_STEP_FAILED, now)
		return nil
	}
	return ErrStale
}

func (r *Run) pending(from, to int) bool {
	for _, s := range r.steps[from:to] {
		if s.State != pb.StepState_STEP_PENDING {
			return false
		}
	}
	return true
}

func (r *Run) applyStart(i int, c *pb.StepChange, bootID string, now time.Time) error {
	s := r.steps[i]
	a := last(s)
	if s.State == c.GetState() && a.GetNumber() == c.GetAttempt() {
		if s.State == pb.StepState_STEP_RUNNING && c.GetLeaving() && a.Leaving == "" && a.BootId == bootID {
			return r.leave(i, c, now)
		}
		return ErrStale
	}
	if c.GetAttempt() <= uint32(len(s.Attempts)) {
		return ErrStale
	}
	approval := r.graph.nodes[i].action.Name == action.Approval
	if approval != (c.GetState() == pb.StepState_STEP_WAITING) {
		return misfit(c, "approvals wait, other steps run")
	}
	if !r.ready(i) || c.GetAttempt() != uint32(len(s.Attempts))+1 {
		return misfit(c, "it is not its turn")
	}
	if err := r.begin(i, c, bootID, now); err != nil {
		return err
	}
	if c.GetLeaving() {
		return r.leave(i, c, now)
	}
	return nil
}

func (r *Run) begin(i int, c *pb.StepChange, bootID string, now time.Time) error {
	s := r.steps[i]
	if c.GetAttempt() != uint32(len(s.Attempts))+1 {
		return misfit(c, "attempts are out of order")
	}
	s.State, s.Outputs = c.GetState(), nil
	s.Attempts = append(s.Attempts, &pb.StepAttempt{
		Number: c.GetAttempt(), State: c.GetState(), StartTime: timestamppb.New(now),
		BootId: bootID, Run: r.number, LastOutput: c.GetLastOutput(),
	})
	return nil
}

// leave records that the step takes the machine down. If it comes back as
// anything but the agent, nobody will tell how it went: the step has succeeded.
func (r *Run) leave(i int, c *pb.StepChange, now time.Time) error {
	a := last(r.steps[i])
	switch c.GetNextBoot() {
	case LeaveAgent:
		a.Leaving = LeaveAgent
		r.steps[i].Outputs = c.GetOutputs()
	case LeaveDisk, LeaveOff:
		a.Leaving = c.GetNextBoot()
		r.finish(i, &pb.StepChange{Outputs: c.GetOutputs(), LastOutput: c.GetLastOutput()}, pb.StepState_STEP_SUCCEEDED, now)
	default:
		return misfit(c, "the machine leaves for nowhere")
	}
	return nil
}

func (r *Run) applyEnd(i int, c *pb.StepChange, bootID string, now time.Time) error {
	s := r.steps[i]
	state := c.GetState()
	if c.GetAttempt() != 0 && c.GetAttempt() < uint32(len(s.Attempts)) {
		return ErrStale
	}
	switch s.State {
	case pb.StepState_STEP_PENDING, pb.StepState_STEP_BACKOFF:
		if state == s.State && c.GetAttempt() == uint32(len(s.Attempts)) {
			return ErrStale
		}
		// An expression that can't be evaluated fails a step before it starts.
		if (state != pb.StepState_STEP_FAILED && state != pb.StepState_STEP_BACKOFF) || !r.ready(i) {
			return misfit(c, "it has not started")
		}
		if err := r.begin(i, c, bootID, now); err != nil {
			return err
		}
	case pb.StepState_STEP_RUNNING:
		if c.GetAttempt() != uint32(len(s.Attempts)) || last(s).BootId != bootID {
			return misfit(c, "another attempt is running")
		}
	default: // STEP_WAITING is for the server to end, but for a cancellation.
		if state != pb.StepState_STEP_CANCELLED {
			return ErrStale
		}
	}
	switch {
	case state == pb.StepState_STEP_BACKOFF && r.cancelled:
		state = pb.StepState_STEP_CANCELLED
	case state == pb.StepState_STEP_BACKOFF:
		state = r.AfterFailure(s.Id)
	}
	r.finish(i, c, state, now)
	return nil
}

// finish closes the last attempt of step i.
func (r *Run) finish(i int, c *pb.StepChange, state pb.StepState, now time.Time) {
	s, a := r.steps[i], last(r.steps[i])
	a.State = state
	if state == pb.StepState_STEP_BACKOFF {
		a.State = pb.StepState_STEP_FAILED
	}
	a.EndTime = stamp(now, a)
	a.Error = c.GetError()
	if c.ExitCode != nil {
		a.ExitCode = proto.Int32(c.GetExitCode())
	}
	if len(c.GetLastOutput()) > 0 {
		a.LastOutput = c.GetLastOutput()
	}
	s.State = state
	// Those of a failed step are for people and the server: see Outputs.
	s.Outputs = c.GetOutputs()
	if state == pb.StepState_STEP_BACKOFF {
		r.due[i] = a.EndTime.AsTime().Add(r.graph.nodes[i].wait(r.counted(i)))
	}
}

// Interrupt takes up that the machine is there again as the boot bootID. It
// returns the ids of the steps that this changed. A step that took the machine
// down to come back has succeeded; any other that ran in another boot was cut
// off, and runs again if its action or its on_interrupt allows.
func (r *Run) Interrupt(bootID string, now time.Time) []string {
	var changed []string
	for i, s := range r.steps {
		a := last(s)
		if s.State != pb.StepState_STEP_RUNNING || a.GetBootId() == bootID {
			continue
		}
		changed = append(changed, s.Id)
		if a.Leaving == LeaveAgent {
			r.finish(i, &pb.StepChange{Outputs: s.Outputs}, pb.StepState_STEP_SUCCEEDED, now)
			continue
		}
		a.Interrupted = true
		r.finish(i, &pb.StepChange{Error: Interrupted}, pb.StepState_STEP_FAILED, now)
		switch {
		case r.cancelled:
			s.State = pb.StepState_STEP_CANCELLED
		case r.graph.nodes[i].retriesInterrupted() && r.count(i, true) < MaxInterruptions:
			s.State = pb.StepState_STEP_PENDING
		}
	}
	r.settle(now)
	return changed
}

// Approve ends the wait of step id for a person: it succeeds, or fails if
// rejected.
func (r *Run) Approve(id, actor string, reject bool, now time.Time) error {
	i, ok := r.graph.index[id]
	if !ok || r.steps[i].State != pb.StepState_STEP_WAITING {
		return fmt.Errorf("step %q does not wait for approval: %w", id, ErrMisfit)
	}
	if reject {
		return r.Fail(id, "rejected by "+actor, now)
	}
	r.steps[i].ApprovedBy = actor
	r.finish(i, &pb.StepChange{}, pb.StepState_STEP_SUCCEEDED, now)
	r.settle(now)
	return nil
}

// Fail ends step id for good, whatever it is doing; a step that is over stays
// as it is.
func (r *Run) Fail(id, cause string, now time.Time) error {
	i, ok := r.graph.index[id]
	if !ok {
		return fmt.Errorf("there is no step %q: %w", id, ErrMisfit)
	}
	s := r.steps[i]
	if terminal(s.State) {
		return ErrStale
	}
	if a := last(s); a == nil || a.EndTime != nil {
		s.Attempts = append(s.Attempts, &pb.StepAttempt{Number: uint32(len(s.Attempts)) + 1, StartTime: timestamppb.New(now), Run: r.number})
	}
	r.finish(i, &pb.StepChange{Error: cause}, pb.StepState_STEP_FAILED, now)
	r.settle(now)
	return nil
}

// Cancel stops everything that has not started. Steps that run go on until
// the agent says that they have ended; with force they are taken to have
// been cancelled now.
func (r *Run) Cancel(force bool, now time.Time) {
	r.cancelled = true
	for i, s := range r.steps {
		if force && s.State == pb.StepState_STEP_RUNNING {
			r.end(i, pb.StepState_STEP_CANCELLED, now)
		}
	}
	r.settle(now)
}

// Abort ends the whole run as failed: what runs has failed by cause, the rest
// is skipped, on_failure too. A run that is over stays as it is.
func (r *Run) Abort(cause string, now time.Time) {
	if r.over(0, len(r.steps)) || r.aborted != "" {
		return
	}
	r.aborted = cause
	for i, s := range r.steps {
		switch s.State {
		case pb.StepState_STEP_RUNNING, pb.StepState_STEP_WAITING:
			r.finish(i, &pb.StepChange{Error: cause}, pb.StepState_STEP_FAILED, now)
		case pb.StepState_STEP_BACKOFF:
			s.State = pb.StepState_STEP_FAILED
		case pb.StepState_STEP_PENDING:
			s.State = pb.StepState_STEP_SKIPPED
		}
	}
}

// Restart makes the run number ready to run again from the step with id
// `from`, or from where it stopped when that is empty: that step and all that
// come after it are pending again, and so is every step that has not
// succeeded. Attempts are kept.
func (r *Run) Restart(from string, number uint32) error {
	start, ok := r.graph.index[from]
	if from != "" && (!ok || start >= r.graph.main) {
		return fmt.Errorf("there is no step %q to start from: %w", from, ErrMisfit)
	}
	r.number, r.cancelled, r.aborted = number, false, ""
	for i, s := range r.steps {
		again := s.State != pb.StepState_STEP_SUCCEEDED || s.OnFailure
		if from != "" {
			again = again || i == start || r.graph.nodes[i].upstream[start]
		}
		if !again {
			continue
		}
		s.State = pb.StepState_STEP_PENDING
		s.Outputs, s.ApprovedBy, s.Progress = nil, "", nil
	}
	return nil
}
