package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

func (p *page) workflow(w *pb.Workflow) {
	s, st := w.GetSpec(), w.GetStatus()
	p.line("State", p.a.style(p.a.stdout).State(resource.EnumName(st.GetState())))
	p.line("Cause", table.Clean(st.GetCause()))
	p.line("Machine", s.GetMachine())
	p.line("Template", s.GetTemplate())
	p.line("Instance", s.GetInstance())
	p.line("Started", p.a.ago(st.GetStartTime()))
	p.line("Ended", p.a.ago(st.GetEndTime()))
	p.line("Took", p.a.took(st.GetStartTime(), st.GetEndTime()))
	p.line("Deadline", p.a.ago(st.GetDeadline()))
	if st.GetRun() > 1 {
		p.line("Run", fmt.Sprint(st.GetRun()))
	}
	if st.GetCancelRequested() {
		p.line("Cancelled", "asked for")
	}
	p.common(w)
	p.inputs(s.GetInputs())
	p.steps(st.GetSteps())
	for _, step := range st.GetSteps() {
		p.failures(step)
	}
}

func (p *page) inputs(inputs map[string]*structpb.Value) {
	if len(inputs) == 0 {
		return
	}
	p.section("Inputs")
	t := &table.Table{}
	for _, k := range sortedKeys(inputs) {
		t.Add(k, table.Truncate(table.Clean(valueText(inputs[k])), maxCell))
	}
	p.table(t)
}

// valueText writes a value on one line: text as it is, all else as JSON.
func valueText(v *structpb.Value) string {
	switch k := v.GetKind().(type) {
	case nil:
		return ""
	case *structpb.Value_StringValue:
		return k.StringValue
	}
	// protojson puts in spaces at random, so that nobody compares its text.
	data, err := protojson.MarshalOptions{}.Marshal(v)
	if err != nil {
		return "?"
	}
	return strings.ReplaceAll(string(data), " ", "")
}

func (p *page) steps(steps []*pb.StepStatus) {
	if len(steps) == 0 {
		return
	}
	p.section("Steps")
	style := p.a.style(p.a.stdout)
	t := &table.Table{Header: []string{"STEP", "USES", "STATE", "ATTEMPTS", "TOOK", "OUTPUTS"}}
	for _, s := range steps {
		took := ""
		if n := len(s.GetAttempts()); n > 0 {
			took = p.a.took(s.GetAttempts()[0].GetStartTime(), s.GetAttempts()[n-1].GetEndTime())
		}
		var outputs []string
		for _, k := range sortedKeys(s.GetOutputs()) {
			outputs = append(outputs, k+"="+valueText(s.GetOutputs()[k]))
		}
		t.Add(s.GetId(), s.GetUses(), style.State(resource.EnumName(s.GetState())), fmt.Sprint(len(s.GetAttempts())), took,
			table.Truncate(table.Clean(strings.Join(outputs, " ")), maxCell))
	}
	p.table(t)
}

// failures writes every attempt that failed, with its last output.
func (p *page) failures(s *pb.StepStatus) {
	for _, at := range s.GetAttempts() {
		if at.GetError() == "" && at.ExitCode == nil {
			continue
		}
		if at.GetState() == pb.StepState_STEP_SUCCEEDED {
			continue
		}
		p.section(fmt.Sprintf("Step %s, attempt %d", s.GetId(), at.GetNumber()))
		p.text(at.GetError())
		if at.ExitCode != nil {
			p.text(fmt.Sprintf("exit code %d", at.GetExitCode()))
		}
		for _, line := range at.GetLastOutput() {
			p.text("| " + line)
		}
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
