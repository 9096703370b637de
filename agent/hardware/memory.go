package hardware

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/step"
)

const (
	// memoryDuration is how long memory is tested at most if the step doesn't say.
	memoryDuration = time.Hour
	memoryShare    = 0.9
	// memoryReserve is what is always left: for the agent, for what the kernel
	// needs while the test runs, and for the testing process's own.
	memoryReserve = 64 << 20
	maxPasses     = 1000
)

// memory is the action test.memory. With: share, passes, duration, seed, fail_on.
func (s *Service) memory(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	j, err := s.memoryJob(req)
	if err != nil {
		return step.Result{}, err
	}
	r := s.newReport("memory", j.Seed)
	rep.Log(step.Agent, fmt.Sprintf("testing %d MiB with %d CPUs, %d rounds in at most %s, seed %d", j.Bytes>>20, len(j.CPUs), j.Passes, j.Duration, j.Seed))
	watch := s.watch()
	var found []memoryResult
	err = s.work(ctx, j, func(n note) {
		if n.Memory != nil {
			found = append(found, *n.Memory)
			return
		}
		rep.Progress(n.Done, n.Total, "bytes", "written and read")
	})
	r.add(watch.stop(rep)...)
	if c := (*crash)(nil); errors.As(err, &c) && !c.starved() {
		r.add(result{subject: "memory", measure: "crash", value: 1, unit: unitCount, bad: true, message: c.Error()})
		return r.finish(req, rep)
	}
	if err != nil {
		return step.Result{}, err
	}
	r.add(judgeMemory(found)...)
	for _, f := range found {
		for _, bad := range f.First {
			rep.Log(step.Agent, fmt.Sprintf("CPU %d: %s", bad.CPU, bad))
		}
	}
	return r.finish(req, rep)
}

func (s *Service) memoryJob(req step.Request) (job, error) {
	j := job{Test: "memory"}
	share, err := fraction(req, "share", memoryShare)
	if err != nil {
		return j, err
	}
	if j.Passes, err = number(req, "passes", 1, 1, maxPasses); err != nil {
		return j, err
	}
	if j.Duration, err = duration(req, "duration", memoryDuration); err != nil {
		return j, err
	}
	if j.Seed, err = s.seed(req); err != nil {
		return j, err
	}
	if j.CPUs, err = cpus(); err != nil {
		return j, err
	}
	free, err := available(s.path("proc/meminfo"))
	if err != nil {
		return j, err
	}
	j.Bytes, err = testable(free, share)
	return j, err
}

// testable is how much of the free memory is tested.
func testable(free int64, share float64) (int64, error) {
	n := min(int64(float64(free)*share), free-memoryReserve)
	n = n / pageBytes * pageBytes
	if n < 1<<20 {
		return 0, fmt.Errorf("%d MiB of memory are free, too few to test: %d MiB are left to the agent", free>>20, memoryReserve>>20)
	}
	return n, nil
}

// available reads MemAvailable of /proc/meminfo, in bytes.
func available(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("asking how much memory is free: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var kib int64
		if n, _ := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("%s does not say how much memory is free", path)
}

// starved reports whether the kernel ended the test for lack of memory.
func (c *crash) starved() bool { return c.signal == unix.SIGKILL }

// judgeMemory adds up what the processors found.
func judgeMemory(found []memoryResult) []result {
	var bytes, faults int64
	var write, read float64
	var first string
	locked, stopped, rounds := true, false, int64(maxPasses)
	for _, f := range found {
		bytes += f.Bytes
		faults += f.Faults
		write += perSecond(f.Written, f.WriteTime)
		read += perSecond(f.Read, f.ReadTime)
		locked = locked && f.Locked
		stopped = stopped || f.Stopped
		rounds = min(rounds, f.Rounds)
		if first == "" && len(f.First) > 0 {
			first = f.First[0].String()
		}
	}
	tested := result{subject: "memory", measure: "tested", value: float64(bytes), unit: unitBytes}
	if !locked {
		tested.message = "not all of it could be locked"
	}
	whole := result{subject: "memory", measure: "rounds", value: float64(rounds), unit: unitCount}
	if stopped {
		whole.message = "the time was over before all of them were done"
	}
	return []result{
		tested, whole,
		{subject: "memory", measure: "faults", value: float64(faults), unit: unitCount, bad: faults > 0, message: first},
		{subject: "memory", measure: "write", value: write, unit: unitBytesPerSecond},
		{subject: "memory", measure: "read", value: read, unit: unitBytesPerSecond},
	}
}
