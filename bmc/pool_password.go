package bmc

import (
	"context"
	"errors"
	"fmt"
)

// passwordTries bounds the logins with a new password: BMCs take a moment to
// apply it, and lock an account after some wrong ones.
const passwordTries = 2

// SetPassword gives the user that the target logs in with a new password, and
// proves it by logging in anew. Keep the new password, beside the old one, before
// calling: when the error is ErrPasswordUnknown either may be the right one. Any
// other error means that the old password still is.
//
// IPMI allows 20 bytes (IPMI 2.0 §22.30), some BMCs 16: no longer ones should be given.
func (p *Pool) SetPassword(ctx context.Context, t Target, password string) error {
	ctx, done, err := p.enter(ctx, p.cfg.CallTimeout)
	if err != nil {
		return err
	}
	defer done()
	start := p.cfg.Now()
	err = p.setPassword(ctx, t, password)
	p.metrics.called(err, p.cfg.Now().Sub(start))
	return err
}

func (p *Pool) setPassword(ctx context.Context, t Target, password string) error {
	e, err := p.acquire(ctx, t)
	if err != nil {
		return err
	}
	defer func() { e.turn <- struct{}{} }()
	if err := p.admit(e, t); err != nil {
		return err
	}
	if err := p.open(ctx, e, t); err != nil {
		p.learn(e, err)
		return err
	}
	asked := e.session.SetPassword(ctx, t.Username, password)
	if asked != nil && !Transient(asked) && !gaveUp(asked) {
		p.learn(e, asked)
		return fmt.Errorf("setting password of BMC user %q: %w", t.Username, asked)
	}
	p.drop(ctx, e, closeTimeout)
	renewed := t
	renewed.Password = password
	fresh := p.prove(ctx, e, renewed, passwordTries)
	if fresh == nil {
		p.learn(e, nil)
		return nil
	}
	old := p.prove(ctx, e, t, 1)
	switch {
	case old == nil && asked != nil:
		return fmt.Errorf("setting password of BMC user %q: %w", t.Username, asked)
	case old == nil:
		return fmt.Errorf("setting password of BMC user %q: the old one still logs in, the new one does not (%v): %w", t.Username, fresh, ErrIgnored)
	default:
		p.learn(e, fresh)
		return fmt.Errorf("setting password of BMC user %q: %w: the login with the new one ended with: %v; with the old one: %v",
			t.Username, ErrPasswordUnknown, fresh, old)
	}
}

// prove logs in as t and keeps the session.
func (p *Pool) prove(ctx context.Context, e *entry, t Target, tries int) error {
	for try := 1; ; try++ {
		err := p.open(ctx, e, t)
		if err == nil {
			// Some drivers log in only when they must: a question proves it.
			if _, err = e.session.PowerState(ctx); err == nil || !blamesBMC(err) && !gaveUp(err) {
				p.mu.Lock()
				e.login = t
				p.mu.Unlock()
				return nil
			}
			p.drop(ctx, e, lostTimeout)
		}
		if try >= tries || errors.Is(err, ErrCertificate) || sleep(ctx, p.backoff(try)) != nil {
			return err
		}
	}
}
