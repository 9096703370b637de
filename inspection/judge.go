package inspection

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// The verdicts of a policy.
const (
	// Pass: within the limits.
	Pass = "pass"
	// Fail: a limit was crossed, or the test found an error.
	Fail = "fail"
)

// report is on_failure of a policy that only says what is wrong.
const report = "report"

// WantedTests returns the tests that a policy asks for; none without one.
func WantedTests(policy *pb.TestPolicy) []string {
	switch {
	case policy == nil:
		return nil
	case len(policy.GetTests()) == 0:
		return []string{"cpu", "memory", "disk"}
	}
	return policy.GetTests()
}

// Judge sets the verdict of each result, and returns what blocks the machine:
// errors that the tests found, limits that were crossed, and tests or limited
// measures without a result, since what wasn't measured isn't known to be
// good. A policy that only reports blocks nothing; the verdicts are the same.
func Judge(policy *pb.TestPolicy, results []*pb.TestResult) (blocking []*pb.Difference) {
	var found []*pb.Difference
	for _, r := range results {
		bad := judge(policy, r)
		if bad != nil {
			found = append(found, bad)
		}
	}
	found = append(found, missing(policy, results)...)
	if n := len(found); n > maxDifferences {
		found = append(found[:maxDifferences-1], difference("tests.others", "no errors", fmt.Sprintf("%d more", n-maxDifferences+1)))
	}
	if policy == nil || policy.GetOnFailure() == report {
		return nil
	}
	return found
}

// judge sets the verdict of one result, and returns what is wrong with it.
func judge(policy *pb.TestPolicy, r *pb.TestResult) *pb.Difference {
	path := strings.Join([]string{"tests", r.GetTest(), r.GetSubject(), r.GetMeasure()}, ".")
	r.Verdict = ""
	if !r.GetOk() {
		r.Verdict = Fail
		return difference(path, "no error", firstOf(r.GetMessage(), "an error without a message"))
	}
	for _, l := range policy.GetLimits() {
		if l.GetTest() != r.GetTest() || l.GetMeasure() != r.GetMeasure() {
			continue
		}
		if r.Verdict != Fail {
			r.Verdict = Pass
		}
		if !within(l, r.GetValue()) {
			r.Verdict = Fail
			return difference(path, limitText(l, r.GetUnit()), amount(r.GetValue(), r.GetUnit()))
		}
	}
	return nil
}

// within reports whether a value keeps a limit. One that is no number doesn't.
func within(l *pb.TestLimit, v float64) bool {
	if math.IsNaN(v) {
		return false
	}
	return (l.Min == nil || v >= l.GetMin()) && (l.Max == nil || v <= l.GetMax())
}

func limitText(l *pb.TestLimit, unit string) string {
	switch {
	case l.Min != nil && l.Max != nil:
		return amount(l.GetMin(), unit) + " to " + amount(l.GetMax(), unit)
	case l.Min != nil:
		return "at least " + amount(l.GetMin(), unit)
	}
	return "at most " + amount(l.GetMax(), unit)
}

// amount writes a figure with its unit.
func amount(v float64, unit string) string {
	return strings.TrimSpace(strconv.FormatFloat(v, 'g', 6, 64) + " " + unit)
}

// missing says which tests, and which limited measures of tests that ran, have
// no result.
func missing(policy *pb.TestPolicy, results []*pb.TestResult) []*pb.Difference {
	var out []*pb.Difference
	ran, measured := map[string]bool{}, map[[2]string]bool{}
	for _, r := range results {
		ran[r.GetTest()] = true
		measured[[2]string{r.GetTest(), r.GetMeasure()}] = true
	}
	wanted := WantedTests(policy)
	for _, t := range wanted {
		if !ran[t] {
			out = append(out, difference("tests."+t, "a result", "none"))
		}
	}
	for _, l := range policy.GetLimits() {
		if ran[l.GetTest()] && !measured[[2]string{l.GetTest(), l.GetMeasure()}] {
			out = append(out, difference("tests."+l.GetTest()+"."+l.GetMeasure(), limitText(l, ""), "not measured"))
		}
	}
	return out
}
