package plan

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

var start = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func noops(ids ...string) *pb.TemplateSpec {
	t := &pb.TemplateSpec{}
	for _, id := range ids {
		t.Steps = append(t.Steps, &pb.Step{Id: id, Uses: "noop"})
	}
	return t
}

func mustRun(t testing.TB, spec *pb.TemplateSpec) *Run {
	t.Helper()
	g, err := NewGraph(spec)
	if err != nil {
		t.Fatal(err)
	}
	return New(g, 1)
}

// states returns id:state of every step, shortened.
func states(r *Run) string {
	var out []string
	for _, s := range r.Steps() {
		out = append(out, s.GetId()+":"+strings.ToLower(strings.TrimPrefix(s.GetState().String(), "STEP_")))
	}
	return strings.Join(out, " ")
}

func mustApply(t testing.TB, r *Run, c *pb.StepChange, now time.Time) {
	t.Helper()
	if err := r.Apply(c, "b1", now); err != nil {
		t.Fatalf("applying %v: %v", c, err)
	}
}

func begin(t testing.TB, r *Run, id string, now time.Time) {
	t.Helper()
	mustApply(t, r, r.Start(id), now)
}

func finish(t testing.TB, r *Run, id string, state pb.StepState, now time.Time) {
	t.Helper()
	mustApply(t, r, &pb.StepChange{Step: id, State: state, Attempt: uint32(len(r.Step(id).Attempts)), Error: "broken"}, now)
}

func TestNewGraph(t *testing.T) {
	tests := []struct {
		name string
		spec *pb.TemplateSpec
		want string
	}{
		{"a circle is named", &pb.TemplateSpec{Steps: []*pb.Step{
			{Id: "a", Uses: "noop", Needs: []string{"c"}}, {Id: "b", Uses: "noop", Needs: []string{"a"}}, {Id: "c", Uses: "noop", Needs: []string{"b"}},
		}}, "spec.steps[0].needs: steps need each other in a circle: a → c → b → a; remove one of these needs"},
		{"a step that needs itself", &pb.TemplateSpec{Steps: []*pb.Step{{Id: "a", Uses: "noop", Needs: []string{"a"}}}},
			"spec.steps[0].needs: steps need each other in a circle: a → a; remove one of these needs"},
		{"a circle through the order of the list", &pb.TemplateSpec{Steps: []*pb.Step{{Id: "a", Uses: "noop", Needs: []string{"b"}}, {Id: "b", Uses: "noop"}}},
			"spec.steps[0].needs: steps need each other in a circle: a → b → a; remove one of these needs"},
		{"needs that lead nowhere", &pb.TemplateSpec{Steps: []*pb.Step{{Id: "a", Uses: "noop", Needs: []string{"x"}}}},
			`spec.steps[0].needs[0]: there is no step "x"; the steps are a`},
		{"one id for two steps", noops("a", "a"), `spec.steps[1].id: the id "a" is taken by spec.steps[0]; give this step another`},
		{"durations", &pb.TemplateSpec{Timeout: "2 hours", Steps: []*pb.Step{{Uses: "noop", Timeout: "-1s", Retries: &pb.Retries{Backoff: "x"}}}},
			"spec.timeout: \"2 hours\" is not a duration between 1ns and 720h, such as 90s, 20m or 2h30m\nspec.steps[0].timeout: \"-1s\" is not a duration between 1ns and 720h, such as 90s, 20m or 2h30m\nspec.steps[0].retries.backoff: \"x\" is not a duration between 1ns and 720h, such as 90s, 20m or 2h30m"},
		{"needs in on_failure", &pb.TemplateSpec{Steps: []*pb.Step{{Id: "a", Uses: "noop"}}, OnFailure: []*pb.Step{{Uses: "noop", Needs: []string{"a"}}}},
			"spec.on_failure[0].needs: steps of on_failure run in the order of the list; remove needs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewGraph(tt.spec)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	t.Run("ids are made up where there are none", func(t *testing.T) {
		g, err := NewGraph(&pb.TemplateSpec{
			Steps:     []*pb.Step{{Uses: "disk.select"}, {Id: "noop_3", Uses: "noop"}, {Uses: "noop"}},
			OnFailure: []*pb.Step{{Uses: "logs.collect"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"disk_select_1", "noop_3", "noop_3_", "on_failure_logs_collect_1"}, g.IDs()); diff != "" {
			t.Errorf("ids (-want +got):\n%s", diff)
		}
	})
}

func TestRun_Order(t *testing.T) {
	r := mustRun(t, &pb.TemplateSpec{Steps: []*pb.Step{
		{Id: "a", Uses: "noop"}, {Id: "b", Uses: "noop"},
		{Id: "c", Uses: "noop", Needs: []string{"a"}}, {Id: "d", Uses: "noop", Needs: []string{"b", "c"}},
	}})
	steps := []struct {
		do   string
		want []string
	}{{"", []string{"a"}}, {"a", []string{"b", "c"}}, {"c", []string{"b"}}, {"b", []string{"d"}}, {"d", nil}}
	for _, s := range steps {
		if s.do != "" {
			begin(t, r, s.do, start)
			finish(t, r, s.do, pb.StepState_STEP_SUCCEEDED, start)
		}
		if diff := cmp.Diff(s.want, r.Ready(start)); diff != "" {
			t.Errorf("after %q (-want +got):\n%s", s.do, diff)
		}
	}
	if state, cause := r.State(); state != pb.WorkflowState_SUCCEEDED || cause != "" {
		t.Errorf("state %v %q", state, cause)
	}
}

func TestRun_Retries(t *testing.T) {
	spec := noops("a", "b")
	spec.Steps[0].Retries = &pb.Retries{Max: 3, Backoff: "10s"}
	r := mustRun(t, spec)
	now := start
	for i, wait := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		begin(t, r, "a", now)
		if got := r.AfterFailure("a"); got != pb.StepState_STEP_BACKOFF {
			t.Fatalf("attempt %d: %v", i+1, got)
		}
		finish(t, r, "a", pb.StepState_STEP_BACKOFF, now)
		if got := r.Ready(now.Add(wait - 1)); got != nil {
			t.Errorf("attempt %d: ready too early: %v", i+1, got)
		}
		if next, ok := r.Next(); !ok || !next.Equal(now.Add(wait)) {
			t.Errorf("attempt %d: next at %v", i+1, next)
		}
		// The record says the same after a restart.
		again, err := Resume(r.Graph(), 1, r.Steps(), false, now)
		if err != nil {
			t.Fatal(err)
		}
		r = again
		now = now.Add(wait)
		if got := r.Ready(now); len(got) != 1 {
			t.Errorf("attempt %d: ready: %v", i+1, got)
		}
	}
	begin(t, r, "a", now)
	finish(t, r, "a", pb.StepState_STEP_BACKOFF, now)
	if got, want := states(r), "a:failed b:skipped"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if state, cause := r.State(); state != pb.WorkflowState_WORKFLOW_FAILED || cause != `step "a" (noop) failed after 4 attempts: broken` {
		t.Errorf("state %v %q", state, cause)
	}
}

func TestRun_BackoffWithAnotherClock(t *testing.T) {
	spec := noops("a")
	spec.Steps[0].Retries = &pb.Retries{Max: 1, Backoff: "10s"}
	r := mustRun(t, spec)
	begin(t, r, "a", start)
	finish(t, r, "a", pb.StepState_STEP_BACKOFF, start)
	past := start.Add(-24 * time.Hour)
	r, err := Resume(r.Graph(), 1, r.Steps(), false, past)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Ready(past.Add(10 * time.Second)); len(got) != 1 {
		t.Errorf("a clock that is a day behind makes the wait longer than 10s")
	}
}

func TestRun_OnFailure(t *testing.T) {
	spec := noops("a", "b")
	spec.OnFailure = []*pb.Step{{Id: "f", Uses: "noop"}, {Id: "g", Uses: "noop"}}
	t.Run("its steps run in order, whatever becomes of each", func(t *testing.T) {
		r := mustRun(t, spec)
		begin(t, r, "a", start)
		finish(t, r, "a", pb.StepState_STEP_FAILED, start)
		begin(t, r, "f", start)
		if got := r.Ready(start); got != nil {
			t.Errorf("ready: %v", got)
		}
		finish(t, r, "f", pb.StepState_STEP_FAILED, start)
		if state, _ := r.State(); state != pb.WorkflowState_RUNNING {
			t.Errorf("state %v before the last", state)
		}
		begin(t, r, "g", start)
		finish(t, r, "g", pb.StepState_STEP_SUCCEEDED, start)
		if got, want := states(r), "a:failed b:skipped f:failed g:succeeded"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if _, cause := r.State(); cause != `step "a" (noop) failed: broken; then on_failure step "f" (noop) failed: broken` {
			t.Errorf("cause %q", cause)
		}
	})
	t.Run("a success skips it", func(t *testing.T) {
		r := mustRun(t, spec)
		for _, id := range []string{"a", "b"} {
			begin(t, r, id, start)
			finish(t, r, id, pb.StepState_STEP_SUCCEEDED, start)
		}
		if got, want := states(r), "a:succeeded b:succeeded f:skipped g:skipped"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestRun_Skip(t *testing.T) {
	r := mustRun(t, noops("a", "b"))
	mustApply(t, r, &pb.StepChange{Step: "a", State: pb.StepState_STEP_SKIPPED}, start)
	if diff := cmp.Diff([]string{"b"}, r.Ready(start)); diff != "" {
		t.Errorf("a step skipped by its if counts as done (-want +got):\n%s", diff)
	}
	begin(t, r, "b", start)
	finish(t, r, "b", pb.StepState_STEP_SUCCEEDED, start)
	if state, _ := r.State(); state != pb.WorkflowState_SUCCEEDED {
		t.Errorf("state %v", state)
	}
}

func TestRun_ParallelFailure(t *testing.T) {
	spec := &pb.TemplateSpec{Steps: []*pb.Step{
		{Id: "a", Uses: "noop"},
		{Id: "b", Uses: "noop", Needs: []string{"a"}}, {Id: "c", Uses: "noop", Needs: []string{"a"}, Retries: &pb.Retries{Max: 2}},
		{Id: "d", Uses: "noop", Needs: []string{"b", "c"}},
	}}
	r := mustRun(t, spec)
	begin(t, r, "a", start)
	finish(t, r, "a", pb.StepState_STEP_SUCCEEDED, start)
	begin(t, r, "b", start)
	begin(t, r, "c", start)
	finish(t, r, "b", pb.StepState_STEP_FAILED, start)
	if state, _ := r.State(); state != pb.WorkflowState_RUNNING {
		t.Errorf("state %v while c runs", state)
	}
	finish(t, r, "c", pb.StepState_STEP_BACKOFF, start)
	if got, want := states(r), "a:succeeded b:failed c:failed d:skipped"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRun_Interrupt(t *testing.T) {
	t.Run("an action that can run again does", func(t *testing.T) {
		r := mustRun(t, noops("a"))
		for i := 1; i < MaxInterruptions; i++ {
			begin(t, r, "a", start)
			r.Interrupt(fmt.Sprint("boot", i), start)
			if got := states(r); got != "a:pending" {
				t.Fatalf("after %d restarts: %s", i, got)
			}
		}
		begin(t, r, "a", start)
		r.Interrupt("last", start)
		if got := states(r); got != "a:failed" {
			t.Errorf("after %d restarts: %s", MaxInterruptions, got)
		}
		if a := r.Step("a").Attempts; len(a) != MaxInterruptions || a[0].Error != Interrupted || !a[0].Interrupted {
			t.Errorf("attempts %v", a)
		}
	})
	t.Run("an action that must not run twice fails", func(t *testing.T) {
		r := mustRun(t, &pb.TemplateSpec{Steps: []*pb.Step{{Id: "a", Uses: "command"}}})
		begin(t, r, "a", start)
		r.Interrupt("b2", start)
		if got := states(r); got != "a:failed" {
			t.Error(got)
		}
	})
	t.Run("on_interrupt decides otherwise", func(t *testing.T) {
		r := mustRun(t, &pb.TemplateSpec{Steps: []*pb.Step{
			{Id: "a", Uses: "command", OnInterrupt: "retry"}, {Id: "b", Uses: "noop", OnInterrupt: "fail"},
		}})
		begin(t, r, "a", start)
		r.Interrupt("b2", start)
		if got := states(r); got != "a:pending b:pending" {
			t.Fatal(got)
		}
		begin(t, r, "a", start)
		finish(t, r, "a", pb.StepState_STEP_SUCCEEDED, start)
		begin(t, r, "b", start)
		r.Interrupt("b3", start)
		if got := states(r); got != "a:succeeded b:failed" {
			t.Error(got)
		}
	})
	t.Run("interruptions don't count against the retries", func(t *testing.T) {
		spec := noops("a")
		spec.Steps[0].Retries = &pb.Retries{Max: 1}
		r := mustRun(t, spec)
		begin(t, r, "a", start)
		r.Interrupt("b2", start)
		begin(t, r, "a", start)
		if got := r.AfterFailure("a"); got != pb.StepState_STEP_BACKOFF {
			t.Error(got)
		}
	})
	t.Run("the same boot interrupts nothing", func(t *testing.T) {
		r := mustRun(t, noops("a"))
		begin(t, r, "a", start)
		if got := r.Interrupt("b1", start); got != nil {
			t.Error(got)
		}
	})
}

func TestRun_Leave(t *testing.T) {
	reboot := &pb.TemplateSpec{Steps: []*pb.Step{{Id: "r", Uses: "machine.reboot"}, {Id: "b", Uses: "noop"}}}
	leave := func(next string) *pb.StepChange {
		return &pb.StepChange{Step: "r", State: pb.StepState_STEP_RUNNING, Attempt: 1, Leaving: true, NextBoot: next}
	}
	t.Run("to the agent it succeeds when the agent is back", func(t *testing.T) {
		r := mustRun(t, reboot)
		begin(t, r, "r", start)
		mustApply(t, r, leave(LeaveAgent), start)
		if got := states(r); got != "r:running b:pending" {
			t.Fatal(got)
		}
		r.Interrupt("b2", start.Add(time.Minute))
		if got := states(r); got != "r:succeeded b:pending" {
			t.Error(got)
		}
		if a := r.Step("r").Attempts[0]; a.Interrupted || a.EndTime.AsTime().Sub(start) != time.Minute {
			t.Errorf("attempt %v", a)
		}
	})
	t.Run("to the disk it succeeds at once", func(t *testing.T) {
		for _, next := range []string{LeaveDisk, LeaveOff} {
			r := mustRun(t, reboot)
			mustApply(t, r, leave(next), start)
			if got := states(r); got != "r:succeeded b:pending" {
				t.Errorf("%s: %s", next, got)
			}
		}
	})
	t.Run("one that then doesn't leave has failed after all", func(t *testing.T) {
		r := mustRun(t, &pb.TemplateSpec{Steps: reboot.Steps[:1]})
		mustApply(t, r, leave(LeaveDisk), start)
		if state, _ := r.State(); state != pb.WorkflowState_SUCCEEDED {
			t.Fatal(state)
		}
		finish(t, r, "r", pb.StepState_STEP_FAILED, start)
		if state, cause := r.State(); state != pb.WorkflowState_WORKFLOW_FAILED || !strings.Contains(cause, "broken") {
			t.Errorf("%v %q", state, cause)
		}
	})
	t.Run("leaving for nowhere can't be", func(t *testing.T) {
		r := mustRun(t, reboot)
		if err := r.Apply(leave("moon"), "b1", start); !errors.Is(err, ErrMisfit) {
			t.Error(err)
		}
	})
}

func TestRun_Apply_Refuses(t *testing.T) {
	change := func(step string, state pb.StepState, attempt uint32) *pb.StepChange {
		return &pb.StepChange{Step: step, State: state, Attempt: attempt}
	}
	tests := []struct {
		name   string
		before []*pb.StepChange
		change *pb.StepChange
		want   error
	}{
		{"a step that isn't there", nil, change("x", pb.StepState_STEP_RUNNING, 1), ErrMisfit},
		{"a step whose turn it isn't", nil, change("b", pb.StepState_STEP_RUNNING, 1), ErrMisfit},
		{"a success without a start", nil, change("a", pb.StepState_STEP_SUCCEEDED, 1), ErrMisfit},
		{"a second attempt before the first", nil, change("a", pb.StepState_STEP_RUNNING, 2), ErrMisfit},
		{"a second attempt beside the first", []*pb.StepChange{change("a", pb.StepState_STEP_RUNNING, 1)}, change("a", pb.StepState_STEP_RUNNING, 2), ErrMisfit},
		{"the same start twice", []*pb.StepChange{change("a", pb.StepState_STEP_RUNNING, 1)}, change("a", pb.StepState_STEP_RUNNING, 1), ErrStale},
		{"the same end twice", []*pb.StepChange{change("a", pb.StepState_STEP_RUNNING, 1), change("a", pb.StepState_STEP_SUCCEEDED, 1)}, change("a", pb.StepState_STEP_SUCCEEDED, 1), ErrStale},
		{"a failure after a success", []*pb.StepChange{change("a", pb.StepState_STEP_RUNNING, 1), change("a", pb.StepState_STEP_SUCCEEDED, 1)}, change("a", pb.StepState_STEP_FAILED, 1), ErrStale},
		{"a wait that is no approval", nil, change("a", pb.StepState_STEP_WAITING, 1), ErrMisfit},
		{"pending", nil, change("a", pb.StepState_STEP_PENDING, 1), ErrMisfit},
		{"a skip that isn't due", nil, change("b", pb.StepState_STEP_SKIPPED, 0), ErrMisfit},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := mustRun(t, noops("a", "b"))
			for _, c := range tt.before {
				mustApply(t, r, c, start)
			}
			before := states(r)
			if err := r.Apply(tt.change, "b1", start); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if got := states(r); got != before {
				t.Errorf("changed from %s to %s", before, got)
			}
		})
	}
}

func TestRun_Approval(t *testing.T) {
	spec := &pb.TemplateSpec{Steps: []*pb.Step{{Id: "ask", Uses: "approval"}, {Id: "b", Uses: "noop"}}}
	waiting := func(t *testing.T) *Run {
		r := mustRun(t, spec)
		c := r.Start("ask")
		c.LastOutput = []string{"really?"}
		mustApply(t, r, c, start)
		if state, cause := r.State(); state != pb.WorkflowState_WAITING_FOR_APPROVAL || cause != `step "ask" waits for approval: really?` {
			t.Errorf("%v %q", state, cause)
		}
		return r
	}
	t.Run("approved", func(t *testing.T) {
		r := waiting(t)
		if err := r.Approve("ask", "ann", false, start); err != nil {
			t.Fatal(err)
		}
		if got := states(r); got != "ask:succeeded b:pending" || r.Step("ask").ApprovedBy != "ann" {
			t.Error(got)
		}
		if err := r.Approve("ask", "bob", true, start); !errors.Is(err, ErrMisfit) {
			t.Errorf("approved twice: %v", err)
		}
	})
	t.Run("rejected", func(t *testing.T) {
		r := waiting(t)
		if err := r.Approve("ask", "ann", true, start); err != nil {
			t.Fatal(err)
		}
		if _, cause := r.State(); cause != `step "ask" (approval) failed: rejected by ann` {
			t.Error(cause)
		}
	})
	t.Run("the agent can't approve", func(t *testing.T) {
		r := waiting(t)
		if err := r.Apply(&pb.StepChange{Step: "ask", State: pb.StepState_STEP_SUCCEEDED, Attempt: 1}, "b1", start); !errors.Is(err, ErrStale) {
			t.Error(err)
		}
	})
	t.Run("a restart doesn't end the wait", func(t *testing.T) {
		r := waiting(t)
		r.Interrupt("b2", start)
		if got := states(r); got != "ask:waiting b:pending" {
			t.Error(got)
		}
	})
}

func TestRun_Cancel(t *testing.T) {
	r := mustRun(t, noops("a", "b"))
	begin(t, r, "a", start)
	r.Cancel(false, start)
	if got := states(r); got != "a:running b:cancelled" {
		t.Fatal(got)
	}
	finish(t, r, "a", pb.StepState_STEP_CANCELLED, start)
	if state, _ := r.State(); state != pb.WorkflowState_CANCELLED {
		t.Error(state)
	}
	r = mustRun(t, noops("a", "b"))
	begin(t, r, "a", start)
	r.Cancel(true, start)
	if got := states(r); got != "a:cancelled b:cancelled" {
		t.Error(got)
	}
}

func TestRun_Abort(t *testing.T) {
	spec := noops("a", "b")
	spec.OnFailure = []*pb.Step{{Id: "f", Uses: "noop"}}
	r := mustRun(t, spec)
	begin(t, r, "a", start)
	r.Abort("too late", start)
	if got := states(r); got != "a:failed b:skipped f:skipped" {
		t.Error(got)
	}
	if state, cause := r.State(); state != pb.WorkflowState_WORKFLOW_FAILED || cause != "too late" {
		t.Errorf("%v %q", state, cause)
	}
}

func TestRun_Restart(t *testing.T) {
	spec := noops("a", "b", "c")
	spec.OnFailure = []*pb.Step{{Id: "f", Uses: "noop"}}
	failed := func(t *testing.T) *Run {
		r := mustRun(t, spec)
		begin(t, r, "a", start)
		finish(t, r, "a", pb.StepState_STEP_SUCCEEDED, start)
		begin(t, r, "b", start)
		finish(t, r, "b", pb.StepState_STEP_FAILED, start)
		begin(t, r, "f", start)
		finish(t, r, "f", pb.StepState_STEP_SUCCEEDED, start)
		return r
	}
	for from, want := range map[string]string{
		"":  "a:succeeded b:pending c:pending f:pending",
		"c": "a:succeeded b:pending c:pending f:pending",
		"a": "a:pending b:pending c:pending f:pending",
	} {
		r := failed(t)
		if err := r.Restart(from, 2); err != nil {
			t.Fatal(err)
		}
		if got := states(r); got != want {
			t.Errorf("from %q: got %s, want %s", from, got, want)
		}
		if len(r.Step("b").Attempts) != 1 {
			t.Errorf("from %q: attempts are lost", from)
		}
	}
	if err := failed(t).Restart("f", 2); !errors.Is(err, ErrMisfit) {
		t.Errorf("from on_failure: %v", err)
	}
	t.Run("retries count anew", func(t *testing.T) {
		spec := noops("a")
		spec.Steps[0].Retries = &pb.Retries{Max: 1}
		r := mustRun(t, spec)
		for range 2 {
			begin(t, r, "a", start)
			finish(t, r, "a", pb.StepState_STEP_BACKOFF, start)
		}
		if err := r.Restart("", 2); err != nil {
			t.Fatal(err)
		}
		begin(t, r, "a", start)
		if got := r.AfterFailure("a"); got != pb.StepState_STEP_BACKOFF {
			t.Error(got)
		}
	})
}

// TestRun_ResumeAnywhere carries a run through a template and makes it anew of
// its record after every change: nothing may differ.
func TestRun_ResumeAnywhere(t *testing.T) {
	spec := &pb.TemplateSpec{
		Steps: []*pb.Step{
			{Id: "a", Uses: "noop", Retries: &pb.Retries{Max: 1}}, {Id: "ask", Uses: "approval"},
			{Id: "r", Uses: "machine.reboot"}, {Id: "b", Uses: "command"},
		},
		OnFailure: []*pb.Step{{Id: "f", Uses: "noop"}},
	}
	r := mustRun(t, spec)
	now := start
	actions := []func(r *Run) error{
		func(r *Run) error { return r.Apply(r.Start("a"), "b1", now) },
		func(r *Run) error {
			return r.Apply(&pb.StepChange{Step: "a", State: pb.StepState_STEP_BACKOFF, Attempt: 1}, "b1", now)
		},
		func(r *Run) error { return r.Apply(r.Start("a"), "b1", now) },
		func(r *Run) error {
			return r.Apply(&pb.StepChange{Step: "a", State: pb.StepState_STEP_SUCCEEDED, Attempt: 2}, "b1", now)
		},
		func(r *Run) error { return r.Apply(r.Start("ask"), "b1", now) },
		func(r *Run) error { return r.Approve("ask", "ann", false, now) },
		func(r *Run) error {
			return r.Apply(&pb.StepChange{Step: "r", State: pb.StepState_STEP_RUNNING, Attempt: 1, Leaving: true, NextBoot: LeaveAgent}, "b1", now)
		},
		func(r *Run) error { r.Interrupt("b2", now); return nil },
		func(r *Run) error { return r.Apply(r.Start("b"), "b2", now) },
		func(r *Run) error { r.Interrupt("b3", now); return nil },
		func(r *Run) error { return r.Apply(r.Start("f"), "b3", now) },
	}
	for i, act := range actions {
		again, err := Resume(r.Graph(), r.Number(), r.Steps(), false, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(act(r), act(again)); err != nil {
			t.Fatalf("action %d: %v", i, err)
		}
		for k, s := range r.Steps() {
			if !proto.Equal(s, again.Steps()[k]) {
				t.Fatalf("action %d: step %v, resumed %v", i, s, again.Steps()[k])
			}
		}
		now = now.Add(time.Minute)
	}
	if got, want := states(r), "a:succeeded ask:succeeded r:succeeded b:failed f:running"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzRun sends a run any changes in any order: it doesn't panic, and reports
// success only of a run in which every step succeeded or was skipped in turn.
func FuzzRun(f *testing.F) {
	f.Add([]byte{0x02, 0x05, 0x12, 0x15, 0x22, 0x25}, uint8(0))
	f.Add([]byte{0x02, 0x83, 0x06, 0x90, 0xa1, 0xb2}, uint8(1))
	f.Add([]byte{0x32, 0xf0, 0xe1, 0x44}, uint8(2))
	f.Fuzz(func(t *testing.T, script []byte, shape uint8) {
		spec := noops("a", "b", "c", "d")
		spec.Steps[1].Uses = "command"
		spec.Steps[2].Uses = "machine.reboot"
		spec.Steps[3].Uses = "approval"
		spec.Steps[0].Retries = &pb.Retries{Max: 2}
		spec.OnFailure = []*pb.Step{{Id: "f", Uses: "noop"}}
		if shape&1 != 0 {
			spec.Steps[2].Needs = []string{"a"}
		}
		r := mustRun(t, spec)
		ids := r.Graph().IDs()
		now := start
		for i, b := range script {
			now = now.Add(time.Second)
			boot := fmt.Sprint("boot", i/7)
			id := ids[int(b>>4)%len(ids)]
			switch b & 0xf {
			case 0xf:
				r.Interrupt(boot, now)
			case 0xe:
				_ = r.Approve(id, "x", b&0x10 != 0, now)
			case 0xd:
				again, err := Resume(r.Graph(), r.Number(), r.Steps(), shape&2 != 0 && b&0x20 != 0, now)
				if err != nil {
					t.Fatal(err)
				}
				r = again
			default:
				c := &pb.StepChange{Step: id, State: pb.StepState(b & 0xf), Attempt: uint32(len(r.Step(id).Attempts))}
				if c.State == pb.StepState_STEP_RUNNING || c.State == pb.StepState_STEP_WAITING {
					c.Attempt++
				}
				if c.State == pb.StepState(0xa) {
					c.State, c.Leaving, c.NextBoot = pb.StepState_STEP_RUNNING, true, []string{LeaveAgent, LeaveDisk, LeaveOff}[int(b>>4)%3]
				}
				before := states(r)
				if err := r.Apply(c, boot, now); err != nil && states(r) != before {
					t.Fatalf("an error changed %s to %s", before, states(r))
				}
			}
			check(t, r)
		}
	})
}

func check(t *testing.T, r *Run) {
	t.Helper()
	for _, s := range r.Steps() {
		a := last(s)
		if s.GetState() == pb.StepState_STEP_SUCCEEDED && (a == nil || a.GetState() != pb.StepState_STEP_SUCCEEDED) {
			t.Fatalf("step %v has succeeded without an attempt that has", s)
		}
		if s.GetState() == pb.StepState_STEP_RUNNING && (a == nil || a.GetEndTime() != nil) {
			t.Fatalf("step %v runs without an attempt that does", s)
		}
		for i, a := range s.GetAttempts() {
			if a.GetNumber() != uint32(i)+1 {
				t.Fatalf("step %v has attempts out of order", s)
			}
		}
	}
	state, _ := r.State()
	if state != pb.WorkflowState_SUCCEEDED {
		return
	}
	for _, s := range r.Steps()[:r.graph.main] {
		if s.GetState() != pb.StepState_STEP_SUCCEEDED && s.GetState() != pb.StepState_STEP_SKIPPED {
			t.Fatalf("success was reported with step %v", s)
		}
	}
}
