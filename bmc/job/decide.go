package job

import (
	"fmt"
	"slices"
	"strings"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// maxAttempts bounds the tries of one operation; its job's deadline, as a rule, comes first.
const maxAttempts = 12

// backoff is the wait before the second try, which doubles up to maxBackoff.
const (
	backoff    = 5 * time.Second
	maxBackoff = 2 * time.Minute
)

// queueCause is what a job says whose turn on its machine hasn't come.
const queueCause = "waits for the jobs of its machine that came before it"

// stepKind is what is to be done next about a machine's jobs.
type stepKind int

const (
	// The zero value: nothing, until something changes or step.until.
	_ stepKind = iota
	// stepRun begins, or begins again, operation step.op of step.job.
	stepRun
	// stepEnd ends the job in step.state.
	stepEnd
	// stepSay puts step.cause on record.
	stepSay
)

// step is one decision.
type step struct {
	kind  stepKind
	job   *pb.Job
	op    int
	state pb.JobState
	cause string
	until time.Time
}

// decide returns what is to be done next for a machine. queue holds its jobs,
// m is nil when it has gone. No operation of the machine is under way in this
// process: one that is RUNNING was cut short by a restart.
func decide(queue map[string]*pb.Job, m *pb.Machine, now time.Time) step {
	jobs := waiting(queue)
	for i, j := range jobs {
		switch {
		case i == 0:
		case j.GetStatus().GetCancelRequested():
			return end(j, pb.JobState_JOB_CANCELLED, "cancelled before it began")
		case j.GetStatus().GetCause() != queueCause:
			return step{kind: stepSay, job: j, cause: queueCause}
		}
	}
	if len(jobs) == 0 {
		return step{}
	}
	return decideJob(jobs[0], m, now)
}

// waiting returns the jobs that haven't ended, in the order in which they are to run.
func waiting(queue map[string]*pb.Job) []*pb.Job {
	var jobs []*pb.Job
	for _, j := range queue {
		if !hasEnded(j) {
			jobs = append(jobs, j)
		}
	}
	slices.SortFunc(jobs, func(a, b *pb.Job) int {
		// A job that has begun goes on, whatever the clocks say.
		if ra, rb := running(a), running(b); ra != rb {
			if ra {
				return -1
			}
			return 1
		}
		if n := a.GetMetadata().GetCreateTime().AsTime().Compare(b.GetMetadata().GetCreateTime().AsTime()); n != 0 {
			return n
		}
		return strings.Compare(a.GetMetadata().GetName(), b.GetMetadata().GetName())
	})
	return jobs
}

func running(j *pb.Job) bool { return j.GetStatus().GetState() == pb.JobState_JOB_RUNNING }

func hasEnded(j *pb.Job) bool {
	switch j.GetStatus().GetState() {
	case pb.JobState_JOB_SUCCEEDED, pb.JobState_JOB_FAILED, pb.JobState_JOB_CANCELLED:
		return true
	}
	return false
}

func end(j *pb.Job, state pb.JobState, cause string) step {
	return step{kind: stepEnd, job: j, state: state, cause: cause}
}

// decideJob is about the job whose turn it is.
func decideJob(j *pb.Job, m *pb.Machine, now time.Time) step {
	i := nextOperation(j)
	status := j.GetStatus()
	op := opStatus(j, i)
	cut := op.GetState() == pb.JobState_JOB_RUNNING
	switch {
	case m == nil:
		return end(j, pb.JobState_JOB_FAILED, "machine "+j.GetSpec().GetMachine()+" is gone")
	case m.GetSpec().GetBmc().GetAddress() == "":
		return end(j, pb.JobState_JOB_FAILED, "machine "+j.GetSpec().GetMachine()+" has no BMC any more: set its spec.bmc.address")
	case i == len(j.GetSpec().GetOperations()):
		return end(j, pb.JobState_JOB_SUCCEEDED, "all operations are done")
	case op.GetState() == pb.JobState_JOB_FAILED:
		return end(j, pb.JobState_JOB_FAILED, fmt.Sprintf("operation %d (%s) failed: %s", i+1, Describe(j.Spec.Operations[i]), op.GetError()))
	case status.GetCancelRequested() && cut:
		return end(j, pb.JobState_JOB_CANCELLED, fmt.Sprintf("cancelled; the server was restarted during operation %d (%s), whether it was done is not known", i+1, Describe(j.Spec.Operations[i])))
	case status.GetCancelRequested():
		return end(j, pb.JobState_JOB_CANCELLED, fmt.Sprintf("cancelled before operation %d (%s)", i+1, Describe(j.Spec.Operations[i])))
	case status.GetDeadline() != nil && !now.Before(status.GetDeadline().AsTime()):
		return end(j, pb.JobState_JOB_FAILED, overdue(j, i))
	}
	if at := op.GetRetryTime(); at != nil && now.Before(at.AsTime()) {
		return step{until: earlier(at.AsTime(), status.GetDeadline().AsTime())}
	}
	return step{kind: stepRun, job: j, op: i}
}

// overdue says that the time was up, and what was in the way.
func overdue(j *pb.Job, i int) string {
	cause := fmt.Sprintf("its time (%s) was over before operation %d (%s) was done", timeout(j), i+1, Describe(j.Spec.Operations[i]))
	if e := opStatus(j, i).GetError(); e != "" {
		cause += ": " + e
	}
	return cause
}

// nextOperation returns the index of the first operation that isn't done.
func nextOperation(j *pb.Job) int {
	for i := range j.GetSpec().GetOperations() {
		if opStatus(j, i).GetState() != pb.JobState_JOB_SUCCEEDED {
			return i
		}
	}
	return len(j.GetSpec().GetOperations())
}

// opStatus returns the status of an operation; nil when it has none yet.
func opStatus(j *pb.Job, i int) *pb.OperationStatus {
	if all := j.GetStatus().GetOperations(); i < len(all) {
		return all[i]
	}
	return nil
}

// timeout is how long a job may take from when it begins.
func timeout(j *pb.Job) time.Duration {
	if d, err := time.ParseDuration(j.GetSpec().GetTimeout()); err == nil && d > 0 {
		return d
	}
	for _, o := range j.GetSpec().GetOperations() {
		if o.GetFirmware() != nil {
			return DefaultFirmwareTimeout
		}
	}
	return DefaultTimeout
}

// pause is the wait after that many tries.
func pause(attempts uint32) time.Duration {
	d := backoff
	for range min(attempts, 16) - 1 {
		d = min(2*d, maxBackoff)
	}
	return d
}

// earlier returns the earlier of two times, of which the second may be absent.
func earlier(a, b time.Time) time.Time {
	if b.Unix() > 0 && b.Before(a) {
		return b
	}
	return a
}

// Describe names an operation for people, such as `power on` or `boot network once`.
func Describe(o *pb.Operation) string {
	switch op := o.GetOperation().(type) {
	case *pb.Operation_Power:
		return "power " + op.Power.GetAction()
	case *pb.Operation_BootDevice:
		if op.BootDevice.GetPersistent() {
			return "boot " + op.BootDevice.GetDevice() + " always"
		}
		return "boot " + op.BootDevice.GetDevice() + " once"
	case *pb.Operation_InsertMedia:
		return "insert " + mediaKind(op.InsertMedia).String()
	case *pb.Operation_EjectMedia:
		return "eject " + mediaKind(op.EjectMedia).String()
	case *pb.Operation_Inventory:
		return "inventory"
	case *pb.Operation_Firmware:
		return strings.TrimSpace("firmware update " + op.Firmware.GetComponent())
	case *pb.Operation_Bios:
		return "BIOS settings"
	case *pb.Operation_SecureBoot:
		return "Secure Boot"
	case *pb.Operation_Password:
		return "new BMC password"
	case *pb.Operation_ResetBmc:
		return "restart of the BMC"
	case *pb.Operation_ClearEventLog:
		return "clear event log"
	}
	return "nothing"
}
