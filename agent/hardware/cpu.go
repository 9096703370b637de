package hardware

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bedplate/bedplate/agent/step"
)

// cpuDuration is how long processors are tested if the step doesn't say.
const cpuDuration = time.Minute

// cpu is the action test.cpu. With: duration, seed, fail_on.
func (s *Service) cpu(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	d, err := duration(req, "duration", cpuDuration)
	if err != nil {
		return step.Result{}, err
	}
	seed, err := number(req, "seed", knownSeed, 1, maxSeed)
	if err != nil {
		return step.Result{}, err
	}
	all, err := cpus()
	if err != nil {
		return step.Result{}, err
	}
	r := s.newReport("cpu", uint64(seed))
	rep.Log(step.Agent, fmt.Sprintf("%d CPUs compute for %s, seed %d", len(all), d, seed))
	watch := s.watch()
	var found []cpuResult
	err = s.work(ctx, job{Test: "cpu", CPUs: all, Seed: uint64(seed), Duration: d}, func(n note) {
		if n.CPU != nil {
			found = append(found, *n.CPU)
			return
		}
		rep.Progress(n.Done, n.Total, "seconds", fmt.Sprintf("%d CPUs compute", len(all)))
	})
	r.add(watch.stop(rep)...)
	if c := (*crash)(nil); errors.As(err, &c) {
		r.add(result{subject: "cpu", measure: "crash", value: 1, unit: unitCount, bad: true, message: c.Error()})
		return r.finish(req, rep)
	}
	if err != nil && len(found) == 0 {
		return step.Result{}, err
	}
	r.add(judgeCPUs(uint64(seed), found)...)
	return r.finish(req, rep)
}

// judgeCPUs compares what the processors came to and adds up their speed.
func judgeCPUs(seed uint64, found []cpuResult) []result {
	slices.SortFunc(found, func(a, b cpuResult) int { return a.CPU - b.CPU })
	right := agree(seed, found)
	var operations [kinds]float64
	var rows []result
	var slowest, all float64
	for i, f := range found {
		speed := perSecond(f.Units, f.Elapsed)
		all += speed
		if i == 0 || speed < slowest {
			slowest = speed
		}
		row := result{subject: fmt.Sprintf("cpu%d", f.CPU), measure: "operations", value: speed, unit: unitPerSecond, took: f.Elapsed}
		if n, message := f.wrong(right); n > 0 {
			row.bad, row.message = true, message
		}
		rows = append(rows, row)
		for k := range operations {
			operations[k] += perSecond(f.Operations[k], time.Duration(f.Nanoseconds[k]))
		}
	}
	for k, v := range operations {
		rows = append(rows, result{subject: "cpu", measure: kind(k).String(), value: v, unit: kind(k).unit()})
	}
	rows = append(rows, result{subject: "cpu", measure: "operations", value: all, unit: unitPerSecond})
	if all > 0 {
		rows = append(rows, result{subject: "cpu", measure: "slowest", value: slowest / (all / float64(len(found))), unit: unitRatio, message: "the slowest CPU against the mean of all"})
	}
	return rows
}

// agree returns the right answers: those that are known beforehand, else those
// that most processors came to.
func agree(seed uint64, found []cpuResult) [units]uint64 {
	if seed == knownSeed {
		return known
	}
	var right [units]uint64
	for i := range right {
		votes := map[uint64]int{}
		for _, f := range found {
			votes[f.Answers[i]]++
			if votes[f.Answers[i]] > votes[right[i]] {
				right[i] = f.Answers[i]
			}
		}
	}
	return right
}

// wrong counts the units that a processor got wrong, and says which was the first.
func (r cpuResult) wrong(right [units]uint64) (n int64, message string) {
	n, message = r.Wavered, r.Wrong
	for i, answer := range r.Answers {
		if answer != right[i] {
			if n++; message == "" {
				message = wrongAnswer(i, answer, right[i])
			}
		}
	}
	if n > 0 {
		message = fmt.Sprintf("%d of %d results are wrong: %s", n, r.Units, message)
	}
	return n, message
}

func wrongAnswer(unit int, got, want uint64) string {
	return fmt.Sprintf("%s, unit %d: %016x instead of %016x", kind(unit)%kinds, unit, got, want)
}
