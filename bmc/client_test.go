package bmc_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
)

// client opens a client of f with the usual waits, in a bubble.
func client(t *testing.T, f *bmctest.Fake) *bmc.Client {
	t.Helper()
	d, err := f.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	return bmc.NewClient(d, bmc.Wait{}, time.Now)
}

func TestClient_SetPower(t *testing.T) {
	t.Run("a BMC that lies about the state is an error that says wanted and found", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := bmctest.NewFake("admin", target.Password)
			f.SetFaults(bmctest.Faults{LieOn: true})
			start := time.Now()
			_, err := client(t, f).SetPower(t.Context(), bmc.ActionOff)
			var wrong *bmc.PowerError
			if !errors.As(err, &wrong) || wrong.Wanted != bmc.PowerOff || wrong.Found != bmc.PowerOn {
				t.Fatalf("error is %v, want a PowerError: wanted off, found on", err)
			}
			if took := time.Since(start); took != bmc.DefaultPowerOff {
				t.Errorf("it was waited for %s, want %s", took, bmc.DefaultPowerOff)
			}
		})
	})
	t.Run("a BMC that drops the first request is asked once more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := bmctest.NewFake("admin", target.Password)
			f.SetFaults(bmctest.Faults{IgnorePower: true})
			time.AfterFunc(5*time.Second, func() { f.SetFaults(bmctest.Faults{}) })
			if _, err := client(t, f).SetPower(t.Context(), bmc.ActionOn); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]bmc.PowerAction{bmc.ActionOn, bmc.ActionOn}, f.Actions()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	})
	t.Run("soft never becomes off by itself, and says that the system didn't go down", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := bmctest.NewFake("admin", target.Password)
			f.SetPower(bmc.PowerOn)
			f.SetFaults(bmctest.Faults{IgnoreSoft: true})
			_, err := client(t, f).SetPower(t.Context(), bmc.ActionSoft)
			if !errors.Is(err, bmc.ErrPowerState) || !strings.Contains(err.Error(), "did not shut down in time") {
				t.Errorf("error is %v", err)
			}
			if diff := cmp.Diff([]bmc.PowerAction{bmc.ActionSoft}, f.Actions()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	})
	t.Run("a request that ends with an error of a moment is settled by the state", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := bmctest.NewFake("admin", target.Password)
			c := client(t, f)
			f.SetFaults(bmctest.Faults{PowerErr: bmc.ErrFailing})
			change, err := c.SetPower(t.Context(), bmc.ActionOn)
			if err != nil || change.After != bmc.PowerOn {
				t.Errorf("change is %v, %v; the machine is %v", change, err, f.Power())
			}
		})
	})
	t.Run("a state that can't be read for a moment is asked for again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := bmctest.NewFake("admin", target.Password)
			f.SetFaults(bmctest.Faults{Err: bmc.ErrBusy, FailCalls: 2})
			if _, err := client(t, f).SetPower(t.Context(), bmc.ActionOn); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("a reset that ends with an error is an error, as the state doesn't tell", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := bmctest.NewFake("admin", target.Password)
			f.SetPower(bmc.PowerOn)
			f.SetFaults(bmctest.Faults{PowerErr: bmc.ErrFailing})
			if _, err := client(t, f).SetPower(t.Context(), bmc.ActionReset); !errors.Is(err, bmc.ErrFailing) {
				t.Errorf("error is %v, want ErrFailing", err)
			}
		})
	})
	t.Run("a cycle that is stopped half-way says that the machine is off", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := bmctest.NewFake("admin", target.Password)
			f.SetPower(bmc.PowerOn)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := client(t, f).SetPower(ctx, bmc.ActionCycle)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "machine is off") || f.Power() != bmc.PowerOff {
				t.Errorf("error is %v, machine is %v", err, f.Power())
			}
		})
	})
}

func TestClient_ReadBack(t *testing.T) {
	for name, c := range map[string]struct {
		faults bmctest.Faults
		change func(ctx context.Context, c *bmc.Client) error
		says   string
	}{
		"a boot override that is ignored": {
			bmctest.Faults{IgnoreBoot: true},
			func(ctx context.Context, c *bmc.Client) error {
				return c.SetBoot(ctx, bmc.BootOverride{Device: bmc.BootNetwork, Mode: bmc.ModeUEFI})
			},
			"boot override network once (uefi): found no override",
		},
		"media that isn't inserted": {
			bmctest.Faults{IgnoreMedia: true},
			func(ctx context.Context, c *bmc.Client) error {
				return c.InsertMedia(ctx, bmc.MediaCD, "http://192.0.2.9/agent.iso")
			},
			"found cd has nothing",
		},
		"media that ejects itself": {
			bmctest.Faults{EjectAfter: 1},
			func(ctx context.Context, c *bmc.Client) error {
				return c.InsertMedia(ctx, bmc.MediaCD, "http://192.0.2.9/agent.iso")
			},
			"found cd has nothing",
		},
		"a BIOS setting that isn't taken": {
			bmctest.Faults{IgnoreBIOS: true},
			func(ctx context.Context, c *bmc.Client) error {
				return c.SetBIOS(ctx, map[string]string{"ProcCores": "2"})
			},
			"found ProcCores=8",
		},
	} {
		t.Run(name+" is an error that says so", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := bmctest.NewFake("admin", target.Password)
				f.SetFaults(c.faults)
				err := c.change(t.Context(), client(t, f))
				if !errors.Is(err, bmc.ErrIgnored) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error is %v, want ErrIgnored with %q", err, c.says)
				}
			})
		})
	}
}

func TestClient_WaitTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := bmctest.NewFake("admin", target.Password)
		c := client(t, f)
		id, err := c.UpdateFirmware(t.Context(), bmc.FirmwareUpdate{URI: "http://192.0.2.9/bios.bin"})
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, func() { f.SetFaults(bmctest.Faults{Err: bmc.ErrUnreachable}) })
		time.AfterFunc(4*time.Minute, func() { f.SetFaults(bmctest.Faults{}); f.Finish("checksum is wrong") })
		_, err = c.WaitTask(t.Context(), id, nil)
		if err == nil || !strings.Contains(err.Error(), "checksum is wrong") {
			t.Errorf("a task that failed while the BMC was away for three minutes ended with %v", err)
		}
	})
}

func TestTarget_Printing(t *testing.T) {
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		t.Run("no password with "+verb, func(t *testing.T) {
			for _, v := range []any{target, &target} {
				if s := sprintf(verb, v); strings.Contains(s, target.Password) || strings.Contains(s, "7333637265742d70617373776f7264") {
					t.Errorf("%s prints %s", verb, s)
				}
			}
		})
	}
}
