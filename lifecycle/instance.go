package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// reconcileInstance takes an instance one step further.
func (c *Controller) reconcileInstance(ctx context.Context, name string) error {
	inst, ok := c.instances[name]
	if !ok {
		return nil
	}
	switch {
	case inst.GetStatus().GetDeleting():
		return c.release(ctx, inst)
	case inst.GetStatus().GetMachine() == "":
		return c.claim(ctx, inst)
	case inst.GetStatus().GetWorkflow() == "":
		return c.start(ctx, inst, TemplateInstall)
	default:
		return c.follow(ctx, inst)
	}
}

// claim gives the instance a machine, in one transaction with the machine:
// two instances can't get the same one.
func (c *Controller) claim(ctx context.Context, inst *pb.Instance) error {
	m, cause := c.choose(inst)
	if m == nil {
		return c.setInstance(ctx, inst, pb.InstanceState_INSTANCE_PENDING, cause, time.Time{})
	}
	now := c.cfg.Now()
	nextInst := withState(inst, pb.InstanceState_INSTANCE_PROVISIONING, "machine "+m.Metadata.Name+" was chosen", time.Time{}, now)
	nextInst.Status.Machine = m.Metadata.Name
	s := standingOf(m)
	s.instance, s.attempt, s.job, s.life = inst.Metadata.Name, 0, "", ""
	nextMachine := withStanding(m, heldBy(nextInst, s), now)
	revision, err := c.cfg.DB.Store.Txn(ctx, []store.Compare{resource.Unchanged(inst), resource.Unchanged(m)}, []store.Op{
		resource.Put(nextInst), resource.Put(nextMachine),
		c.cfg.Event("Instance", inst.Metadata.Name, "MachineChosen", m.Metadata.Name, false),
	})
	if err == nil {
		c.metrics.moved(m, nextMachine, now)
		// Else the next instance could be offered this machine again.
		c.keep(nextMachine, revision)
	}
	return err
}

// choose returns the machine for inst, or nil and why there is none.
func (c *Controller) choose(inst *pb.Instance) (*pb.Machine, string) {
	if name := inst.GetSpec().GetMachine(); name != "" {
		return c.named(name)
	}
	var candidates []*pb.Machine
	available := 0
	for _, m := range c.machines {
		if !free(m) {
			continue
		}
		available++
		ok, err := c.cfg.Select(inst.GetSpec().GetSelector(), m)
		if err != nil {
			return nil, fmt.Sprintf("the selector can't be evaluated on machine %s: %v", m.Metadata.Name, err)
		}
		if ok {
			candidates = append(candidates, m)
		}
	}
	if len(candidates) == 0 {
		return nil, fmt.Sprintf("no machine fits: %d are available, none matches the selector %q", available, inst.GetSpec().GetSelector())
	}
	// A machine that waits in the agent needs no firmware boot.
	sort.Slice(candidates, func(i, j int) bool {
		a, b := candidates[i], candidates[j]
		if ca, cb := a.GetStatus().GetAgent().GetConnected(), b.GetStatus().GetAgent().GetConnected(); ca != cb {
			return ca
		}
		return a.Metadata.Name < b.Metadata.Name
	})
	return candidates[0], ""
}

func (c *Controller) named(name string) (*pb.Machine, string) {
	m, ok := c.machines[name]
	if !ok {
		return nil, "machine " + name + " is not known: apply it first"
	}
	if holder := m.GetStatus().GetInstance(); holder != "" {
		return nil, "machine " + name + " is held by instance " + holder
	}
	if m.GetStatus().GetState() != pb.MachineState_AVAILABLE && c.gated(m) {
		return nil, fmt.Sprintf("machine %s is not available yet: it is %s: %s", name, stateName(m.GetStatus().GetState()), m.GetStatus().GetCause())
	}
	switch m.GetStatus().GetState() {
	case pb.MachineState_AVAILABLE, pb.MachineState_ENROLLED, pb.MachineState_DISCOVERED, pb.MachineState_INSPECTING:
		return m, ""
	case pb.MachineState_MACHINE_STATE_UNSPECIFIED:
		return nil, "machine " + name + " has only just been added"
	}
	return nil, fmt.Sprintf("machine %s is %s: %s", name, stateName(m.GetStatus().GetState()), m.GetStatus().GetCause())
}

// gated reports whether a machine has to become available before anybody gets
// it: its hardware is to be compared or tested, or its BMC contacted, first.
func (c *Controller) gated(m *pb.Machine) bool {
	p := c.poolOf(m)
	return hasBMC(m) || p.GetTests() != nil || p.GetExpect() != nil || m.GetSpec().GetExpect() != nil
}

// start makes the workflow for the instance. Its name follows from the
// instance, so that a crash before it is recorded finds it again.
func (c *Controller) start(ctx context.Context, inst *pb.Instance, template string) error {
	wf := &pb.Workflow{
		Metadata: &pb.Metadata{Name: workflowName(inst, template), Labels: map[string]string{"bedplate/instance": inst.Metadata.Name}},
		Spec: &pb.WorkflowSpec{
			Template: template, Machine: inst.GetStatus().GetMachine(), Instance: inst.Metadata.Name,
		},
	}
	switch template {
	case TemplateRelease:
		wf.Spec.Inputs = eraseInputs(c.poolOf(c.machines[inst.GetStatus().GetMachine()]).GetErase())
	case TemplateInstall:
		wf.Spec.Inputs = installInputs(inst)
		live, err := c.live(ctx, inst)
		if err != nil {
			return err
		}
		if live {
			wf.Spec.Template = TemplateLive
		}
		if t := inst.GetSpec().GetTemplate(); t != "" {
			wf.Spec.Template = t
		}
	}
	_, err := c.cfg.Workflows.Create(ctx, wf)
	if err != nil && !errors.Is(err, resource.ErrExists) {
		// What is missing may come, such as an image's content: it is tried again.
		c.lookAgain("i "+inst.Metadata.Name, c.cfg.Now().Add(workflowRetry))
		return c.setInstance(ctx, inst, pb.InstanceState_INSTANCE_PENDING, fmt.Sprintf("its workflow can't be made yet: %v", err), time.Time{})
	}
	next := proto.Clone(inst).(*pb.Instance)
	next.Status.Workflow = wf.Metadata.Name
	return c.commit(ctx, []store.Compare{resource.Unchanged(inst)}, resource.Put(next))
}

// workflowName names the workflow of one purpose for one life of an instance.
func workflowName(inst *pb.Instance, template string) string {
	uid := inst.GetMetadata().GetUid()
	if len(uid) > 8 {
		uid = uid[:8]
	}
	if template == TemplateRelease {
		return inst.GetMetadata().GetName() + "-release-" + uid
	}
	name := inst.GetMetadata().GetName() + "-install-" + uid
	if n := inst.GetStatus().GetReinstalls(); n > 0 {
		name += fmt.Sprintf("-%d", n+1)
	}
	return name
}

// installName names the newest workflow that installs the instance.
func installName(inst *pb.Instance) string { return workflowName(inst, TemplateInstall) }

func installInputs(inst *pb.Instance) map[string]*structpb.Value {
	inputs := map[string]*structpb.Value{}
	for name, v := range inst.GetSpec().GetInputs() {
		inputs[name] = v
	}
	if image := inst.GetSpec().GetImage(); image != "" {
		inputs["image"] = structpb.NewStringValue(image)
	}
	if hint := inst.GetSpec().GetDiskHint(); hint != "" {
		inputs["disk_hint"] = structpb.NewStringValue(hint)
	}
	return inputs
}

// follow brings the instance in line with its workflow and what the installed
// system reported.
func (c *Controller) follow(ctx context.Context, inst *pb.Instance) error {
	if wantsReinstall(inst) && !c.installing(inst) && c.consented(c.machines[inst.GetStatus().GetMachine()], beforeReinstall) {
		return c.start(ctx, inst, TemplateInstall)
	}
	wf := c.installWorkflow(inst)
	if wf == nil {
		return nil // not seen through the watch yet
	}
	silent, err := c.silent(ctx, inst)
	if err != nil {
		return err
	}
	state, cause, deadline := decideInstance(inst, wf, silent, c.cfg.Now())
	return c.setInstance(ctx, inst, state, cause, deadline)
}

// installing reports whether a workflow of the instance is still under way.
func (c *Controller) installing(inst *pb.Instance) bool {
	for _, wf := range c.workflows {
		if wf.GetSpec().GetInstance() == inst.Metadata.Name && !ended(wf) && installs(wf) {
			return true
		}
	}
	return false
}

// silent reports whether nothing in the instance's image reads our metadata,
// so that it can't report in either.
func (c *Controller) silent(ctx context.Context, inst *pb.Instance) (bool, error) {
	image, err := c.imageOf(ctx, inst)
	// Talos runs nothing of ours.
	return image.GetConfiguration() == "none" || image.GetConfiguration() == "talos", err
}

// live reports whether the instance's image runs in memory.
func (c *Controller) live(ctx context.Context, inst *pb.Instance) (bool, error) {
	image, err := c.imageOf(ctx, inst)
	return image.GetLive() != nil, err
}

// imageOf returns what the instance's image is; nothing for one that isn't known.
func (c *Controller) imageOf(ctx context.Context, inst *pb.Instance) (*pb.ImageSpec, error) {
	if inst.GetSpec().GetImage() == "" {
		return nil, nil
	}
	image, err := resource.Get[*pb.Image](ctx, c.cfg.DB, inst.GetSpec().GetImage())
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return image.GetSpec(), err
}

// installWorkflow returns the newest workflow that (re)installs the instance.
func (c *Controller) installWorkflow(inst *pb.Instance) *pb.Workflow {
	newest := c.workflows[inst.GetStatus().GetWorkflow()]
	for _, wf := range c.workflows {
		if wf.GetSpec().GetInstance() != inst.Metadata.Name || !installs(wf) {
			continue
		}
		if newest == nil || wf.Metadata.CreateTime.AsTime().After(newest.Metadata.CreateTime.AsTime()) {
			newest = wf
		}
	}
	return newest
}

// installs reports whether the workflow writes an operating system.
func installs(wf *pb.Workflow) bool {
	if wf.GetSpec().GetTemplate() == TemplateLive {
		return true
	}
	for _, s := range wf.GetStatus().GetTemplate().GetSteps() {
		if s.GetUses() == "image.write" {
			return true
		}
	}
	return false
}

// decideInstance returns where an instance with that workflow stands. A silent
// one never reports in.
func decideInstance(inst *pb.Instance, wf *pb.Workflow, silent bool, now time.Time) (pb.InstanceState, string, time.Time) {
	name := wf.GetMetadata().GetName()
	switch wf.GetStatus().GetState() {
	case pb.WorkflowState_SUCCEEDED:
		return decideInstalled(inst, wf, silent, now)
	case pb.WorkflowState_WORKFLOW_FAILED:
		return pb.InstanceState_INSTANCE_FAILED, "workflow " + name + " failed: " + wf.GetStatus().GetCause(), time.Time{}
	case pb.WorkflowState_CANCELLED:
		return pb.InstanceState_INSTANCE_FAILED, "workflow " + name + " was cancelled: " + wf.GetStatus().GetCause(), time.Time{}
	}
	return pb.InstanceState_INSTANCE_PROVISIONING, "workflow " + name + " installs it", time.Time{}
}

// decideInstalled is about an instance whose image is on the disk: it is
// active when its system has reported in since.
func decideInstalled(inst *pb.Instance, wf *pb.Workflow, silent bool, now time.Time) (pb.InstanceState, string, time.Time) {
	installed := wf.GetStatus().GetEndTime().AsTime()
	if home := inst.GetStatus().GetPhoneHomeTime(); home != nil && !home.AsTime().Before(installed) {
		return pb.InstanceState_INSTANCE_ACTIVE, "the installed system has reported in", time.Time{}
	}
	if silent {
		return pb.InstanceState_INSTANCE_ACTIVE, "installed; its image doesn't report in", time.Time{}
	}
	deadline := installed.Add(PhoneHomeTimeout)
	if now.Before(deadline) {
		return pb.InstanceState_INSTANCE_BOOTING, "the installed system is on its first boot", deadline
	}
	return pb.InstanceState_INSTANCE_FAILED,
		fmt.Sprintf("the installed system has not reported in for %s: look at its console; it needs to reach the metadata service", PhoneHomeTimeout), time.Time{}
}

// release wipes the instance's machine and then removes the instance.
func (c *Controller) release(ctx context.Context, inst *pb.Instance) error {
	m := c.machines[inst.GetStatus().GetMachine()]
	if m == nil || m.GetStatus().GetInstance() != inst.Metadata.Name {
		return c.commit(ctx, []store.Compare{resource.Unchanged(inst)}, resource.Remove[*pb.Instance](inst.Metadata.Name),
			c.cfg.Event("Instance", inst.Metadata.Name, "Deleted", "it held no machine", false))
	}
	want := workflowName(inst, TemplateRelease)
	if !c.beganRelease(inst) {
		if !c.consented(m, beforeRelease) {
			return nil // the machine says what it waits for
		}
		return c.beginRelease(ctx, inst)
	}
	if wf := c.workflows[want]; wf != nil && ended(wf) {
		return c.finishRelease(ctx, inst, m, wf)
	}
	return c.setInstance(ctx, inst, pb.InstanceState_INSTANCE_RELEASING, "workflow "+want+" wipes its disks", time.Time{})
}

// beganRelease reports whether the release workflow is on record.
func (c *Controller) beganRelease(inst *pb.Instance) bool {
	return inst.GetStatus().GetWorkflow() == workflowName(inst, TemplateRelease)
}

// beginRelease stops what still runs for the instance, then makes the release workflow.
func (c *Controller) beginRelease(ctx context.Context, inst *pb.Instance) error {
	release := workflowName(inst, TemplateRelease)
	for name, wf := range c.workflows {
		if name == release || wf.GetSpec().GetInstance() != inst.Metadata.Name || ended(wf) || wf.GetStatus().GetCancelRequested() {
			continue
		}
		if _, err := c.cfg.Workflows.Cancel(ctx, name, "instance "+inst.Metadata.Name+" was deleted"); err != nil {
			return fmt.Errorf("cancelling workflow %s: %w", name, err)
		}
	}
	return c.start(ctx, inst, TemplateRelease)
}

// finishRelease returns the machine to the pool and removes the instance.
// The machine goes on from RELEASING by itself: its BMC is put back first.
func (c *Controller) finishRelease(ctx context.Context, inst *pb.Instance, m *pb.Machine, wf *pb.Workflow) error {
	s := standingOf(m)
	s.state, s.cause, s.instance = pb.MachineState_RELEASING, "its disks were wiped", ""
	s.nextAction, s.nextBoot, s.attempt, s.job, s.life, s.deadline = "it goes back into the pool", pb.NextBoot_AGENT, 0, "", "", time.Time{}
	d := decision{standing: s}
	if !c.erased(&d, m, wf, inst.GetStatus().GetRequestedBy()) {
		return c.failRelease(ctx, inst, m, d)
	}
	next := withDecision(m, d, c.cfg.Now())
	revision, err := c.cfg.DB.Store.Txn(ctx, []store.Compare{resource.Unchanged(inst), resource.Unchanged(m)},
		append(d.ops, resource.Remove[*pb.Instance](inst.Metadata.Name), resource.Put(next),
			c.cfg.Event("Instance", inst.Metadata.Name, "Deleted", "the disks of machine "+m.Metadata.Name+" are wiped", false)))
	if err == nil {
		c.metrics.moved(m, next, c.cfg.Now())
		c.keep(next, revision)
		delete(c.instances, inst.Metadata.Name)
	}
	return err
}

// failRelease puts on record that the machine's disks are not wiped: of the
// instance, which keeps the machine, and in the record of what was done.
func (c *Controller) failRelease(ctx context.Context, inst *pb.Instance, m *pb.Machine, d decision) error {
	if len(d.ops) == 0 {
		return c.setInstance(ctx, inst, pb.InstanceState_INSTANCE_FAILED, d.cause, time.Time{})
	}
	nextInst, nextMachine := withState(inst, pb.InstanceState_INSTANCE_FAILED, d.cause, time.Time{}, c.cfg.Now()), cloneOf(m)
	d.edit(nextMachine)
	revision, err := c.cfg.DB.Store.Txn(ctx, []store.Compare{resource.Unchanged(inst), resource.Unchanged(m)},
		append(d.ops, resource.Put(nextInst), resource.Put(nextMachine),
			c.cfg.Event("Instance", inst.Metadata.Name, "StateChanged", stateName(nextInst.Status.State)+": "+d.cause, true)))
	if err == nil {
		c.keep(nextMachine, revision)
	}
	return err
}

// erased puts the record of an erasure with the decision, whatever came of it.
// It returns false, with the machine failed, where the workflow has failed or
// the record doesn't vouch for every disk.
func (c *Controller) erased(d *decision, m *pb.Machine, wf *pb.Workflow, operator string) bool {
	var err error
	if c.cfg.Erasure != nil {
		var r ErasureRecord
		if r, err = c.cfg.Erasure(m, wf, operator); r.Name != "" && m.GetStatus().GetErasure() != r.Name {
			d.ops = append(d.ops, r.Ops...)
			d.edit = also(d.edit, func(m *pb.Machine) { m.Status.Erasure = r.Name })
		}
	}
	switch {
	case wf.GetStatus().GetState() != pb.WorkflowState_SUCCEEDED:
		d.cause = "its disks could not be wiped: " + wf.GetStatus().GetCause()
	case err != nil:
		d.cause = "its disks could not be shown to be wiped: " + err.Error()
	default:
		return true
	}
	d.state, d.nextAction = pb.MachineState_FAILED, "`bedplate workflow retry "+wf.Metadata.Name+"` wipes them again"
	return false
}

func ended(wf *pb.Workflow) bool {
	switch wf.GetStatus().GetState() {
	case pb.WorkflowState_SUCCEEDED, pb.WorkflowState_WORKFLOW_FAILED, pb.WorkflowState_CANCELLED:
		return true
	}
	return false
}

// setInstance stores the instance's state if it differs.
func (c *Controller) setInstance(ctx context.Context, inst *pb.Instance, state pb.InstanceState, cause string, deadline time.Time) error {
	s := inst.GetStatus()
	if s.GetState() == state && s.GetCause() == cause && sameTime(s.GetDeadline(), deadline) {
		return nil
	}
	next := withState(inst, state, cause, deadline, c.cfg.Now())
	ops := []store.Op{resource.Put(next)}
	if s.GetState() != state {
		ops = append(ops, c.cfg.Event("Instance", inst.Metadata.Name, "StateChanged", stateName(state)+": "+cause, state == pb.InstanceState_INSTANCE_FAILED))
	}
	return c.commit(ctx, []store.Compare{resource.Unchanged(inst)}, ops...)
}

func withState(inst *pb.Instance, state pb.InstanceState, cause string, deadline, now time.Time) *pb.Instance {
	next := proto.Clone(inst).(*pb.Instance)
	if next.Status == nil {
		next.Status = &pb.InstanceStatus{}
	}
	if next.Status.State != state {
		next.Status.StateTime = timestamppb.New(now)
	}
	next.Status.State, next.Status.Cause, next.Status.Deadline = state, cause, nil
	if !deadline.IsZero() {
		next.Status.Deadline = timestamppb.New(deadline)
	}
	return next
}

func sameTime(a *timestamppb.Timestamp, b time.Time) bool {
	if a == nil {
		return b.IsZero()
	}
	return a.AsTime().Equal(b)
}
