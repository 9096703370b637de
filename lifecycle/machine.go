package lifecycle

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// AnnotationDiscovered marks a machine that made itself known and that nobody
// has accepted yet. Taking it away accepts the machine.
const AnnotationDiscovered = "bedplate/discovered"

// standing is the part of a machine's status that the lifecycle decides.
type standing struct {
	state      pb.MachineState
	cause      string
	nextAction string
	nextBoot   pb.NextBoot
	instance   string
}

func standingOf(m *pb.Machine) standing {
	s := m.GetStatus()
	return standing{s.GetState(), s.GetCause(), s.GetNextAction(), s.GetNextBoot(), s.GetInstance()}
}

// reconcileMachine brings a machine's state in line with its instance and inventory.
func (c *Controller) reconcileMachine(ctx context.Context, name string) error {
	m, ok := c.machines[name]
	if !ok {
		return nil
	}
	want := decideMachine(m, c.instances[m.GetStatus().GetInstance()])
	if want == standingOf(m) {
		return nil
	}
	next := withStanding(m, want, c.cfg.Now())
	ops := []store.Op{resource.Put(next)}
	if next.Status.State != m.GetStatus().GetState() {
		ops = append(ops, c.cfg.Event("Machine", name, "StateChanged", stateName(next.Status.State)+": "+want.cause, want.state == pb.MachineState_FAILED))
	}
	return c.commit(ctx, []store.Compare{resource.Unchanged(m)}, ops...)
}

// withStanding returns a copy of m with the decision in its status.
func withStanding(m *pb.Machine, s standing, now time.Time) *pb.Machine {
	next := proto.Clone(m).(*pb.Machine)
	if next.Status == nil {
		next.Status = &pb.MachineStatus{}
	}
	if next.Status.State != s.state {
		next.Status.StateTime = timestamppb.New(now)
		next.Status.Deadline = nil
	}
	next.Status.State, next.Status.Cause, next.Status.NextAction = s.state, s.cause, s.nextAction
	next.Status.NextBoot, next.Status.Instance = s.nextBoot, s.instance
	return next
}

// decideMachine returns where a machine stands. While a workflow owns it, what
// it boots is the workflow's to say.
func decideMachine(m *pb.Machine, inst *pb.Instance) standing {
	s := standingOf(m)
	if s.instance != "" && inst == nil {
		s.instance = ""
	}
	decided := decideState(m, inst, s)
	if m.GetStatus().GetWorkflow() != "" {
		decided.nextBoot = m.GetStatus().GetNextBoot()
	}
	return decided
}

func decideState(m *pb.Machine, inst *pb.Instance, s standing) standing {
	switch {
	case inst != nil:
		return heldBy(inst, s)
	case m.GetSpec().GetMaintenance():
		s.state, s.cause, s.nextAction = pb.MachineState_MAINTENANCE, "set aside by spec.maintenance", "clear spec.maintenance to bring it back"
		s.nextBoot = pb.NextBoot_DISK
		return s
	case m.GetMetadata().GetAnnotations()[AnnotationDiscovered] != "":
		return discovered(m, s)
	case m.GetStatus().GetInventory() == nil:
		s.state, s.cause = pb.MachineState_ENROLLED, "its hardware has not been read yet"
		s.nextAction = "power it on: it boots the agent, which reports its hardware"
		s.nextBoot = pb.NextBoot_AGENT
		return s
	case s.state != pb.MachineState_AVAILABLE:
		return available(s)
	}
	return s
}

// heldBy follows the instance that the machine is given to.
func heldBy(inst *pb.Instance, s standing) standing {
	name := inst.GetMetadata().GetName()
	s.nextAction = ""
	switch inst.GetStatus().GetState() {
	case pb.InstanceState_INSTANCE_ACTIVE:
		s.state, s.cause = pb.MachineState_ACTIVE, "runs instance "+name
		s.nextBoot = pb.NextBoot_DISK
	case pb.InstanceState_INSTANCE_RELEASING:
		s.state, s.cause = pb.MachineState_RELEASING, "instance "+name+" was deleted: its disks are being wiped"
	case pb.InstanceState_INSTANCE_FAILED:
		s.state, s.cause = pb.MachineState_FAILED, inst.GetStatus().GetCause()
		s.nextAction = afterFailure(name, inst.GetStatus().GetWorkflow())
	case pb.InstanceState_INSTANCE_BOOTING:
		s.state, s.cause = pb.MachineState_PROVISIONING, "instance "+name+" is installed and on its first boot"
		s.nextAction = "the installed system reports in when its first boot is done"
		s.nextBoot = pb.NextBoot_DISK
	case pb.InstanceState_INSTANCE_PENDING:
		s.state, s.cause = pb.MachineState_PROVISIONING, "instance "+name+" waits: "+inst.GetStatus().GetCause()
	default:
		s.state, s.cause = pb.MachineState_PROVISIONING, "instance "+name+" is being installed"
	}
	return s
}

// afterFailure says what a person can do about an instance that failed.
func afterFailure(instance, workflow string) string {
	if workflow == "" {
		return "put right what the cause says; then `bedplate instance delete " + instance + "` and create it again"
	}
	return "see `bedplate workflow describe " + workflow + "`; then `bedplate workflow retry " + workflow + "` or `bedplate instance delete " + instance + "`"
}

// discovered is a machine that made itself known: it stays apart until it is accepted.
func discovered(m *pb.Machine, s standing) standing {
	s.state, s.cause = pb.MachineState_DISCOVERED, "it booted on a network that discovers machines"
	s.nextAction = "accept it: `bedplate machine accept " + m.GetMetadata().GetName() + "`"
	s.nextBoot = pb.NextBoot_DISK
	if m.GetStatus().GetInventory() == nil {
		s.nextAction = "the agent is reading its hardware"
		s.nextBoot = pb.NextBoot_AGENT
	}
	return s
}

// available is a machine that comes into the pool. One whose disks were wiped
// waits in the agent for its next instance; any other keeps what is on its
// disk and boots that.
func available(s standing) standing {
	wiped := s.state == pb.MachineState_RELEASING
	s.state, s.cause, s.nextAction = pb.MachineState_AVAILABLE, "its hardware is known", "free for an instance"
	s.nextBoot = pb.NextBoot_DISK
	if wiped {
		s.cause = "its disks were wiped"
		s.nextBoot = pb.NextBoot_AGENT
	}
	return s
}
