package lifecycle

import (
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// wantsReinstall reports whether a person has asked for the instance to be
// installed again and no workflow does it yet.
func wantsReinstall(inst *pb.Instance) bool {
	s := inst.GetStatus()
	return !s.GetDeleting() && s.GetReinstalls() > 0 && s.GetWorkflow() != "" && s.GetWorkflow() != installName(inst)
}

// held follows the instance that the machine is given to, and boots the
// machine where the instance's workflow waits for it.
func (c *Controller) held(m *pb.Machine, v view, s standing) decision {
	d := decision{standing: heldBy(v.inst, s)}
	switch v.inst.GetStatus().GetState() {
	case pb.InstanceState_INSTANCE_BOOTING, pb.InstanceState_INSTANCE_ACTIVE:
		// The medium carries what the machine could enrol with once more.
		if v.owner == nil && hasBMC(m) && m.GetStatus().GetBmc().GetMedia() != "" && !wantsReinstall(v.inst) && !v.inst.GetStatus().GetDeleting() {
			c.eject(m, v, &d)
		}
	}
	switch {
	case v.inst.GetStatus().GetDeleting() && !c.beganRelease(v.inst):
		v.consent(m, &d, beforeRelease)
	case wantsReinstall(v.inst):
		v.consent(m, &d, beforeReinstall)
	}
	if v.owner != nil && v.owner.GetSpec().GetInstance() == v.inst.GetMetadata().GetName() {
		d.deadline = moment(v.owner.GetStatus().GetDeadline())
		// A system that runs is let go down in order.
		soft := m.GetStatus().GetState() == pb.MachineState_ACTIVE || v.inst.GetStatus().GetPhoneHomeTime() != nil
		c.wake(m, v, &d, v.owner, soft)
		return d
	}
	if d.deadline.IsZero() {
		d.deadline = moment(v.inst.GetStatus().GetDeadline())
	}
	return d
}

// consented reports whether the hooks of the machine have let the change go on.
func (c *Controller) consented(m *pb.Machine, before string) bool {
	if m == nil {
		return true
	}
	d := decision{standing: standingOf(m)}
	return view{pool: c.poolOf(m), now: c.cfg.Now()}.consent(m, &d, before)
}

// heldBy follows the instance that the machine is given to.
func heldBy(inst *pb.Instance, s standing) standing {
	name := inst.GetMetadata().GetName()
	s.nextAction = ""
	switch inst.GetStatus().GetState() {
	case pb.InstanceState_INSTANCE_ACTIVE:
		s.state, s.cause = pb.MachineState_ACTIVE, "runs instance "+name
		s.nextBoot, s.attempt, s.life = pb.NextBoot_DISK, 0, ""
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

// eject takes the agent's image out of the machine whose system boots from its
// own disk now.
func (c *Controller) eject(m *pb.Machine, v view, d *decision) {
	target := "eject/" + v.inst.GetStatus().GetWorkflow()
	if !v.follows(purposeIdle, target) {
		d.makeJob = c.job(m, purposeIdle, target, "the installed system boots from its disk", ejectMedia(), bootDevice("none", m))
		d.standing.job = d.makeJob.Metadata.Name
	}
}

// settle makes a wiped machine ready for the next user out of band: virtual
// media and boot override are taken back, the password is changed. It fails
// closed: until all is done the machine isn't available.
func (c *Controller) settle(m *pb.Machine, v view, s standing) decision {
	d := decision{standing: s}
	d.life = ""
	if !hasBMC(m) {
		return c.wiped(m, v, s)
	}
	if !c.secured(m, v, &d) {
		return d
	}
	ops := func() []*pb.Operation { return settleOperations(m) }
	if c.work(m, v, &d, purposeSettle, m.GetStatus().GetErasure(), "its disks were wiped; putting its BMC back", ops) {
		return c.wiped(m, v, s)
	}
	if d.state == pb.MachineState_FAILED {
		// It goes on trying, from the state that says so.
		d.state = pb.MachineState_RELEASING
		d.nextAction = "put right what the cause says: the machine stays out of the pool until then"
	}
	return d
}

// settleOperations put a BMC back: the agent's image out, no boot override, a
// new password.
func settleOperations(m *pb.Machine) []*pb.Operation {
	var ops []*pb.Operation
	if m.GetSpec().GetBootMethod() == "virtual-media" || m.GetStatus().GetBmc().GetMedia() != "" {
		ops = append(ops, ejectMedia()) // else it may be one that has no virtual media
	}
	ops = append(ops, bootDevice("none", m))
	if m.GetSpec().GetBmc().GetRotatePassword() {
		ops = append(ops, newPassword())
	}
	return ops
}

// wiped returns a machine to the pool, from the state that says that its disks are.
func (c *Controller) wiped(m *pb.Machine, v view, s standing) decision {
	s.state, s.job, s.attempt = pb.MachineState_RELEASING, "", 0
	d := decision{standing: s}
	if m.GetStatus().GetInventory() == nil {
		return c.ready(m, v, s)
	}
	c.judge(m, v, &d)
	return d
}

// retire wipes a machine, switches it off, and keeps it out of use.
func (c *Controller) retire(m *pb.Machine, v view, s standing) decision {
	d := decision{standing: s}
	switch {
	case s.state == pb.MachineState_RETIRED:
		return d
	case purposeOf(m, s.life) != purposeWipe:
		if !v.consent(m, &d, beforeRetire) {
			return d
		}
		d.state, d.cause, d.life = pb.MachineState_RELEASING, "it is being retired", c.lifeName(m, purposeWipe)
		d.nextAction, d.nextBoot, d.attempt, d.standing.job = "workflow "+d.life+" wipes its disks", pb.NextBoot_AGENT, 0, ""
		return d
	case v.life == nil || !ended(v.life):
		c.followLife(m, v, &d, "it is being retired: its disks are wiped")
		return d
	}
	if !c.erased(&d, m, v.life, m.GetStatus().GetRequestedBy()) {
		d.nextAction += "; or clear spec.retired"
		return d
	}
	d.state = pb.MachineState_RELEASING
	off := func() []*pb.Operation { return append(settleOperations(m), power("off", "")) }
	if hasBMC(m) && !c.work(m, v, &d, purposeRetire, s.life, "it is being retired: putting its BMC back and switching it off", off) {
		return d
	}
	d.state, d.cause, d.nextAction = pb.MachineState_RETIRED, "retired: its disks are wiped", "clear spec.retired to bring it back"
	d.nextBoot = pb.NextBoot_DISK
	return d
}
