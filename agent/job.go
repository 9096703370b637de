package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/expression"
	"github.com/bedplate/bedplate/workflow/plan"
)

var (
	errCancelled = errors.New("cancelled")
	errDeadline  = errors.New("the workflow's time is over")
)

// job is one run of one workflow being carried out. Its loop is the one
// goroutine that touches its fields; steps run in goroutines that it waits for.
type job struct {
	cfg    Config
	outbox *outbox
	plan   *pb.Plan
	mask   mask

	ctx    context.Context // of the job: ends with the agent or by another plan
	stop   context.CancelCauseFunc
	steps  context.Context // of its steps: ends by cancellation and at the deadline as well
	halt   context.CancelCauseFunc
	orders chan order
	ended  chan outcome
	done   chan struct{}

	bound   *expression.Bound
	record  *plan.Run
	running int
	leaving *outcome // what waits until nothing else runs
	left    bool
}

// outcome is how an attempt ended.
type outcome struct {
	node      plan.Node
	attempt   uint32
	began     time.Time
	result    step.Result
	err       error
	last      []string
	cancelled bool
	// abandoned: it did not stop when told to, and may be at it still.
	abandoned bool
	// gone: this is how leaving went, not the step itself.
	gone bool
}

func newJob(ctx context.Context, cfg Config, o *outbox, p *pb.Plan) *job {
	j := &job{cfg: cfg, outbox: o, plan: p, mask: newMask(p.GetSecrets()), orders: make(chan order, 64), ended: make(chan outcome), done: make(chan struct{})}
	j.ctx, j.stop = context.WithCancelCause(ctx)
	j.steps, j.halt = context.WithCancelCause(j.ctx)
	return j
}

func (j *job) is(uid string, run uint32) bool {
	return j.plan.GetWorkflowUid() == uid && j.plan.GetRun() == run
}

// give hands over an order about this job; one that is over has no use for it.
func (j *job) give(o order) {
	select {
	case <-j.done:
	case j.orders <- o:
	default:
		j.cfg.Log.Warn("order passed over: too many at once", "workflow", j.plan.GetWorkflow())
	}
}

func (j *job) say(format string, args ...any) {
	j.cfg.Say("%s", j.mask.text(fmt.Sprintf(format, args...)))
}

// run takes the workflow to its end, or until the job is stopped.
func (j *job) run() {
	defer close(j.done)
	defer j.stop(nil)
	if err := j.resume(); err != nil {
		j.refuse(err)
		return
	}
	j.say("workflow %s, run %d", j.plan.GetWorkflow(), j.plan.GetRun())
	deadline := never()
	if d := j.plan.GetDeadline(); d.IsValid() && d.AsTime().Unix() > 0 {
		deadline = time.NewTimer(d.AsTime().Sub(j.cfg.Now()))
	}
	defer deadline.Stop()
	retry := never()
	defer retry.Stop()
	for {
		j.startReady()
		state, why := j.record.State()
		if j.running == 0 && (j.ctx.Err() != nil || j.leaving == nil && over(state)) {
			if j.ctx.Err() == nil {
				j.say("workflow %s: %s", j.plan.GetWorkflow(), sentence(state, why))
			}
			return
		}
		if at, ok := j.record.Next(); ok && j.leaving == nil {
			retry.Reset(max(at.Sub(j.cfg.Now()), time.Millisecond))
		}
		select {
		case out := <-j.ended:
			j.running--
			j.finish(out)
		case o := <-j.orders:
			j.obey(o)
		case <-retry.C:
		case <-deadline.C:
			j.stay(pb.StepState_STEP_FAILED, errDeadline)
			j.record.Abort(errDeadline.Error(), j.cfg.Now())
			j.halt(errDeadline)
		case <-j.whenIdle():
		}
	}
}

// whenIdle is ready when the job is to end and no step is left to wait for.
func (j *job) whenIdle() <-chan struct{} {
	if j.running > 0 {
		return nil // the steps end first; they have been told
	}
	return j.ctx.Done()
}

func never() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func over(s pb.WorkflowState) bool {
	return s == pb.WorkflowState_SUCCEEDED || s == pb.WorkflowState_WORKFLOW_FAILED || s == pb.WorkflowState_CANCELLED
}

func sentence(s pb.WorkflowState, why string) string {
	switch s {
	case pb.WorkflowState_SUCCEEDED:
		return "done"
	case pb.WorkflowState_CANCELLED:
		return "cancelled"
	default:
		return "failed: " + why
	}
}

// resume reads the plan and goes on from the record in it.
func (j *job) resume() error {
	t, err := expression.Compile(j.plan.GetTemplate())
	if err != nil {
		return fmt.Errorf("reading the template: %w", err)
	}
	j.bound = t.Bind(j.plan)
	now := j.cfg.Now()
	if len(j.plan.GetSteps()) == 0 {
		j.record = plan.New(t.Graph(), j.plan.GetRun())
		return nil
	}
	if j.record, err = plan.Resume(t.Graph(), j.plan.GetRun(), j.plan.GetSteps(), false, now); err != nil {
		return fmt.Errorf("reading the record: %w", err)
	}
	// The server has done the same; this is for steps whose end it doesn't know.
	j.record.Interrupt(j.cfg.BootID, now)
	return nil
}

// refuse fails the first step that isn't over of a plan that can't be read,
// which an agent older than its server may be given.
func (j *job) refuse(err error) {
	j.say("workflow %s can't be run by this agent: %v", j.plan.GetWorkflow(), err)
	for _, s := range j.plan.GetSteps() {
		switch s.GetState() {
		case pb.StepState_STEP_STATE_UNSPECIFIED, pb.StepState_STEP_PENDING, pb.StepState_STEP_BACKOFF:
			j.outbox.change(&pb.StepChange{
				Step: s.GetId(), State: pb.StepState_STEP_FAILED, Attempt: uint32(len(s.GetAttempts())) + 1,
				Error: j.mask.text(fmt.Sprintf("this agent (%s) can't run the workflow: %v", j.cfg.Version, err)),
			})
			return
		}
	}
}

// startReady starts everything whose turn it is. Skipped steps and those that
// fail before they start can make others ready, hence the loop.
func (j *job) startReady() {
	for j.steps.Err() == nil && j.leaving == nil {
		ready := j.record.Ready(j.cfg.Now())
		if len(ready) == 0 {
			return
		}
		for _, id := range ready {
			j.start(id)
		}
	}
	if j.leaving != nil && !j.left && j.running == 0 && j.steps.Err() == nil {
		j.leave(*j.leaving)
	}
}

// report takes up a change and sends it.
func (j *job) report(c *pb.StepChange) <-chan struct{} {
	if err := j.record.Apply(c, j.cfg.BootID, j.cfg.Now()); err != nil && !errors.Is(err, plan.ErrStale) {
		j.cfg.Log.Error("step in an unexpected state", "workflow", j.plan.GetWorkflow(), "action", c.GetStep(), "err", err)
	}
	return j.outbox.change(c)
}

// start evaluates one step and runs it.
func (j *job) start(id string) {
	node, _ := j.record.Graph().Node(id)
	change := j.record.Start(id)
	if j.record.Step(id).GetState() == pb.StepState_STEP_PENDING {
		yes, err := j.bound.If(j.ctx, id, j.record)
		if err == nil && !yes {
			j.say("step %s skipped: its condition is false", id)
			j.report(&pb.StepChange{Step: id, State: pb.StepState_STEP_SKIPPED})
			return
		}
		if err != nil {
			j.fail(change, err)
			return
		}
	}
	call, err := j.bound.Call(j.ctx, id, j.record)
	if err != nil {
		j.fail(change, err)
		return
	}
	if change.GetState() == pb.StepState_STEP_WAITING {
		if m, ok := call.With["message"].(string); ok {
			change.LastOutput = []string{j.mask.text(m)}
		}
		j.report(change)
		j.say("step %s waits for approval", id)
		return
	}
	executor := j.cfg.Executors[node.Action.Name]
	if executor == nil {
		j.fail(change, fmt.Errorf("this agent (%s) has no action %s", j.cfg.Version, node.Action.Name))
		return
	}
	acked := j.report(change)
	if !node.MustNotRunTwice() {
		acked = nil
	}
	j.say("step %s (%s)%s", id, node.Action.Name, attemptText(change.GetAttempt()))
	req := step.Request{
		Workflow: j.plan.GetWorkflow(), Step: id, Attempt: change.GetAttempt(), With: call.With, Env: call.Env, Image: call.Image,
		Args: call.Args, Entrypoint: call.Entrypoint, Server: j.plan.GetServer(), HTTP: j.cfg.HTTP, Images: j.plan.GetImages().AsMap(),
	}
	j.running++
	go func() { j.ended <- j.attempt(executor, node, req, acked) }() // j.running counts it
}

func attemptText(n uint32) string {
	if n <= 1 {
		return ""
	}
	return fmt.Sprintf(", attempt %d", n)
}

// fail ends a step that could not be started; trying again would not help.
func (j *job) fail(start *pb.StepChange, err error) {
	text := j.mask.text(err.Error())
	j.say("step %s failed: %s", start.GetStep(), text)
	j.report(&pb.StepChange{Step: start.GetStep(), State: pb.StepState_STEP_FAILED, Attempt: start.GetAttempt(), Error: text})
}

// obey takes up an order about this run.
func (j *job) obey(o order) {
	switch {
	case o.cancel != nil:
		j.say("workflow %s is being cancelled: %s", j.plan.GetWorkflow(), o.cancel.GetReason())
		j.record.Cancel(false, j.cfg.Now())
		j.stay(pb.StepState_STEP_CANCELLED, errCancelled)
		j.halt(errCancelled)
	case o.approval != nil:
		a := o.approval
		if err := j.record.Approve(a.GetStep(), a.GetActor(), a.GetReject(), j.cfg.Now()); err != nil {
			j.cfg.Log.Warn("approval passed over", "workflow", j.plan.GetWorkflow(), "err", err)
		}
	case o.plan != nil:
		j.compare(o.plan.GetSteps())
	}
}

// compare takes over from the server's record what only the server decides:
// what became of steps that wait for a person.
func (j *job) compare(steps []*pb.StepStatus) {
	for _, theirs := range steps {
		ours := j.record.Step(theirs.GetId())
		if ours.GetState() != pb.StepState_STEP_WAITING {
			continue
		}
		var err error
		switch theirs.GetState() {
		case pb.StepState_STEP_SUCCEEDED:
			err = j.record.Approve(theirs.GetId(), theirs.GetApprovedBy(), false, j.cfg.Now())
		case pb.StepState_STEP_FAILED:
			var why string
			if n := len(theirs.GetAttempts()); n > 0 {
				why = theirs.GetAttempts()[n-1].GetError()
			}
			err = j.record.Fail(theirs.GetId(), why, j.cfg.Now())
		case pb.StepState_STEP_CANCELLED:
			j.record.Cancel(false, j.cfg.Now())
		}
		if err != nil {
			j.cfg.Log.Warn("record passed over", "workflow", j.plan.GetWorkflow(), "err", err)
		}
	}
}

// values makes a step's outputs fit to send.
func (j *job) values(outputs map[string]any) (map[string]*structpb.Value, error) {
	all := make(map[string]*structpb.Value, len(outputs))
	for k, v := range outputs {
		pv, err := structpb.NewValue(j.mask.value(v))
		if err != nil {
			return nil, fmt.Errorf("output %s: %w", k, err)
		}
		all[k] = pv
	}
	return all, nil
}
