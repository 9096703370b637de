package hardware

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// cpuResult is what one processor did.
type cpuResult struct {
	CPU int
	// Operations and Nanoseconds are by kind.
	Operations  [kinds]int64
	Nanoseconds [kinds]int64
	Units       int64
	Elapsed     time.Duration
	// Answers are what the units came to the first time.
	Answers [units]uint64
	// Wavered counts units that came to something else another time.
	Wavered int64
	Wrong   string `json:",omitempty"`
}

// pulse is how often a worker says how far it is.
const pulse = time.Second

// testCPUs has every processor compute at once until the time is over, and
// reports each.
func testCPUs(j job, out *notes) error {
	if len(j.CPUs) == 0 {
		return errors.New("no CPU to test")
	}
	// Two more than there are workers, so that what reports is never behind them.
	runtime.GOMAXPROCS(len(j.CPUs) + 2)
	end := time.Now().Add(j.Duration)
	results := make([]cpuResult, len(j.CPUs))
	errs := make([]error, len(j.CPUs))
	var done atomic.Int64
	var wg sync.WaitGroup
	for i, cpu := range j.CPUs {
		wg.Go(func() { results[i], errs[i] = burn(cpu, j.Seed, end, &done) })
	}
	stop := every(pulse, func() {
		left := max(time.Until(end), 0)
		out.say(note{Done: int64((j.Duration - left).Seconds()), Total: int64(j.Duration.Seconds())})
	})
	wg.Wait()
	stop()
	for i := range results {
		out.say(note{CPU: &results[i]})
	}
	return errors.Join(errs...)
}

// burn computes on one processor until end, each unit at least once.
func burn(cpu int, seed uint64, end time.Time, done *atomic.Int64) (cpuResult, error) {
	r := cpuResult{CPU: cpu}
	if err := pin(cpu); err != nil {
		return r, err
	}
	c := newComputer(seed)
	began := time.Now()
	at := began
	for n := int64(0); n < units || at.Before(end); n++ {
		i := int(n % units)
		answer, operations := c.run(i)
		now := time.Now()
		k := i % int(kinds)
		r.Operations[k] += operations
		r.Nanoseconds[k] += int64(now.Sub(at))
		at = now
		r.Units++
		done.Add(1)
		if n < units {
			r.Answers[i] = answer
		} else if answer != r.Answers[i] {
			r.waver(i, answer)
		}
	}
	r.Elapsed = at.Sub(began)
	return r, nil
}

func (r *cpuResult) waver(unit int, answer uint64) {
	r.Wavered++
	if r.Wrong == "" {
		r.Wrong = wrongAnswer(unit, answer, r.Answers[unit])
	}
}

// every calls f now and then until the function it returns is called.
func every(d time.Duration, f func()) (stop func()) {
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(gone)
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f()
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-gone }
}
