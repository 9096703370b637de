package workflow

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// TestController_Crash kills the server at every transaction of a workflow
// with a reboot in it, before and after it is durable. The workflow ends as if
// nothing had happened, and no step that mustn't runs twice.
func TestController_Crash(t *testing.T) {
	spec := noops("a", "cmd", "r", "b")
	spec.Steps[1].Uses = "command"
	spec.Steps[1].With = map[string]*structpb.Value{"command": mustValue([]any{"x"})}
	spec.Steps[2].Uses = "machine.reboot"
	for _, late := range []bool{false, true} {
		for crash := 1; ; crash++ {
			crashed := true
			inWorld(t, func(t *testing.T, w *world) {
				w.machine("m", "b1")
				w.template("t", spec)
				w.stop()
				w.boot(crash, late)
				crashed = runThrough(t, w)
				w.want("w", pb.WorkflowState_SUCCEEDED, "")
				if got := summary(w.get("w")); got != "a:succeeded/1 cmd:succeeded/1 r:succeeded/1 b:succeeded/1" {
					t.Errorf("crash at %d, late %v: %s", crash, late, got)
				}
				if got := w.logs("w"); got != "one|two" {
					t.Errorf("crash at %d, late %v: log %q", crash, late, got)
				}
				if m := w.getMachine("m"); m.Status.Workflow != "" || m.Status.NextBoot != pb.NextBoot_DISK {
					t.Errorf("crash at %d, late %v: machine %v", crash, late, m.Status)
				}
			})
			if !crashed {
				if crash < 8 {
					t.Errorf("only %d transactions", crash)
				}
				break
			}
		}
	}
}

// runThrough takes the workflow from its creation to its end, over as many
// servers as it takes, and reports whether one was killed.
func runThrough(t *testing.T, w *world) (crashed bool) {
	t.Helper()
	survive := func(what func() error) {
		for range 3 {
			err := what()
			if err == nil || errors.Is(err, resource.ErrExists) {
				return
			}
			if !w.store.dead {
				t.Fatal(err)
			}
			crashed = true
			w.stop()
			w.boot(0, false)
		}
		t.Fatal("the server is killed again and again")
	}
	survive(func() error {
		_, err := w.c.Create(t.Context(), workflowFor("w", "t", "m"))
		return err
	})
	boot := 1
	a := w.agent("m", "b1")
	said := false
	for range 20 {
		left := ""
		survive(func() (err error) {
			if w.store.dead {
				return errCrash // killed while nobody waited for it
			}
			if err = a.connect(); err != nil {
				return err
			}
			if err = a.listen(); err != nil {
				return err
			}
			if a.run != nil && !said {
				said = true
				a.log("a", "one")
				a.log("a", "two")
			}
			left, err = a.work()
			return err
		})
		if leaving := a.run != nil && a.run.Step("r").GetState() == pb.StepState_STEP_RUNNING; left == "agent" || leaving && len(a.unacked) == 0 {
			boot++
			w.enrol("m", fmt.Sprint("b", boot))
			if a.ran["cmd"] != 1 {
				t.Errorf("a step that must not run twice ran %d times", a.ran["cmd"])
			}
			a = w.agent("m", fmt.Sprint("b", boot))
			continue
		}
		synctest.Wait()
		if w.get("w").Status.State == pb.WorkflowState_SUCCEEDED && !w.store.dead {
			return crashed
		}
	}
	t.Fatalf("the workflow doesn't end: %v %s; agent has %v, unacked %v, cancel %q", w.get("w").Status.State, summary(w.get("w")), a.run, a.unacked, a.cancel)
	return crashed
}
