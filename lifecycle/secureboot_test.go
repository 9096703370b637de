package lifecycle

import (
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
)

// released takes a machine of a pool that expects Secure Boot to an instance,
// whose owner switches Secure Boot off, and has it released.
func released(t *testing.T, change func(*world)) *world {
	t.Helper()
	w := newWorld(t)
	w.secure, w.erasure = true, w.records
	w.ctl = w.controller()
	w.add(&pb.Pool{Metadata: &pb.Metadata{Name: DefaultPool}, Spec: &pb.PoolSpec{BootAttempts: 2, Expect: &pb.Expectation{SecureBoot: "on"}}})
	w.add(knownByBMC())
	w.run()
	w.eventually("available", w.machineIs("web-1", pb.MachineState_AVAILABLE))
	w.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "debian"}})
	w.eventually("active", w.machineIs("web-1", pb.MachineState_ACTIVE))
	w.set(func() { w.secure = false; change(w) })
	w.markDeleting("web")
	return w
}

// events counts the events with a reason, and returns the last one's message.
func (w *world) events(reason string) (n int, message string) {
	w.t.Helper()
	page, err := w.db.Store.List(w.t.Context(), "/events/", "", 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, kv := range slices.DeleteFunc(page.KVs, func(kv store.KV) bool { return !strings.Contains(kv.Key, reason) }) {
		n, message = n+1, string(kv.Value)
	}
	return n, message
}

func TestLife_SecureBoot(t *testing.T) {
	t.Run("what a user has switched off is on again before the machine is available", func(t *testing.T) {
		w := released(t, func(*world) {})
		w.eventually("available", w.machineIs("web-1", pb.MachineState_AVAILABLE))
		if !w.done("web-1 secure_boot") || !w.machine("web-1").Status.Inventory.Firmware.SecureBoot {
			t.Errorf("its BMC did %q; the inventory has %v", w.did, w.machine("web-1").Status.Inventory.Firmware)
		}
		if n, message := w.events("SecureBootReset"); n != 1 || message != "Secure Boot is on again" {
			t.Errorf("%d events, the last: %q", n, message)
		}
	})
	t.Run("one that is as it should be is left alone", func(t *testing.T) {
		w := released(t, func(w *world) { w.secure = true })
		w.eventually("available", w.machineIs("web-1", pb.MachineState_AVAILABLE))
		if w.done("web-1 secure_boot") {
			t.Errorf("its BMC did %q", w.did)
		}
	})
	t.Run("what the BMC can't do is on record, and keeps the machine out of the pool", func(t *testing.T) {
		w := released(t, func(w *world) { w.unable = "it has no Secure Boot keys" })
		for range 2 {
			w.eventually("tried", func() bool {
				return w.machine("web-1").Status.Job != "" && strings.Contains(w.machine("web-1").Status.Cause, "no Secure Boot keys") || w.machineIs("web-1", pb.MachineState_FAILED)()
			})
			w.pass(2 * time.Minute)
		}
		w.eventually("failed", w.machineIs("web-1", pb.MachineState_FAILED))
		if cause := w.machine("web-1").Status.Cause; cause != "its hardware is not as expected: secure_boot is off, not on" {
			t.Errorf("the cause is %q", cause)
		}
		if n, message := w.events("SecureBootNotReset"); n != 1 || message != "Secure Boot is off and should be on: its BMC: it has no Secure Boot keys" {
			t.Errorf("%d events, the last: %q", n, message)
		}
		if !w.done("web-1 boot none") {
			t.Errorf("the rest of its BMC was not put back: %q", w.did)
		}
	})
}
