package workflow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

func TestController_Runs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "b1")
		w.template("t", noops("a", "b", "c"))
		w.create("w", "t", "m")
		w.want("w", pb.WorkflowState_WAITING_FOR_MACHINE, "has not shown up")
		if m := w.getMachine("m"); m.Status.Workflow != "w" || m.Status.NextBoot != pb.NextBoot_AGENT {
			t.Errorf("machine: %v", m.Status)
		}
		a := w.agent("m", "b1")
		a.mustConnect()
		w.want("w", pb.WorkflowState_RUNNING, "")
		if _, err := a.work(); err != nil {
			t.Fatal(err)
		}
		w.want("w", pb.WorkflowState_SUCCEEDED, "")
		m := w.getMachine("m")
		if m.Status.Workflow != "" || m.Status.NextBoot != pb.NextBoot_DISK || !m.Status.Agent.Connected {
			t.Errorf("machine: %v", m.Status)
		}
		wf := w.get("w")
		if diff := cmp.Diff([]string{"b1"}, wf.Status.BootIds); diff != "" {
			t.Errorf("boots (-want +got):\n%s", diff)
		}
		a.disconnect()
		if w.getMachine("m").Status.Agent.Connected {
			t.Error("the machine is connected still")
		}
		var seen []string
		for _, s := range w.sights {
			seen = append(seen, s.Event+" "+s.Detail)
		}
		want := []string{"connected boot b1", "step-start a noop", "step-end a noop", "step-start b noop", "step-end b noop", "step-start c noop", "step-end c noop", "disconnected boot b1"}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("sightings (-want +got):\n%s", diff)
		}
	})
}

func TestController_ConnectedMachineStartsAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "b1")
		w.template("t", noops("a"))
		a := w.agent("m", "b1")
		a.mustConnect()
		before := w.store.count()
		wf := w.create("w", "t", "m")
		if wf.Status.State != pb.WorkflowState_RUNNING {
			t.Errorf("state %v", wf.Status.State)
		}
		if n := w.store.count() - before; n != 1 {
			t.Errorf("%d transactions, want 1", n)
		}
		if _, err := a.work(); err != nil {
			t.Fatal(err)
		}
		w.want("w", pb.WorkflowState_SUCCEEDED, "")
	})
}

func TestController_Queue(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "b1")
		w.template("t", noops("a"))
		w.create("w1", "t", "m")
		time.Sleep(time.Second)
		w.create("w2", "t", "m")
		time.Sleep(time.Second)
		w.create("w3", "t", "m")
		w.want("w2", pb.WorkflowState_QUEUED, "waits until machine m is done with other workflows")
		a := w.agent("m", "b1")
		a.mustConnect()
		for _, name := range []string{"w1", "w2", "w3"} {
			w.want(name, pb.WorkflowState_RUNNING, "")
			if _, err := a.work(); err != nil {
				t.Fatal(err)
			}
			w.want(name, pb.WorkflowState_SUCCEEDED, "")
			a.mustListen()
		}
		if m := w.getMachine("m"); m.Status.Workflow != "" || m.Status.NextBoot != pb.NextBoot_DISK {
			t.Errorf("machine: %v", m.Status)
		}
	})
}

func TestController_QueuedByTheAPI(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "")
		w.template("t", noops("a"))
		made, err := w.c.Preview(t.Context(), workflowFor("w", "t", "m"))
		if err != nil {
			t.Fatal(err)
		}
		made.Status.State = pb.WorkflowState_QUEUED
		if _, err := resource.Create(t.Context(), w.db, made); err != nil {
			t.Fatal(err)
		}
		w.want("w", pb.WorkflowState_WAITING_FOR_MACHINE, "")
	})
}

func TestController_Create_Refuses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "")
		w.template("t", &pb.TemplateSpec{Inputs: map[string]*pb.Input{"image": {Required: true}}, Steps: []*pb.Step{
			{Id: "w", Uses: "image.write", With: map[string]*structpb.Value{"image": mustValue("${{ inputs.image }}"), "disk": mustValue("${{ secrets.disk.path }}")}},
		}})
		w.template("typo", &pb.TemplateSpec{Steps: []*pb.Step{{Uses: "noop", If: "machine.lables.x == ''"}}})
		with := func(template, machine, image string) *pb.Workflow {
			wf := workflowFor("w", template, machine)
			if image != "" {
				wf.Spec.Inputs = map[string]*structpb.Value{"image": mustValue(image)}
			}
			return wf
		}
		tests := []struct {
			name string
			wf   *pb.Workflow
			want string
		}{
			{"a machine that isn't there", with("t", "x", "debian"), "machine/x: not found"},
			{"a template that isn't there", with("x", "m", "debian"), "template/x: not found"},
			{"a missing input", with("t", "m", ""), "workflow/w: spec.inputs.image: the template needs this input"},
			{"an image and a secret that aren't there", with("t", "m", "debian"), `workflow/w: spec.template: the template speaks of secret "disk", which is not there: apply it first; spec.inputs: step "w" writes image "debian", which is not there: apply it first`},
			{"a template with a mistake", with("typo", "m", ""), `workflow/w: spec.steps[0].if: machine has no field "lables"; there are addresses, annotations, bmc, inventory, labels, name, spec, state, uid, warm`},
		}
		for _, tt := range tests {
			_, err := w.c.Create(t.Context(), tt.wf)
			if err == nil || err.Error() != tt.want {
				t.Errorf("%s:\n got %v\nwant %s", tt.name, err, tt.want)
			}
		}
		w.secrets["disk"] = map[string]string{"path": "/dev/sda"}
		w.images["debian"] = map[string]any{"url": "http://x/y"}
		if _, err := w.c.Create(t.Context(), with("t", "m", "debian")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.c.Create(t.Context(), with("t", "m", "debian")); !errors.Is(err, resource.ErrExists) {
			t.Errorf("a second of the name: %v", err)
		}
	})
}

func TestController_Cancel(t *testing.T) {
	t.Run("one that waits is over at once, and the next begins", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.machine("m", "")
			w.template("t", noops("a"))
			w.create("w1", "t", "m")
			w.create("w2", "t", "m")
			w.create("w3", "t", "m")
			for _, name := range []string{"w2", "w1"} {
				if _, err := w.c.Cancel(t.Context(), name, ""); err != nil {
					t.Fatal(err)
				}
				w.want(name, pb.WorkflowState_CANCELLED, "cancelled")
			}
			w.want("w3", pb.WorkflowState_WAITING_FOR_MACHINE, "")
			if _, err := w.c.Cancel(t.Context(), "w1", ""); !errors.Is(err, ErrEnded) {
				t.Errorf("cancelled twice: %v", err)
			}
		})
	})
	t.Run("the agent ends what runs", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.machine("m", "b1")
			w.template("t", noops("a", "b"))
			w.create("w", "t", "m")
			a := w.agent("m", "b1")
			a.mustConnect()
			a.start("a")
			a.mustFlush()
			if _, err := w.c.Cancel(t.Context(), "w", "mistake"); err != nil {
				t.Fatal(err)
			}
			a.mustListen()
			a.run.Cancel(false, time.Now())
			a.end("a", pb.StepState_STEP_CANCELLED, "told to stop")
			a.mustFlush()
			w.want("w", pb.WorkflowState_CANCELLED, "cancelled: mistake")
			if got := summary(w.get("w")); got != "a:cancelled/1 b:cancelled/0" {
				t.Error(got)
			}
		})
	})
}

func TestController_Approve(t *testing.T) {
	for _, connected := range []bool{true, false} {
		t.Run(fmt.Sprintf("while the agent is connected: %v", connected), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.machine("m", "b1")
				w.template("t", &pb.TemplateSpec{Steps: []*pb.Step{{Id: "ask", Uses: "approval"}, {Id: "b", Uses: "noop"}}})
				w.create("w", "t", "m")
				a := w.agent("m", "b1")
				a.mustConnect()
				if _, err := a.work(); err != nil {
					t.Fatal(err)
				}
				if !connected {
					a.disconnect()
					w.restart()
				}
				if _, err := w.c.Approve(t.Context(), "w", "", false, "ann"); err != nil {
					t.Fatal(err)
				}
				if _, err := w.c.Approve(t.Context(), "w", "ask", false, "bob"); err == nil {
					t.Error("approved twice")
				}
				if !connected {
					a.mustConnect()
				}
				if _, err := a.work(); err != nil {
					t.Fatal(err)
				}
				w.want("w", pb.WorkflowState_SUCCEEDED, "")
				if by := w.get("w").Status.Steps[0].ApprovedBy; by != "ann" {
					t.Errorf("approved by %q", by)
				}
			})
		})
	}
	t.Run("a rejection fails the step", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.machine("m", "b1")
			w.template("t", &pb.TemplateSpec{Steps: []*pb.Step{{Id: "ask", Uses: "approval"}, {Id: "b", Uses: "noop"}}, OnFailure: []*pb.Step{{Id: "f", Uses: "noop"}}})
			w.create("w", "t", "m")
			a := w.agent("m", "b1")
			a.mustConnect()
			if _, err := a.work(); err != nil {
				t.Fatal(err)
			}
			if _, err := w.c.Approve(t.Context(), "w", "ask", true, "ann"); err != nil {
				t.Fatal(err)
			}
			if _, err := a.work(); err != nil {
				t.Fatal(err)
			}
			w.want("w", pb.WorkflowState_WORKFLOW_FAILED, "rejected by ann")
			if a.ran["f"] != 1 {
				t.Error("on_failure did not run")
			}
		})
	})
}

func TestController_Retry(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "b1")
		w.template("t", noops("a", "b", "c"))
		w.create("w", "t", "m")
		a := w.agent("m", "b1")
		broken := true
		a.outcome = func(step string, _ uint32) *pb.StepChange {
			if step == "b" && broken {
				return &pb.StepChange{State: pb.StepState_STEP_FAILED, Error: "disk on fire", ExitCode: proto.Int32(3), LastOutput: []string{"smoke"}}
			}
			return nil
		}
		a.mustConnect()
		if _, err := a.work(); err != nil {
			t.Fatal(err)
		}
		w.want("w", pb.WorkflowState_WORKFLOW_FAILED, `step "b" (noop) failed: disk on fire (exit code 3)`)
		if _, err := w.c.Retry(t.Context(), "w", "nope", "ann"); err == nil {
			t.Error("retried from a step that isn't there")
		}
		broken = false
		wf, err := w.c.Retry(t.Context(), "w", "", "ann")
		if err != nil {
			t.Fatal(err)
		}
		if wf.Status.Run != 2 || wf.Status.State != pb.WorkflowState_RUNNING {
			t.Errorf("run %d, %v", wf.Status.Run, wf.Status.State)
		}
		if _, err := w.c.Retry(t.Context(), "w", "", "ann"); !errors.Is(err, ErrNotEnded) {
			t.Errorf("retried while it runs: %v", err)
		}
		if _, err := a.work(); err != nil {
			t.Fatal(err)
		}
		w.want("w", pb.WorkflowState_SUCCEEDED, "")
		if got := summary(w.get("w")); got != "a:succeeded/1 b:succeeded/2 c:succeeded/1" {
			t.Error(got)
		}
		if _, err := w.c.Retry(t.Context(), "w", "", "ann"); err == nil {
			t.Error("retried a success without saying from where")
		}
		if _, err := w.c.Retry(t.Context(), "w", "c", "ann"); err != nil {
			t.Fatal(err)
		}
		if _, err := a.work(); err != nil {
			t.Fatal(err)
		}
		if got := summary(w.get("w")); got != "a:succeeded/1 b:succeeded/2 c:succeeded/2" {
			t.Error(got)
		}
	})
}

// logs returns all lines of a workflow's log, as Follow sends them.
func (w *world) logs(name string) string {
	w.t.Helper()
	var lines []string
	err := w.c.Follow(w.t.Context(), name, FollowOptions{History: true, NoFollow: true}, func(r *pb.FollowWorkflowResponse) error {
		if l := r.GetLog(); l != nil {
			lines = append(lines, l.GetText())
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Join(lines, "|")
}

func TestController_Secrets(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.secrets["db"] = map[string]string{"password": "hunter2", "key": "line one\nline two\n", "other": "never"}
		w.secrets["else"] = map[string]string{"x": "untold"}
		w.machine("m", "b1")
		w.template("t", &pb.TemplateSpec{Steps: []*pb.Step{
			{Id: "a", Uses: "command", With: map[string]*structpb.Value{"command": mustValue([]any{"login", "${{ secrets.db.password }}"})}},
		}})
		w.create("w", "t", "m")
		a := w.agent("m", "b1")
		a.mustConnect()
		if len(a.plan.Secrets) != 1 || a.plan.Secrets["db"].Data["password"] != "hunter2" {
			t.Errorf("secrets in the plan: %v", a.plan.Secrets)
		}
		a.start("a")
		a.log("a", "password is hunter2, in base64 aHVudGVyMg==")
		a.mustFlush()
		w.stop() // the next server has to open the secrets again
		a.session = nil
		w.boot(0, false)
		a.mustConnect()
		a.log("a", "then line two of the key")
		a.change(&pb.StepChange{Step: "a", State: pb.StepState_STEP_FAILED, Attempt: 1, Error: "hunter2 refused", LastOutput: []string{"x hunter2"}})
		a.mustFlush()
		if got, want := w.logs("w"), "password is ***, in base64 ***|then *** of the key"; got != want {
			t.Errorf("log %q, want %q", got, want)
		}
		w.want("w", pb.WorkflowState_WORKFLOW_FAILED, "*** refused")
		page, err := w.bolt.List(t.Context(), "/", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range page.KVs {
			if strings.Contains(string(kv.Value), "hunter2") {
				t.Errorf("%s holds the secret", kv.Key)
			}
		}
	})
}

func TestController_Outputs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "b1")
		w.template("t", noops("a", "b"))
		w.create("w", "t", "m")
		a := w.agent("m", "b1")
		a.outcome = func(step string, _ uint32) *pb.StepChange {
			size := 100
			if step == "b" {
				size = maxStepOutputs + 1
			}
			return &pb.StepChange{State: pb.StepState_STEP_SUCCEEDED, Outputs: map[string]*structpb.Value{"path": mustValue(strings.Repeat("x", size))}}
		}
		a.mustConnect()
		if _, err := a.work(); err != nil {
			t.Fatal(err)
		}
		w.want("w", pb.WorkflowState_WORKFLOW_FAILED, "its outputs have 196")
		if got := w.get("w").Status.Steps[0].Outputs["path"].GetStringValue(); len(got) != 100 {
			t.Errorf("outputs of %d bytes", len(got))
		}
	})
	for name, c := range map[string]struct {
		size, kept int
		cause      string
	}{"a failed step's outputs are kept": {100, 100, "it broke"}, "too many of them are left out, and its error is not lost": {maxStepOutputs + 1, 0, "it broke (its outputs were left out: they have 196"}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.machine("m", "b1")
				w.template("t", noops("a"))
				w.create("w", "t", "m")
				a := w.agent("m", "b1")
				a.outcome = func(string, uint32) *pb.StepChange {
					return &pb.StepChange{State: pb.StepState_STEP_FAILED, Error: "it broke", Outputs: map[string]*structpb.Value{"results": mustValue(strings.Repeat("x", c.size))}}
				}
				a.mustConnect()
				if _, err := a.work(); err != nil {
					t.Fatal(err)
				}
				w.want("w", pb.WorkflowState_WORKFLOW_FAILED, c.cause)
				if got := w.get("w").Status.Steps[0].Outputs["results"].GetStringValue(); len(got) != c.kept {
					t.Errorf("outputs of %d bytes", len(got))
				}
			})
		})
	}
}

func TestController_MachineDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "b1")
		w.template("t", noops("a"))
		w.create("w", "t", "m")
		if err := resource.Delete[*pb.Machine](t.Context(), w.db, "m", 0); err != nil {
			t.Fatal(err)
		}
		w.want("w", pb.WorkflowState_WORKFLOW_FAILED, "machine m was deleted")
	})
}

func TestController_WorkflowDeleted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "b1")
		w.template("t", noops("a"))
		w.create("w", "t", "m")
		w.create("w2", "t", "m")
		a := w.agent("m", "b1")
		a.mustConnect()
		a.start("a")
		a.log("a", "x")
		a.mustFlush()
		if err := resource.Delete[*pb.Workflow](t.Context(), w.db, "w", 0); err != nil {
			t.Fatal(err)
		}
		w.want("w2", pb.WorkflowState_RUNNING, "")
		page, err := w.bolt.List(t.Context(), logPrefix, "", 0)
		if err != nil || len(page.KVs) != 0 {
			t.Errorf("log is left: %v, %v", page.KVs, err)
		}
		if _, err := a.work(); err != nil {
			t.Fatal(err)
		}
		w.want("w2", pb.WorkflowState_SUCCEEDED, "")
	})
}

func TestController_Maintenance(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "")
		w.template("t", noops("a"))
		set := func(on bool) {
			if _, err := resource.Update(t.Context(), w.db, "m", func(m *pb.Machine) error { m.Spec.Maintenance = on; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		set(true)
		w.create("w", "t", "m")
		w.want("w", pb.WorkflowState_QUEUED, "machine m is in maintenance")
		set(false)
		w.want("w", pb.WorkflowState_WAITING_FOR_MACHINE, "")
	})
}

func TestController_Follow(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "b1")
		w.template("t", noops("a", "b"))
		w.create("w", "t", "m")
		a := w.agent("m", "b1")
		a.mustConnect()
		a.start("a")
		a.log("a", "before")
		a.mustFlush()
		var got []string
		done := make(chan error, 1)
		go func() {
			done <- w.c.Follow(t.Context(), "w", FollowOptions{History: true}, func(r *pb.FollowWorkflowResponse) error {
				switch e := r.Event.(type) {
				case *pb.FollowWorkflowResponse_Workflow:
					got = append(got, e.Workflow.Status.State.String()+" "+summary(e.Workflow))
				case *pb.FollowWorkflowResponse_Log:
					got = append(got, e.Log.Text)
				case *pb.FollowWorkflowResponse_Progress:
					got = append(got, fmt.Sprint(e.Progress.Step, " ", e.Progress.Progress.Done))
				}
				return nil
			})
		}()
		synctest.Wait()
		w.c.SetProgress(a.session, "w", "a", &pb.Progress{Done: 7})
		w.c.SetProgress(a.session, "w", "b", &pb.Progress{Done: 1}) // it doesn't run
		synctest.Wait()
		if p := w.c.WithProgress(w.get("w")).Status.Steps[0].Progress; p.GetDone() != 7 {
			t.Errorf("progress %v", p)
		}
		a.end("a", pb.StepState_STEP_SUCCEEDED, "")
		a.start("b")
		a.log("b", "after")
		a.mustFlush()
		a.end("b", pb.StepState_STEP_SUCCEEDED, "")
		a.mustFlush()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := []string{"RUNNING a:running/1 b:pending/0", "before", "a 7", "RUNNING a:succeeded/1 b:running/1", "after", "SUCCEEDED a:succeeded/1 b:succeeded/1"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("followed (-want +got):\n%s", diff)
		}
	})
}

func TestController_LogsAreBounded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "b1")
		w.template("t", noops("a"))
		w.create("w", "t", "m")
		a := w.agent("m", "b1")
		a.mustConnect()
		a.start("a")
		line := strings.Repeat("x", 8<<10)
		n := 0
		for range 50 {
			for range 60 {
				n++
				a.log("a", fmt.Sprint(n, " ", line))
			}
			a.mustFlush()
		}
		lines := strings.Split(w.logs("w"), "|")
		if !strings.HasPrefix(lines[0], "[") || !strings.Contains(lines[0], "earlier lines are gone: a workflow keeps 16 MiB of log]") {
			t.Errorf("first line %.80q", lines[0])
		}
		var lost int
		if _, err := fmt.Sscanf(lines[0], "[%d", &lost); err != nil || lost+len(lines)-1 != n {
			t.Errorf("%d lines lost and %d there, of %d", lost, len(lines)-1, n)
		}
		if !strings.HasPrefix(lines[1], fmt.Sprint(lost+1, " ")) || !strings.HasPrefix(lines[len(lines)-1], fmt.Sprint(n, " ")) {
			t.Error("the wrong lines are left")
		}
		b, err := w.c.openLogs(context.Background(), w.get("w").Metadata.Uid)
		if err != nil || b.total > maxLogBytes {
			t.Errorf("%d bytes of log, %v", b.total, err)
		}
	})
}

func TestController_RecordStaysSmall(t *testing.T) {
	wf := workflowFor("w", "t", "m")
	wf.Status = &pb.WorkflowStatus{}
	for i := range 100 {
		s := &pb.StepStatus{Id: fmt.Sprint("s", i)}
		for k := range 30 {
			s.Attempts = append(s.Attempts, &pb.StepAttempt{Number: uint32(k + 1), Error: strings.Repeat("e", 1000), LastOutput: []string{strings.Repeat("x", 4000)}})
		}
		wf.Status.Steps = append(wf.Status.Steps, s)
	}
	trim(wf)
	if n := proto.Size(wf); n > store.MaxValueBytes {
		t.Errorf("%d bytes", n)
	}
	if s := wf.Status.Steps[99]; len(s.Attempts) != 30 || s.Attempts[29].Error != strings.Repeat("e", 1000) {
		t.Error("an attempt is lost, or the last one's error")
	}
}
