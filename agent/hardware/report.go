package hardware

import (
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/bedplate/bedplate/agent/step"
)

// The units of results.
const (
	unitBytesPerSecond = "B/s"
	unitBitsPerSecond  = "bit/s"
	unitPerSecond      = "1/s"
	unitFlops          = "flop/s"
	unitSeconds        = "s"
	unitBytes          = "B"
	unitCount          = "count"
	unitCelsius        = "C"
	unitRatio          = "ratio"
	unitBool           = "bool"
)

// Bounds of the results of one step: the server refuses outputs of more than
// 96 KiB, and a row takes some 250 bytes.
const (
	maxResults = 300
	maxMessage = 300
)

// result is one row.
type result struct {
	subject, measure string
	value            float64
	unit             string
	// bad rows say in message what is broken; others may explain themselves there.
	bad     bool
	message string
	// peer is the machine at the other end.
	peer string
	// took is how long the measurement was; zero: as long as the test.
	took time.Duration
}

// report collects what a test finds.
type report struct {
	test  string
	seed  uint64
	began time.Time
	now   func() time.Time

	mu   sync.Mutex
	rows []result
}

func (s *Service) newReport(test string, seed uint64) *report {
	return &report{test: test, seed: seed, began: s.Now(), now: s.Now}
}

func (r *report) add(rows ...result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, rows...)
}

// bad returns the rows that are not ok.
func (r *report) bad() []result {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []result
	for _, row := range r.rows {
		if row.bad {
			out = append(out, row)
		}
	}
	return out
}

// finish makes the step's result. Every row that is not ok is logged; with
// fail_on error one of them fails the step, whose outputs are kept all the same.
func (r *report) finish(req step.Request, rep step.Reporter) (step.Result, error) {
	bad := r.bad()
	for _, row := range bad {
		rep.Log(step.Agent, fmt.Sprintf("%s: %s: %s", row.subject, row.measure, row.message))
	}
	res := step.Result{Outputs: map[string]any{"results": r.maps(), "errors": int64(len(bad)), "seed": float64(r.seed)}}
	if len(bad) > 0 && text(req, "fail_on") == "error" {
		return res, fmt.Errorf("%d errors, the first: %s: %s: %s", len(bad), bad[0].subject, bad[0].measure, bad[0].message)
	}
	return res, nil
}

// maps returns the rows for the server. When there are too many, as with many
// hundreds of CPUs, those that are ok go first, from the end.
func (r *report) maps() []any {
	r.mu.Lock()
	defer r.mu.Unlock()
	whole := r.now().Sub(r.began)
	rows, left := bounded(r.rows)
	out := make([]any, 0, len(rows)+1)
	for _, row := range rows {
		out = append(out, r.toMap(row, whole))
	}
	if left > 0 {
		out = append(out, r.toMap(result{subject: "results", measure: "left_out", value: float64(left), unit: unitCount, message: "more rows than one step may report"}, whole))
	}
	return out
}

func bounded(rows []result) (kept []result, left int) {
	left = len(rows) - maxResults
	if left <= 0 {
		return rows, 0
	}
	drop, seen := left, make([]bool, len(rows))
	for _, bad := range []bool{false, true} {
		for i := len(rows) - 1; i >= 0 && drop > 0; i-- {
			if rows[i].bad == bad && !seen[i] {
				seen[i] = true
				drop--
			}
		}
	}
	for i, row := range rows {
		if !seen[i] {
			kept = append(kept, row)
		}
	}
	return kept, left
}

func (r *report) toMap(row result, whole time.Duration) map[string]any {
	if row.took == 0 {
		row.took = whole
	}
	if len(row.message) > maxMessage {
		row.message = row.message[:maxMessage] + "…"
	}
	subject := row.subject
	if row.peer != "" {
		subject += "/" + row.peer // what is judged is told apart by test, subject and measure
	}
	m := map[string]any{
		"test": r.test, "subject": subject, "measure": row.measure, "value": figure(row.value), "unit": row.unit,
		"ok": !row.bad, "message": row.message, "seed": float64(r.seed), "duration_seconds": math.Round(row.took.Seconds()*1000) / 1000,
	}
	if row.peer != "" {
		m["peer"] = row.peer
	}
	return m
}

// figure is v as JSON can hold it: a whole number, or six digits, which is more
// than any measurement here is worth.
func figure(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	if v == math.Trunc(v) {
		return v
	}
	v, _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 6, 64), 64)
	return v
}

// perSecond is n divided by d; 0 for no time at all.
func perSecond(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}
