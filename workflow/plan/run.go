package plan

import (
	"errors"
	"fmt"
	"strings"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Interrupted is the error of an attempt that a restart of the machine cut off.
const Interrupted = "machine restarted while the step ran"

// What a machine comes back as after a step that takes it down.
const (
	LeaveAgent = "agent"
	LeaveDisk  = "disk"
	LeaveOff   = "off"
)

var (
	// ErrStale means that a change says nothing new: the step is over already.
	// It is to be passed over.
	ErrStale = errors.New("the step is over")
	// ErrMisfit means that a change can't follow from what went before.
	ErrMisfit = errors.New("doesn't follow from what went before")
)

// Run is how far one run of a workflow has come.
type Run struct {
	graph     *Graph
	steps     []*pb.StepStatus
	number    uint32
	due       []time.Time // of steps in backoff
	cancelled bool
	aborted   string
}

// New returns a run in which nothing has happened. Runs count from 1.
func New(g *Graph, number uint32) *Run {
	r := &Run{graph: g, number: number, due: make([]time.Time, len(g.nodes))}
	for i, n := range g.nodes {
		r.steps = append(r.steps, &pb.StepStatus{
			Id: n.id, Name: n.step.GetName(), Uses: n.step.GetUses(),
			State: pb.StepState_STEP_PENDING, OnFailure: i >= g.main,
		})
	}
	return r
}

// Resume goes on from a record, which it copies. cancelled says that a person
// has asked for the workflow to be cancelled.
func Resume(g *Graph, number uint32, steps []*pb.StepStatus, cancelled bool, now time.Time) (*Run, error) {
	if len(steps) != len(g.nodes) {
		return nil, fmt.Errorf("resuming: the record has %d steps, the template %d: %w", len(steps), len(g.nodes), ErrMisfit)
	}
	r := &Run{graph: g, number: number, due: make([]time.Time, len(g.nodes)), cancelled: cancelled}
	for i, s := range steps {
		n := g.nodes[i]
		if s.GetId() != n.id {
			return nil, fmt.Errorf("resuming: step %d of the record is %q, of the template %q: %w", i+1, s.GetId(), n.id, ErrMisfit)
		}
		s = proto.Clone(s).(*pb.StepStatus)
		if s.State == pb.StepState_STEP_STATE_UNSPECIFIED {
			s.State = pb.StepState_STEP_PENDING
		}
		r.steps = append(r.steps, s)
		if s.State == pb.StepState_STEP_BACKOFF {
			// The clock that the record was made by may not be ours.
			wait := n.wait(r.counted(i))
			r.due[i] = now.Add(min(max(last(s).GetEndTime().AsTime().Add(wait).Sub(now), 0), wait))
		}
	}
	r.settle(now)
	return r, nil
}

// Steps returns the record of every step. It belongs to the Run and changes
// with it.
func (r *Run) Steps() []*pb.StepStatus { return r.steps }

// Step returns the record of one step, or nil.
func (r *Run) Step(id string) *pb.StepStatus {
	if i, ok := r.graph.index[id]; ok {
		return r.steps[i]
	}
	return nil
}

// Graph returns the order of the steps.
func (r *Run) Graph() *Graph { return r.graph }

// Number returns which run of the workflow this is, from 1.
func (r *Run) Number() uint32 { return r.number }

// Outputs returns what steps have left for later ones, by step. A step that
// has not succeeded is absent. The maps belong to the Run.
func (r *Run) Outputs() map[string]map[string]any {
	out := map[string]map[string]any{}
	for _, s := range r.steps {
		if s.State != pb.StepState_STEP_SUCCEEDED {
			continue
		}
		values := make(map[string]any, len(s.Outputs))
		for k, v := range s.Outputs {
			values[k] = v.AsInterface()
		}
		out[s.Id] = values
	}
	return out
}

// Ready returns the ids of the steps that can start now, in the order of the
// list.
func (r *Run) Ready(now time.Time) []string {
	var ids []string
	for i, s := range r.steps {
		if r.ready(i) && !(s.State == pb.StepState_STEP_BACKOFF && now.Before(r.due[i])) {
			ids = append(ids, s.Id)
		}
	}
	return ids
}

// Next returns when the first step that waits for its next attempt is due.
func (r *Run) Next() (time.Time, bool) {
	var next time.Time
	for i, s := range r.steps {
		if s.State == pb.StepState_STEP_BACKOFF && r.ready(i) && (next.IsZero() || r.due[i].Before(next)) {
			next = r.due[i]
		}
	}
	return next, !next.IsZero()
}

// ready reports whether step i could start but for its backoff.
func (r *Run) ready(i int) bool {
	s := r.steps[i].State
	if (s != pb.StepState_STEP_PENDING && s != pb.StepState_STEP_BACKOFF) || r.cancelled || r.aborted != "" {
		return false
	}
	if i >= r.graph.main {
		return r.failed() && r.over(0, r.graph.main) && r.over(r.graph.main, i)
	}
	return !r.failed() && r.needsDone(i)
}

func (r *Run) needsDone(i int) bool {
	for _, k := range r.graph.nodes[i].needs {
		if s := r.steps[k].State; s != pb.StepState_STEP_SUCCEEDED && s != pb.StepState_STEP_SKIPPED {
			return false
		}
	}
	return true
}

// failed reports whether a step, on_failure's left out, has failed for good.
func (r *Run) failed() bool {
	for _, s := range r.steps[:r.graph.main] {
		if s.State == pb.StepState_STEP_FAILED {
			return true
		}
	}
	return false
}

// over reports whether steps [from, to) have all ended.
func (r *Run) over(from, to int) bool {
	for _, s := range r.steps[from:to] {
		if !terminal(s.State) {
			return false
		}
	}
	return true
}

func terminal(s pb.StepState) bool {
	switch s {
	case pb.StepState_STEP_SUCCEEDED, pb.StepState_STEP_FAILED, pb.StepState_STEP_SKIPPED, pb.StepState_STEP_CANCELLED:
		return true
	default:
		return false
	}
}

// settle draws the conclusions of what has happened: which steps will never run.
func (r *Run) settle(now time.Time) {
	failed := r.failed()
	for i, s := range r.steps[:r.graph.main] {
		switch {
		case s.State == pb.StepState_STEP_PENDING && r.cancelled:
			s.State = pb.StepState_STEP_CANCELLED
		case s.State == pb.StepState_STEP_PENDING && failed:
			s.State = pb.StepState_STEP_SKIPPED
		case s.State == pb.StepState_STEP_BACKOFF && failed:
			s.State = pb.StepState_STEP_FAILED
		case (s.State == pb.StepState_STEP_BACKOFF || s.State == pb.StepState_STEP_WAITING) && (failed || r.cancelled):
			r.end(i, pb.StepState_STEP_CANCELLED, now)
		}
	}
	for i := r.graph.main; i < len(r.steps); i++ {
		s := r.steps[i]
		switch {
		case r.cancelled && (s.State == pb.StepState_STEP_BACKOFF || s.State == pb.StepState_STEP_WAITING):
			r.end(i, pb.StepState_STEP_CANCELLED, now)
		case s.State == pb.StepState_STEP_PENDING && (r.cancelled || !failed && r.over(0, r.graph.main)):
			s.State = pb.StepState_STEP_SKIPPED
		}
	}
}

// end closes step i and its attempt, if one is open.
func (r *Run) end(i int, state pb.StepState, now time.Time) {
	s := r.steps[i]
	s.State = state
	if a := last(s); a != nil && a.EndTime == nil {
		a.State = state
		a.EndTime = stamp(now, a)
	}
}

func last(s *pb.StepStatus) *pb.StepAttempt {
	if len(s.Attempts) == 0 {
		return nil
	}
	return s.Attempts[len(s.Attempts)-1]
}

// stamp returns now, but not before the attempt began.
func stamp(now time.Time, a *pb.StepAttempt) *timestamppb.Timestamp {
	if start := a.GetStartTime(); start != nil && now.Before(start.AsTime()) {
		return proto.Clone(start).(*timestamppb.Timestamp)
	}
	return timestamppb.New(now)
}

// counted returns how many attempts of step i have failed in this run, those
// cut off by a restart of the machine left out.
func (r *Run) counted(i int) int { return r.count(i, false) }

func (r *Run) count(i int, interrupted bool) int {
	n := 0
	for _, a := range r.steps[i].Attempts {
		if a.Run == r.number && a.Interrupted == interrupted && a.State == pb.StepState_STEP_FAILED {
			n++
		}
	}
	return n
}

// State returns where the workflow is and, once it hasn't succeeded, why.
func (r *Run) State() (pb.WorkflowState, string) {
	switch {
	case r.aborted != "":
		return pb.WorkflowState_WORKFLOW_FAILED, r.aborted
	case !r.over(0, len(r.steps)):
		for _, s := range r.steps {
			if s.State == pb.StepState_STEP_WAITING {
				return pb.WorkflowState_WAITING_FOR_APPROVAL, fmt.Sprintf("step %q waits for approval%s", s.Id, message(last(s)))
			}
		}
		return pb.WorkflowState_RUNNING, ""
	}
	var cancelled bool
	for _, s := range r.steps[:r.graph.main] {
		if s.State == pb.StepState_STEP_FAILED {
			return pb.WorkflowState_WORKFLOW_FAILED, r.cause()
		}
		cancelled = cancelled || s.State == pb.StepState_STEP_CANCELLED
	}
	if cancelled {
		return pb.WorkflowState_CANCELLED, "cancelled"
	}
	return pb.WorkflowState_SUCCEEDED, ""
}

func message(a *pb.StepAttempt) string {
	if len(a.GetLastOutput()) == 0 {
		return ""
	}
	return ": " + strings.Join(a.LastOutput, " ")
}

// cause names the step that failed first and what it said, and the steps of
// on_failure that failed as well.
func (r *Run) cause() string {
	var first *pb.StepStatus
	for _, s := range r.steps[:r.graph.main] {
		if s.State == pb.StepState_STEP_FAILED && (first == nil || endOf(s).Before(endOf(first))) {
			first = s
		}
	}
	text := Failure(first)
	for _, s := range r.steps[r.graph.main:] {
		if s.State == pb.StepState_STEP_FAILED {
			text += "; then on_failure " + Failure(s)
		}
	}
	return text
}

func endOf(s *pb.StepStatus) time.Time { return last(s).GetEndTime().AsTime() }

// Failure says in one sentence why a step failed.
func Failure(s *pb.StepStatus) string {
	a := last(s)
	text := fmt.Sprintf("step %q (%s) failed", s.GetId(), s.GetUses())
	if n := len(s.GetAttempts()); n > 1 {
		text += fmt.Sprintf(" after %d attempts", n)
	}
	if a.GetError() != "" {
		text += ": " + a.GetError()
	}
	if a != nil && a.ExitCode != nil && !strings.Contains(a.GetError(), "exit code") {
		text += fmt.Sprintf(" (exit code %d)", a.GetExitCode())
	}
	return text
}
