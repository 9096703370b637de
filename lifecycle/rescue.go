package lifecycle

import (
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Names of the built-in templates.
const (
	TemplateInstall = "install-image"
	// TemplateLive boots a system that runs in memory.
	TemplateLive    = "boot-live"
	TemplateRelease = "release"
	TemplateTest    = "test"
	TemplateInspect = "inspect"
	TemplateRescue  = "rescue"
	// TemplateReturn restarts a machine from its own disk.
	TemplateReturn = "return-to-disk"
)

// rescue boots the machine into the agent with an SSH server, until the wish
// is taken back or its time is over.
func (c *Controller) rescue(m *pb.Machine, v view, s standing) decision {
	d := decision{standing: s}
	if purposeOf(m, s.life) != purposeRescue {
		if !v.consent(m, &d, beforeRescue) {
			return d
		}
		d.state, d.cause, d.life = pb.MachineState_RESCUE, "a person wants to look at it", c.lifeName(m, purposeRescue)
		d.nextAction, d.nextBoot, d.attempt, d.standing.job = "workflow "+d.life+" starts an SSH server in the agent", pb.NextBoot_AGENT, 0, ""
		return d
	}
	d.state = pb.MachineState_RESCUE
	switch {
	case v.life == nil:
	case ended(v.life):
		d.cause, d.nextAction = "its rescue is over: "+v.life.GetStatus().GetCause(), "clear spec.rescue to bring it back"
		if v.life.GetStatus().GetState() == pb.WorkflowState_SUCCEEDED {
			d.cause = "its rescue's time is over"
		}
	case v.life.GetStatus().GetState() == pb.WorkflowState_RUNNING:
		d.cause, d.nextAction = "in rescue: `ssh root@"+firstAddress(m)+"` with a key of spec.rescue", "clear spec.rescue to end it"
		d.deadline, d.attempt = moment(v.life.GetStatus().GetDeadline()), 0
	default:
		d.cause, d.nextAction = "a person wants to look at it", "workflow "+s.life+" starts an SSH server in the agent"
		d.deadline = moment(v.life.GetStatus().GetDeadline())
		c.wake(m, v, &d, v.life, v.inst != nil)
	}
	return d
}

func firstAddress(m *pb.Machine) string {
	if a := m.GetStatus().GetAgent().GetAddress(); a != "" {
		return a
	}
	for _, a := range m.GetStatus().GetAddresses() {
		return a
	}
	return m.Metadata.Name
}

// leaveRescue brings a machine back whose rescue a person has ended: the
// workflow is stopped, and the installed system, if there is one, booted.
func (c *Controller) leaveRescue(m *pb.Machine, v view, s standing) decision {
	d := decision{standing: s}
	purpose := purposeOf(m, s.life)
	switch {
	case purpose == purposeRescue && v.life != nil && !ended(v.life):
		d.cause, d.nextAction = "its rescue is being ended", "workflow "+s.life+" stops"
		if !v.life.GetStatus().GetCancelRequested() {
			d.cancel, d.reason = s.life, "spec.rescue was cleared"
		}
		return d
	case v.inst == nil:
		d.life, d.attempt, d.standing.job = "", 0, ""
		back := d.standing
		back.state = pb.MachineState_ENROLLED
		return c.ready(m, v, back)
	case purpose != purposeReturn && connected(m):
		d.life = c.lifeName(m, purposeReturn)
		d.cause, d.nextAction = "its rescue has ended", "workflow "+d.life+" boots its disk"
		d.nextBoot = pb.NextBoot_DISK
		return d
	case purpose == purposeReturn && (v.life == nil || !ended(v.life)):
		d.cause, d.nextAction = "its rescue has ended: it boots its disk", "workflow "+s.life+" does it"
		return d
	}
	d.life, d.attempt, d.standing.job = "", 0, ""
	return c.held(m, v, d.standing)
}
