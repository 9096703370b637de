package lifecycle

import (
	"fmt"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Labels of the Jobs that the lifecycle makes.
const (
	// LabelPurpose says what a job is for: contact, boot, idle, secure-boot, settle, retire.
	LabelPurpose = "bedplate/purpose"
	// labelFor is what the job is to make possible: attempts are counted for each.
	labelFor = "bedplate/for"
)

// Purposes of jobs.
const (
	purposeContact = "contact"
	purposeBoot    = "boot"
	purposeIdle    = "idle"
	purposeSettle  = "settle"
	purposeRetire  = "retire"
)

const (
	// bootTimeout is how long a machine may take from power-on until its agent
	// is connected: servers with much memory take ten minutes to their firmware's end.
	bootTimeout = 15 * time.Minute
	// bootAttempts is how often a machine is started anew.
	bootAttempts = 3
	// jobRetry is the wait after a job that failed, doubled for each further one.
	jobRetry = 30 * time.Second
	// maxJobRetry bounds it.
	maxJobRetry = 15 * time.Minute
	// jobTimeout bounds one job of the lifecycle's: it is tried again by a new
	// one, whose number of attempts people see.
	jobTimeout = 5 * time.Minute
	// shutdownGrace is how long an operating system may take to go down before the power is cut.
	shutdownGrace = 2 * time.Minute
)

// job makes a Job for m that nobody else has.
func (c *Controller) job(m *pb.Machine, purpose, target, reason string, ops ...*pb.Operation) *pb.Job {
	return &pb.Job{
		Metadata: &pb.Metadata{
			Name:   m.Metadata.Name + "-" + purpose + "-" + shortID(c.cfg.DB.NewUID()),
			Labels: map[string]string{LabelPurpose: purpose, labelFor: target},
		},
		Spec: &pb.JobSpec{Machine: m.Metadata.Name, Operations: ops, Reason: reason, Timeout: jobTimeout.String()},
	}
}

// follows reports how the job that the machine waits for stands, if it is one
// for that purpose and target.
func (v view) follows(purpose, target string) bool {
	l := v.job.GetMetadata().GetLabels()
	return v.job != nil && l[LabelPurpose] == purpose && l[labelFor] == target
}

func jobEnded(j *pb.Job) bool {
	switch j.GetStatus().GetState() {
	case pb.JobState_JOB_SUCCEEDED, pb.JobState_JOB_FAILED, pb.JobState_JOB_CANCELLED:
		return true
	}
	return false
}

// backoff is the wait after the nth attempt has failed.
func backoff(attempt uint32) time.Duration {
	d := jobRetry
	for range min(attempt, 10) - min(attempt, 1) {
		d = min(2*d, maxJobRetry)
	}
	return d
}

// work takes one job through its attempts. It returns true when the job has
// succeeded; until then d says what is waited for.
func (c *Controller) work(m *pb.Machine, v view, d *decision, purpose, target, what string, ops func() []*pb.Operation) bool {
	if r := m.GetStatus().GetBmc().GetRefusedLogin(); r != nil && (!v.follows(purpose, target) || v.job.GetStatus().GetState() == pb.JobState_JOB_FAILED) {
		refusedLogin(m, d, what, r)
		return false
	}
	if !v.follows(purpose, target) {
		d.attempt = 1
		c.begin(m, d, purpose, target, what, ops())
		return false
	}
	switch v.job.GetStatus().GetState() {
	case pb.JobState_JOB_SUCCEEDED:
		return true
	case pb.JobState_JOB_FAILED, pb.JobState_JOB_CANCELLED:
		at := v.job.GetStatus().GetEndTime().AsTime().Add(backoff(d.attempt))
		if !v.now.Before(at) {
			d.attempt++
			v.exhausted(d)
			c.begin(m, d, purpose, target, what, ops())
			return false
		}
		d.cause = fmt.Sprintf("%s failed %s: %s", what, times(d.attempt), v.job.GetStatus().GetCause())
		d.nextAction = "it is tried again by itself; `bedplate job describe " + v.job.Metadata.Name + "` says more"
		d.deadline = at
		if d.attempt >= v.attempts() {
			d.state = pb.MachineState_FAILED
		}
	default:
		v.exhausted(d)
		d.cause = what + attemptText(d.attempt)
		if waits := v.job.GetStatus().GetCause(); waits != "" {
			d.cause += ": " + waits
		}
		d.nextAction = "job " + v.job.Metadata.Name + " does it"
		d.deadline = moment(v.job.GetStatus().GetDeadline())
	}
	return false
}

// refusedLogin fails a machine whose BMC refuses the only login that is known:
// each further attempt could lock the account. It begins anew by itself, and at
// once, when that has changed.
func refusedLogin(m *pb.Machine, d *decision, what string, r *pb.RefusedLogin) {
	d.state, d.attempt, d.standing.job = pb.MachineState_FAILED, 0, ""
	d.cause = what + ": its BMC refuses the password: " + r.GetLogin()
	d.nextAction = "correct the Secret or spec.bmc; or `bedplate machine bmc status " + m.Metadata.Name + " --retry` once the BMC would take it"
}

// exhausted fails a machine whose attempts are used up. Where it is tried on
// all the same it stays failed until that succeeds.
func (v view) exhausted(d *decision) {
	if d.attempt > v.attempts() {
		d.state = pb.MachineState_FAILED
	}
}

// begin makes the job of an attempt.
func (c *Controller) begin(m *pb.Machine, d *decision, purpose, target, what string, ops []*pb.Operation) {
	d.makeJob = c.job(m, purpose, target, what+attemptText(d.attempt), ops...)
	d.standing.job = d.makeJob.Metadata.Name
	d.cause, d.nextAction = what+attemptText(d.attempt), "job "+d.makeJob.Metadata.Name+" does it"
}

func attemptText(n uint32) string {
	if n <= 1 {
		return ""
	}
	return fmt.Sprintf(" (attempt %d)", n)
}

func times(n uint32) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func (v view) attempts() uint32 {
	if n := v.pool.GetBootAttempts(); n > 0 {
		return n
	}
	return bootAttempts
}

func (v view) bootTimeout() time.Duration { return durationOr(v.pool.GetBootTimeout(), bootTimeout) }

// boot brings the machine into the agent through its BMC: a job an attempt,
// and time for the firmware after each. It returns false when every attempt
// was in vain. A machine without a BMC is waited for.
func (c *Controller) boot(m *pb.Machine, v view, d *decision, target string, soft bool) bool {
	if connected(m) {
		d.attempt, d.standing.job = 0, ""
		return true
	}
	if !hasBMC(m) {
		d.nextAction = "power it on: it boots the agent"
		return true
	}
	ended := v.follows(purposeBoot, target) && jobEnded(v.job)
	exhausted := ended && d.attempt >= v.attempts()
	if ended && v.job.GetStatus().GetState() == pb.JobState_JOB_SUCCEEDED {
		until := v.job.GetStatus().GetEndTime().AsTime().Add(v.bootTimeout())
		if v.now.Before(until) {
			d.cause = "its BMC has started it" + attemptText(d.attempt) + ": the agent has not connected yet"
			d.nextAction, d.deadline = "the agent connects; else it is started anew", until
			return true
		}
		if !exhausted {
			d.attempt++
			c.begin(m, d, purposeBoot, target, "starting it by its BMC", bootOperations(m, false))
			return true
		}
		d.cause = fmt.Sprintf("its agent did not connect within %s of being started, %s", v.bootTimeout(), times(d.attempt))
		d.nextAction = "look at `bedplate machine explain " + m.Metadata.Name + "` and `bedplate machine console " + m.Metadata.Name + "`, then `bedplate machine retry " + m.Metadata.Name + "`"
		return false
	}
	if exhausted {
		d.cause = fmt.Sprintf("its BMC could not start it, %s: %s", times(d.attempt), v.job.GetStatus().GetCause())
		d.nextAction = "put right what it says, then `bedplate machine retry " + m.Metadata.Name + "`"
		return false
	}
	c.work(m, v, d, purposeBoot, target, "starting it by its BMC", func() []*pb.Operation { return bootOperations(m, soft && d.attempt <= 1) })
	return true
}

// bootOperations make a machine boot the agent. soft lets the operating system
// that runs on it shut down first.
func bootOperations(m *pb.Machine, soft bool) []*pb.Operation {
	var ops []*pb.Operation
	if soft {
		ops = append(ops, power("soft", shutdownGrace.String()))
	}
	if m.GetSpec().GetBootMethod() == "virtual-media" {
		ops = append(ops, insertAgent(), bootDevice("cdrom", m))
	} else {
		ops = append(ops, bootDevice("network", m))
	}
	if soft {
		return append(ops, power("on", ""))
	}
	return append(ops, power("cycle", ""))
}

func power(action, grace string) *pb.Operation {
	return &pb.Operation{Operation: &pb.Operation_Power{Power: &pb.PowerOperation{Action: action, Grace: grace}}}
}

func bootDevice(device string, m *pb.Machine) *pb.Operation {
	return &pb.Operation{Operation: &pb.Operation_BootDevice{BootDevice: &pb.BootDeviceOperation{Device: device, Mode: m.GetStatus().GetInventory().GetFirmware().GetMode()}}}
}

func insertAgent() *pb.Operation {
	return &pb.Operation{Operation: &pb.Operation_InsertMedia{InsertMedia: &pb.MediaOperation{}}}
}

func ejectMedia() *pb.Operation {
	return &pb.Operation{Operation: &pb.Operation_EjectMedia{EjectMedia: &pb.MediaOperation{}}}
}

func readInventory() *pb.Operation {
	return &pb.Operation{Operation: &pb.Operation_Inventory{Inventory: &pb.InventoryOperation{}}}
}

func newPassword() *pb.Operation {
	return &pb.Operation{Operation: &pb.Operation_Password{Password: &pb.PasswordOperation{}}}
}
