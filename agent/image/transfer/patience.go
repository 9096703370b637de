package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// patience ends a transfer that has yielded nothing for long.
type patience struct {
	timer *time.Timer
	limit time.Duration
}

func (s *Stream) newPatience() *patience {
	p := &patience{limit: s.GiveUp}
	p.timer = time.AfterFunc(s.GiveUp, func() {
		err := fmt.Errorf("not a byte of %s arrived for %v", s.URL, s.GiveUp)
		if last := s.failed.Load(); last != nil {
			// Not wrapped: an io.EOF inside must not look like the file's end.
			err = fmt.Errorf("%w; the last failure was: %v", err, *last)
		}
		s.cancel(err)
	})
	return p
}

func (p *patience) progress() { p.timer.Reset(p.limit) }
func (p *patience) rest()     { p.timer.Stop() }
func (p *patience) stop()     { p.timer.Stop() }

// note keeps a failure for the message when patience ends.
func (s *Stream) note(err error) {
	if err != nil {
		s.failed.Store(&err)
	}
}

// cause prefers the reason why everything was ended to what that broke.
func (s *Stream) cause(err error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return err
}

// maxDoublings bounds the wait between tries at 32 times the first.
const maxDoublings = 5

// retry calls f until it succeeds, fails for good, or patience ends.
func (s *Stream) retry(f func() (*conn, error)) (*conn, error) {
	for n := 0; ; n++ {
		c, err := f()
		if err == nil {
			return c, nil
		}
		if Permanent(err) || s.ctx.Err() != nil {
			return nil, s.cause(err)
		}
		s.note(err)
		wait := s.Backoff << min(n, maxDoublings)
		var status *StatusError
		if errors.As(err, &status) && status.After > wait {
			wait = status.After
		}
		s.Report(fmt.Sprintf("%v; trying again in %v", err, wait))
		if err := s.wait(wait); err != nil {
			return nil, err
		}
	}
}

// wait sleeps between half of d and one and a half times d.
func (s *Stream) wait(d time.Duration) error {
	d = d/2 + time.Duration(s.random()%uint64(d+1))
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// random is SplitMix64: no secret, only different on every machine.
func (s *Stream) random() uint64 {
	x := s.spread.Add(0x9e3779b97f4a7c15) + s.Seed
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
