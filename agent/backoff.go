package agent

import (
	"context"
	"time"
)

// Times between attempts to reach the server. The first are short, for a
// server that is only restarting; the jitter keeps ten thousand machines that
// lost it together from coming back together.
const (
	backoffFirst = 250 * time.Millisecond
	backoffMost  = 15 * time.Second
)

// backoff counts up to backoffMost. The zero value, but for jitter, begins anew.
type backoff struct {
	jitter func() float64
	now    time.Duration
}

// next returns how long to wait: between half and all of a time that doubles.
func (b *backoff) next() time.Duration {
	b.now = min(max(2*b.now, backoffFirst), backoffMost)
	return b.now/2 + time.Duration(b.jitter()*float64(b.now/2))
}

func (b *backoff) reset() { b.now = 0 }

// sleep waits and reports whether ctx is still good.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
