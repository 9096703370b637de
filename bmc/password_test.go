package bmc_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
)

func sprintf(format string, args ...any) string { return fmt.Sprintf(format, args...) }

func TestPool_SetPassword(t *testing.T) {
	const renewed = "n3w-password"
	for name, c := range map[string]struct {
		faults bmctest.Faults
		dial   func(f *bmctest.Fake) func(context.Context, bmc.Target) (bmc.Driver, error)
		want   error
	}{
		"a password that the BMC takes is proven by a new login": {},
		"a password that the BMC ignores is an error, and the old one is still used": {
			faults: bmctest.Faults{IgnorePassword: true}, want: bmc.ErrIgnored,
		},
		"where neither logs in after, it isn't known which one is right": {
			dial: func(f *bmctest.Fake) func(context.Context, bmc.Target) (bmc.Driver, error) {
				logins := 0
				return func(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
					if logins++; logins > 1 {
						return nil, bmc.ErrUnreachable
					}
					return f.Dial(ctx, t)
				}
			},
			want: bmc.ErrPasswordUnknown,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := bmctest.NewFake("admin", target.Password)
				f.SetFaults(c.faults)
				p := newPool(t, f, func(cfg *bmc.Config) {
					if c.dial != nil {
						cfg.Dial = c.dial(f)
					}
				})
				err := p.SetPassword(t.Context(), target, renewed)
				if !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Fatalf("error is %v, want %v", err, c.want)
				}
				if err != nil && (strings.Contains(err.Error(), renewed) || strings.Contains(err.Error(), target.Password)) {
					t.Errorf("error shows a password: %v", err)
				}
				if c.want == bmc.ErrPasswordUnknown {
					return
				}
				now := target
				now.Password = f.Password()
				before, _, _, _ := f.Counts()
				if err := p.Do(t.Context(), now, readPower); err != nil {
					t.Errorf("the next call ended with %v", err)
				}
				if after, _, _, _ := f.Counts(); after != before {
					t.Errorf("the next call logged in again: the session that proved the password is to be kept")
				}
			})
		})
	}
}

func TestPool_Pins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := bmctest.NewFake("admin", target.Password)
		pin := bmc.Pin("sha256:" + strings.Repeat("aa", 32))
		var asked []bmc.Pin
		var told []bmc.Pin
		p := newPool(t, f, func(c *bmc.Config) {
			c.Dial = func(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
				asked = append(asked, t.TLS.Pin)
				d, err := f.Dial(ctx, t)
				return pinned{d, pin}, err
			}
			c.Pinned = func(_ bmc.Target, pin bmc.Pin) { told = append(told, pin) }
		})
		call := func(t2 bmc.Target) {
			if err := p.Do(t.Context(), t2, readPower); err != nil {
				t.Fatal(err)
			}
		}
		call(target)
		time.Sleep(bmc.DefaultIdle * 2) // the session is closed
		call(target)
		if want := (bmc.Pin)(""); len(asked) != 2 || asked[0] != want || asked[1] != pin || len(told) != 1 || told[0] != pin {
			t.Errorf("logins were made with pins %q, and %q were told; want the second login to be held to what the first one saw", asked, told)
		}
		stored := target
		stored.TLS.Pin = pin
		call(stored)
		if len(told) != 1 {
			t.Errorf("a pin that is known was told again: %q", told)
		}
	})
}

// pinned is a driver that has seen a certificate.
type pinned struct {
	bmc.Driver
	pin bmc.Pin
}

func (p pinned) Pin() bmc.Pin { return p.pin }
