package bmc

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Do calls fn with an open session of the target, alone: no other call uses that
// BMC meanwhile. The login is tried again where that may help; fn is called
// once at most, as it may do what must not be done twice. What fn returns
// decides about the circuit and whether the session is kept.
func (p *Pool) Do(ctx context.Context, t Target, fn func(ctx context.Context, c *Client) error) error {
	return p.call(ctx, t, fn, false)
}

// Retry is Do for what may be done twice: reading, and setting what is then
// set. fn is called again, with a new session, after an error that may pass.
func (p *Pool) Retry(ctx context.Context, t Target, fn func(ctx context.Context, c *Client) error) error {
	return p.call(ctx, t, fn, true)
}

func (p *Pool) call(ctx context.Context, t Target, fn func(context.Context, *Client) error, repeat bool) error {
	ctx, done, err := p.enter(ctx, p.cfg.CallTimeout)
	if err != nil {
		return err
	}
	defer done()
	start := p.cfg.Now()
	for try := 1; ; try++ {
		called, err := p.once(ctx, t, fn, repeat)
		if err == nil || try >= p.cfg.Tries || called && !repeat || !retriable(err) || ctx.Err() != nil {
			p.metrics.called(err, p.cfg.Now().Sub(start))
			return err
		}
		p.metrics.retries.Inc()
		if sleep(ctx, p.backoff(try)) != nil {
			p.metrics.called(err, p.cfg.Now().Sub(start))
			return err
		}
	}
}

// enter begins a call: it ends with the pool, and has a deadline.
func (p *Pool) enter(ctx context.Context, timeout time.Duration) (context.Context, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrClosed
	}
	p.users.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.stop, func() { cancel(ErrClosed) })
	cancelTimeout := func() {}
	if _, ok := ctx.Deadline(); !ok && timeout > 0 {
		ctx, cancelTimeout = context.WithTimeout(ctx, timeout)
	}
	return ctx, func() {
		cancelTimeout()
		stop()
		cancel(nil)
		p.users.Done()
	}, nil
}

// backoff returns the pause after a try: doubled by each, half of it random.
func (p *Pool) backoff(try int) time.Duration {
	d := p.cfg.Backoff << min(try-1, 6)
	return d/2 + time.Duration(p.cfg.Rand()*float64(d/2))
}

// retriable reports whether trying again now, not later, makes sense.
func retriable(err error) bool {
	return Transient(err) && !errors.Is(err, errQueue) && !errors.Is(err, ErrCircuitOpen)
}

// probeAfter is how long a session may have been idle for a call that can't be
// repeated to rely on it.
const probeAfter = 10 * time.Second

// probe asks a session that wasn't used for a while for something, and opens a
// new one where the BMC has forgotten it: BMCs that restart do, and IPMI has no
// word for it but silence.
func (p *Pool) probe(ctx context.Context, e *entry, t Target) error {
	if _, err := e.session.PowerState(ctx); !blamesBMC(err) {
		return nil
	}
	p.drop(ctx, e, lostTimeout)
	return p.open(ctx, e, t)
}

// once makes one try: it waits for its turn, opens a session if there is none,
// and calls fn. called says whether fn was.
func (p *Pool) once(ctx context.Context, t Target, fn func(context.Context, *Client) error, repeat bool) (called bool, err error) {
	e, err := p.acquire(ctx, t)
	if err != nil {
		return false, err
	}
	defer func() { e.turn <- struct{}{} }()
	if err := p.admit(e, t); err != nil {
		return false, err
	}
	leave, err := p.calls.enter(ctx)
	if err != nil {
		return false, fmt.Errorf("waiting for a free place among %d calls: %w", p.cfg.MaxCalls, err)
	}
	defer leave()
	if err := p.open(ctx, e, t); err != nil {
		p.learn(e, err)
		return false, err
	}
	if !repeat && p.cfg.Now().Sub(e.used) >= probeAfter {
		if err := p.probe(ctx, e, t); err != nil {
			p.learn(e, err)
			return false, err
		}
	}
	err = fn(ctx, NewClient(e.session, p.cfg.Wait, p.cfg.Now))
	e.used = p.cfg.Now()
	p.learn(e, err)
	if blamesBMC(err) || gaveUp(err) {
		p.drop(ctx, e, lostTimeout) // what state it is in isn't known
	}
	return true, err
}

// acquire returns the target's entry when it is the caller's turn.
func (p *Pool) acquire(ctx context.Context, t Target) (*entry, error) {
	key := entryKey{machine: t.Machine, address: t.Address}
	for {
		e, err := p.queue(key)
		if err != nil {
			return nil, err
		}
		select {
		case <-e.turn:
			err = nil
		case <-ctx.Done():
			err = fmt.Errorf("waiting for another call to this BMC: %w", context.Cause(ctx))
		}
		p.mu.Lock()
		e.waiting--
		gone := p.entries[key] != e
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if !gone {
			return e, nil
		}
		e.turn <- struct{}{} // forgotten meanwhile
	}
}

// queue returns the entry of key with the caller counted as waiting for it.
func (p *Pool) queue(key entryKey) (*entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[key]
	if e == nil {
		e = &entry{key: key, turn: make(chan struct{}, 1)}
		e.turn <- struct{}{}
		p.entries[key] = e
	}
	if e.waiting >= p.cfg.MaxWaiting {
		return nil, errQueue
	}
	e.waiting++
	return e, nil
}

// admit returns a *CircuitError while the circuit is open. A target that logs
// in otherwise than the one that failed closes it.
func (p *Pool) admit(e *entry, t Target) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.circuit.Failures > 0 && !e.login.sameLogin(t) {
		e.circuit = Circuit{}
	}
	e.login = t
	if c := e.circuit.at(p.cfg.Now()); c.State == CircuitOpen {
		return &CircuitError{Circuit: c}
	}
	return nil
}

// learn lets the circuit know how a call ended.
func (p *Pool) learn(e *entry, err error) {
	jitter := p.cfg.Rand()
	p.mu.Lock()
	before := e.circuit
	e.circuit = before.after(err, p.cfg.Now(), circuitPolicy{p.cfg.OpenAfter, p.cfg.OpenFor, p.cfg.OpenMax}, jitter)
	after := e.circuit
	p.mu.Unlock()
	switch {
	case after.State == CircuitOpen && before.State != CircuitOpen:
		p.metrics.opened.Inc()
		p.log.Warn("BMC circuit opened", "machine", e.key.machine, "bmc", e.key.address, "err", after.Reason)
	case after.State == CircuitClosed && before.State == CircuitOpen:
		p.log.Info("BMC answers again", "machine", e.key.machine, "bmc", e.key.address, "dur", p.cfg.Now().Sub(before.Since))
	}
}

// open sees that e has a session of target t. A session that was opened with
// another login is closed first.
func (p *Pool) open(ctx context.Context, e *entry, t Target) error {
	if e.session != nil && !e.target.sameLogin(t) {
		p.drop(ctx, e, closeTimeout)
	}
	if e.session != nil {
		return nil
	}
	if t.TLS.Pin != "" {
		e.pin = ""
	}
	d, err := p.dial(ctx, e, t)
	if err != nil {
		return err
	}
	e.session, e.target, e.used = d, t, p.cfg.Now()
	p.metrics.sessions.Inc()
	return nil
}

// slowDial is how long a login must have taken for its end to be the BMC's fault
// and not that of a caller in a hurry.
const slowDial = 5 * time.Second

// dial logs in. A certificate seen for the first time is held to from then on.
func (p *Pool) dial(ctx context.Context, e *entry, t Target) (Driver, error) {
	within, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	first := t.TLS.trustsFirst()
	if first && e.pin != "" {
		t.TLS.Pin = e.pin
	}
	start := p.cfg.Now()
	d, err := p.cfg.Dial(within, t)
	took := p.cfg.Now().Sub(start)
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrUnreachable) && (ctx.Err() == nil || took >= slowDial) {
		err = fmt.Errorf("%w: no login within %s: %w", ErrUnreachable, took.Round(time.Second), err)
	}
	p.metrics.dialled(err)
	if err != nil {
		return nil, err
	}
	p.log.Debug("logged in to BMC", "machine", t.Machine, "bmc", t.Address, "dur", took)
	if pin := d.Pin(); first && pin != "" && pin != e.pin {
		e.pin = pin
		if p.cfg.Pinned != nil {
			p.cfg.Pinned(t, pin)
		}
	}
	return d, nil
}

// trustsFirst reports whether the certificate of the first contact is taken at its word.
func (t TLS) trustsFirst() bool {
	return t.Pin == "" && t.Roots == nil && !t.Insecure && !t.Plaintext
}

// sameLogin reports whether t and u log in alike. A pin that has been learnt
// from the BMC in between makes no difference.
func (t Target) sameLogin(u Target) bool {
	return t.Address == u.Address && t.Protocol == u.Protocol && t.Driver == u.Driver && t.Username == u.Username && t.Password == u.Password &&
		t.System == u.System && t.IPMIPort == u.IPMIPort && t.CipherSuite == u.CipherSuite && t.TLS.equal(u.TLS)
}
