package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/plan"
)

// stopGrace is how long an action may take to stop when told to. A program
// that is stuck in the kernel, in a dead disk's driver, can't be ended at all;
// the workflow has to hear of it all the same.
const stopGrace = 2 * time.Minute

// attempt runs one step once. acked, if not nil, is waited for first: the
// action must not start before it is on record that it did.
func (j *job) attempt(x step.Executor, node plan.Node, req step.Request, acked <-chan struct{}) outcome {
	out := outcome{node: node, attempt: req.Attempt, began: j.cfg.Now()}
	if acked != nil {
		select {
		case <-acked:
		case <-j.steps.Done():
			out.err, out.cancelled = context.Cause(j.steps), true
			return out
		}
	}
	rep := &reporter{outbox: j.outbox, mask: j.mask, now: j.cfg.Now, say: j.say, step: req.Step, attempt: req.Attempt}
	ctx, cancel := context.WithTimeoutCause(j.steps, node.Timeout, fmt.Errorf("timed out after %s", node.Timeout))
	defer cancel()
	type returned struct {
		result step.Result
		err    error
	}
	ch := make(chan returned, 1)
	go func() { // ends with Execute; the select below says what if that doesn't
		result, err := safely(ctx, x, req, rep)
		ch <- returned{result, err}
	}()
	var grace <-chan time.Time
	done := ctx.Done()
	for {
		select {
		case r := <-ch:
			out.result, out.err = r.result, r.err
			out.last = rep.end()
			j.outbox.setProgress(req.Step, nil)
			out.explain(ctx)
			return out
		case <-done:
			done = nil
			timer := time.NewTimer(stopGrace)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			out.last = rep.end()
			out.abandoned = true
			out.err = fmt.Errorf("%w, and it did not stop within %s: it is stuck in the kernel, perhaps on a dead disk; restart the machine", context.Cause(ctx), stopGrace)
			return out
		}
	}
}

// explain says of an attempt that was stopped why.
func (o *outcome) explain(ctx context.Context) {
	cause := context.Cause(ctx)
	switch {
	case o.err == nil || ctx.Err() == nil:
	case errors.Is(cause, errDeadline) || errors.Is(ctx.Err(), context.DeadlineExceeded):
		o.err = fmt.Errorf("%w (%v)", cause, o.err)
	default:
		o.cancelled = true
		o.err = cause
	}
}

// safely turns a panic of an action into an error: one broken action must not
// take down the agent, which is the machine.
func safely(ctx context.Context, x step.Executor, req step.Request, rep step.Reporter) (result step.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			rep.Log(step.Agent, string(debug.Stack()))
			err = fmt.Errorf("the action crashed: %v", p)
		}
	}()
	return x.Execute(ctx, req, rep)
}

// finish takes up how an attempt ended and reports it.
func (j *job) finish(o outcome) {
	id := o.node.ID
	switch {
	case j.ctx.Err() != nil:
		return // stopped with the job; the server knows why
	case o.gone:
		j.notGone(o)
		return
	case o.err == nil && o.result.Leave != nil && j.leaving == nil:
		j.leaving = &o
		return
	case o.err == nil && o.result.Leave != nil:
		o.err = errors.New("another step takes the machine down")
	}
	c := &pb.StepChange{Step: id, Attempt: o.attempt, ExitCode: o.result.ExitCode}
	if o.err == nil {
		outputs, err := j.values(o.result.Outputs)
		if err == nil {
			c.State, c.Outputs = pb.StepState_STEP_SUCCEEDED, outputs
			j.report(c)
			j.say("step %s done in %s", id, j.since(o.began))
			return
		}
		o.err = err
	}
	c.Error = j.mask.text(o.err.Error())
	// What a failed step has found out is no less true: which disks are erased.
	if outputs, err := j.values(o.result.Outputs); err == nil {
		c.Outputs = outputs
	}
	c.LastOutput = o.last
	if o.result.LastOutput != nil {
		c.LastOutput = nil
		for _, l := range o.result.LastOutput[max(0, len(o.result.LastOutput)-lastLines):] {
			c.LastOutput = append(c.LastOutput, j.mask.text(l))
		}
	}
	switch {
	case o.cancelled:
		c.State = pb.StepState_STEP_CANCELLED
	case o.abandoned:
		c.State = pb.StepState_STEP_FAILED // not again beside itself
	default:
		c.State = j.record.AfterFailure(id)
	}
	j.report(c)
	j.say("step %s %s after %s: %s", id, verb(c.State), j.since(o.began), c.Error)
}

func verb(s pb.StepState) string {
	switch s {
	case pb.StepState_STEP_CANCELLED:
		return "cancelled"
	case pb.StepState_STEP_BACKOFF:
		return "failed, to be tried again,"
	default:
		return "failed"
	}
}

func (j *job) since(t time.Time) time.Duration {
	return j.cfg.Now().Sub(t).Round(time.Millisecond)
}

// leave takes the machine down for a step: it is put on record first, and
// everything before it.
func (j *job) leave(o outcome) {
	j.left = true
	outputs, err := j.values(o.result.Outputs)
	if err != nil {
		j.cfg.Log.Error("outputs left out", "action", o.node.ID, "err", err)
	}
	next := o.result.Leave.NextBoot
	j.report(&pb.StepChange{Step: o.node.ID, State: pb.StepState_STEP_RUNNING, Attempt: o.attempt, Leaving: true, NextBoot: next, LeaveBy: o.result.Leave.By, Outputs: outputs})
	flushed := j.outbox.flushed()
	j.say("step %s: the machine goes down now, to come back as: %s", o.node.ID, next)
	j.running++
	go func() { // j.running counts it
		o.gone, o.err = true, nil
		timer := time.NewTimer(o.node.Timeout)
		defer timer.Stop()
		select {
		case <-flushed:
			if err := o.result.Leave.Do(); err != nil {
				o.err = err
			} else {
				<-j.ctx.Done() // the machine is going down
			}
		case <-timer.C:
			o.err = fmt.Errorf("the server could not be told within %s, so the machine stays up", o.node.Timeout)
		case <-j.steps.Done():
			o.err = context.Cause(j.steps)
			o.cancelled = true
		}
		j.ended <- o
	}()
}

// notGone reports that the machine is still there.
func (j *job) notGone(o outcome) {
	j.leaving, j.left = nil, false
	state := pb.StepState_STEP_FAILED
	if o.cancelled {
		state = pb.StepState_STEP_CANCELLED
	}
	text := j.mask.text(o.err.Error())
	j.report(&pb.StepChange{Step: o.node.ID, State: state, Attempt: o.attempt, Error: text})
	j.say("step %s %s: %s", o.node.ID, verb(state), text)
}

// stay ends a step that was to take the machine down and has only waited for
// others so far. One that has begun to leave ends with j.steps.
func (j *job) stay(state pb.StepState, why error) {
	if j.leaving == nil || j.left {
		return
	}
	o := j.leaving
	j.leaving = nil
	j.report(&pb.StepChange{Step: o.node.ID, State: state, Attempt: o.attempt, Error: why.Error()})
}
