package e2e

import (
	"errors"
	"strings"
	"testing"

	"github.com/bedplate/bedplate/lab"
)

// secureBootVariable is the firmware's own word on whether it enforces Secure
// Boot (UEFI 2.10 §3.3): four octets of attributes, then 1.
const secureBootVariable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// TestSecureBoot installs a machine whose firmware starts nothing that isn't
// signed by Microsoft's key: shim, the distribution's GRUB and kernel, and
// the same of the installed system.
func TestSecureBoot(t *testing.T) {
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "sb", Firmware: lab.UEFISecure}}})
	r.importDebian()
	r.apply(strings.Replace(r.machineYAML("sb", "10.77.0.31/24"), "{name: sb}", `{name: sb, labels: {bedplate/secure-boot: "true"}}`, 1) + r.instanceYAML("sb"))
	r.powerOn("sb")
	r.waitState(installTime, "instance", "sb", "active", "failed")
	r.proves("sb", "10.77.0.31")
	t.Run("the agent ran with Secure Boot on", func(t *testing.T) {
		inventory := r.in(t).object("machine", "sb")["status"].(map[string]any)["inventory"]
		if got := field(inventory, "firmware", "secure_boot"); got != "true" {
			t.Errorf("the inventory says %q: %v", got, inventory.(map[string]any)["firmware"])
		}
	})
	t.Run("the installed system runs with Secure Boot on", func(t *testing.T) {
		out, err := r.in(t).ssh("10.77.0.31", "od -An -tu1 "+secureBootVariable+"; cat /sys/kernel/security/lockdown")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		lines := strings.Split(out, "\n")
		if f := strings.Fields(lines[0]); len(f) != 5 || f[4] != "1" {
			t.Errorf("SecureBoot is %q, want 1 in the last octet", lines[0])
		}
		if !strings.Contains(out, "[integrity]") {
			t.Errorf("the kernel isn't locked down: %s", out)
		}
	})
}

// TestSecureBoot_Release gives a machine to somebody who switches Secure Boot
// off. Its BMC has it on again before the machine is available.
func TestSecureBoot_Release(t *testing.T) {
	if !all() {
		t.Skip("SKIPPED: `make e2e-all` runs it")
	}
	r := newRig(t, lab.Spec{Name: "sbr", Machines: []lab.MachineSpec{{Name: "sb", Firmware: lab.UEFISecure, Disks: []lab.DiskSpec{{Size: 64 << 20}}}}})
	r.apply(`
apiVersion: bedplate/v1
kind: Pool
metadata: {name: default}
spec: {boot_timeout: 6m, expect: {secure_boot: "on"}}
---
` + template("nothing", "\n  - {id: nothing, uses: noop}\n") + "---\n" + r.passwordList("sb") +
		strings.Replace(r.bmcYAML("sb", ""), "{name: sb}", `{name: sb, labels: {bedplate/secure-boot: "true"}}`, 1))
	r.waitState(installTime, "machine", "sb", "available", "failed")
	r.apply("apiVersion: bedplate/v1\nkind: Instance\nmetadata: {name: sb}\nspec: {machine: sb, template: nothing}\n")
	r.waitState(installTime, "workflow", r.workflowOf("sb"), "succeeded", "failed")
	if err := r.machine("sb").BMC().Board().EnableSecureBoot(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	// It is in force from the next boot on, which is the one that releases it.
	if err := r.machine("sb").PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.must("instance", "delete", "sb")
	r.eventually(installTime, "the machine is free again", func() error {
		if out, err := r.run("get", "instance", "sb"); err == nil {
			return errors.New(out)
		}
		return nil
	})
	r.waitState(installTime, "machine", "sb", "available", "failed", "quarantined")
	if out := r.must("event", "list", "--about", "machine/sb", "--no-headers"); !strings.Contains(out, "SecureBootReset") {
		t.Errorf("no event says that Secure Boot was set back:\n%s", out)
	}
	if got := field(r.object("machine", "sb")["status"], "inventory", "firmware", "secure_boot"); got != "true" {
		t.Errorf("Secure Boot is %q", got)
	}
}
