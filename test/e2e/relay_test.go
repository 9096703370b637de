package e2e

import (
	"os/exec"
	"testing"

	"github.com/bedplate/bedplate/lab"
)

// TestRelay boots (all of it: installs) a machine on a network that the server reaches only over a
// router, on which the ISC's relay agent forwards DHCP, with its option 82.
func TestRelay(t *testing.T) {
	r := newRig(t, lab.Spec{
		Networks: []lab.Network{{Name: "br0"}, {Name: "far", Address: "10.78.0.1/24", Behind: "br0", Uplink: "10.77.0.2/24"}},
		Machines: []lab.MachineSpec{{Name: "m1", Network: "far"}},
	})
	r.daemon("far", exec.Command("dhcrelay", "-4", "-d", "--no-pid", "-a", "-id", "far", "-iu", "uplink", serverAddress))
	if all() {
		r.importDebian()
	}
	r.apply(`
apiVersion: bedplate/v1
kind: Network
metadata: {name: far}
spec: {cidr: 10.78.0.0/24, dhcp_mode: relay, gateway: 10.78.0.1}
---
` + r.machineYAML("m1", "10.78.0.31/24"))
	if all() {
		r.apply(r.instanceYAML("m1"))
	}
	r.powerOn("m1")
	if all() {
		r.waitState(installTime, "instance", "m1", "active", "failed")
		r.proves("m1", "10.78.0.31")
	} else {
		r.waitState(installTime, "machine", "m1", "available", "failed")
		if got := field(r.object("machine", "m1"), "status", "agent", "address"); got != "10.78.0.31" {
			t.Errorf("the agent's address is %q, want 10.78.0.31", got)
		}
	}
	if got := field(r.object("network", "far"), "status", "leases"); got != "1" {
		t.Errorf("network far has %q leases, want 1", got)
	}
}
