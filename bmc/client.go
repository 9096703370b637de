package bmc

import (
	"context"
	"errors"
	"time"
)

// The defaults of Wait.
const (
	DefaultPoll     = 2 * time.Second
	DefaultPowerOn  = time.Minute
	DefaultPowerOff = 30 * time.Second
	DefaultSoft     = 5 * time.Minute
	DefaultOffTime  = 5 * time.Second
	DefaultReadBack = 15 * time.Second
	DefaultTask     = time.Hour
)

// Wait says how long a Client waits for what it has asked for. Zero values are
// the defaults. A context that ends sooner ends a wait sooner.
type Wait struct {
	// Poll is the pause between two questions.
	Poll time.Duration
	// PowerOn and PowerOff are how long a machine may take to change its state,
	// Soft how long its operating system may take to shut down.
	PowerOn, PowerOff, Soft time.Duration
	// OffTime is how long a power cycle leaves the machine off: capacitors
	// hold a little longer than the BMC says.
	OffTime time.Duration
	// ReadBack is how long a setting may take to show.
	ReadBack time.Duration
	// Task is how long a task may take.
	Task time.Duration
}

func (w Wait) withDefaults() Wait {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&w.Poll, DefaultPoll},
		{&w.PowerOn, DefaultPowerOn},
		{&w.PowerOff, DefaultPowerOff},
		{&w.Soft, DefaultSoft},
		{&w.OffTime, DefaultOffTime},
		{&w.ReadBack, DefaultReadBack},
		{&w.Task, DefaultTask},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	return w
}

// Client is a Driver whose changes are confirmed: it asks again after each, and
// returns an error where the BMC has not done what it accepted. Reads go to the
// driver as they are.
type Client struct {
	Driver
	wait Wait
	now  func() time.Time
}

// NewClient returns a client of an open driver. now is the clock, required.
func NewClient(d Driver, wait Wait, now func() time.Time) *Client {
	return &Client{Driver: d, wait: wait.withDefaults(), now: now}
}

// poll calls check until it says done, at most for limit, with a pause between.
// An error of check that may pass is tried again; ended is true when time was
// up, with the last such error.
func (c *Client) poll(ctx context.Context, limit time.Duration, check func() (done bool, err error)) (ended bool, err error) {
	start := c.now()
	for {
		done, err := check()
		if err == nil && done || err != nil && !Transient(err) {
			return false, err
		}
		left := limit - c.now().Sub(start)
		if left <= 0 {
			return true, err
		}
		if err := sleep(ctx, min(c.wait.Poll, left)); err != nil {
			return false, err
		}
	}
}

// Transient reports whether an error may pass by itself: trying again later
// makes sense.
func Transient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	for _, kind := range []error{ErrUnreachable, ErrBusy, ErrFailing, context.DeadlineExceeded} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// sleep waits for d or for the end of ctx, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
