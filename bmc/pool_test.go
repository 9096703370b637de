package bmc_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
)

var target = bmc.Target{Machine: "web-1", Address: "192.0.2.1", Username: "admin", Password: "s3cret-password"}

// newPool returns a pool whose only BMC is f, with short waits. The pool is
// closed at the end of the test.
func newPool(t *testing.T, f *bmctest.Fake, change func(*bmc.Config)) *bmc.Pool {
	t.Helper()
	cfg := bmc.Config{Now: time.Now, Rand: func() float64 { return 0.5 }}
	if f != nil {
		cfg.Dial = f.Dial
	}
	if change != nil {
		change(&cfg)
	}
	p, err := bmc.NewPool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return p
}

func readPower(ctx context.Context, c *bmc.Client) error {
	_, err := c.PowerState(ctx)
	return err
}

func TestPool_Sessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := bmctest.NewFake("admin", target.Password)
		p := newPool(t, f, nil)
		for range 5 {
			if err := p.Do(t.Context(), target, readPower); err != nil {
				t.Fatal(err)
			}
		}
		if logins, open, _, _ := f.Counts(); logins != 1 || open != 1 {
			t.Errorf("five calls made %d logins and left %d sessions open, want 1 and 1", logins, open)
		}
		time.Sleep(bmc.DefaultIdle * 2)
		if _, open, _, _ := f.Counts(); open != 0 {
			t.Errorf("%d sessions are open after twice the idle time, want none", open)
		}
	})
}

func TestPool_Circuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := bmctest.NewFake("admin", target.Password)
		f.SetFaults(bmctest.Faults{Dead: true})
		p := newPool(t, f, func(c *bmc.Config) { c.Tries = 1 })
		for range bmc.DefaultOpenAfter {
			if err := p.Do(t.Context(), target, readPower); !errors.Is(err, bmc.ErrUnreachable) {
				t.Fatalf("call to a dead BMC ended with %v, want ErrUnreachable", err)
			}
		}
		start := time.Now()
		err := p.Do(t.Context(), target, readPower)
		if !errors.Is(err, bmc.ErrCircuitOpen) || time.Since(start) != 0 {
			t.Errorf("fourth call ended with %v after %s, want ErrCircuitOpen at once", err, time.Since(start))
		}
		c := p.Circuit(target.Machine)
		if c.State != bmc.CircuitOpen || c.Failures != 3 || c.NextTry.Before(time.Now()) || c.Reason == "" {
			t.Errorf("circuit is %+v, want it open with reason and next try", c)
		}
		f.SetFaults(bmctest.Faults{})
		time.Sleep(time.Until(c.NextTry))
		if err := p.Do(t.Context(), target, readPower); err != nil {
			t.Errorf("call to a BMC that is back ended with %v", err)
		}
		if c := p.Circuit(target.Machine); c.State != bmc.CircuitClosed || c.Failures != 0 {
			t.Errorf("circuit is %+v after a good call, want it closed", c)
		}
	})
}

func TestPool_Console(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := bmctest.NewFake("admin", target.Password)
		p := newPool(t, f, func(c *bmc.Config) { c.MaxConsoles = 1 })
		c, err := p.Console(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Do(t.Context(), target, readPower); err != nil {
			t.Errorf("a call beside an open console ended with %v", err)
		}
		if _, err := p.Console(t.Context(), target); !errors.Is(err, bmc.ErrBusy) {
			t.Errorf("one console more than there may be ended with %v, want ErrBusy", err)
		}
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, open, _, _ := f.Counts(); open != 1 {
			t.Errorf("%d sessions are open after the console's end, want that of the call", open)
		}
		if _, err := p.Console(t.Context(), target); err != nil {
			t.Errorf("opening it anew ended with %v", err)
		} // it is closed with the pool
	})
}

func TestPool_Queue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := bmctest.NewFake("admin", target.Password)
		f.SetFaults(bmctest.Faults{Delay: time.Second})
		p := newPool(t, f, func(c *bmc.Config) { c.MaxWaiting = 2 })
		results := make(chan error, 10)
		for range 10 {
			go func() { results <- p.Retry(t.Context(), target, readPower) }()
		}
		refused := 0
		for range 10 {
			if err := <-results; errors.Is(err, bmc.ErrBusy) {
				refused++
			} else if err != nil {
				t.Error(err)
			}
		}
		if refused < 7 {
			t.Errorf("%d of 10 calls at once were refused; with 2 that may wait, want 7 or more", refused)
		}
	})
}

func TestPool_Forget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := bmctest.NewFake("admin", target.Password)
		p := newPool(t, f, nil)
		if err := p.Do(t.Context(), target, readPower); err != nil {
			t.Fatal(err)
		}
		p.Forget(t.Context(), target.Machine)
		if _, open, _, _ := f.Counts(); open != 0 {
			t.Errorf("%d sessions are open with a BMC that was forgotten", open)
		}
		if err := p.Do(t.Context(), target, readPower); err != nil {
			t.Errorf("a call after it ended with %v", err)
		}
	})
}
