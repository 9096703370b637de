package lifecycle

import (
	"fmt"

	"github.com/bedplate/bedplate/inspection"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// purposeSecureBoot is the job that puts Secure Boot of a released machine back.
const purposeSecureBoot = "secure-boot"

// secured puts Secure Boot of a machine that was wiped back to what is expected
// of it, as far as its BMC can: the setting, and the vendor's keys where it is
// to be on. It takes effect at a restart, after which the agent says what is in
// force. It returns true when there is nothing more to try; a machine whose
// Secure Boot is still another fails the comparison with what is expected.
func (c *Controller) secured(m *pb.Machine, v view, d *decision) bool {
	want := inspection.Expected(m.GetSpec().GetExpect(), v.pool.GetExpect()).GetSecureBoot()
	target := m.GetStatus().GetErasure()
	ours := v.follows(purposeSecureBoot, target)
	switch {
	case want == "" || m.GetStatus().GetInventory().GetFirmware().GetMode() != "uefi", v.follows(purposeSettle, target):
		return true
	case secureBootOf(m) == want && !ours:
		return true
	case secureBootOf(m) == want && jobEnded(v.job):
		d.ops = append(d.ops, c.cfg.Event("Machine", m.Metadata.Name, "SecureBootReset", "Secure Boot is "+want+" again", false))
		return true
	case ours && jobEnded(v.job) && v.job.GetStatus().GetState() != pb.JobState_JOB_SUCCEEDED && d.attempt >= v.attempts():
		return c.notSecured(m, d, want, "its BMC: "+v.job.GetStatus().GetCause())
	}
	if !c.work(m, v, d, purposeSecureBoot, target, "its disks were wiped; setting Secure Boot "+want, func() []*pb.Operation { return secureBootOperations(m, want) }) {
		return false
	}
	restarted := v.job.GetStatus().GetEndTime().AsTime()
	until := restarted.Add(v.bootTimeout())
	if at := m.GetStatus().GetAgent().GetConnectTime().AsTime(); connected(m) && at.After(restarted) {
		until = at.Add(reportTime)
	}
	if !v.now.Before(until) {
		return c.notSecured(m, d, want, "after the restart the agent did not report it")
	}
	d.cause, d.nextAction = "its disks were wiped; restarting, so that Secure Boot is "+want, "the agent reports what is in force"
	d.deadline = until
	return false
}

// notSecured puts on record that Secure Boot could not be put back.
func (c *Controller) notSecured(m *pb.Machine, d *decision, want, why string) bool {
	d.ops = append(d.ops, c.cfg.Event("Machine", m.Metadata.Name, "SecureBootNotReset",
		fmt.Sprintf("Secure Boot is %s and should be %s: %s", orText(secureBootOf(m), "unknown"), want, why), true))
	return true
}

func secureBootOf(m *pb.Machine) string {
	switch f := m.GetStatus().GetInventory().GetFirmware(); {
	case f == nil:
		return ""
	case f.GetSecureBoot():
		return "on"
	}
	return "off"
}

// secureBootOperations set Secure Boot and restart the machine into the agent.
func secureBootOperations(m *pb.Machine, want string) []*pb.Operation {
	op := &pb.SecureBootOperation{State: "disable"}
	if want == "on" {
		op = &pb.SecureBootOperation{State: "enable", ResetKeys: "default"}
	}
	return append([]*pb.Operation{{Operation: &pb.Operation_SecureBoot{SecureBoot: op}}}, bootOperations(m, false)...)
}
