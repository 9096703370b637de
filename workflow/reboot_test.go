package workflow

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/plan"
)

func TestController_Reboot(t *testing.T) {
	reboot := func(boot string) *pb.TemplateSpec {
		spec := noops("a", "r", "b")
		spec.Steps[1].Uses = "machine.reboot"
		spec.Steps[1].With = map[string]*structpb.Value{"boot": mustValue(boot)}
		return spec
	}
	t.Run("to the agent and on", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.machine("m", "b1")
			w.template("t", reboot("agent"))
			w.create("w", "t", "m")
			a := w.agent("m", "b1")
			a.mustConnect()
			if left, err := a.work(); left != "agent" || err != nil {
				t.Fatal(left, err)
			}
			if m := w.getMachine("m"); m.Status.NextBoot != pb.NextBoot_AGENT {
				t.Errorf("next boot %v", m.Status.NextBoot)
			}
			a.disconnect()
			time.Sleep(time.Minute)
			w.enrol("m", "b2")
			a = w.agent("m", "b2")
			a.mustConnect()
			if _, err := a.work(); err != nil {
				t.Fatal(err)
			}
			w.want("w", pb.WorkflowState_SUCCEEDED, "")
			wf := w.get("w")
			if got := summary(wf); got != "a:succeeded/1 r:succeeded/1 b:succeeded/1" {
				t.Error(got)
			}
			if diff := cmp.Diff([]string{"b1", "b2"}, wf.Status.BootIds); diff != "" {
				t.Errorf("boots (-want +got):\n%s", diff)
			}
		})
	})
	t.Run("to the disk as the last step", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			spec := reboot("disk")
			spec.Steps = spec.Steps[:2]
			w.machine("m", "b1")
			w.template("t", spec)
			w.create("w", "t", "m")
			a := w.agent("m", "b1")
			a.mustConnect()
			if left, err := a.work(); left != "disk" || err != nil {
				t.Fatal(left, err)
			}
			w.want("w", pb.WorkflowState_SUCCEEDED, "")
			if m := w.getMachine("m"); m.Status.NextBoot != pb.NextBoot_DISK {
				t.Errorf("next boot %v", m.Status.NextBoot)
			}
			// The kernel refuses after all.
			a.end("r", pb.StepState_STEP_FAILED, "operation not permitted")
			a.mustFlush()
			w.want("w", pb.WorkflowState_WORKFLOW_FAILED, "operation not permitted")
		})
	})
	t.Run("power is lost while a step runs", func(t *testing.T) {
		for action, want := range map[string]string{"noop": "a:succeeded/2", "command": "a:failed/1"} {
			inWorld(t, func(t *testing.T, w *world) {
				spec := noops("a")
				spec.Steps[0].Uses = action
				if action == "command" {
					spec.Steps[0].With = map[string]*structpb.Value{"command": mustValue([]any{"x"})}
				}
				w.machine("m", "b1")
				w.template("t", spec)
				w.create("w", "t", "m")
				a := w.agent("m", "b1")
				a.hold = "a"
				a.mustConnect()
				if _, err := a.work(); err != nil {
					t.Fatal(err)
				}
				w.enrol("m", "b2")
				if err := a.listen(); !errors.Is(err, ErrFenced) {
					t.Errorf("the old boot goes on: %v", err)
				}
				a.disconnect()
				b := w.agent("m", "b2")
				b.mustConnect()
				if _, err := b.work(); err != nil {
					t.Fatal(err)
				}
				if got := summary(w.get("w")); got != want {
					t.Errorf("%s: %s, want %s", action, got, want)
				}
				if e := w.get("w").Status.Steps[0].Attempts[0]; e.Error != plan.Interrupted || e.BootId != "b1" {
					t.Errorf("attempt %v", e)
				}
			})
		}
	})
}

func TestController_Fencing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine("m", "b1")
		w.template("t", noops("a"))
		w.create("w", "t", "m")
		old := w.agent("m", "b1")
		old.mustConnect()
		old.start("a")
		w.enrol("m", "b2")
		if err := old.connect(); !errors.Is(err, ErrFenced) {
			t.Errorf("the old boot connects: %v", err)
		}
		fresh := w.agent("m", "b2")
		fresh.mustConnect()
		if err := old.flush(); !errors.Is(err, ErrFenced) {
			t.Errorf("the old boot reports: %v", err)
		}
		if _, err := fresh.work(); err != nil {
			t.Fatal(err)
		}
		w.want("w", pb.WorkflowState_SUCCEEDED, "")
		if got := w.get("w").Status.Steps[0].Attempts; len(got) != 1 || got[0].BootId != "b2" {
			t.Errorf("attempts %v", got)
		}
	})
}
