package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

// networked is a machine that boots by its first port and whose system has a
// bond of two, a VLAN on it and a bridge on the third.
const networked = `
apiVersion: bedplate/v1
kind: Machine
metadata: {name: net}
spec:
  interfaces: [{mac: %[1]q, address: 10.77.0.31/24}]
  network:
    links:
    - {name: left, mac: %[1]q}
    - {name: right, mac: %[2]q}
    - {name: bond0, bond: {ports: [left, right], mode: active-backup, primary: right, miimon: 200ms}, addresses: [10.77.0.31/24, "2001:db8:77::31/64"], mtu: 1400}
    - {name: bond0.42, vlan: {link: bond0, id: 42}, addresses: [10.42.0.31/24], routes: [{to: 10.43.0.0/16, via: 10.42.0.1, metric: 77}]}
    - {name: guest, mac: %[3]q}
    - {name: br0, bridge: {ports: [guest]}, addresses: [10.44.0.31/24]}
    nameservers: [10.77.0.1]
    search_domains: [lab.example]
---
apiVersion: bedplate/v1
kind: Instance
metadata: {name: net}
spec:
  machine: net
  image: debian-net
  hostname: host-net
  ssh_keys: [%[4]q]
  user_data: |
    #cloud-config
    write_files:
    - path: /etc/proof
      content: "configured for net\n"
`

// TestNetwork installs a machine whose network is declared, and looks at it
// from inside and across its VLAN.
func TestNetwork(t *testing.T) {
	if _, err := os.Stat(storageImage); err != nil {
		t.Fatalf("%v: run `make e2e`, which builds it", err)
	}
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "net", NICs: []lab.NICSpec{{}, {}}}}})
	r.must("image", "import", "debian-net", "--file", storageImage)
	m := r.machine("net").Spec()
	r.apply(fmt.Sprintf(networked, m.MAC, m.NICs[0].MAC, m.NICs[1].MAC, r.authorized))
	for _, args := range [][]string{
		{"link", "add", "link", "br0", "name", "br0.42", "type", "vlan", "id", "42"},
		{"addr", "add", "10.42.0.1/24", "dev", "br0.42"},
		{"link", "set", "br0.42", "up"},
	} {
		// Where the lab's kernel has no VLANs, the machine's own side is looked at alone.
		if err := r.ns.Run(exec.Command("ip", args...)); err != nil {
			t.Logf("ip %s: %v", strings.Join(args, " "), err)
			break
		}
	}
	r.powerOn("net")
	r.waitState(installTime, "instance", "net", "active", "failed")
	r.proves("net", "10.77.0.31")
	for _, c := range []struct{ command, want string }{
		{"cat /sys/class/net/bond0/bonding/mode", "active-backup 1"},
		{"cat /sys/class/net/bond0/bonding/slaves | tr ' ' '\\n' | sort | xargs", "left right"},
		{"cat /sys/class/net/bond0/bonding/active_slave", "right"},
		{"cat /sys/class/net/bond0/bonding/miimon", "200"},
		{"cat /sys/class/net/bond0/address", m.MAC},
		{"cat /sys/class/net/bond0/mtu", "1400"},
		{"ip -o -4 addr show bond0 | awk '{print $4}'", "10.77.0.31/24"},
		{"ip -o -6 addr show bond0 scope global | awk '{print $4}' | grep db8", "2001:db8:77::31/64"},
		{"ip -o -4 addr show bond0.42 | awk '{print $4}'", "10.42.0.31/24"},
		{"ip -d link show bond0.42 | grep -o 'vlan protocol 802.1Q id 42'", "vlan protocol 802.1Q id 42"},
		{"ip -o -4 addr show br0 | awk '{print $4}'", "10.44.0.31/24"},
		{"ls /sys/class/net/br0/brif", "guest"},
		{"ip route show 10.43.0.0/16 | xargs", "10.43.0.0/16 via 10.42.0.1 dev bond0.42 proto static metric 77"},
	} {
		if got, err := r.ssh("10.77.0.31", c.command); err != nil || got != c.want {
			t.Errorf("%s: %q, want %q (%v)", c.command, got, c.want, err)
		}
	}
	if !all() {
		return // netplan writes the same at each boot; the gate takes its word for it
	}
	t.Run("a reset changes nothing", func(t *testing.T) {
		r := r.in(t)
		was, err := r.bootID("10.77.0.31")
		if err != nil {
			t.Fatal(err)
		}
		r.reset("net", "10.77.0.31", was)
		r.eventually(time.Minute, "the bond has its primary port", func() error {
			got, err := r.ssh("10.77.0.31", "cat /sys/class/net/bond0/bonding/active_slave")
			if err == nil && got != "right" {
				err = fmt.Errorf("it has %q", got)
			}
			return err
		})
	})
}
