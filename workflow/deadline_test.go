package workflow

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/plan"
)

func TestController_Deadlines(t *testing.T) {
	start := func(t *testing.T, w *world, spec *pb.TemplateSpec) *agent {
		w.machine("m", "b1")
		w.template("t", spec)
		w.create("w", "t", "m")
		a := w.agent("m", "b1")
		a.mustConnect()
		return a
	}
	t.Run("the machine never shows up", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.machine("m", "")
			w.template("t", noops("a"))
			w.create("w", "t", "m")
			w.create("next", "t", "m")
			time.Sleep(plan.DefaultMachineTimeout - time.Second)
			w.want("w", pb.WorkflowState_WAITING_FOR_MACHINE, "")
			time.Sleep(2 * time.Second)
			w.want("w", pb.WorkflowState_WORKFLOW_FAILED, "machine m never showed up: its agent did not connect within 30m0s; see `bedplate machine explain m`")
			w.want("next", pb.WorkflowState_WAITING_FOR_MACHINE, "")
		})
	})
	t.Run("a restart of the server doesn't give the machine more time", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			w.machine("m", "")
			w.template("t", noops("a"))
			w.create("w", "t", "m")
			time.Sleep(20 * time.Minute)
			w.restart()
			time.Sleep(10*time.Minute + time.Second)
			w.want("w", pb.WorkflowState_WORKFLOW_FAILED, "never showed up")
		})
	})
	t.Run("the workflow takes too long", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			spec := noops("a")
			spec.Timeout = "1h"
			spec.Steps[0].Timeout = "10h"
			a := start(t, w, spec)
			a.start("a")
			a.mustFlush()
			time.Sleep(time.Hour + time.Second)
			w.want("w", pb.WorkflowState_WORKFLOW_FAILED, `the workflow took longer than its timeout of 1h0m0s; step "a" (noop) was running`)
			a.mustListen()
			if a.cancel == "" {
				t.Error("the agent was not told")
			}
			if s := w.sights[len(w.sights)-1]; s.Event != "step-failed" || !strings.HasPrefix(s.Detail, "a the workflow took longer") {
				t.Errorf("the timeline's last is %v", s)
			}
		})
	})
	t.Run("the machine stays away", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			spec := noops("a")
			spec.Steps[0].Timeout = "5h"
			a := start(t, w, spec)
			a.start("a")
			a.mustFlush()
			a.disconnect()
			time.Sleep(29 * time.Minute)
			a.mustConnect()
			time.Sleep(29 * time.Minute)
			w.want("w", pb.WorkflowState_RUNNING, "")
			a.disconnect()
			time.Sleep(31 * time.Minute)
			w.want("w", pb.WorkflowState_WORKFLOW_FAILED, `machine m has been away for 30m0s`)
		})
	})
	t.Run("the agent hangs in a step", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			a := start(t, w, noops("a"))
			a.start("a")
			a.mustFlush()
			time.Sleep(time.Minute + stepGrace + time.Second)
			w.want("w", pb.WorkflowState_WORKFLOW_FAILED, `did not end a step in time; step "a" (noop) was running: it may hang`)
		})
	})
	t.Run("nobody approves", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			a := start(t, w, &pb.TemplateSpec{Steps: []*pb.Step{{Id: "ask", Uses: "approval", Timeout: "1h"}, {Id: "b", Uses: "noop"}}})
			if _, err := a.work(); err != nil {
				t.Fatal(err)
			}
			w.want("w", pb.WorkflowState_WAITING_FOR_APPROVAL, "waits for approval")
			if got := w.get("w").Status.Deadline.AsTime().Sub(w.get("w").Status.RunTime.AsTime()); got != time.Hour {
				t.Errorf("deadline after %s", got)
			}
			time.Sleep(time.Hour + time.Second)
			w.want("w", pb.WorkflowState_WORKFLOW_FAILED, `step "ask" (approval) failed: nobody approved it within 1h0m0s`)
		})
	})
	t.Run("a cancelled agent doesn't stop", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			a := start(t, w, &pb.TemplateSpec{Steps: []*pb.Step{{Id: "a", Uses: "command", With: map[string]*structpb.Value{"command": mustValue([]any{"x"})}}}})
			a.start("a")
			a.mustFlush()
			if _, err := w.c.Cancel(t.Context(), "w", "no longer needed"); err != nil {
				t.Fatal(err)
			}
			a.mustListen()
			if a.cancel == "" {
				t.Error("the agent was not told")
			}
			w.want("w", pb.WorkflowState_RUNNING, "is being cancelled: no longer needed")
			time.Sleep(cancelGrace + time.Second)
			w.want("w", pb.WorkflowState_CANCELLED, "cancelled: no longer needed")
		})
	})
}
