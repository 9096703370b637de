package bmc

import (
	"context"
	"fmt"
)

// DefaultMaxStreams is how many BMCs are listened to at a time.
const DefaultMaxStreams = 1024

// Watch listens to the target's events in a session of its own: each is called
// for every one, opened once the stream is there. It returns when ctx or the
// pool ends, or the BMC ends the stream or has none (ErrUnsupported). ErrBusy
// means that as many BMCs are listened to as may be.
func (p *Pool) Watch(ctx context.Context, t Target, opened func(), each func(Event)) error {
	ctx, done, err := p.enter(ctx, 0)
	if err != nil {
		return err
	}
	defer done()
	select {
	case p.streams <- struct{}{}:
		defer func() { <-p.streams }()
	default:
		return fmt.Errorf("%d BMCs are listened to, which is the most there may be: %w", p.cfg.MaxStreams, ErrBusy)
	}
	d, err := p.openStream(ctx, t)
	if err != nil {
		return err
	}
	defer p.logout(d)
	p.metrics.streams.Inc()
	defer p.metrics.streams.Dec()
	return d.Watch(ctx, opened, each)
}

// openStream logs in when it is its turn.
func (p *Pool) openStream(ctx context.Context, t Target) (Driver, error) {
	within, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout*2)
	defer cancel()
	e, err := p.acquire(within, t)
	if err != nil {
		return nil, err
	}
	defer func() { e.turn <- struct{}{} }()
	if err := p.admit(e, t); err != nil {
		return nil, err
	}
	d, err := p.dial(within, e, t)
	if err != nil {
		p.learn(e, err)
	}
	return d, err
}
