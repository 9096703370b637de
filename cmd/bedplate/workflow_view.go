package main

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

// workflowView shows one workflow as it goes on: its states, those of its
// steps, and their progress. One goroutine uses it.
type workflowView struct {
	*app
	screen *table.Screen
	name   string
	last   *pb.Workflow
	// What was shown last of the workflow and of each step.
	shown string
	steps map[string]string
}

func newWorkflowView(a *app, screen *table.Screen, name string) *workflowView {
	return &workflowView{app: a, screen: screen, name: name, steps: map[string]string{}}
}

// show shows a message of the stream; log lines are left out.
func (v *workflowView) show(m *pb.FollowWorkflowResponse) {
	switch e := m.GetEvent().(type) {
	case *pb.FollowWorkflowResponse_Workflow:
		v.workflow(e.Workflow)
	case *pb.FollowWorkflowResponse_Progress:
		v.progress(e.Progress)
	}
}

// line prints a line; at nil is now.
func (v *workflowView) line(at *timestamppb.Timestamp, source, text string) {
	v.screen.Line(v.prefix(v.clock(at), source) + text)
}

func (v *workflowView) workflow(w *pb.Workflow) {
	v.last = w
	for _, s := range w.GetStatus().GetSteps() {
		v.step(s)
	}
	st := w.GetStatus()
	style := v.style(v.stdout)
	state := resource.EnumName(st.GetState())
	text := fmt.Sprintf("%s %s", v.name, style.State(strings.ReplaceAll(state, "_", " ")))
	switch {
	case v.result() != nil:
		text = fmt.Sprintf("%s %s: %s", v.name, style.Bad(state), table.Clean(st.GetCause()))
	case v.ended():
		text = fmt.Sprintf("%s %s in %s", v.name, style.Good(state), v.took(st.GetStartTime(), st.GetEndTime()))
	}
	if text != v.shown && state != "" {
		v.shown = text
		v.line(st.GetEndTime(), "workflow", text)
	}
}

// step shows what is new of a step.
func (v *workflowView) step(s *pb.StepStatus) {
	n := len(s.GetAttempts())
	now := fmt.Sprintf("%s %d", s.GetState(), n)
	was := v.steps[s.GetId()]
	v.steps[s.GetId()] = now
	if was == now || was == "" && s.GetState() <= pb.StepState_STEP_PENDING {
		return
	}
	if s.GetState() != pb.StepState_STEP_RUNNING {
		v.screen.Remove(v.barID(s.GetId()))
	}
	if text := v.stepText(s); text != "" {
		v.line(stepTime(s), "step", text)
	}
	if s.GetState() == pb.StepState_STEP_FAILED && n > 0 {
		for _, line := range s.GetAttempts()[n-1].GetLastOutput() {
			v.screen.Line(strings.Repeat(" ", 20) + v.style(v.stdout).Dim("| "+table.Clean(line)))
		}
	}
}

// stepTime is when a step came to be in its state; nil if nothing says so.
func stepTime(s *pb.StepStatus) *timestamppb.Timestamp {
	n := len(s.GetAttempts())
	switch {
	case n == 0:
		return nil
	case s.GetState() == pb.StepState_STEP_RUNNING:
		return s.GetAttempts()[n-1].GetStartTime()
	}
	return s.GetAttempts()[n-1].GetEndTime()
}

func (v *workflowView) stepText(s *pb.StepStatus) string {
	style := v.style(v.stdout)
	id := table.Clean(s.GetId())
	state := style.State(resource.EnumName(s.GetState()))
	attempts := s.GetAttempts()
	var last *pb.StepAttempt
	if len(attempts) > 0 {
		last = attempts[len(attempts)-1]
	}
	switch s.GetState() {
	case pb.StepState_STEP_RUNNING:
		if len(attempts) > 1 {
			return fmt.Sprintf("%s %s, attempt %d", id, state, len(attempts))
		}
		return id + " " + state
	case pb.StepState_STEP_BACKOFF:
		return fmt.Sprintf("%s %s, to be tried again: %s", id, style.Busy("failed"), attemptText(last))
	case pb.StepState_STEP_WAITING:
		return fmt.Sprintf("%s %s for a person: `bedplate workflow approve %s`", id, state, v.name)
	case pb.StepState_STEP_SUCCEEDED:
		if last == nil {
			return id + " " + state
		}
		return fmt.Sprintf("%s %s in %s", id, state, v.took(last.GetStartTime(), last.GetEndTime()))
	case pb.StepState_STEP_FAILED:
		return fmt.Sprintf("%s %s: %s", id, state, attemptText(last))
	case pb.StepState_STEP_SKIPPED, pb.StepState_STEP_CANCELLED:
		return id + " " + state
	}
	return ""
}

// attemptText is what went wrong with an attempt.
func attemptText(at *pb.StepAttempt) string {
	text := table.Clean(at.GetError())
	if at != nil && at.ExitCode != nil {
		text = strings.TrimPrefix(fmt.Sprintf("%s (exit code %d)", text, at.GetExitCode()), " ")
	}
	return orElse(text, "no reason was given")
}

func (v *workflowView) barID(step string) string { return v.name + "/" + step }

func (v *workflowView) progress(p *pb.StepProgress) {
	pr := p.GetProgress()
	if !strings.HasPrefix(v.steps[p.GetStep()], pb.StepState_STEP_RUNNING.String()) {
		// Late progress of a step that has ended would leave its bar behind.
		return
	}
	v.screen.Set(v.barID(p.GetStep()), table.Bar{
		Label: table.Clean(p.GetStep()), Done: pr.GetDone(), Total: pr.GetTotal(),
		Unit: table.Clean(pr.GetUnit()), Rate: pr.GetRate(), Message: pr.GetMessage(),
	})
}

// ended reports whether the workflow has.
func (v *workflowView) ended() bool {
	switch v.last.GetStatus().GetState() {
	case pb.WorkflowState_SUCCEEDED, pb.WorkflowState_WORKFLOW_FAILED, pb.WorkflowState_CANCELLED:
		return true
	}
	return false
}

// result is the error of a workflow that has ended without success.
func (v *workflowView) result() error {
	st := v.last.GetStatus()
	if !v.ended() || st.GetState() == pb.WorkflowState_SUCCEEDED {
		return nil
	}
	err := fmt.Errorf("workflow/%s %s: %s", v.name, resource.EnumName(st.GetState()), table.Clean(st.GetCause()))
	return hint(err, fmt.Sprintf("`bedplate workflow logs %s` shows what it printed; `bedplate workflow retry %s` runs it again from where it ended", v.name, v.name))
}
