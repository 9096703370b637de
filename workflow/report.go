package workflow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow/plan"
)

// Limits on what one agent may send of one step.
const (
	maxLineBytes   = 16 << 10
	maxOutputLines = 50
)

// Report takes up what an agent says happened: one transaction for each run
// that the batches are of. It returns what is on record now, to be
// acknowledged. The error is ErrFenced when a newer boot has taken over, and
// ErrProtocol when numbers are missing.
func (c *Controller) Report(ctx context.Context, s *Session, batches []*pb.StepEvents) ([]*pb.Ack, error) {
	var acks []*pb.Ack
	for len(batches) > 0 {
		k := key{batches[0].GetWorkflowUid(), batches[0].GetRun()}
		n := 0
		var events []*pb.StepEvent
		for n < len(batches) && (key{batches[n].GetWorkflowUid(), batches[n].GetRun()}) == k {
			events = append(events, batches[n].GetEvents()...)
			n++
		}
		batches = batches[n:]
		if len(events) == 0 {
			continue
		}
		ack, err := c.report(ctx, s, k, events)
		if err != nil {
			return acks, err
		}
		acks = append(acks, ack)
	}
	return acks, nil
}

func (c *Controller) report(ctx context.Context, s *Session, k key, events []*pb.StepEvent) (*pb.Ack, error) {
	last := events[len(events)-1].GetSequence()
	ack := &pb.Ack{WorkflowUid: k.uid, Run: k.run, Sequence: last}
	name, ok := c.reported(s, k)
	if !ok {
		c.metrics.stale.Add(float64(len(events)))
		return ack, nil // of a run that is over: nobody needs it any more
	}
	wf, err := c.change(ctx, name, func(t *tx) error {
		if keyOf(t.wf) != k {
			return errNothing
		}
		d := t.wf.Status.GetDelivery()
		if d.GetBootId() != s.bootID {
			return ErrFenced
		}
		return t.takeUp(ctx, s, events)
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return ack, nil
	case err != nil:
		return nil, err
	}
	if keyOf(wf) == k {
		ack.Sequence = max(last, wf.GetStatus().GetDelivery().GetSequence())
	}
	return ack, nil
}

// reported returns the name of the workflow that the events are of, if it is
// the machine's, or was until a moment ago.
func (c *Controller) reported(s *Session, k key) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.stations[s.machine]
	if st == nil {
		return "", false
	}
	for _, f := range st.flows {
		if keyOf(f.wf) == k {
			return f.name, true
		}
	}
	if st.last != nil && keyOf(st.last.wf) == k {
		return st.last.name, true
	}
	return "", false
}

// takeUp applies the events that are new.
func (t *tx) takeUp(ctx context.Context, s *Session, events []*pb.StepEvent) error {
	t.learnAgain(ctx)
	d := t.wf.Status.Delivery
	fresh := false
	for _, ev := range events {
		if ev.GetSequence() <= d.Sequence {
			t.c.metrics.stale.Inc()
			continue
		}
		if ev.GetSequence() != d.Sequence+1 {
			return fmt.Errorf("event %d comes after %d: %w", ev.GetSequence(), d.Sequence, ErrProtocol)
		}
		d.Sequence++
		fresh = true
		switch e := ev.GetEvent().(type) {
		case *pb.StepEvent_Log:
			t.log(e.Log)
		case *pb.StepEvent_Change:
			if err := t.apply(s, e.Change, t.clock(ev)); err != nil {
				return err
			}
		}
	}
	if !fresh {
		return errNothing
	}
	return nil
}

// clock returns when an event was, by the agent, but not later than now nor
// before the run began: its clock may be off.
func (t *tx) clock(ev *pb.StepEvent) time.Time {
	at := ev.GetTime().AsTime()
	if ev.GetTime() == nil || at.After(t.now) {
		return t.now
	}
	if start := t.wf.Status.GetRunTime().AsTime(); at.Before(start) {
		return start
	}
	return at
}

func (t *tx) log(l *pb.LogLine) {
	l = proto.Clone(l).(*pb.LogLine)
	l.Text = cut(t.f.mask.text(l.GetText()), maxLineBytes)
	l.Step, l.Stream = cut(l.GetStep(), 64), cut(l.GetStream(), 16)
	t.lines = append(t.lines, l)
}

// apply judges one change. What can't be fails the workflow: from there on
// nobody knows what the machine does.
func (t *tx) apply(s *Session, change *pb.StepChange, at time.Time) error {
	over := ended(t.wf.Status.State)
	if over && t.wf.Status.State != pb.WorkflowState_SUCCEEDED {
		return nil
	}
	run, err := t.plan()
	if err != nil {
		return err
	}
	change = t.clean(run, change)
	before := stateOf(run, change.GetStep())
	err = run.Apply(change, s.bootID, at)
	switch {
	case errors.Is(err, plan.ErrStale):
		t.c.metrics.stale.Inc()
		return nil
	case errors.Is(err, plan.ErrMisfit) && !over:
		t.c.cfg.Logger.Warn("agent's report doesn't fit, workflow fails", "machine", s.machine, "workflow", t.f.name, "err", err)
		run.Abort(fmt.Sprintf("the agent reported what can't be: %v", err), t.now)
		return nil
	case err != nil:
		return nil
	}
	t.note(run, change, before, s)
	return nil
}

func stateOf(run *plan.Run, id string) pb.StepState { return run.Step(id).GetState() }

// clean bounds and masks what a change carries.
func (t *tx) clean(run *plan.Run, c *pb.StepChange) *pb.StepChange {
	c = proto.Clone(c).(*pb.StepChange)
	c.Step = cut(c.GetStep(), 64)
	c.Error = cut(t.f.mask.text(c.GetError()), maxAttemptError)
	if n := len(c.LastOutput); n > maxOutputLines {
		c.LastOutput = c.LastOutput[n-maxOutputLines:]
	}
	size := 0
	c.LastOutput = t.f.mask.lines(c.LastOutput)
	for i := len(c.LastOutput) - 1; i >= 0; i-- {
		c.LastOutput[i] = cut(c.LastOutput[i], 1<<10)
		if size += len(c.LastOutput[i]); size > maxAttemptOutput {
			c.LastOutput = c.LastOutput[i+1:]
			break
		}
	}
	t.cleanOutputs(run, c)
	return c
}

// cleanOutputs masks a step's outputs and bounds them. What a program printed
// is cut short when there is too much of it; anything else that is too large
// fails the step, for a later one would take half a value for a whole one.
func (t *tx) cleanOutputs(run *plan.Run, c *pb.StepChange) {
	if len(c.GetOutputs()) == 0 {
		return
	}
	for name, v := range c.GetOutputs() {
		c.Outputs[name] = t.f.mask.value(v)
	}
	all, own := outputBytes(run), proto.Size(&structpb.Struct{Fields: c.GetOutputs()})
	if text := c.GetOutputs()[stdout].GetStringValue(); len(text) > shortStdout && (own > maxStepOutputs || all+own > maxOutputs) {
		c.Outputs[stdout] = structpb.NewStringValue("…" + strings.ToValidUTF8(text[len(text)-shortStdout:], ""))
		own = proto.Size(&structpb.Struct{Fields: c.Outputs})
	}
	if own <= maxStepOutputs && all+own <= maxOutputs {
		return
	}
	c.Outputs = nil
	if c.GetState() == pb.StepState_STEP_SUCCEEDED || c.GetLeaving() {
		c.State = pb.StepState_STEP_FAILED
		c.Error = fmt.Sprintf("its outputs have %d bytes: one step may have %d, all of a workflow %d", own, maxStepOutputs, maxOutputs)
		return
	}
	c.Error = cut(c.GetError(), maxAttemptError-64) + fmt.Sprintf(" (its outputs were left out: they have %d bytes)", own)
}

// stdout is the output that holds what a program printed.
const stdout = "stdout"

func outputBytes(run *plan.Run) int {
	n := 0
	for _, s := range run.Steps() {
		n += proto.Size(&structpb.Struct{Fields: s.GetOutputs()})
	}
	return n
}

// leaveByKexec is StepChange.leave_by of a machine that passes its firmware by.
const leaveByKexec = "kexec"

// note tells the timeline of a step that began or ended.
func (t *tx) note(run *plan.Run, c *pb.StepChange, before pb.StepState, s *Session) {
	step := run.Step(c.GetStep())
	if step.GetState() != before && c.GetState() == pb.StepState_STEP_RUNNING || step.GetState() == pb.StepState_STEP_WAITING {
		t.sight("step-start", step, step.GetUses(), lastAttempt(step).GetStartTime())
	}
	if c.GetLeaving() {
		event := "leaving"
		if c.GetLeaveBy() == leaveByKexec {
			event = "leaving-by-kexec"
		}
		t.sightings = append(t.sightings, machine.Sighting{Time: t.now, Source: machine.SourceAgent, Machine: machine.Name(s.machine), Address: s.address, Event: event, Detail: c.GetNextBoot()})
	}
	if step.GetState() != pb.StepState_STEP_RUNNING && step.GetState() != pb.StepState_STEP_WAITING {
		t.noteEnd(step)
	}
}

// noteEnd tells the timeline that a step's attempt is over.
func (t *tx) noteEnd(step *pb.StepStatus) {
	a := lastAttempt(step)
	if a == nil {
		return
	}
	t.noted[step.GetId()] = true
	t.then = append(t.then, func() { t.c.metrics.step(step.GetUses(), a.GetState()) })
	if a.GetState() == pb.StepState_STEP_FAILED {
		t.sight("step-failed", step, a.GetError(), a.GetEndTime())
		if step.GetState() == pb.StepState_STEP_FAILED {
			t.event("StepFailed", plan.Failure(step), "", true)
		}
		return
	}
	t.sight("step-end", step, step.GetUses(), a.GetEndTime())
}

// noteStopped tells the timeline of the steps that something else than the
// agent's own report has ended.
func (t *tx) noteStopped() {
	for _, was := range t.before.GetStatus().GetSteps() {
		now := t.run.Step(was.GetId())
		open := was.GetState() == pb.StepState_STEP_RUNNING || was.GetState() == pb.StepState_STEP_WAITING
		if open && now.GetState() != was.GetState() && !t.noted[was.GetId()] {
			t.noteEnd(now)
		}
	}
}

func (t *tx) sight(event string, step *pb.StepStatus, detail string, at *timestamppb.Timestamp) {
	t.sightings = append(t.sightings, machine.Sighting{
		Time: at.AsTime(), Source: machine.SourceAgent, Machine: machine.Name(t.wf.GetSpec().GetMachine()),
		Event: event, Detail: step.GetId() + " " + detail, Err: event == "step-failed",
	})
}

func lastAttempt(s *pb.StepStatus) *pb.StepAttempt {
	if n := len(s.GetAttempts()); n > 0 {
		return s.Attempts[n-1]
	}
	return nil
}

// SetProgress keeps the newest progress of a step, in memory only.
func (c *Controller) SetProgress(s *Session, workflow, step string, p *pb.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.ownerLocked(s.machine)
	if p == nil || f == nil || workflow != "" && workflow != f.name && workflow != f.wf.GetMetadata().GetUid() {
		return
	}
	if _, runs := f.running[step]; !runs {
		return
	}
	p.Message, p.Unit = cut(p.GetMessage(), 256), cut(p.GetUnit(), 32)
	f.progress[step] = p
	for w := range f.watchers {
		w.poke()
	}
}
