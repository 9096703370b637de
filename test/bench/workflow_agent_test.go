package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/workflow"
)

// TestWorkflow_Agent takes the real agent through all that server and agent
// have to agree on: skips, retries, an approval, a secret, outputs, a reboot
// into the agent and one into the disk.
func TestWorkflow_Agent(t *testing.T) {
	f := newFleet(t, 0)
	f.connected = make(chan string, 16)
	if _, err := resource.Create(f.ctx, f.db, &pb.Machine{Metadata: &pb.Metadata{Name: name(0)}, Status: &pb.MachineStatus{}}); err != nil {
		t.Fatal(err)
	}
	with := func(pairs ...any) map[string]*structpb.Value {
		out := map[string]*structpb.Value{}
		for i := 0; i < len(pairs); i += 2 {
			v, err := structpb.NewValue(pairs[i+1])
			if err != nil {
				t.Fatal(err)
			}
			out[pairs[i].(string)] = v
		}
		return out
	}
	spec := &pb.TemplateSpec{Steps: []*pb.Step{
		{Id: "disk", Uses: "disk.select"},
		{Id: "never", Uses: "noop", If: `machine.labels.burnin == "true"`},
		{Id: "flaky", Uses: "noop", Retries: &pb.Retries{Max: 2, Backoff: "1ms"}},
		{Id: "ask", Uses: "approval", With: with("message", "wipe ${{ steps.disk.outputs.path }}?")},
		{Id: "login", Uses: "command", With: with("command", []any{"login", "${{ secrets.db.password }}"})},
		{Id: "back", Uses: "machine.reboot"},
		{Id: "print", Uses: "command", With: with("command", []any{"print", "${{ steps.login.outputs.exit_code + 40 }} ${{ steps.disk.outputs.size }}"})},
		{Id: "gone", Uses: "machine.reboot", With: with("boot", "disk")},
	}}
	if _, err := resource.Create(f.ctx, f.db, &pb.Template{Metadata: &pb.Metadata{Name: "all"}, Spec: spec}); err != nil {
		t.Fatal(err)
	}
	boot, left := 0, make(chan string, 2)
	var flaky atomic.Int32
	start := func() {
		boot++
		ctx, powerOff := context.WithCancel(f.ctx)
		f.start(ctx, 0, fmt.Sprintf("%032x", boot), actions(&flaky, func(next string) {
			left <- next
			powerOff()
		}))
		<-f.connected
	}
	start()
	if _, err := f.c.Create(f.ctx, &pb.Workflow{Metadata: &pb.Metadata{Name: "w"}, Spec: &pb.WorkflowSpec{Template: "all", Machine: name(0)}}); err != nil {
		t.Fatal(err)
	}
	f.follow(t, pb.WorkflowState_WAITING_FOR_APPROVAL, `waits for approval: wipe /dev/vda?`)
	if _, err := f.c.Approve(f.ctx, "w", "ask", false, "ann"); err != nil {
		t.Fatal(err)
	}
	if next := <-left; next != step.NextBootAgent {
		t.Fatalf("left for %s", next)
	}
	start()
	f.follow(t, pb.WorkflowState_SUCCEEDED, "")
	if next := <-left; next != step.NextBootDisk {
		t.Errorf("left for %s", next)
	}
	wf, err := resource.Get[*pb.Workflow](f.ctx, f.db, "w")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range wf.Status.Steps {
		got = append(got, fmt.Sprintf("%s:%s/%d", s.Id, strings.ToLower(strings.TrimPrefix(s.State.String(), "STEP_")), len(s.Attempts)))
	}
	want := "disk:succeeded/1 never:skipped/0 flaky:succeeded/3 ask:succeeded/1 login:succeeded/1 back:succeeded/1 print:succeeded/1 gone:succeeded/1"
	if text := strings.Join(got, " "); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if text := f.logs(t); !strings.Contains(text, "login***\n") || !strings.Contains(text, "print42 20000000000\n") || strings.Contains(text, "hunter2") {
		t.Errorf("log:\n%s", text)
	}
}

// actions are stand-ins for what needs a real machine.
func actions(flaky *atomic.Int32, leave func(next string)) step.Set {
	return step.Set{
		"disk.select": step.Func(func(context.Context, step.Request, step.Reporter) (step.Result, error) {
			return step.Result{Outputs: map[string]any{"path": "/dev/vda", "size": int64(20e9)}}, nil
		}),
		"noop": step.Func(func(context.Context, step.Request, step.Reporter) (step.Result, error) {
			if flaky.Add(1) < 3 {
				return step.Result{}, errors.New("not yet")
			}
			return step.Result{}, nil
		}),
		"command": step.Func(func(_ context.Context, r step.Request, rep step.Reporter) (step.Result, error) {
			rep.Log(step.Stdout, fmt.Sprint(r.With["command"].([]any)...))
			return step.Result{Outputs: map[string]any{"exit_code": int64(2), "stdout": ""}}, nil
		}),
		"machine.reboot": step.Func(func(_ context.Context, r step.Request, _ step.Reporter) (step.Result, error) {
			next, ok := r.With["boot"].(string)
			if !ok {
				next = step.NextBootAgent
			}
			return step.Result{Leave: &step.Leave{NextBoot: next, Do: func() error { leave(next); return nil }}}, nil
		}),
	}
}

// follow waits until the workflow is in that state.
func (f *fleet) follow(t *testing.T, state pb.WorkflowState, cause string) {
	t.Helper()
	errDone := errors.New("done")
	err := f.c.Follow(f.ctx, "w", workflow.FollowOptions{}, func(r *pb.FollowWorkflowResponse) error {
		s := r.GetWorkflow().GetStatus()
		if s == nil || s.State != state && s.EndTime == nil {
			return nil
		}
		if s.State != state || !strings.Contains(s.Cause, cause) {
			t.Errorf("%v: %s; want %v: %s", s.State, s.Cause, state, cause)
		}
		return errDone
	})
	if !errors.Is(err, errDone) {
		t.Fatal(err)
	}
}

func (f *fleet) logs(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	err := f.c.Follow(f.ctx, "w", workflow.FollowOptions{History: true, NoFollow: true}, func(r *pb.FollowWorkflowResponse) error {
		if l := r.GetLog(); l != nil {
			fmt.Fprintln(&text, l.GetText())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}
