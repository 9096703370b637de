package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/discovery"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// AnnotationDiscovered marks a machine that made itself known and that nobody
// has accepted yet. Taking it away accepts the machine.
const AnnotationDiscovered = "bedplate/discovered"

// FoundByBMC is the value of AnnotationDiscovered for a machine that is known
// by its BMC alone, which was found.
const FoundByBMC = "bmc"

// view is what a decision about one machine rests on, besides the machine.
type view struct {
	// inst is the instance that has the machine; nil when it is free.
	inst *pb.Instance
	// pool is the machine's policy; never nil.
	pool *pb.PoolSpec
	// owner is the workflow that has the machine; nil when none has.
	owner *pb.Workflow
	// life is status.life_workflow; nil while it isn't there.
	life *pb.Workflow
	// job is status.job; nil when it is gone.
	job *pb.Job
	now time.Time
}

// standing is the part of a machine's status that the lifecycle decides.
type standing struct {
	state      pb.MachineState
	cause      string
	nextAction string
	nextBoot   pb.NextBoot
	instance   string
	deadline   time.Time
	attempt    uint32
	job        string
	life       string
}

// decision is a standing, and what has to be done for it.
type decision struct {
	standing
	// makeJob becomes status.job, in the transaction that records the decision.
	makeJob *pb.Job
	// ops are written in the same transaction.
	ops []store.Op
	// compares are further conditions of that transaction.
	compares []store.Compare
	// accepts is the rule's decision that it carries out; nil: none's.
	accepts *discovery.Decision
	// rule is what becomes of a rule's status in the same transaction; nil: nothing.
	rule *pb.Rule
	// edit makes further changes to a copy of the machine; nil: none.
	edit func(*pb.Machine)
	// cancel is a workflow that has to stop, and why.
	cancel, reason string
	// asked is set while hooks are being asked about a change.
	asked bool
	// again is when to decide anew if nothing changes before; zero: the deadline.
	again time.Time
}

func standingOf(m *pb.Machine) standing {
	s := m.GetStatus()
	return standing{
		state: s.GetState(), cause: s.GetCause(), nextAction: s.GetNextAction(), nextBoot: s.GetNextBoot(), instance: s.GetInstance(),
		deadline: moment(s.GetDeadline()), attempt: s.GetAttempt(), job: s.GetJob(), life: s.GetLifeWorkflow(),
	}
}

// moment is a timestamp as a standing has it: comparable, zero when absent.
func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func (c *Controller) view(ctx context.Context, m *pb.Machine) (view, error) {
	v := view{inst: c.instances[m.GetStatus().GetInstance()], pool: c.poolOf(m), now: c.cfg.Now().UTC()}
	v.owner = c.workflows[m.GetStatus().GetWorkflow()]
	v.life = c.workflows[m.GetStatus().GetLifeWorkflow()]
	job, err := c.jobOf(ctx, m)
	v.job = job
	return v, err
}

// jobOf returns the job that the machine waits for; nil when it is gone. That
// the watch has not brought it does not mean that it isn't there: it may have
// been made by a server that was stopped a moment ago.
func (c *Controller) jobOf(ctx context.Context, m *pb.Machine) (*pb.Job, error) {
	name := m.GetStatus().GetJob()
	if j := c.jobs[name]; j != nil || name == "" {
		return j, nil
	}
	j, err := resource.Get[*pb.Job](ctx, c.cfg.DB, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading job %s: %w", name, err)
	}
	c.jobs[name] = j
	return j, nil
}

// DefaultPool is the pool of machines that name none.
const DefaultPool = "default"

// poolOf returns the policy that holds for a machine.
func (c *Controller) poolOf(m *pb.Machine) *pb.PoolSpec {
	name := m.GetSpec().GetPool()
	if name == "" {
		name = DefaultPool
	}
	if p, ok := c.pools[name]; ok && p.GetSpec() != nil {
		return p.GetSpec()
	}
	return &pb.PoolSpec{}
}

// reconcileMachine brings a machine's state in line with what is wanted and seen.
func (c *Controller) reconcileMachine(ctx context.Context, name string) error {
	m, ok := c.machines[name]
	if !ok {
		return nil
	}
	v, err := c.view(ctx, m)
	if err != nil {
		return err
	}
	d := c.decideMachine(m, v)
	if d.accepts != nil {
		err = c.enlist(ctx, m, d)
	} else {
		err = c.record(ctx, m, d)
	}
	if err != nil {
		return err
	}
	if !d.again.IsZero() {
		c.lookAgain("m "+name, d.again)
	}
	if d.cancel != "" {
		if _, err := c.cfg.Workflows.Cancel(ctx, d.cancel, d.reason); err != nil {
			return fmt.Errorf("cancelling workflow %s: %w", d.cancel, err)
		}
	}
	return c.afterDecision(ctx, m)
}

// afterDecision does what a recorded decision asks for and a crash may have
// kept from being done: the life's workflow is made, pending hooks are called.
func (c *Controller) afterDecision(ctx context.Context, seen *pb.Machine) error {
	m, ok := c.machines[seen.Metadata.Name]
	if !ok {
		return nil // it has another name now
	}
	c.callHooks(ctx, m)
	return c.makeLifeWorkflow(ctx, m)
}

// record stores the decision if it differs from what is on record.
func (c *Controller) record(ctx context.Context, m *pb.Machine, d decision) error {
	next := withDecision(m, d, c.cfg.Now())
	if d.makeJob != nil {
		next.Status.Job = d.makeJob.Metadata.Name
	}
	if proto.Equal(next, m) {
		return nil
	}
	name := m.Metadata.Name
	ops := []store.Op{resource.Put(next)}
	var compares []store.Compare
	compares = append(compares, resource.Unchanged(m))
	compares = append(compares, d.compares...)
	if d.rule != nil {
		compares, ops = append(compares, resource.Unchanged(d.rule)), append(ops, resource.Put(d.rule))
	}
	if d.makeJob != nil {
		resource.Stamp(c.cfg.DB, d.makeJob)
		compares = append(compares, resource.Absent[*pb.Job](d.makeJob.Metadata.Name))
		ops = append(ops, resource.Put(d.makeJob))
	}
	before := m.GetStatus().GetState()
	if next.Status.State != before {
		bad := d.state == pb.MachineState_FAILED || d.state == pb.MachineState_QUARANTINED
		ops = append(ops, c.cfg.Event("Machine", name, "StateChanged", stateName(next.Status.State)+": "+d.cause, bad))
	}
	ops = append(ops, d.ops...)
	recorded, err := c.history(ctx, m, next)
	if err != nil {
		return err
	}
	ops = append(ops, recorded...)
	revision, err := c.cfg.DB.Store.Txn(ctx, compares, ops)
	if err != nil {
		return err
	}
	c.metrics.moved(m, next, c.cfg.Now())
	c.keep(next, revision)
	if d.rule != nil {
		d.rule.Metadata.ResourceVersion = revision
		c.rules[d.rule.Metadata.Name] = d.rule
	}
	if d.makeJob != nil {
		c.jobs[d.makeJob.Metadata.Name] = d.makeJob
	}
	return nil
}

// withDecision returns a copy of m with the decision in it.
func withDecision(m *pb.Machine, d decision, now time.Time) *pb.Machine {
	next := withStanding(m, d.standing, now)
	if !d.asked && !changing(d.state) {
		next.Status.Hooks = nil // a change that is wanted again is asked about again
	}
	if d.edit != nil {
		d.edit(next)
	}
	return next
}

// changing reports whether a state is, or follows from, a change that hooks
// were asked about.
func changing(s pb.MachineState) bool {
	switch s {
	case pb.MachineState_RELEASING, pb.MachineState_RESCUE, pb.MachineState_MAINTENANCE, pb.MachineState_RETIRED, pb.MachineState_FAILED:
		return true
	}
	return false
}

// withStanding returns a copy of m with the standing in its status.
func withStanding(m *pb.Machine, s standing, now time.Time) *pb.Machine {
	next := proto.Clone(m).(*pb.Machine)
	if next.Status == nil {
		next.Status = &pb.MachineStatus{}
	}
	if next.Status.State != s.state {
		next.Status.StateTime = timestamppb.New(now)
	}
	next.Status.State, next.Status.Cause, next.Status.NextAction = s.state, s.cause, s.nextAction
	next.Status.NextBoot, next.Status.Instance = s.nextBoot, s.instance
	next.Status.Attempt, next.Status.Job, next.Status.LifeWorkflow = s.attempt, s.job, s.life
	next.Status.Deadline = nil
	if !s.deadline.IsZero() {
		next.Status.Deadline = timestamppb.New(s.deadline)
	}
	return next
}

// decideMachine returns where a machine stands. While a workflow owns it, what
// it boots is the workflow's to say.
func (c *Controller) decideMachine(m *pb.Machine, v view) decision {
	s := standingOf(m)
	if s.instance != "" && v.inst == nil {
		s.instance = ""
	}
	s.deadline = time.Time{}
	d := c.decideState(m, v, s)
	if m.GetStatus().GetWorkflow() != "" {
		d.nextBoot = m.GetStatus().GetNextBoot()
	}
	return d
}

func (c *Controller) decideState(m *pb.Machine, v view, s standing) decision {
	switch {
	case m.GetSpec().GetMaintenance() && settled(v.inst):
		return maintenance(m, v, s)
	case m.GetSpec().GetRescue() != nil && settled(v.inst):
		return c.rescue(m, v, s)
	case s.state == pb.MachineState_RESCUE:
		return c.leaveRescue(m, v, s)
	case v.inst != nil:
		return c.held(m, v, s)
	case m.GetMetadata().GetAnnotations()[AnnotationDiscovered] != "":
		return c.discovered(m, v, s)
	case m.GetSpec().GetRetired():
		return c.retire(m, v, s)
	case s.state == pb.MachineState_RETIRED:
		return reenrol(s)
	case s.state == pb.MachineState_RELEASING:
		return c.settle(m, v, s)
	}
	return c.ready(m, v, s)
}

// settled reports whether nothing is under way with the instance, so that a
// person can have its machine.
func settled(inst *pb.Instance) bool {
	if inst == nil {
		return true
	}
	if inst.GetStatus().GetDeleting() || wantsReinstall(inst) {
		return false
	}
	st := inst.GetStatus().GetState()
	return st == pb.InstanceState_INSTANCE_ACTIVE || st == pb.InstanceState_INSTANCE_FAILED
}

// maintenance sets a machine aside. What is on it stays.
func maintenance(m *pb.Machine, v view, s standing) decision {
	if s.state == pb.MachineState_MAINTENANCE {
		return decision{standing: s}
	}
	d := decision{standing: s}
	if !v.consent(m, &d, beforeMaintenance) {
		return d
	}
	d.state, d.cause, d.nextAction = pb.MachineState_MAINTENANCE, "set aside by spec.maintenance", "clear spec.maintenance to bring it back"
	d.nextBoot, d.job, d.attempt = pb.NextBoot_DISK, "", 0
	return d
}

// reenrol takes a machine that is no longer retired up anew: what it is made
// of may have changed in the meantime.
func reenrol(s standing) decision {
	s.state, s.cause, s.nextAction = pb.MachineState_ENROLLED, "brought back from retirement", "its hardware is read again"
	s.job, s.life, s.attempt, s.nextBoot = "", "", 0, pb.NextBoot_AGENT
	return decision{standing: s, edit: func(m *pb.Machine) {
		m.Status.Inventory, m.Status.TestTime, m.Status.Tests, m.Status.Differences = nil, nil, nil, nil
	}}
}

// lifeName names a workflow that a machine's own life makes. The purpose can
// be read from it again, also before the workflow is there.
func (c *Controller) lifeName(m *pb.Machine, purpose string) string {
	return m.Metadata.Name + "-" + purpose + "-" + shortID(c.cfg.DB.NewUID())
}

// purposeOf returns the purpose in a name that lifeName made.
func purposeOf(m *pb.Machine, name string) string {
	rest := strings.TrimPrefix(name, m.Metadata.Name+"-")
	if i := strings.LastIndexByte(rest, '-'); i > 0 {
		return rest[:i]
	}
	return ""
}

func shortID(uid string) string {
	uid = strings.ReplaceAll(uid, "-", "")
	if len(uid) > 8 {
		uid = uid[:8]
	}
	return uid
}

// connected reports whether the machine's agent has a stream to a server.
func connected(m *pb.Machine) bool { return m.GetStatus().GetAgent().GetConnected() }

func hasBMC(m *pb.Machine) bool { return m.GetSpec().GetBmc().GetAddress() != "" }
