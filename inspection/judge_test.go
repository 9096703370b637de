package inspection

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func measured() []*pb.TestResult {
	return []*pb.TestResult{
		{Test: "cpu", Subject: "cpu0", Measure: "throughput", Value: 1e9, Unit: "1/s", Ok: true},
		{Test: "disk", Subject: "D1", Measure: "read_throughput", Value: 2.5e9, Unit: "B/s", Ok: true},
		{Test: "disk", Subject: "D2", Measure: "read_throughput", Value: 4e7, Unit: "B/s", Ok: true},
		{Test: "memory", Subject: "all", Measure: "errors", Value: 0, Unit: "count", Ok: true},
	}
}

func verdicts(all []*pb.TestResult) (out []string) {
	for _, r := range all {
		out = append(out, r.GetVerdict())
	}
	return out
}

func TestJudge(t *testing.T) {
	fast := &pb.TestLimit{Test: "disk", Measure: "read_throughput", Min: proto.Float64(1e8)}
	for _, tt := range []struct {
		name     string
		policy   *pb.TestPolicy
		change   func([]*pb.TestResult) []*pb.TestResult
		verdicts []string
		want     []string
	}{
		{"without a policy nothing blocks", nil, nil, []string{"", "", "", ""}, nil},
		{"without limits what is ok passes", &pb.TestPolicy{}, nil, []string{"", "", "", ""}, nil},
		{"a limit that is crossed blocks", &pb.TestPolicy{Limits: []*pb.TestLimit{fast}}, nil, []string{"", "pass", "fail", ""},
			[]string{"tests.disk.D2.read_throughput: at least 1e+08 B/s → 4e+07 B/s"}},
		{"an upper limit, too", &pb.TestPolicy{Limits: []*pb.TestLimit{{Test: "cpu", Measure: "throughput", Min: proto.Float64(0), Max: proto.Float64(5)}}}, nil, []string{"fail", "", "", ""},
			[]string{"tests.cpu.cpu0.throughput: 0 1/s to 5 1/s → 1e+09 1/s"}},
		{"an error blocks whatever its figure", &pb.TestPolicy{Limits: []*pb.TestLimit{fast}}, func(r []*pb.TestResult) []*pb.TestResult {
			r[2].Value, r[3].Ok, r[3].Message = 1e9, false, "3 words are wrong"
			return r
		}, []string{"", "pass", "pass", "fail"}, []string{"tests.memory.all.errors: no error → 3 words are wrong"}},
		{"a policy that reports blocks nothing", &pb.TestPolicy{OnFailure: "report", Limits: []*pb.TestLimit{fast}}, func(r []*pb.TestResult) []*pb.TestResult {
			r[3].Ok = false
			return r[1:]
		}, []string{"pass", "fail", "fail"}, nil},
		{"a test without a result blocks", &pb.TestPolicy{Tests: []string{"cpu", "network"}}, nil, []string{"", "", "", ""}, []string{"tests.network: a result → none"}},
		{"so do all of them", &pb.TestPolicy{}, func([]*pb.TestResult) []*pb.TestResult { return nil }, nil,
			[]string{"tests.cpu: a result → none", "tests.memory: a result → none", "tests.disk: a result → none"}},
		{"a limited measure that wasn't taken blocks", &pb.TestPolicy{Limits: []*pb.TestLimit{{Test: "disk", Measure: "write_throughput", Min: proto.Float64(1)}, {Test: "network", Measure: "x", Max: proto.Float64(1)}}}, nil, []string{"", "", "", ""},
			[]string{"tests.disk.write_throughput: at least 1 → not measured"}},
		{"what is no number keeps no limit", &pb.TestPolicy{Limits: []*pb.TestLimit{fast}}, func(r []*pb.TestResult) []*pb.TestResult {
			r[1].Value, r[2].Value = math.NaN(), math.Inf(1)
			return r
		}, []string{"", "fail", "pass", ""}, []string{"tests.disk.D1.read_throughput: at least 1e+08 B/s → NaN B/s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			results := measured()
			if tt.change != nil {
				results = tt.change(results)
			}
			wantLines(t, Judge(tt.policy, results), tt.want...)
			if diff := cmp.Diff(tt.verdicts, verdicts(results)); diff != "" {
				t.Errorf("verdicts (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("a verdict of an earlier policy is forgotten", func(t *testing.T) {
		results := measured()
		Judge(&pb.TestPolicy{Limits: []*pb.TestLimit{fast}}, results)
		Judge(nil, results)
		if diff := cmp.Diff([]string{"", "", "", ""}, verdicts(results)); diff != "" {
			t.Error(diff)
		}
	})
}

// outputs makes a step's output of JSON.
func outputs(t testing.TB, text string) map[string]*structpb.Value {
	t.Helper()
	var v structpb.Value
	if err := v.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return map[string]*structpb.Value{"results": &v}
}

func TestResults(t *testing.T) {
	then := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	now := time.Date(2026, 1, 2, 4, 0, 0, 0, time.UTC)
	wf := func(steps ...*pb.StepStatus) *pb.Workflow {
		return &pb.Workflow{Metadata: &pb.Metadata{Name: "web-1-test"}, Status: &pb.WorkflowStatus{Steps: steps}}
	}
	t.Run("rows become results, in order, the last of each figure", func(t *testing.T) {
		got := Results(wf(
			&pb.StepStatus{Uses: "disk.erase", Outputs: outputs(t, `[{"measure": "x"}]`)},
			&pb.StepStatus{Uses: "test.disk", State: pb.StepState_STEP_SUCCEEDED, Attempts: []*pb.StepAttempt{{EndTime: then}}, Outputs: outputs(t, `[
				{"test": "disk", "subject": "D2", "measure": "read_throughput", "value": 1, "unit": "B/s", "ok": true, "peer": "x"},
				{"subject": "D1", "measure": "read_throughput", "value": 3.5, "ok": true},
				{"subject": "D2", "measure": "read_throughput", "value": 2, "ok": true}]`)},
			&pb.StepStatus{Uses: "test.cpu", Outputs: outputs(t, `[{"subject": "cpu0", "measure": "errors", "message": "one bit is wrong\n", "value": 1}]`)},
		), now)
		want := []*pb.TestResult{
			{Test: "cpu", Subject: "cpu0", Measure: "errors", Value: 1, Message: "one bit is wrong", Time: timestamppb.New(now), Workflow: "web-1-test"},
			{Test: "disk", Subject: "D1", Measure: "read_throughput", Value: 3.5, Ok: true, Time: then, Workflow: "web-1-test"},
			{Test: "disk", Subject: "D2", Measure: "read_throughput", Value: 2, Ok: true, Time: then, Workflow: "web-1-test"},
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("a test that failed without a row is a result", func(t *testing.T) {
		got := Results(wf(&pb.StepStatus{Id: "memory", Uses: "test.memory", State: pb.StepState_STEP_FAILED, Attempts: []*pb.StepAttempt{{Error: "out of memory"}}}), now)
		if len(got) != 1 || got[0].GetOk() || got[0].GetMessage() != "out of memory" || got[0].GetTest() != "memory" {
			t.Errorf("results = %v", got)
		}
	})
	t.Run("what is no result is left out", func(t *testing.T) {
		for _, text := range []string{`null`, `"x"`, `[1, "x", null, [], {}]`, `[{"measure": ""}]`, `[{"subject": "a", "measure": 7}]`, `{"measure": "a"}`} {
			if got := Results(wf(&pb.StepStatus{Uses: "test.cpu", Outputs: outputs(t, text)}), now); len(got) != 0 {
				t.Errorf("%s: %v", text, got)
			}
		}
		if got := Results(nil, now); got != nil {
			t.Errorf("of no workflow: %v", got)
		}
	})
	t.Run("of too many those with errors stay", func(t *testing.T) {
		var rows []map[string]any
		for i := range maxRows {
			rows = append(rows, map[string]any{"subject": fmt.Sprintf("cpu%05d", i), "measure": "errors", "value": i, "ok": i != maxRows-1})
		}
		text, err := json.Marshal(rows)
		if err != nil {
			t.Fatal(err)
		}
		got := Results(wf(&pb.StepStatus{Uses: "test.cpu", Outputs: outputs(t, string(text))}), now)
		if len(got) != MaxResults || got[MaxResults-1].GetOk() || !got[0].GetOk() {
			t.Errorf("%d results, the last %v", len(got), got[len(got)-1])
		}
	})
}

func FuzzResults(f *testing.F) {
	for _, s := range []string{`[{"test": "disk", "subject": "D2", "measure": "m", "value": 1, "unit": "B/s", "ok": true}]`, `[{"measure": "\u001b[2J", "value": 1e308}]`, `null`, `[[[]]]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var v structpb.Value
		if v.UnmarshalJSON([]byte(text)) != nil {
			return
		}
		wf := &pb.Workflow{Status: &pb.WorkflowStatus{Steps: []*pb.StepStatus{{Uses: "test.cpu", Outputs: map[string]*structpb.Value{"results": &v}}}}}
		results := Results(wf, time.Unix(0, 0))
		Judge(&pb.TestPolicy{}, results)
		if len(results) > MaxResults {
			t.Errorf("%d results", len(results))
		}
		for _, r := range results {
			if len(r.GetTest()) > maxWord || len(r.GetSubject()) > maxWord || len(r.GetMeasure()) > maxWord || len(r.GetMessage()) > maxMessage {
				t.Errorf("too long: %v", r)
			}
		}
		if _, err := proto.Marshal(&pb.MachineStatus{Tests: results}); err != nil {
			t.Error(err)
		}
	})
}
