package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// mustPrint runs a command and compares all it printed.
func mustPrint(t *testing.T, a *app, line, want string) {
	t.Helper()
	want = strings.TrimPrefix(want, "\n")
	if d := cmp.Diff(want, command(t.Context(), a, line)); d != "" {
		t.Errorf("%s (-want +got):\n%s", line, d)
	}
}

func machineIn(state pb.MachineState, cause, workflow string) *pb.FollowMachineResponse {
	return &pb.FollowMachineResponse{Event: &pb.FollowMachineResponse_Machine{Machine: &pb.Machine{
		Metadata: &pb.Metadata{Name: "web-1"}, Status: &pb.MachineStatus{State: state, Cause: cause, Workflow: workflow},
	}}}
}

func seen(source, detail, address string) *pb.FollowMachineResponse {
	return &pb.FollowMachineResponse{Event: &pb.FollowMachineResponse_Sighting{Sighting: &pb.Sighting{Source: source, Time: at(1), Detail: detail, Address: address}}}
}

func phase(name string, end *timestamppb.Timestamp, failure string) *pb.FollowMachineResponse {
	return &pb.FollowMachineResponse{Event: &pb.FollowMachineResponse_Phase{Phase: &pb.Phase{Name: name, StartTime: at(0), EndTime: end, Error: failure}}}
}

func workflowIn(state pb.WorkflowState, steps ...*pb.StepStatus) *pb.FollowWorkflowResponse {
	st := &pb.WorkflowStatus{State: state, StartTime: at(2), Steps: steps}
	switch state {
	case pb.WorkflowState_SUCCEEDED:
		st.EndTime = at(12)
	case pb.WorkflowState_WORKFLOW_FAILED:
		st.EndTime, st.Cause = at(12), "step write failed"
	}
	return &pb.FollowWorkflowResponse{Event: &pb.FollowWorkflowResponse_Workflow{Workflow: &pb.Workflow{Metadata: &pb.Metadata{Name: "w"}, Status: st}}}
}

func step(id string, state pb.StepState, attempts ...*pb.StepAttempt) *pb.StepStatus {
	return &pb.StepStatus{Id: id, State: state, Attempts: attempts}
}

func attempt(from, to float64, failure string) *pb.StepAttempt {
	at1 := &pb.StepAttempt{StartTime: at(from), Error: failure}
	if to > 0 {
		at1.EndTime = at(to)
	}
	if failure != "" {
		code := int32(2)
		at1.ExitCode, at1.LastOutput = &code, []string{"line one", "line two"}
	}
	return at1
}

func progress(id string, done, total int64) *pb.FollowWorkflowResponse {
	return &pb.FollowWorkflowResponse{Event: &pb.FollowWorkflowResponse_Progress{Progress: &pb.StepProgress{
		Step: id, Progress: &pb.Progress{Done: done, Total: total, Unit: "bytes", Rate: 1 << 20},
	}}}
}

// script sends messages, and then holds the stream open unless it is told to end it.
func script[M any](s grpc.ServerStream, hold bool, messages ...M) error {
	for _, m := range messages {
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
	if hold {
		<-s.Context().Done()
	}
	return nil
}

// meeting makes the order of two streams certain.
type meeting struct {
	once sync.Once
	ch   chan struct{}
}

func newMeeting() *meeting { return &meeting{ch: make(chan struct{})} }
func (m *meeting) open()   { m.once.Do(func() { close(m.ch) }) }
func (m *meeting) wait(s grpc.ServerStream) {
	select {
	case <-m.ch:
	case <-s.Context().Done():
	}
}

func TestFollow_UntilActive(t *testing.T) {
	f := newFakeServer(t)
	over := newMeeting()
	var out syncBuffer
	onStream(f, "FollowMachine", func(_ *pb.FollowMachineRequest, s grpc.ServerStream) error {
		if err := script(s, false, machineIn(pb.MachineState_ENROLLED, "made by a person", ""), seen("dhcp", "DISCOVER", ""), seen("tftp", "ipxe.efi\x1b[2J", "10.77.0.31"),
			phase("firmware", nil, ""), phase("firmware", at(3.25), ""), phase("dhcp", at(4), "no\noffer"), phase("step write", at(5), ""),
			machineIn(pb.MachineState_PROVISIONING, "", "w")); err != nil {
			return err
		}
		over.wait(s)
		return script(s, true, machineIn(pb.MachineState_PROVISIONING, "", ""), machineIn(pb.MachineState_ACTIVE, "", ""))
	})
	onStream(f, "FollowWorkflow", func(_ *pb.FollowWorkflowRequest, s grpc.ServerStream) error {
		bad, good := attempt(2, 3, "no space left on device"), attempt(5, 11, "")
		return script(s, false,
			workflowIn(pb.WorkflowState_WAITING_FOR_MACHINE, step("disk", pb.StepState_STEP_PENDING), step("write", pb.StepState_STEP_PENDING)),
			workflowIn(pb.WorkflowState_RUNNING, step("disk", pb.StepState_STEP_SKIPPED), step("write", pb.StepState_STEP_RUNNING, attempt(2, 0, ""))),
			progress("write", 0, 4<<20), progress("write", 1<<20, 4<<20), progress("disk", 1, 1),
			workflowIn(pb.WorkflowState_RUNNING, step("disk", pb.StepState_STEP_SKIPPED), step("write", pb.StepState_STEP_BACKOFF, bad)),
			workflowIn(pb.WorkflowState_RUNNING, step("disk", pb.StepState_STEP_SKIPPED), step("write", pb.StepState_STEP_RUNNING, bad, attempt(5, 0, ""))),
			workflowIn(pb.WorkflowState_RUNNING, step("disk", pb.StepState_STEP_SKIPPED), step("write", pb.StepState_STEP_WAITING, bad, attempt(5, 0, ""))),
			workflowIn(pb.WorkflowState_SUCCEEDED, step("disk", pb.StepState_STEP_SKIPPED), step("write", pb.StepState_STEP_SUCCEEDED, bad, good)))
	})
	a := newTestApp(f, &out, &out)
	a.args = []string{"machine", "follow", "web-1", "--until", "active"}
	ended := make(chan error)
	go func() { ended <- a.run(t.Context()) }()
	out.waitFor(t, "w succeeded")
	over.open()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	want := `15:04:05  state     enrolled: made by a person
15:04:06  dhcp      DISCOVER
15:04:06  tftp      ipxe.efi [2J  10.77.0.31
  firmware
15:04:08  phase     firmware took 3.2s
15:04:09  phase     dhcp failed: no offer
15:04:05  state     provisioning
15:04:05  workflow  w waiting for machine
15:04:05  step      disk skipped
15:04:07  step      write running
15:04:05  workflow  w running
  write    0%  0 B of 4 MiB  1 MiB/s  4.0s left
15:04:08  step      write failed, to be tried again: no space left on device (exit code 2)
15:04:10  step      write running, attempt 2
15:04:05  step      write waiting for a person: ` + "`bedplate workflow approve w`" + `
15:04:16  step      write succeeded in 6.0s
15:04:17  workflow  w succeeded in 10.0s
15:04:05  state     active
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestFollow_Failures(t *testing.T) {
	f := newFakeServer(t)
	f.objects["machine/web-1"] = &pb.Machine{Metadata: &pb.Metadata{Name: "web-1"}}
	messages := []*pb.FollowMachineResponse{machineIn(pb.MachineState_FAILED, "the disk is gone", "")}
	onStream(f, "FollowMachine", func(q *pb.FollowMachineRequest, s grpc.ServerStream) error {
		if q.Name != "web-1" {
			return notFound(mustKind("Machine"), q.Name)
		}
		return script(s, true, messages...)
	})
	onStream(f, "FollowWorkflow", func(_ *pb.FollowWorkflowRequest, s grpc.ServerStream) error {
		return script(s, true, workflowIn(pb.WorkflowState_RUNNING, step("write", pb.StepState_STEP_RUNNING, attempt(2, 0, ""))),
			workflowIn(pb.WorkflowState_WORKFLOW_FAILED, step("write", pb.StepState_STEP_FAILED, attempt(2, 3, "no space left on device"))))
	})
	on(f, "ExplainMachine", func(*pb.ExplainMachineRequest) (*pb.ExplainMachineResponse, error) {
		return &pb.ExplainMachineResponse{Summary: "nothing was seen of it", Advice: []string{"check its cable"}}, nil
	})
	a := newTestApp(f, nil, nil)
	mustPrint(t, a, "machine follow web-1 --until active", `
15:04:05  state     failed: the disk is gone
[stderr]
error: machine/web-1 is failed: the disk is gone
hint: `+"`bedplate machine explain web-1` says what to do"+`
[exit code 1]
`)
	messages = []*pb.FollowMachineResponse{machineIn(pb.MachineState_PROVISIONING, "", "w")}
	mustPrint(t, a, "machine follow web-1 --until workflow-done", `
15:04:05  state     provisioning
15:04:07  step      write running
15:04:05  workflow  w running
15:04:08  step      write failed: no space left on device (exit code 2)
                    | line one
                    | line two
15:04:17  workflow  w failed: step write failed
[stderr]
error: workflow/w failed: step write failed
hint: `+"`bedplate workflow logs w` shows what it printed; `bedplate workflow retry w` runs it again from where it ended"+`
[exit code 1]
`)
	messages = []*pb.FollowMachineResponse{machineIn(pb.MachineState_ENROLLED, "", "")}
	const late = "error: machine/web-1: it is not available after 1ms: nothing was seen of it\nhint: check its cable\n[exit code 1]\n"
	if out := command(t.Context(), a, "machine follow web-1 --until available --timeout 1ms"); !strings.HasSuffix(out, late) {
		t.Errorf("when it takes too long:\n%s", out)
	}
	mustPrint(t, a, "machine follow web-2", `
error: machine/web-2: not found
hint: did you mean web-1? `+"`bedplate machine list` shows all"+`
[exit code 1]
`)
	mustPrint(t, a, "machine follow web-1 --until done", `
error: --until done: not one of active, available, workflow-done
hint: `+"`bedplate machine follow --help` says how it is used"+`
[exit code 2]
`)
}

// A restart of the server is waited out; the second stream goes on from where
// the first one broke.
func TestFollow_ServerRestarts(t *testing.T) {
	f := newFakeServer(t)
	shown := newMeeting()
	first := true
	onStream(f, "FollowMachine", func(_ *pb.FollowMachineRequest, s grpc.ServerStream) error {
		if first {
			first = false
			if err := script(s, false, machineIn(pb.MachineState_RELEASING, "", "")); err != nil {
				return err
			}
			shown.open()
			<-s.Context().Done()
			return nil
		}
		return script(s, true, machineIn(pb.MachineState_RELEASING, "", ""), machineIn(pb.MachineState_AVAILABLE, "", ""))
	})
	var out syncBuffer
	a := newTestApp(f, &out, &out)
	a.args = []string{"machine", "follow", "web-1", "--until", "available"}
	ended := make(chan error)
	go func() { ended <- a.run(t.Context()) }()
	<-shown.ch
	out.waitFor(t, "releasing")
	f.restart()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	got := out.String()
	for _, want := range []string{"state     releasing\n", "connection lost, trying again", "connected again", "state     available\n"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, got)
		}
	}
}

// syncBuffer may be written and read by several goroutines.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *syncBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !strings.Contains(b.String(), text) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%q never came:\n%s", text, b.String())
		}
	}
}

func TestInterrupt(t *testing.T) {
	f := newFakeServer(t)
	onStream(f, "FollowMachine", func(_ *pb.FollowMachineRequest, s grpc.ServerStream) error {
		return script(s, true, machineIn(pb.MachineState_ACTIVE, "", ""))
	})
	var out syncBuffer
	a := newTestApp(f, &out, &out)
	a.args = []string{"machine", "follow", "web-1"}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- a.run(ctx) }()
	out.waitFor(t, "active")
	cancel()
	if err := <-ended; exitCode(err) != 130 {
		t.Errorf("it ended with %v", err)
	}
	if got, want := out.String(), "15:04:05  state     active\n"; got != want {
		t.Errorf("it printed %q, want %q", got, want)
	}
}

// On a terminal bars are redrawn, in colours.
func TestFollow_Terminal(t *testing.T) {
	f := newFakeServer(t)
	onStream(f, "FollowWorkflow", func(_ *pb.FollowWorkflowRequest, s grpc.ServerStream) error {
		return script(s, false, workflowIn(pb.WorkflowState_RUNNING, step("write", pb.StepState_STEP_RUNNING, attempt(2, 0, ""))),
			progress("write", 1<<20, 4<<20),
			workflowIn(pb.WorkflowState_SUCCEEDED, step("write", pb.StepState_STEP_SUCCEEDED, attempt(2, 3, ""))))
	})
	a := newTestApp(f, nil, nil)
	a.width = func(any) int { return 60 }
	mustPrint(t, a, "workflow watch w", "\x1b[2m15:04:07\x1b[0m  step      write \x1b[33mrunning\x1b[0m\n"+
		"\x1b[2m15:04:05\x1b[0m  workflow  w \x1b[33mrunning\x1b[0m\n"+
		"  write  [======                  ]   25%  1 MiB of 4 MiB …\n"+
		"\x1b[1A\r\x1b[J"+
		"\x1b[2m15:04:08\x1b[0m  step      write \x1b[32msucceeded\x1b[0m in 1.0s\n"+
		"\x1b[2m15:04:17\x1b[0m  workflow  w \x1b[32msucceeded\x1b[0m in 10.0s\n")
}

// The log is printed once, though the stream breaks in the midst of it.
func TestLogs_StreamBreaks(t *testing.T) {
	f := newFakeServer(t)
	line := func(seconds float64, text string) *pb.FollowWorkflowResponse {
		return &pb.FollowWorkflowResponse{Event: &pb.FollowWorkflowResponse_Log{Log: &pb.LogLine{Step: "s", Time: at(seconds), Text: text}}}
	}
	calls := 0
	onStream(f, "FollowWorkflow", func(q *pb.FollowWorkflowRequest, s grpc.ServerStream) error {
		calls++
		if !q.History {
			return status.Error(codes.InvalidArgument, "history is expected")
		}
		all := []*pb.FollowWorkflowResponse{workflowIn(pb.WorkflowState_RUNNING), line(1, "a"), line(2, "b"), line(2, "b"), line(2, "c"), line(3, "d"), workflowIn(pb.WorkflowState_SUCCEEDED)}
		if calls == 1 {
			if err := script(s, false, all[:4]...); err != nil {
				return err
			}
			return status.Error(codes.Unavailable, "stopping")
		}
		return script(s, false, all...)
	})
	mustPrint(t, newTestApp(f, nil, nil), "workflow logs -f w", "s | a\ns | b\ns | b\ns | c\ns | d\n")
	if calls != 2 {
		t.Errorf("%d streams were opened", calls)
	}
}

func TestWatch(t *testing.T) {
	f := newFakeServer(t)
	f.load(t, filepath.Join("testdata", "fixtures.yaml"))
	m := &pb.Machine{Metadata: &pb.Metadata{Name: "a-rather-long-name"}, Status: &pb.MachineStatus{State: pb.MachineState_ACTIVE}}
	f.changes = append(f.changes, &pb.WatchMachinesResponse{Type: pb.ChangeType_MODIFIED, Machine: m}, &pb.WatchMachinesResponse{Type: pb.ChangeType_DELETED, Machine: m})
	a := newTestApp(f, nil, nil)
	mustPrint(t, a, "watch machines", `
CHANGE    NAME   STATE         WORKFLOW       INSTANCE  ADDRESS     AGE
-         web-1  provisioning  install-web-1  web       10.77.0.31  12d
-         web-2  enrolled      -              -         -           10s
modified  a-rather-long-name  active        -              -         -           -
deleted   a-rather-long-name  active        -              -         -           -
[stderr]
error: the server has ended the stream: try again
[exit code 1]
`)
	mustPrint(t, a, "machine watch web-2 -o name", `
machine/web-2 added
machine/a-rather-long-name modified
machine/a-rather-long-name deleted
[stderr]
error: the server has ended the stream: try again
[exit code 1]
`)
	f.changes = nil
	mustPrint(t, a, "watch machine web-2 -o yaml", `
apiVersion: bedplate/v1
kind: Machine
metadata:
  name: web-2
  labels:
    rack: r2
  resource_version: 8
  create_time: 2026-01-02T15:03:55Z
spec:
  serial: XYZ
  maintenance: true
status:
  state: enrolled
  next_boot: agent
[stderr]
error: the server has ended the stream: try again
[exit code 1]
`)
	populate(f)
	mustPrint(t, a, "event watch", `
TIME      TYPE    SUBJECT        REASON        MESSAGE
15:01:05  normal  machine/web-1  StateChanged  available -> provisioning
15:02:35  warning  workflow/install-web-1  StepFailed    step write: no space left
15:04:00  normal   image/debian-13         Updated       spec.os
[stderr]
error: the server has ended the stream: try again
[exit code 1]
`)
}

// A restart of the server while an instance is waited for is only a pause.
func TestInstance_WaitServerRestarts(t *testing.T) {
	f := newFakeServer(t)
	calls := 0
	onStream(f, "WatchInstances", func(q *pb.WatchInstancesRequest, s grpc.ServerStream) error {
		calls++
		i := &pb.Instance{Metadata: &pb.Metadata{Name: q.Name}, Status: &pb.InstanceStatus{State: pb.InstanceState_INSTANCE_BOOTING}}
		if calls == 2 {
			i.Status.State = pb.InstanceState_INSTANCE_ACTIVE
		}
		if err := s.SendMsg(&pb.WatchInstancesResponse{Type: pb.ChangeType_ADDED, Instance: i}); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "stopping")
	})
	mustPrint(t, newTestApp(f, nil, nil), "instance create web --image debian-13 --wait", `
instance/web created
15:04:05  instance  booting
15:04:05  instance  active
`)
}

func TestInstance_Wait(t *testing.T) {
	f := newFakeServer(t)
	state := func(s pb.InstanceState, cause string) *pb.WatchInstancesResponse {
		return &pb.WatchInstancesResponse{Type: pb.ChangeType_MODIFIED, Instance: &pb.Instance{
			Metadata: &pb.Metadata{Name: "web"}, Status: &pb.InstanceStatus{State: s, Cause: cause, Machine: "web-1"},
		}}
	}
	f.changes = append(f.changes, state(pb.InstanceState_INSTANCE_PROVISIONING, "its workflow runs"), state(pb.InstanceState_INSTANCE_ACTIVE, ""))
	a := newTestApp(f, nil, nil)
	mustPrint(t, a, "instance create web --image debian-13 --wait", `
instance/web created
15:04:05  instance  provisioning on machine/web-1: its workflow runs
15:04:05  instance  active on machine/web-1
`)
	gone := state(pb.InstanceState_INSTANCE_RELEASING, "")
	gone.Type = pb.ChangeType_DELETED
	f.objects["instance/other"] = &pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Status: &pb.InstanceStatus{State: pb.InstanceState_INSTANCE_RELEASING}}
	f.changes = append(f.changes[:0], gone)
	mustPrint(t, a, "instance delete web --wait", `
instance/web releasing: it is gone when its machine's disks have been wiped
15:04:05  instance  releasing
15:04:05  instance  released
`)
	f.changes = append(f.changes[:0], state(pb.InstanceState_INSTANCE_FAILED, "no disk"))
	mustPrint(t, a, "instance create web --image debian-13 --wait", `
instance/web created
15:04:05  instance  releasing
15:04:05  instance  failed on machine/web-1: no disk
[stderr]
error: instance/web failed: no disk
hint: `+"`bedplate instance describe web` has more"+`
[exit code 1]
`)
}
