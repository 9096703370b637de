package inspection

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const (
	// testPrefix is what the names of test actions begin with: test.cpu.
	testPrefix = "test."
	// resultsOutput is their output with the figures: a list of maps.
	resultsOutput = "results"

	// MaxResults bounds the results of one run that are kept: those with
	// errors, then the first.
	MaxResults = 1000
	maxWord    = 128
	maxUnit    = 32
	maxMessage = 300
)

// Results returns what the tests of a workflow measured, by test, subject and
// measure; of a figure that came twice, the last. A test step that failed
// without saying what is wrong is a result itself. What the agent has sent is
// bounded and cleaned; what is no result is left out. now is the time of steps
// that have none.
func Results(wf *pb.Workflow, now time.Time) []*pb.TestResult {
	var all []*pb.TestResult
	for _, st := range wf.GetStatus().GetSteps() {
		test, isTest := strings.CutPrefix(st.GetUses(), testPrefix)
		if !isTest {
			continue
		}
		at := endOf(st, now)
		rows := rowsOf(st, test)
		if st.GetState() == pb.StepState_STEP_FAILED && !slices.ContainsFunc(rows, func(r *pb.TestResult) bool { return !r.GetOk() }) {
			rows = append(rows, &pb.TestResult{Test: test, Subject: cut(st.GetId(), maxWord), Measure: "step", Message: failure(st)})
		}
		for _, r := range rows {
			r.Time, r.Workflow = proto.Clone(at).(*timestamppb.Timestamp), wf.GetMetadata().GetName()
		}
		all = append(all, rows...)
	}
	return bounded(newest(all))
}

// endOf is when a step's last attempt ended.
func endOf(st *pb.StepStatus, now time.Time) *timestamppb.Timestamp {
	if n := len(st.GetAttempts()); n > 0 && st.GetAttempts()[n-1].GetEndTime().IsValid() {
		return st.GetAttempts()[n-1].GetEndTime()
	}
	return timestamppb.New(now)
}

// failure says why a step failed.
func failure(st *pb.StepStatus) string {
	if n := len(st.GetAttempts()); n > 0 && st.GetAttempts()[n-1].GetError() != "" {
		return cut(st.GetAttempts()[n-1].GetError(), maxMessage)
	}
	return "the test could not be carried out"
}

// maxRows bounds what is read of one step.
const maxRows = 4096

func rowsOf(st *pb.StepStatus, test string) []*pb.TestResult {
	values := st.GetOutputs()[resultsOutput].GetListValue().GetValues()
	var out []*pb.TestResult
	for _, v := range values[:min(len(values), maxRows)] {
		if r := row(v.GetStructValue().GetFields(), test); r != nil {
			out = append(out, r)
		}
	}
	return out
}

// row reads one result; nil if it isn't one.
func row(fields map[string]*structpb.Value, test string) *pb.TestResult {
	text := func(name string, n int) string { return strings.TrimSpace(cut(fields[name].GetStringValue(), n)) }
	ok, isBool := fields["ok"].GetKind().(*structpb.Value_BoolValue)
	r := &pb.TestResult{
		Test: cmp.Or(text("test", maxWord), test), Subject: text("subject", maxWord), Measure: text("measure", maxWord),
		Value: fields["value"].GetNumberValue(), Unit: text("unit", maxUnit), Ok: isBool && ok.BoolValue, Message: text("message", maxMessage),
	}
	if r.Measure == "" || math.IsInf(r.Value, 0) || math.IsNaN(r.Value) {
		return nil
	}
	return r
}

// newest sorts results, and keeps the last of those that are of one figure.
func newest(all []*pb.TestResult) []*pb.TestResult {
	slices.SortStableFunc(all, compareResults)
	var out []*pb.TestResult
	for _, r := range all {
		if n := len(out); n > 0 && compareResults(out[n-1], r) == 0 {
			out[n-1] = r
			continue
		}
		out = append(out, r)
	}
	return out
}

func compareResults(a, b *pb.TestResult) int {
	return cmp.Or(cmp.Compare(a.GetTest(), b.GetTest()), cmp.Compare(a.GetSubject(), b.GetSubject()), cmp.Compare(a.GetMeasure(), b.GetMeasure()))
}

// bounded keeps MaxResults of them, in their order.
func bounded(all []*pb.TestResult) []*pb.TestResult {
	room := MaxResults
	if len(all) <= room {
		return all
	}
	for _, r := range all {
		if !r.GetOk() && room > 0 {
			room--
		}
	}
	errors := MaxResults - room
	var out []*pb.TestResult
	for _, r := range all {
		switch {
		case !r.GetOk() && errors > 0:
			errors--
		case r.GetOk() && room > 0:
			room--
		default:
			continue
		}
		out = append(out, r)
	}
	return out
}
