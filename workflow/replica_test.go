package workflow

import (
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// TestController_TwoServers has people at one server and the agent at another,
// on one store.
func TestController_TwoServers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		people, stopPeople := w.c, w.stop
		defer stopPeople()
		w.boot(0, false)
		agents := w.c
		w.machine("m", "b1")
		w.template("t", &pb.TemplateSpec{Steps: []*pb.Step{
			{Id: "ask", Uses: "approval"},
			{Id: "cmd", Uses: "command", With: map[string]*structpb.Value{"command": mustValue([]any{"x"})}},
		}})
		a := w.agent("m", "b1")
		a.mustConnect()
		w.c = people
		w.create("w", "t", "m")
		w.c = agents
		w.want("w", pb.WorkflowState_WAITING_FOR_MACHINE, "")
		// The server that has the agent starts it as soon as it hears of it.
		a.mustListen()
		w.want("w", pb.WorkflowState_RUNNING, "")
		if _, err := a.work(); err != nil {
			t.Fatal(err)
		}
		if _, err := people.Approve(t.Context(), "w", "ask", false, "ann"); err != nil {
			t.Fatal(err)
		}
		a.mustListen()
		a.start("cmd")
		a.log("cmd", "hello")
		a.mustFlush()
		w.c = people
		if got := w.logs("w"); got != "hello" {
			t.Errorf("log %q", got)
		}
		if _, err := people.Cancel(t.Context(), "w", "enough"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		a.mustListen()
		if a.cancel == "" {
			t.Error("the agent was not told")
		}
	})
}
