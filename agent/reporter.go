package agent

import (
	"fmt"
	"sync"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const (
	// lastLines is how many lines go with a failure.
	lastLines = 20
	// rateSpan is the least time over which a rate is taken.
	rateSpan = 500 * time.Millisecond
	// consoleInterval is how often the console hears of progress.
	consoleInterval = 5 * time.Second
)

// reporter is the step.Reporter of one attempt.
type reporter struct {
	outbox  *outbox
	mask    mask
	now     func() time.Time
	say     func(string, ...any)
	step    string
	attempt uint32

	mu    sync.Mutex
	ended bool
	last  []string

	sample     time.Time // when done was sampled
	sampleDone int64
	rate       float64
	said       time.Time
}

// Log implements step.Reporter.
func (r *reporter) Log(stream, line string) {
	line = r.mask.text(line)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	if len(r.last) == lastLines {
		r.last = append(r.last[:0], r.last[1:]...)
	}
	r.last = append(r.last, line)
	r.outbox.log(&pb.LogLine{Step: r.step, Attempt: r.attempt, Stream: stream, Text: line})
}

// Progress implements step.Reporter.
func (r *reporter) Progress(done, total int64, unit, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	now := r.now()
	switch span := now.Sub(r.sample); {
	case r.sample.IsZero():
		r.sample, r.sampleDone, r.said = now, done, now
	case span >= rateSpan:
		rate := float64(done-r.sampleDone) / span.Seconds()
		if r.rate == 0 {
			r.rate = rate
		}
		r.rate = max(0, (r.rate+rate)/2) // smoothed; what is done can go back in a retry
		r.sample, r.sampleDone = now, done
	}
	message = r.mask.text(message)
	r.outbox.setProgress(r.step, &pb.Progress{Done: done, Total: total, Unit: unit, Rate: r.rate, Message: message})
	if now.Sub(r.said) >= consoleInterval {
		r.said = now
		r.say("step %s: %s", r.step, progressText(done, total, unit, r.rate, message))
	}
}

// end makes the reporter deaf and returns the last lines. What an executor
// says after it has returned is nobody's.
func (r *reporter) end() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	return r.last
}

func progressText(done, total int64, unit string, rate float64, message string) string {
	amount := func(n float64) string {
		if unit != "bytes" {
			return fmt.Sprintf("%.0f %s", n, unit)
		}
		for _, u := range []string{"B", "kB", "MB", "GB"} {
			if n < 1000 {
				return fmt.Sprintf("%.3g %s", n, u)
			}
			n /= 1000
		}
		return fmt.Sprintf("%.3g TB", n)
	}
	text := amount(float64(done))
	if total > 0 {
		text = fmt.Sprintf("%d%%, %s of %s", done*100/total, text, amount(float64(total)))
	}
	if rate > 0 {
		text += ", " + amount(rate) + "/s"
		if total > done {
			text += fmt.Sprintf(", %s to go", time.Duration(float64(total-done)/rate*float64(time.Second)).Round(time.Second))
		}
	}
	if message != "" {
		text += ", " + message
	}
	return text
}
