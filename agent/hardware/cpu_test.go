package hardware

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/agent/step"
)

func TestComputer(t *testing.T) {
	t.Run("the answers of the default seed are the known ones", func(t *testing.T) {
		c := newComputer(knownSeed)
		var got [units]uint64
		for i := range got {
			got[i], _ = c.run(i)
		}
		if diff := cmp.Diff(known, got); diff != "" {
			t.Errorf("answers (-want +got):\n%s\nas constants: %#016x", diff, got)
		}
	})
	t.Run("another seed has other answers, each time the same", func(t *testing.T) {
		a, b := newComputer(7), newComputer(7)
		for i := range units {
			x, _ := a.run(i)
			y, _ := b.run(i)
			if x != y || x == known[i] {
				t.Errorf("unit %d: %x, then %x; with the default seed %x", i, x, y, known[i])
			}
		}
	})
}

func TestService_CPU(t *testing.T) {
	s, rep := newService(t, Config{}), &recorder{}
	r, err := s.cpu(t.Context(), step.Request{With: map[string]any{"duration": "300ms"}}, rep)
	if err != nil {
		t.Fatal(err)
	}
	got := rows(t, r)
	all, err := cpus()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		row := got[fmt.Sprintf("cpu%d operations", c)]
		if row["ok"] != true || row["value"].(float64) <= 0 || row["unit"] != "1/s" {
			t.Errorf("CPU %d: %v", c, row)
		}
	}
	for _, measure := range []string{"sha256", "aes256_ctr", "float64_matrix", "uint64_matrix", "operations"} {
		if v, _ := got["cpu "+measure]["value"].(float64); v <= 0 {
			t.Errorf("%s is %v", measure, got["cpu "+measure])
		}
	}
	if n := r.Outputs["errors"]; n != int64(0) {
		t.Errorf("%v errors: %q", n, rep.lines)
	}
}

func TestService_CPU_Stops(t *testing.T) {
	s := newService(t, Config{})
	ctx, cancel := contextWithTimeout(t, 200*time.Millisecond)
	defer cancel()
	// An hour is longer than the whole run may take.
	if _, err := s.cpu(ctx, step.Request{With: map[string]any{"duration": "1h"}}, &recorder{}); err == nil {
		t.Error("a test that was stopped has succeeded")
	}
}

func TestJudgeCPUs(t *testing.T) {
	made := func(cpu int, change func(*cpuResult)) cpuResult {
		r := cpuResult{CPU: cpu, Units: 100, Elapsed: time.Second, Answers: known}
		for k := range r.Operations {
			r.Operations[k], r.Nanoseconds[k] = 1000, 1e9
		}
		if change != nil {
			change(&r)
		}
		return r
	}
	for _, tt := range []struct {
		name string
		seed uint64
		in   []cpuResult
		want string
	}{
		{"all agree", 5, []cpuResult{made(0, nil), made(1, nil)}, ""},
		{
			"one of three has another answer", 5,
			[]cpuResult{made(0, nil), made(1, func(r *cpuResult) { r.Answers[3]++ }), made(2, nil)},
			"cpu1: 1 of 100 results are wrong: uint64_matrix, unit 3",
		},
		{
			"a single CPU that is always wrong is held against the known answers", knownSeed,
			[]cpuResult{made(0, func(r *cpuResult) { r.Answers[0] = 1 })}, "cpu0: 1 of 100 results are wrong: sha256, unit 0: 0000000000000001 instead of",
		},
		{
			"a CPU that is wrong now and then", 5,
			[]cpuResult{made(0, func(r *cpuResult) { r.waver(2, 9); r.waver(5, 9) })}, "cpu0: 2 of 100 results are wrong: float64_matrix, unit 2",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var bad string
			for _, r := range judgeCPUs(tt.seed, tt.in) {
				if r.bad {
					bad = r.subject + ": " + r.message
				}
			}
			if !strings.HasPrefix(bad, tt.want) || (tt.want == "") != (bad == "") {
				t.Errorf("found %q, want %q", bad, tt.want)
			}
		})
	}
}

func TestReport_FailOn(t *testing.T) {
	s := newService(t, Config{})
	r := s.newReport("cpu", 1)
	r.add(result{subject: "cpu0", measure: "operations", bad: true, message: "one result is wrong"})
	if _, err := r.finish(step.Request{}, &recorder{}); err != nil {
		t.Errorf("a test that found an error fails its step: %v", err)
	}
	res, err := r.finish(step.Request{With: map[string]any{"fail_on": "error"}}, &recorder{})
	if err == nil || !strings.Contains(err.Error(), "cpu0: operations: one result is wrong") {
		t.Errorf("with fail_on error: %v", err)
	}
	if res.Outputs["errors"] != int64(1) {
		t.Errorf("the results of a failed step are gone: %v", res.Outputs)
	}
}

func TestReport_Bounded(t *testing.T) {
	s := newService(t, Config{})
	r := s.newReport("cpu", 1)
	for i := range 1000 {
		r.add(result{subject: fmt.Sprintf("cpu%d", i), measure: "operations", bad: i == 999, message: strings.Repeat("x", 1000)})
	}
	list := r.maps()
	if len(list) != maxResults+1 {
		t.Errorf("%d rows, want %d", len(list), maxResults+1)
	}
	last := list[len(list)-1].(map[string]any)
	if last["measure"] != "left_out" || last["value"] != float64(700) {
		t.Errorf("the last row is %v", last)
	}
	if kept := list[len(list)-2].(map[string]any); kept["subject"] != "cpu999" || kept["ok"] != false {
		t.Errorf("the row that is not ok was left out; there is %v", kept["subject"])
	}
}
