package lifecycle

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/discovery"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func machineIn(state pb.MachineState, change ...func(*pb.Machine)) *pb.Machine {
	m := &pb.Machine{Metadata: &pb.Metadata{Name: "web-1"}, Spec: &pb.MachineSpec{}, Status: &pb.MachineStatus{State: state}}
	for _, c := range change {
		c(m)
	}
	return m
}

func inspected(m *pb.Machine)             { m.Status.Inventory = &pb.Inventory{} }
func heldByWeb(m *pb.Machine)             { m.Status.Instance = "web" }
func set(b pb.NextBoot) func(*pb.Machine) { return func(m *pb.Machine) { m.Status.NextBoot = b } }

func instanceIn(state pb.InstanceState) *pb.Instance {
	return &pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Status: &pb.InstanceStatus{State: state, Machine: "web-1", Workflow: "wf"}}
}

func TestDecideMachine(t *testing.T) {
	type want struct {
		State    pb.MachineState
		Boot     pb.NextBoot
		Instance string
	}
	for _, tt := range []struct {
		name    string
		machine *pb.Machine
		inst    *pb.Instance
		want    want
	}{
		{"a new machine boots the agent to be inspected", machineIn(0), nil, want{pb.MachineState_ENROLLED, pb.NextBoot_AGENT, ""}},
		{"an inspected machine is available and boots what is on its disk", machineIn(pb.MachineState_ENROLLED, inspected), nil, want{pb.MachineState_AVAILABLE, pb.NextBoot_DISK, ""}},
		{"a discovered machine is inspected but not available", machineIn(0, inspected, func(m *pb.Machine) {
			m.Metadata.Annotations = map[string]string{AnnotationDiscovered: "true"}
		}), nil, want{pb.MachineState_DISCOVERED, pb.NextBoot_DISK, ""}},
		{"an accepted machine becomes available", machineIn(pb.MachineState_DISCOVERED, inspected), nil, want{pb.MachineState_AVAILABLE, pb.NextBoot_DISK, ""}},
		{"a machine of an active instance boots its disk", machineIn(pb.MachineState_PROVISIONING, inspected, heldByWeb, set(pb.NextBoot_AGENT)), instanceIn(pb.InstanceState_INSTANCE_ACTIVE), want{pb.MachineState_ACTIVE, pb.NextBoot_DISK, "web"}},
		{"a machine whose instance failed is failed and boots what it was told to", machineIn(pb.MachineState_PROVISIONING, heldByWeb, set(pb.NextBoot_DISK)), instanceIn(pb.InstanceState_INSTANCE_FAILED), want{pb.MachineState_FAILED, pb.NextBoot_DISK, "web"}},
		{"a machine whose instance has gone is free again", machineIn(pb.MachineState_ACTIVE, inspected, heldByWeb), nil, want{pb.MachineState_AVAILABLE, pb.NextBoot_DISK, ""}},
		{"a wiped machine waits in the agent", machineIn(pb.MachineState_RELEASING, inspected), nil, want{pb.MachineState_AVAILABLE, pb.NextBoot_AGENT, ""}},
		{"a machine set aside boots its disk", machineIn(pb.MachineState_AVAILABLE, inspected, func(m *pb.Machine) { m.Spec.Maintenance = true }), nil, want{pb.MachineState_MAINTENANCE, pb.NextBoot_DISK, ""}},
		{"what a machine under a workflow boots is the workflow's to say", machineIn(pb.MachineState_AVAILABLE, inspected, set(pb.NextBoot_AGENT), func(m *pb.Machine) { m.Status.Workflow = "burn-in" }), nil, want{pb.MachineState_AVAILABLE, pb.NextBoot_AGENT, ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := decider()
			v := view{inst: tt.inst, pool: &pb.PoolSpec{}, now: now}
			d := c.decideMachine(tt.machine, v)
			if diff := cmp.Diff(tt.want, want{d.state, d.nextBoot, d.instance}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			after := withDecision(tt.machine, d, now)
			again := withDecision(after, c.decideMachine(after, v), now)
			if diff := cmp.Diff(after, again, protocmp.Transform()); diff != "" {
				t.Errorf("the decision does not settle (-first +then):\n%s", diff)
			}
		})
	}
}

// decider is a controller that only decides.
func decider() *Controller {
	n := 0
	return New(Config{
		DB:  &resource.DB{NewUID: func() string { n++; return fmt.Sprintf("uid%05d", n) }},
		Now: func() time.Time { return now },
		Decide: func([]*pb.Rule, *pb.Machine) (discovery.Decision, error) {
			return discovery.Decision{Action: discovery.None}, nil
		},
	})
}

func TestDecide_RefusedLogin(t *testing.T) {
	c := decider()
	m := machineIn(pb.MachineState_ENROLLED, func(m *pb.Machine) {
		m.Spec.Bmc = &pb.BMC{Address: "10.0.0.1", Username: "root", PasswordSecret: "bmc"}
	})
	v := view{pool: &pb.PoolSpec{}, now: now}
	d := c.decideMachine(m, v)
	if d.makeJob == nil {
		t.Fatal("its BMC is not contacted")
	}
	m = withDecision(m, d, now)
	v.job = d.makeJob
	v.job.Status = &pb.JobStatus{State: pb.JobState_JOB_FAILED, Cause: "BMC refused the login", EndTime: timestamppb.New(now)}
	m.Status.Bmc = &pb.BMCStatus{RefusedLogin: &pb.RefusedLogin{Login: "user root with secret/bmc version 7"}}
	for range 4 {
		v.now = v.now.Add(time.Hour)
		d = c.decideMachine(m, v)
		if d.makeJob != nil || d.state != pb.MachineState_FAILED || !strings.Contains(d.cause, "refuses the password: user root with secret/bmc version 7") || !strings.Contains(d.nextAction, "--retry") {
			t.Fatalf("while its login is refused: job %v, %s: %s; %s", d.makeJob, d.state, d.cause, d.nextAction)
		}
		m = withDecision(m, d, v.now)
	}
	t.Run("it goes on by itself once the login is another", func(t *testing.T) {
		next := cloneOf(m)
		next.Status.Bmc.RefusedLogin = nil
		if d := c.decideMachine(next, v); d.makeJob == nil || d.state == pb.MachineState_FAILED {
			t.Errorf("%s: %s", d.state, d.cause)
		}
	})
	t.Run("`machine retry` has it tried once more", func(t *testing.T) {
		next := cloneOf(m)
		if err := retried(next); err != nil {
			t.Fatal(err)
		}
		if next.Status.Bmc.RefusedLogin != nil {
			t.Error("the refused login is still on record")
		}
		if d := c.decideMachine(next, view{pool: v.pool, now: v.now}); d.makeJob == nil {
			t.Errorf("%s: %s", d.state, d.cause)
		}
	})
}

func TestDecideInstance(t *testing.T) {
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(d)) }
	wf := func(state pb.WorkflowState, end time.Duration) *pb.Workflow {
		return &pb.Workflow{Metadata: &pb.Metadata{Name: "wf"}, Status: &pb.WorkflowStatus{State: state, Cause: "step write: no space", EndTime: at(end)}}
	}
	home := func(d time.Duration) *pb.Instance {
		i := instanceIn(pb.InstanceState_INSTANCE_BOOTING)
		i.Status.PhoneHomeTime = at(d)
		return i
	}
	silent := instanceIn(0)
	for _, tt := range []struct {
		name string
		inst *pb.Instance
		wf   *pb.Workflow
		want pb.InstanceState
	}{
		{"a running workflow provisions it", instanceIn(0), wf(pb.WorkflowState_RUNNING, 0), pb.InstanceState_INSTANCE_PROVISIONING},
		{"a failed workflow fails it", instanceIn(0), wf(pb.WorkflowState_WORKFLOW_FAILED, 0), pb.InstanceState_INSTANCE_FAILED},
		{"a retried workflow provisions it again", instanceIn(pb.InstanceState_INSTANCE_FAILED), wf(pb.WorkflowState_RUNNING, 0), pb.InstanceState_INSTANCE_PROVISIONING},
		{"once installed it boots", instanceIn(0), wf(pb.WorkflowState_SUCCEEDED, -time.Minute), pb.InstanceState_INSTANCE_BOOTING},
		{"a system that has reported in is active", home(-time.Second), wf(pb.WorkflowState_SUCCEEDED, -time.Minute), pb.InstanceState_INSTANCE_ACTIVE},
		{"a report from before a reinstall does not count", home(-time.Hour), wf(pb.WorkflowState_SUCCEEDED, -time.Minute), pb.InstanceState_INSTANCE_BOOTING},
		{"a system that never reports in fails it", instanceIn(0), wf(pb.WorkflowState_SUCCEEDED, -PhoneHomeTimeout), pb.InstanceState_INSTANCE_FAILED},
		{"a system whose image can't report in is active at once", silent, wf(pb.WorkflowState_SUCCEEDED, -time.Minute), pb.InstanceState_INSTANCE_ACTIVE},
		{"one that is not installed yet is not", silent, wf(pb.WorkflowState_RUNNING, 0), pb.InstanceState_INSTANCE_PROVISIONING},
		{"a late report makes it active after all", home(0), wf(pb.WorkflowState_SUCCEEDED, -2*PhoneHomeTimeout), pb.InstanceState_INSTANCE_ACTIVE},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, cause, _ := decideInstance(tt.inst, tt.wf, tt.inst == silent, now)
			if got != tt.want {
				t.Errorf("got %s (%s), want %s", got, cause, tt.want)
			}
			if cause == "" {
				t.Error("the state has no cause")
			}
		})
	}
}

func TestDecide_Media(t *testing.T) {
	m := machineIn(pb.MachineState_PROVISIONING, inspected, heldByWeb, func(m *pb.Machine) {
		m.Spec.BootMethod, m.Spec.Bmc = "virtual-media", &pb.BMC{Address: "10.0.0.1"}
		m.Status.Workflow, m.Status.Bmc = "wf", &pb.BMCStatus{Media: "agent.iso"}
	})
	wf := func(step *pb.StepStatus) *pb.Workflow {
		return &pb.Workflow{Metadata: &pb.Metadata{Name: "wf"}, Spec: &pb.WorkflowSpec{Instance: "web"}, Status: &pb.WorkflowStatus{State: pb.WorkflowState_RUNNING, Steps: []*pb.StepStatus{step}}}
	}
	operations := func(d decision) string {
		var out []string
		for _, o := range d.makeJob.GetSpec().GetOperations() {
			out = append(out, operationText(o))
		}
		return strings.Join(out, ", ")
	}
	for _, tt := range []struct {
		name  string
		state pb.InstanceState
		step  *pb.StepStatus
		want  string
	}{
		{"a machine that restarts into the agent gets its medium again", pb.InstanceState_INSTANCE_PROVISIONING,
			&pb.StepStatus{Id: "again", State: pb.StepState_STEP_RUNNING, Attempts: []*pb.StepAttempt{{Leaving: "agent"}}}, "insert_media, boot cdrom, power cycle"},
		{"one whose agent works is left alone", pb.InstanceState_INSTANCE_PROVISIONING, &pb.StepStatus{Id: "write", State: pb.StepState_STEP_RUNNING, Attempts: []*pb.StepAttempt{{}}}, ""},
		{"one that boots its disk gives its medium back", pb.InstanceState_INSTANCE_BOOTING, nil, "eject_media, boot none"},
		{"one that is active as well", pb.InstanceState_INSTANCE_ACTIVE, nil, "eject_media, boot none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := view{inst: instanceIn(tt.state), pool: &pb.PoolSpec{}, now: now}
			if tt.step != nil {
				v.owner = wf(tt.step)
			}
			d := decider().decideMachine(m, v)
			if got := operations(d); got != tt.want {
				t.Errorf("its BMC is asked for %q, want %q", got, tt.want)
			}
		})
	}
}
