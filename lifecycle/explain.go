package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// Explain says what a machine is waiting for, since when, what was seen of it
// last, and what a person can do.
func (c *Controller) Explain(ctx context.Context, name string) (*pb.ExplainMachineResponse, error) {
	m, err := resource.Get[*pb.Machine](ctx, c.cfg.DB, name)
	if err != nil {
		return nil, err
	}
	var wf *pb.Workflow
	if w := m.GetStatus().GetWorkflow(); w != "" {
		wf, err = resource.Get[*pb.Workflow](ctx, c.cfg.DB, w)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	var job *pb.Job
	if j := m.GetStatus().GetJob(); j != "" {
		job, err = resource.Get[*pb.Job](ctx, c.cfg.DB, j)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	return explain(m, wf, job, c.cfg.Sightings.Sightings(machine.Name(name)), c.cfg.Now()), nil
}

func explain(m *pb.Machine, wf *pb.Workflow, job *pb.Job, seen []*pb.Sighting, now time.Time) *pb.ExplainMachineResponse {
	r := &pb.ExplainMachineResponse{Machine: m, Sightings: seen, Since: m.GetStatus().GetStateTime(), Deadline: m.GetStatus().GetDeadline()}
	r.Summary = fmt.Sprintf("%s is %s: %s", m.Metadata.Name, stateName(m.GetStatus().GetState()), m.GetStatus().GetCause())
	if next := m.GetStatus().GetNextAction(); next != "" {
		r.Advice = append(r.Advice, next)
	}
	switch hook, state := pendingHook(m), m.GetStatus().GetState(); {
	case hook != nil:
		r.WaitingFor = fmt.Sprintf("hook %s to consent to %s", hook.GetName(), hook.GetBefore())
		r.Since, r.Deadline = hook.GetTime(), hook.GetDeadline()
	case job != nil && !jobEnded(job):
		explainJob(r, job)
	case wf != nil:
		explainWorkflow(r, wf, seen, now)
	case state == pb.MachineState_ENROLLED && !hasBMC(m):
		r.WaitingFor = "the machine to boot from " + bootsFrom(m)
		r.Advice = append(r.Advice, adviceNotSeen(r.GetMachine(), seen, now)...)
	case state == pb.MachineState_INSPECTING && !connected(m):
		r.WaitingFor = "the machine to boot the agent"
		r.Advice = append(r.Advice, adviceNotSeen(r.GetMachine(), seen, now)...)
	case state == pb.MachineState_INSPECTING:
		r.WaitingFor = "the agent to report the hardware"
	}
	return r
}

func pendingHook(m *pb.Machine) *pb.HookStatus {
	for _, h := range m.GetStatus().GetHooks() {
		if h.GetState() == hookPending {
			return h
		}
	}
	return nil
}

// explainJob is about a machine that its BMC is at work for.
func explainJob(r *pb.ExplainMachineResponse, job *pb.Job) {
	name := job.Metadata.Name
	r.WaitingFor, r.Since, r.Deadline = "job "+name, orElse(job.GetStatus().GetStartTime(), job.Metadata.CreateTime), job.GetStatus().GetDeadline()
	if cause := job.GetStatus().GetCause(); cause != "" {
		r.WaitingFor += ": " + cause
	}
	for _, o := range job.GetStatus().GetOperations() {
		if o.GetError() != "" && o.GetState() != pb.JobState_JOB_SUCCEEDED {
			r.Advice = append(r.Advice, fmt.Sprintf("the last of %d tries failed: %s", o.GetAttempts(), o.GetError()))
		}
	}
	r.Advice = append(r.Advice, "`bedplate job describe "+name+"` says more; `bedplate job cancel "+name+"` ends it")
}

func explainWorkflow(r *pb.ExplainMachineResponse, wf *pb.Workflow, seen []*pb.Sighting, now time.Time) {
	name := wf.Metadata.Name
	r.Deadline = wf.GetStatus().GetDeadline()
	switch wf.GetStatus().GetState() {
	case pb.WorkflowState_WAITING_FOR_MACHINE:
		r.WaitingFor = "the machine to boot the agent for workflow " + name
		r.Since = orElse(wf.GetStatus().GetStartTime(), wf.Metadata.CreateTime)
		r.Advice = append(r.Advice, adviceNotSeen(r.GetMachine(), seen, now)...)
	case pb.WorkflowState_WAITING_FOR_APPROVAL:
		r.WaitingFor = "a person to approve workflow " + name
		r.Advice = append(r.Advice, "`bedplate workflow approve "+name+"`")
	case pb.WorkflowState_RUNNING:
		r.WaitingFor = "workflow " + name
		if s := runningStep(wf); s != nil {
			r.WaitingFor = fmt.Sprintf("step %s of workflow %s", s.Id, name)
			if n := len(s.Attempts); n > 0 {
				r.Since = s.Attempts[n-1].StartTime
			}
		}
		r.Advice = append(r.Advice, "`bedplate workflow logs -f "+name+"`")
	}
}

func runningStep(wf *pb.Workflow) *pb.StepStatus {
	for _, s := range wf.GetStatus().GetSteps() {
		switch s.State {
		case pb.StepState_STEP_RUNNING, pb.StepState_STEP_BACKOFF, pb.StepState_STEP_WAITING:
			return s
		}
	}
	return nil
}

// onMedium reports whether a machine boots the agent from a medium.
func onMedium(m *pb.Machine) bool { return m.GetSpec().GetBootMethod() == "virtual-media" }

func bootsFrom(m *pb.Machine) string {
	if onMedium(m) {
		return "its medium"
	}
	return "the network"
}

// adviceMedium is adviceNotSeen for a machine that asks nobody before its agent
// is there: what is seen of it is its BMC reading the medium.
func adviceMedium(m *pb.Machine, seen []*pb.Sighting, now time.Time) []string {
	name := m.GetMetadata().GetName()
	advice := []string{"its console says what the boot loader and the agent are at: a wrong address, gateway or VLAN in spec.interfaces is said there (`bedplate machine console " + name + "`)"}
	for _, s := range seen {
		if s.GetSource() == string(machine.SourceHTTP) {
			return append([]string{fmt.Sprintf("its medium was last read %s ago, from %s", now.Sub(s.GetTime().AsTime()).Round(time.Second), s.GetAddress())}, advice...)
		}
	}
	if hasBMC(m) {
		return append([]string{"its medium was not read: can its BMC reach this server's TCP port 8080?"}, advice...)
	}
	return append([]string{"it has no BMC that inserts its medium: write one to a stick (`bedplate machine media " + name + " --out FILE.iso`), and start it from that"}, advice...)
}

// adviceNotSeen says what to look at when a machine is expected, by how far it
// came the last time.
func adviceNotSeen(m *pb.Machine, seen []*pb.Sighting, now time.Time) []string {
	if onMedium(m) {
		return adviceMedium(m, seen, now)
	}
	// What its BMC says of it is no sign of how far it came.
	seen = slices.DeleteFunc(slices.Clone(seen), func(s *pb.Sighting) bool { return s.GetSource() == string(machine.SourceBMC) })
	if len(seen) == 0 {
		return []string{
			"nothing was seen of it since the server started: is it powered on, cabled, and set to boot from the network first?",
			"does one of its spec.interfaces have the MAC address of the port that boots?",
		}
	}
	last := seen[0]
	ago := now.Sub(last.Time.AsTime()).Round(time.Second)
	where := fmt.Sprintf("last seen %s ago by %s (%s)", ago, last.Source, last.Detail)
	switch machine.Source(last.Source) {
	case machine.SourceDHCP:
		if strings.HasPrefix(last.Detail, "ACK") {
			return []string{where + ": it got an address but never fetched its boot file: is UDP port 69 or TCP port 8080 blocked?"}
		}
		return []string{where + ": its DHCP exchange did not finish: does another DHCP server answer, is the pool full?"}
	case machine.SourceTFTP:
		return []string{where + ": its boot file went out but did not run: with Secure Boot an unsigned iPXE is refused"}
	case machine.SourceHTTP:
		return []string{where + ": look at its console for what the kernel or the agent says"}
	}
	return []string{where + ": it runs its own operating system now; restart it so that it boots from the network"}
}

func orElse(a, b *timestamppb.Timestamp) *timestamppb.Timestamp {
	if a != nil {
		return a
	}
	return b
}

// stateName returns an enum value as people read it.
func stateName(e protoreflect.Enum) string {
	return strings.ReplaceAll(resource.EnumName(e), "_", " ")
}
