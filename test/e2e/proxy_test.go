package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bedplate/bedplate/lab"
)

// TestProxy boots machines on a network where dnsmasq gives out the addresses
// and knows nothing of booting; all of it installs them as well.
func TestProxy(t *testing.T) {
	r := newRack(t, lab.Spec{
		Peers: []lab.Peer{{Name: "dhcp", Network: "br0", Address: "10.77.0.3/24"}},
		Machines: []lab.MachineSpec{
			{Name: "bios"},
			{Name: "uefi", Firmware: lab.UEFI},
		},
	})
	address := map[string]string{"bios": "10.77.0.31", "uefi": "10.77.0.32"}
	args := []string{"--dhcp-range=10.77.0.50,10.77.0.99,255.255.255.0,1h"}
	for _, m := range r.lab.Machines() {
		args = append(args, "--dhcp-host="+m.Spec().MAC+","+address[m.Name()])
	}
	r.dnsmasq("dhcp", "eth0", args...)
	r.start()
	r.importDebian()
	t.Run("the first start finds the other server and stays beside it", func(t *testing.T) {
		n := r.object("network", "br0")
		if got := field(n, "spec", "dhcp_mode"); got != "proxy" {
			t.Errorf("dhcp_mode is %q, want proxy", got)
		}
		if got := field(n["metadata"], "annotations", "bedplate/reason"); !strings.Contains(got, "10.77.0.3") {
			t.Errorf("the reason is %q, want it to name the other server, 10.77.0.3", got)
		}
	})
	for name := range address {
		r.apply(r.machineYAML(name, ""))
		if all() {
			r.apply(r.instanceYAML(name))
		}
		r.powerOn(name)
	}
	for name, a := range address {
		t.Run(name+" boots the agent", func(t *testing.T) {
			r := r.in(t)
			if !all() {
				r.waitState(installTime, "machine", name, "available", "failed")
				if got := field(r.object("machine", name), "status", "agent", "address"); got != a {
					t.Errorf("the agent's address is %q, want the one that dnsmasq gives it, %s", got, a)
				}
				return
			}
			r.waitState(installTime, "instance", name, "active", "failed")
			r.proves(name, a)
		})
	}
	t.Run("not one address was leased", func(t *testing.T) {
		r := r.in(t)
		if got := field(r.object("network", "br0"), "status", "leases"); got != "" && got != "0" {
			t.Errorf("%s leases", got)
		}
	})
}

// dnsmasq runs a DHCP server in a namespace of the lab until the lab is taken down.
func (r *rig) dnsmasq(namespace, iface string, args ...string) {
	r.t.Helper()
	args = append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--port=0", "--bind-interfaces", "--interface=" + iface,
		// Its own probe of an address delays an offer by 3 s.
		"--no-ping", "--dhcp-leasefile=" + filepath.Join(r.dir, "dnsmasq.leases"), "--log-facility=-",
	}, args...)
	r.daemon(namespace, exec.Command("dnsmasq", args...))
}

// daemon runs a foreign program in a namespace of the lab until the test ends.
func (r *rig) daemon(namespace string, cmd *exec.Cmd) {
	r.t.Helper()
	ns, err := r.lab.Namespace(namespace)
	if err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(r.dir, filepath.Base(cmd.Path)+".log")
	log, err := os.Create(path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := ns.Start(cmd); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if b, err := os.ReadFile(path); err == nil && r.t.Failed() {
			r.t.Logf("%s:\n%s", filepath.Base(path), tail(b, 60))
		}
	})
}
