package bmc

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// Console opens the serial console of the target's machine, in a session of its
// own that ends with it. ctx bounds the opening; the console stays open until
// Close, or until the BMC or the pool ends it. Read and Write may be called at
// the same time.
func (p *Pool) Console(ctx context.Context, t Target) (io.ReadWriteCloser, error) {
	ctx, done, err := p.enter(ctx, p.cfg.DialTimeout*2)
	if err != nil {
		return nil, err
	}
	defer done()
	select {
	case p.consoles <- struct{}{}:
	default:
		return nil, fmt.Errorf("%d consoles are open, which is the most there may be: %w", p.cfg.MaxConsoles, ErrBusy)
	}
	c, err := p.openConsole(ctx, t)
	if err != nil {
		<-p.consoles
		return nil, fmt.Errorf("opening serial console: %w", err)
	}
	return c, nil
}

// openConsole logs in when it is its turn, and opens the console.
func (p *Pool) openConsole(ctx context.Context, t Target) (*console, error) {
	e, err := p.acquire(ctx, t)
	if err != nil {
		return nil, err
	}
	defer func() { e.turn <- struct{}{} }()
	if err := p.admit(e, t); err != nil {
		return nil, err
	}
	d, err := p.dial(ctx, e, t)
	if err != nil {
		p.learn(e, err)
		return nil, err
	}
	stream, err := d.Console(ctx)
	p.learn(e, err)
	if err != nil {
		p.logout(d)
		return nil, err
	}
	c := &console{ReadWriteCloser: stream, driver: d, pool: p}
	p.mu.Lock()
	p.users.Add(1) // still within the opening call, so that Run can't have ended
	p.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop = context.AfterFunc(p.stop, func() { _ = c.Close() })
	return c, nil
}

// logout closes a driver that is nobody's session.
func (p *Pool) logout(d Driver) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		p.log.Debug("logging out of BMC", "err", err)
	}
}

// console is an open console with the session it lives in.
type console struct {
	io.ReadWriteCloser
	driver Driver
	pool   *Pool
	once   sync.Once
	err    error

	mu   sync.Mutex
	stop func() bool // guarded by mu
}

// Close ends the console and logs out.
func (c *console) Close() error {
	c.once.Do(func() {
		defer c.pool.users.Done()
		c.mu.Lock()
		c.stop()
		c.mu.Unlock()
		c.err = c.ReadWriteCloser.Close()
		c.pool.logout(c.driver)
		<-c.pool.consoles
	})
	return c.err
}
