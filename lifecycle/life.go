package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// Purposes of the workflows that a machine's own life makes.
const (
	purposeTest   = "test"
	purposeRescue = "rescue"
	purposeReturn = "return"
	purposeWipe   = "wipe"
	// purposeInspect reads the hardware of a machine whose agent is there already.
	purposeInspect = "inspect"
)

// LabelMachine names the machine that a workflow of its own life is for.
const LabelMachine = "bedplate/life"

// followLife says how far the life's workflow is, and has the machine booted for it.
func (c *Controller) followLife(m *pb.Machine, v view, d *decision, what string) {
	d.cause, d.nextAction = what, "workflow "+d.life+" does it"
	if v.life == nil {
		return // being made
	}
	d.deadline = moment(v.life.GetStatus().GetDeadline())
	if v.life.GetStatus().GetState() == pb.WorkflowState_QUEUED {
		d.cause = what + ": " + v.life.GetStatus().GetCause()
		return
	}
	c.wake(m, v, d, v.life, false)
}

// wake boots the machine into the agent where the workflow that has it waits
// for that. When every attempt was in vain the workflow is ended.
func (c *Controller) wake(m *pb.Machine, v view, d *decision, wf *pb.Workflow, soft bool) {
	target := fmt.Sprintf("%s/%d", wf.Metadata.Name, wf.GetStatus().GetRun())
	back := comesBack(m, wf)
	if wf.GetStatus().GetState() != pb.WorkflowState_WAITING_FOR_MACHINE && back == "" || !hasBMC(m) {
		if connected(m) {
			d.attempt, d.standing.job = 0, ""
		}
		return
	}
	target += back
	cause, next := d.cause, d.nextAction
	ok := c.boot(m, v, d, target, soft)
	if d.cause != cause {
		d.cause = cause + ": " + d.cause
	}
	if connected(m) {
		d.nextAction = next
	}
	if !ok && !wf.GetStatus().GetCancelRequested() {
		d.cancel, d.reason = wf.Metadata.Name, d.cause
	}
}

// comesBack names the step that restarts the machine into the agent, where
// the machine has gone and would boot something else: the override that had it
// boot from its medium was for one boot only.
func comesBack(m *pb.Machine, wf *pb.Workflow) string {
	if m.GetSpec().GetBootMethod() != "virtual-media" || connected(m) || wf.GetStatus().GetState() != pb.WorkflowState_RUNNING {
		return ""
	}
	for _, s := range wf.GetStatus().GetSteps() {
		if n := len(s.GetAttempts()); s.GetState() == pb.StepState_STEP_RUNNING && n > 0 && s.Attempts[n-1].GetLeaving() == "agent" {
			return fmt.Sprintf("/%s/%d", s.GetId(), n)
		}
	}
	return ""
}

// makeLifeWorkflow makes status.life_workflow where it isn't there. The name
// was put on record first, so that a crash in between makes no second one.
func (c *Controller) makeLifeWorkflow(ctx context.Context, m *pb.Machine) error {
	name := m.GetStatus().GetLifeWorkflow()
	if name == "" || c.workflows[name] != nil {
		return nil
	}
	wf := &pb.Workflow{
		Metadata: &pb.Metadata{Name: name, Labels: map[string]string{LabelMachine: m.Metadata.Name}},
		Spec:     &pb.WorkflowSpec{Machine: m.Metadata.Name},
	}
	pool := c.poolOf(m)
	switch purposeOf(m, name) {
	case purposeTest:
		wf.Spec.Template, wf.Spec.Inputs = orText(pool.GetTests().GetTemplate(), TemplateTest), testInputs(pool.GetTests())
	case purposeRescue:
		wf.Spec.Template, wf.Spec.Inputs = TemplateRescue, rescueInputs(m.GetSpec().GetRescue())
		wf.Spec.Instance = m.GetStatus().GetInstance()
	case purposeInspect:
		wf.Spec.Template = TemplateInspect
	case purposeReturn:
		wf.Spec.Template = TemplateReturn
	case purposeWipe:
		wf.Spec.Template, wf.Spec.Inputs = TemplateRelease, eraseInputs(pool.GetErase())
	default:
		return nil
	}
	made, err := c.cfg.Workflows.Create(ctx, wf)
	if err == nil {
		c.workflows[name] = made
		return nil
	}
	if errors.Is(err, resource.ErrExists) {
		return nil
	}
	// What is missing may come, such as a template: it is tried again.
	c.lookAgain("m "+m.Metadata.Name, c.cfg.Now().Add(workflowRetry))
	c.cfg.Logger.Warn("making a workflow", "machine", m.Metadata.Name, "workflow", name, "err", err)
	cause := fmt.Sprintf("workflow %s can't be made yet: %v", name, err)
	if m.GetStatus().GetCause() == cause {
		return nil
	}
	next := cloneOf(m)
	next.Status.Cause = cause
	return c.commit(ctx, unchanged(m), resource.Put(next))
}

func testInputs(p *pb.TestPolicy) map[string]*structpb.Value {
	in := map[string]*structpb.Value{}
	if len(p.GetTests()) > 0 {
		in["tests"] = listValue(p.GetTests())
	}
	if p.GetDuration() != "" {
		in["duration"] = structpb.NewStringValue(p.GetDuration())
	}
	return in
}

func rescueInputs(r *pb.Rescue) map[string]*structpb.Value {
	in := map[string]*structpb.Value{"authorized_keys": listValue(r.GetAuthorizedKeys())}
	if r.GetTimeout() != "" {
		in["timeout"] = structpb.NewStringValue(r.GetTimeout())
	}
	return in
}

func eraseInputs(p *pb.ErasePolicy) map[string]*structpb.Value {
	in := map[string]*structpb.Value{}
	if p.GetMethod() != "" {
		in["method"] = structpb.NewStringValue(p.GetMethod())
	}
	if p.GetVerify() != "" {
		in["verify"] = structpb.NewStringValue(p.GetVerify())
	}
	return in
}

func listValue(items []string) *structpb.Value {
	l := &structpb.ListValue{}
	for _, s := range items {
		l.Values = append(l.Values, structpb.NewStringValue(s))
	}
	return structpb.NewListValue(l)
}

func cloneOf[T proto.Message](m T) T { return proto.Clone(m).(T) }
