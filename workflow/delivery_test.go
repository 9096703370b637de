package workflow

import (
	"errors"
	"testing"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func TestController_Delivery(t *testing.T) {
	prepare := func(t *testing.T, w *world) *agent {
		w.machine("m", "b1")
		w.template("t", noops("a", "b"))
		w.create("w", "t", "m")
		a := w.agent("m", "b1")
		a.mustConnect()
		return a
	}
	t.Run("events that come twice count once", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			a := prepare(t, w)
			a.start("a")
			a.log("a", "hello")
			a.end("a", pb.StepState_STEP_SUCCEEDED, "")
			events := &pb.StepEvents{WorkflowUid: a.uid, Run: a.number, Events: a.unacked}
			for range 3 {
				acks, err := w.c.Report(t.Context(), a.session, []*pb.StepEvents{events, events})
				if err != nil || len(acks) != 1 || acks[0].Sequence != 3 {
					t.Fatalf("acks %v, %v", acks, err)
				}
			}
			if got := summary(w.get("w")); got != "a:succeeded/1 b:pending/0" {
				t.Error(got)
			}
			if got := w.logs("w"); got != "hello" {
				t.Errorf("log %q", got)
			}
		})
	})
	t.Run("an agent whose acks were lost is told again", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			a := prepare(t, w)
			a.start("a")
			a.mustFlush()
			lost := []*pb.StepEvent{{Sequence: 1}}
			a.unacked = append(lost, a.unacked...)
			a.disconnect()
			w.restart()
			a.mustConnect()
			if len(a.unacked) != 0 || a.plan == nil {
				t.Errorf("unacked %v", a.unacked)
			}
		})
	})
	t.Run("missing numbers are refused", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			a := prepare(t, w)
			a.seq = 5
			a.start("a")
			if err := a.flush(); !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("what can't be fails the workflow", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			a := prepare(t, w)
			a.say(&pb.StepEvent{Event: &pb.StepEvent_Change{Change: &pb.StepChange{Step: "b", State: pb.StepState_STEP_SUCCEEDED, Attempt: 1}}})
			a.mustFlush()
			w.want("w", pb.WorkflowState_WORKFLOW_FAILED, "the agent reported what can't be")
			if a.cancel == "" {
				t.Error("the agent was not told to stop")
			}
		})
	})
	t.Run("events of a run that is over are acknowledged and passed over", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			a := prepare(t, w)
			a.start("a")
			if _, err := w.c.Cancel(t.Context(), "w", ""); err != nil {
				t.Fatal(err)
			}
			a.mustFlush()
			if len(a.unacked) != 0 {
				t.Errorf("unacked %v", a.unacked)
			}
			w.want("w", pb.WorkflowState_CANCELLED, "")
		})
	})
}
