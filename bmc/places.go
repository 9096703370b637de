package bmc

import (
	"context"
	"sync"
	"time"
)

// places bounds calls: fast at a time, and slow more that have taken longer than
// after. A dead BMC so holds a place that others wait for no longer than that.
type places struct {
	fast, slow chan struct{}
	after      time.Duration
}

func newPlaces(fast, slow int, after time.Duration) *places {
	return &places{fast: make(chan struct{}, fast), slow: make(chan struct{}, slow), after: after}
}

// enter waits for a place; leave gives it back.
func (p *places) enter(ctx context.Context) (leave func(), err error) {
	select {
	case p.fast <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var (
		mu   sync.Mutex
		left bool
		mine = p.fast
	)
	timer := time.AfterFunc(p.after, func() {
		mu.Lock()
		defer mu.Unlock()
		if left {
			return
		}
		select {
		case p.slow <- struct{}{}:
			<-mine
			mine = p.slow
		default: // every slow place is taken: it keeps its own
		}
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		left = true
		<-mine
	}, nil
}
