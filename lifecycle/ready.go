package lifecycle

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/inspection"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// ready takes a machine that nobody holds to the pool: its BMC is contacted,
// its hardware read, compared and tested. Each is decided from what is on
// record, so that a change of the policy is taken up by itself.
func (c *Controller) ready(m *pb.Machine, v view, s standing) decision {
	d := decision{standing: s}
	switch {
	case m.GetStatus().GetInventory() == nil && hasBMC(m) && !contacted(m):
		c.contact(m, v, &d)
	case m.GetStatus().GetInventory() == nil:
		c.inspect(m, v, &d)
	default:
		c.judge(m, v, &d)
	}
	return d
}

// contacted reports whether the BMC has told what it is. That it answers a
// poll is not enough: the identity that the machine boots under is its to tell.
func contacted(m *pb.Machine) bool { return m.GetStatus().GetBmcInventory() != nil }

// contact reaches the BMC for the first time.
func (c *Controller) contact(m *pb.Machine, v view, d *decision) {
	d.state, d.nextBoot = pb.MachineState_ENROLLED, pb.NextBoot_AGENT
	ops := func() []*pb.Operation {
		ops := []*pb.Operation{readInventory()}
		if m.GetSpec().GetBmc().GetRotatePassword() && m.GetStatus().GetBmc().GetPasswordTime() == nil {
			ops = append(ops, newPassword())
		}
		return ops
	}
	if c.work(m, v, d, purposeContact, "", "contacting its BMC", ops) {
		d.cause, d.nextAction = "its BMC was contacted", "its hardware is read"
		// A BMC that has nothing to tell, as over IPMI, was asked all the same.
		d.edit = also(d.edit, func(m *pb.Machine) { m.Status.BmcInventory = &pb.Inventory{} })
	}
}

// inspect waits for the agent to read the hardware.
func (c *Controller) inspect(m *pb.Machine, v view, d *decision) {
	d.nextBoot = pb.NextBoot_AGENT
	switch {
	case connected(m):
		d.state, d.cause, d.nextAction = pb.MachineState_INSPECTING, "the agent reads its hardware", "the agent reports it"
		d.attempt, d.standing.job = 0, ""
		c.readAgain(m, v, d)
	case hasBMC(m):
		d.state = pb.MachineState_INSPECTING
		if c.firstBootDone(v) && !c.boot(m, v, d, "inspect", false) {
			d.state = pb.MachineState_FAILED
		}
	default:
		d.state, d.cause = pb.MachineState_ENROLLED, "its hardware has not been read yet"
		d.nextAction = "power it on: it boots the agent, which reports its hardware"
	}
}

// reportTime is how long an agent that has connected may take to report the
// hardware by itself.
const reportTime = 30 * time.Second

// readAgain has an agent read the hardware that was connected before it was wanted.
func (c *Controller) readAgain(m *pb.Machine, v view, d *decision) {
	if purposeOf(m, d.life) == purposeInspect {
		switch {
		case v.life == nil || !ended(v.life):
			c.followLife(m, v, d, "the agent reads its hardware")
		case v.life.GetStatus().GetState() != pb.WorkflowState_SUCCEEDED:
			d.state, d.cause = pb.MachineState_FAILED, "its hardware could not be read: "+v.life.GetStatus().GetCause()
			d.nextAction = "`bedplate workflow describe " + d.life + "` says more, then `bedplate machine retry " + m.Metadata.Name + "`"
		}
		return
	}
	if at := m.GetStatus().GetAgent().GetConnectTime().AsTime().Add(reportTime); v.now.Before(at) {
		d.again = at
		return
	}
	d.life = c.lifeName(m, purposeInspect)
	d.nextAction = "workflow " + d.life + " does it"
}

// firstBootDone waits for the contact job to end before the machine is
// started: a password may be on its way.
func (c *Controller) firstBootDone(v view) bool {
	return !v.follows(purposeContact, "") || jobEnded(v.job)
}

// judge decides on a machine whose hardware is known.
func (c *Controller) judge(m *pb.Machine, v view, d *decision) {
	if at, early := tooEarly(m, v); early && inspection.Listening(m.GetSpec(), m.GetStatus().GetInventory()) {
		d.state, d.cause, d.nextAction = pb.MachineState_INSPECTING, "the agent listens for the switches at its ports", "they speak within half a minute"
		d.nextBoot, d.again = pb.NextBoot_AGENT, at
		return
	}
	differences := inspection.Check(m.GetSpec(), v.poolObject(), m.GetStatus().GetInventory())
	if _, other := inspection.Merge(m.GetStatus().GetInventory(), m.GetStatus().GetBmcInventory()); len(other) > 0 {
		differences = append(differences, other...) // the BMC is another machine's
	}
	if !sameDifferences(differences, m.GetStatus().GetDifferences()) {
		d.edit = also(d.edit, func(m *pb.Machine) { m.Status.Differences = differences })
	}
	if len(differences) > 0 {
		d.state, d.cause = pb.MachineState_FAILED, "its hardware is not as expected: "+listDifferences(differences)
		d.nextAction = "put the hardware or the expectation right; after work on the hardware `bedplate machine retry " + m.Metadata.Name + "` reads it again"
		return
	}
	if v.pool.GetTests() != nil && !c.tested(m, v, d) {
		return
	}
	c.available(m, v, d)
}

func (v view) poolObject() *pb.Pool { return &pb.Pool{Spec: v.pool} }

// maxListed is how many differences a cause names.
const maxListed = 4

func listDifferences(all []*pb.Difference) string {
	var parts []string
	for i, x := range all {
		if i == maxListed {
			parts = append(parts, fmt.Sprintf("and %d more", len(all)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%s is %s, not %s", x.GetPath(), orText(x.GetGot(), "missing"), x.GetWant()))
	}
	return strings.Join(parts, "; ")
}

func sameDifferences(a, b []*pb.Difference) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].GetPath() != b[i].GetPath() || a[i].GetWant() != b[i].GetWant() || a[i].GetGot() != b[i].GetGot() {
			return false
		}
	}
	return true
}

// tested reports whether the machine has passed the tests that its pool wants.
func (c *Controller) tested(m *pb.Machine, v view, d *decision) bool {
	if m.GetStatus().GetTestTime() != nil {
		blocking := inspection.Judge(v.pool.GetTests(), cloneResults(m.GetStatus().GetTests()))
		if len(blocking) == 0 {
			return true
		}
		d.state, d.cause = pb.MachineState_FAILED, "its hardware did not pass the tests: "+listDifferences(blocking)
		d.nextAction = "see `bedplate machine tests " + m.Metadata.Name + "`; `bedplate machine retry " + m.Metadata.Name + "` tests it again"
		return false
	}
	d.state, d.nextBoot = pb.MachineState_TESTING, pb.NextBoot_AGENT
	if purposeOf(m, d.life) != purposeTest {
		d.life = c.lifeName(m, purposeTest)
		d.cause, d.nextAction = "its hardware is about to be tested", "workflow "+d.life+" tests it"
		return false
	}
	if v.life == nil || !ended(v.life) {
		c.followLife(m, v, d, "its hardware is tested")
		return false
	}
	// Whatever came out, the results are what counts; missing ones block.
	results := inspection.Results(v.life, v.now)
	inspection.Judge(v.pool.GetTests(), results)
	why := v.life.GetStatus().GetCause()
	d.cause, d.nextAction = "its hardware was tested", "the results are judged"
	d.life = ""
	d.edit = also(d.edit, func(m *pb.Machine) {
		m.Status.Tests, m.Status.TestTime = results, timestamppb.New(v.now)
		if len(results) == 0 && why != "" {
			m.Status.Tests = []*pb.TestResult{{Test: "workflow", Subject: v.life.Metadata.Name, Measure: "result", Message: why, Time: timestamppb.New(v.now), Workflow: v.life.Metadata.Name}}
		}
	})
	return false
}

func cloneResults(in []*pb.TestResult) []*pb.TestResult {
	out := make([]*pb.TestResult, len(in))
	for i, r := range in {
		out[i] = cloneOf(r)
	}
	return out
}

// available is a machine in the pool. One whose disks were wiped waits in the
// agent for its next instance; any other keeps what is on its disk and boots
// that, unless the pool says how machines wait.
func (c *Controller) available(m *pb.Machine, v view, d *decision) {
	entering := d.state != pb.MachineState_AVAILABLE
	wiped := d.state == pb.MachineState_RELEASING
	if entering {
		if v.life != nil && !ended(v.life) {
			d.cancel, d.reason = v.life.Metadata.Name, "the machine is available without it"
		}
		d.cause, d.nextAction, d.nextBoot = "its hardware is known", "free for an instance", pb.NextBoot_DISK
		d.attempt, d.life = 0, ""
		if wiped {
			d.cause, d.nextBoot = "its disks were wiped", pb.NextBoot_AGENT
		}
	}
	d.state = pb.MachineState_AVAILABLE
	switch v.pool.GetIdle() {
	case "warm":
		d.nextBoot = pb.NextBoot_AGENT
		d.cause, d.nextAction = "waits in the agent", "free for an instance"
		if !c.boot(m, v, d, "warm", false) {
			d.state = pb.MachineState_FAILED
		}
		if connected(m) {
			d.cause, d.nextAction = "waits in the agent", "free for an instance"
		}
	case "off":
		c.switchOff(m, v, d)
	}
}

// switchOff has the BMC switch an idle machine off, once for each time that it
// became available.
func (c *Controller) switchOff(m *pb.Machine, v view, d *decision) {
	d.cause, d.nextAction = "its hardware is known", "free for an instance"
	if !hasBMC(m) || m.GetStatus().GetBmc().GetPower() == pb.PowerState_POWER_OFF && !connected(m) {
		return
	}
	ops := func() []*pb.Operation { return []*pb.Operation{power("off", "")} }
	if c.work(m, v, d, purposeIdle, m.GetStatus().GetStateTime().AsTime().Format("20060102T150405"), "switching it off until it is wanted", ops) {
		d.cause, d.nextAction = "switched off until it is wanted", "free for an instance"
	}
}
