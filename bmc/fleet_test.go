package bmc_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/machine"
)

// TestPool_Fleet polls 500 BMCs of which one in ten is dead, every 30 s for 20
// minutes. In the bubble, time passes only while everybody waits, so that the
// figures are those of the waiting and not of this computer.
func TestPool_Fleet(t *testing.T) {
	const fleet, interval, rounds = 500, 30 * time.Second, 40
	for name, deadEach := range map[string]int{"all alive": 0, "one in ten dead": 10} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bmcs := map[string]*bmctest.Fake{}
				for i := range fleet {
					f := bmctest.NewFake("admin", target.Password)
					f.SetFaults(bmctest.Faults{Delay: 50 * time.Millisecond, Dead: deadEach > 0 && i%deadEach == 0})
					bmcs[address(i)] = f
				}
				p := newPool(t, nil, func(c *bmc.Config) {
					c.Dial = func(ctx context.Context, t bmc.Target) (bmc.Driver, error) { return bmcs[t.Address].Dial(ctx, t) }
				})
				var (
					mu       sync.Mutex
					took     []time.Duration // of the live ones, without the first round
					first    time.Duration   // the longest of the first round, when nobody is known
					refused  int
					routines int
				)
				var g sync.WaitGroup
				for i := range fleet {
					g.Go(func() {
						tgt := target
						tgt.Machine, tgt.Address = machine.Name(fmt.Sprintf("m%d", i)), address(i)
						for round := range rounds {
							start := time.Now()
							err := p.Retry(t.Context(), tgt, readPower)
							mu.Lock()
							switch {
							case err == nil && round == 0:
								first = max(first, time.Since(start))
							case err == nil:
								took = append(took, time.Since(start))
							case errors.Is(err, bmc.ErrCircuitOpen):
								refused++
							case err != nil && (deadEach == 0 || i%deadEach != 0):
								t.Errorf("BMC %d is alive and its call ended with %v", i, err)
							}
							routines = max(routines, runtime.NumGoroutine())
							mu.Unlock()
							time.Sleep(max(0, interval-time.Since(start)))
						}
					})
				}
				g.Wait()
				slices.Sort(took)
				logins, calls, atOnce := 0, 0, 0
				for _, f := range bmcs {
					l, _, c, n := f.Counts()
					logins, calls, atOnce = logins+l, calls+c, max(atOnce, n)
				}
				median, worst := took[len(took)/2], took[len(took)-1]
				t.Logf("%s: %d calls answered, median %s, 99 %% %s, worst %s, worst of the first round %s; %d refused by circuits; %d logins, %d at once at one BMC at most, %d goroutines at most",
					name, len(took), median, took[len(took)*99/100], worst, first, refused, logins, atOnce, routines)
				if first > 3*time.Second {
					t.Errorf("a live BMC's first call took %s, want under 3 s", first)
				}
				if worst > time.Second {
					t.Errorf("a live BMC's call took %s, want under a second: the dead ones cost the others", worst)
				}
				if atOnce != 1 {
					t.Errorf("%d calls were made at once at one BMC, want 1", atOnce)
				}
				if deadEach > 0 {
					dead := p.Circuit("m0")
					if dead.State == bmc.CircuitClosed || dead.Reason == "" {
						t.Errorf("circuit of a dead BMC is %+v", dead)
					}
					if alive := p.Circuit("m1"); alive.State != bmc.CircuitClosed {
						t.Errorf("circuit of a live BMC is %+v", alive)
					}
				}
			})
		})
	}
}

func address(i int) string { return fmt.Sprintf("192.0.%d.%d", 2+i/250, i%250) }
