package dhcp

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bedplate/bedplate/dhcp"
	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/machine"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// labNetwork is 10.77.0.0/24 with a pool of .100 to .109.
func labNetwork() dhcp.Network {
	return dhcp.Network{
		Name: "lab", CIDR: netip.MustParsePrefix("10.77.0.0/24"), Mode: dhcp.Full,
		Pools:   []lease.Range{{Start: ip("10.77.0.100"), End: ip("10.77.0.109")}},
		Gateway: ip("10.77.0.1"), Nameservers: []netip.Addr{ip("10.77.0.53"), ip("10.77.0.54")},
		NTPServers: []netip.Addr{ip("10.77.0.123")}, Domain: "lab.example", SearchDomains: []string{"lab.example", "example"},
		MTU: 1400, Routes: []dhcp.Route{{Destination: netip.MustParsePrefix("10.99.0.0/16"), Gateway: ip("10.77.0.254")}},
		LeaseTime: time.Minute, Unknown: dhcp.Discover,
	}
}

// twoHosts is a server and a client joined by a cable.
func twoHosts(t *testing.T, tools ...string) *lab {
	t.Helper()
	l := newLab(t, tools...)
	l.namespace("srv")
	l.namespace("cli")
	l.plug("srv", "eth0", "cli", "eth0")
	l.in("srv", "ip", "addr", "add", "10.77.0.1/24", "dev", "eth0")
	return l
}

func parseMAC(t *testing.T, s string) machine.MAC {
	t.Helper()
	m, err := machine.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// dhclient starts ISC dhclient in the foreground.
func (l *lab) dhclient(ns string, args ...string) *process {
	l.t.Helper()
	script, _ := l.script()
	config := filepath.Join(l.dir, "dhclient.conf")
	// As Debian has it.
	text := `option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
request subnet-mask, broadcast-address, time-offset, routers, domain-name, domain-name-servers, domain-search,
	host-name, interface-mtu, rfc3442-classless-static-routes, ntp-servers;
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	fixed := []string{
		"-4", "-d", "-v", "-cf", config, "-sf", script,
		"-lf", filepath.Join(l.dir, "dhclient.leases"), "-pf", filepath.Join(l.dir, "dhclient.pid"),
	}
	return l.start(ns, nil, "dhclient", append(append(fixed, args...), "eth0")...)
}

func TestDhclient(t *testing.T) {
	l := twoHosts(t, "dhclient")
	srv := l.serve("srv", setup{Networks: []dhcp.Network{labNetwork()}})
	c := l.dhclient("cli")
	begin := time.Now()
	c.waitFor("bound to 10.77.0.100")
	t.Logf("bound after %v", time.Since(begin))
	_, log := l.script()
	waitInFile(t, "what dhclient was told", log,
		"new_subnet_mask=255.255.255.0", "new_broadcast_address=10.77.0.255", "new_domain_name=lab.example",
		"new_domain_name_servers=10.77.0.53 10.77.0.54", "new_domain_search=lab.example. example.", "new_ntp_servers=10.77.0.123",
		"new_interface_mtu=1400", "new_dhcp_lease_time=60", "new_dhcp_server_identifier=10.77.0.1",
		"new_rfc3442_classless_static_routes=16 10 99 10 77 0 254 0 10 77 0 1",
	)
	wantAll(t, "the client's address", l.address("cli", "eth0"), "10.77.0.100/24")

	t.Run("it renews, also after the server was killed and started again", func(t *testing.T) {
		t.Log("waiting for T1, 30 s")
		srv.kill()
		srv = l.serve("srv", setup{Networks: []dhcp.Network{labNetwork()}})
		// T1 is 30 s, of which dhclient waits a random part less.
		deadline := time.Now().Add(40 * time.Second)
		for strings.Count(c.output(), "DHCPACK of 10.77.0.100") < 2 {
			if time.Now().After(deadline) {
				t.Fatalf("no renewal:\n%s", c.output())
			}
			select {
			case <-c.more:
			case <-time.After(time.Second):
			}
		}
		srv.waitFor("action=ACK")
	})
	t.Run("it releases", func(t *testing.T) {
		c.kill()
		r := l.dhclient("cli", "-r")
		r.waitFor("DHCPRELEASE of 10.77.0.100")
		srv.waitFor("err=released")
		waitInFile(t, "the store", filepath.Join(l.dir, "leases.json"), "{}")
	})
}

func TestDhclient_InitReboot(t *testing.T) {
	l := twoHosts(t, "dhclient")
	srv := l.serve("srv", setup{Networks: []dhcp.Network{labNetwork()}})
	old := `lease {
  interface "eth0";
  fixed-address 192.168.5.7;
  option subnet-mask 255.255.255.0;
  option dhcp-lease-time 86400;
  option dhcp-message-type 5;
  option dhcp-server-identifier 192.168.5.1;
  renew 4 2037/12/31 00:00:00;
  rebind 4 2037/12/31 00:00:00;
  expire 4 2037/12/31 00:00:00;
}
`
	if err := os.WriteFile(filepath.Join(l.dir, "dhclient.leases"), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	c := l.dhclient("cli")
	c.waitFor("DHCPNAK from 10.77.0.1")
	c.waitFor("bound to 10.77.0.100")
	srv.waitFor("action=NAK")
}

func TestDhclient_Reservation(t *testing.T) {
	l := twoHosts(t, "dhclient")
	m := machine.Machine{Name: "web1", Hostname: "web1", Interfaces: []machine.Interface{{
		MAC: parseMAC(t, l.mac("cli", "eth0")), Address: netip.MustParsePrefix("10.77.0.5/24"), Gateway: ip("10.77.0.2"),
	}}}
	n := labNetwork()
	n.Routes = nil
	l.serve("srv", setup{Networks: []dhcp.Network{n}, Machines: []machine.Machine{m}})
	c := l.dhclient("cli")
	c.waitFor("bound to 10.77.0.5")
	_, log := l.script()
	waitInFile(t, "what dhclient was told", log, "new_routers=10.77.0.2", "new_host_name=web1")
}

// udhcpc starts BusyBox udhcpc in the foreground.
func (l *lab) udhcpc(ns string, args ...string) *process {
	l.t.Helper()
	script, _ := l.script()
	return l.start(ns, nil, "busybox", append([]string{"udhcpc", "-f", "-i", "eth0", "-s", script, "-T", "1"}, args...)...)
}

func TestUdhcpc(t *testing.T) {
	l := twoHosts(t, "busybox")
	srv := l.serve("srv", setup{Networks: []dhcp.Network{labNetwork()}})
	c := l.udhcpc("cli", "-O", "staticroutes", "-O", "search", "-O", "mtu")
	c.waitFor("lease of 10.77.0.100 obtained")
	_, log := l.script()
	waitInFile(t, "what udhcpc was told", log, "dns=10.77.0.53 10.77.0.54", "lease=60", "mask=24", "mtu=1400",
		"search=lab.example example", "serverid=10.77.0.1", "staticroutes=10.99.0.0/16 10.77.0.254 0.0.0.0/0 10.77.0.1")

	c.signal(syscall.SIGUSR1)
	c.waitFor("sending renew to server 10.77.0.1")
	for strings.Count(c.output(), "lease of 10.77.0.100 obtained") < 2 {
		select {
		case <-c.more:
		case <-time.After(5 * time.Second):
			t.Fatalf("not renewed:\n%s", c.output())
		}
	}
	c.signal(syscall.SIGUSR2)
	srv.waitFor("err=released")
}

func TestUdhcpc_Boot(t *testing.T) {
	l := twoHosts(t, "busybox")
	l.serve("srv", setup{Networks: []dhcp.Network{labNetwork()}})
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"as BIOS firmware":  {[]string{"-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x5d:0000"}, []string{"boot_file=undionly.kpxe", "siaddr=10.77.0.1"}},
		"as UEFI firmware":  {[]string{"-V", "PXEClient:Arch:00007:UNDI:003000", "-x", "0x5d:0007"}, []string{"boot_file=snponly.efi", "siaddr=10.77.0.1"}},
		"as UEFI HTTP Boot": {[]string{"-V", "HTTPClient:Arch:00016:UNDI:003000", "-x", "0x5d:0010"}, []string{"boot_file=http://10.77.0.1:8080/boot/snponly.efi"}},
		"as iPXE":           {[]string{"-V", "PXEClient:Arch:00007:UNDI:003010", "-x", "0x5d:0007", "-x", "0x4d:69505845"}, []string{"boot_file=http://10.77.0.1:8080/ipxe/boot.ipxe"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := l.sub(t)
			_, log := l.script()
			if err := os.RemoveAll(log); err != nil {
				t.Fatal(err)
			}
			c := l.udhcpc("cli", append(tc.args, "-q", "-n", "-O", "bootfile", "-O", "tftp")...)
			c.waitFor("lease of 10.77.0.100 obtained")
			<-c.done
			waitInFile(t, "what udhcpc was told", log, tc.want...)
		})
	}
}

// TestProbe has a stranger use the first address of the pool.
func TestProbe(t *testing.T) {
	l := newLab(t, "busybox")
	for _, ns := range []string{"srv", "cli", "squat"} {
		l.namespace(ns)
	}
	l.bridge("sw", "srv", "cli", "squat")
	l.in("srv", "ip", "addr", "add", "10.77.0.1/24", "dev", "eth0")
	l.in("squat", "ip", "addr", "add", "10.77.0.100/24", "dev", "eth0")
	srv := l.serve("srv", setup{Networks: []dhcp.Network{labNetwork()}})
	begin := time.Now()
	c := l.udhcpc("cli", "-q", "-n")
	c.waitFor("lease of 10.77.0.101 obtained")
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("it took %v", d)
	}
	srv.waitFor("passing over an address that somebody uses without a lease")
}

// TestDecline has a stranger come after the address was leased: udhcpc finds
// out by ARP and declines.
func TestDecline(t *testing.T) {
	l := newLab(t, "busybox")
	for _, ns := range []string{"srv", "cli", "squat"} {
		l.namespace(ns)
	}
	l.bridge("sw", "srv", "cli", "squat")
	l.in("srv", "ip", "addr", "add", "10.77.0.1/24", "dev", "eth0")
	l.in("squat", "ip", "addr", "add", "10.77.0.100/24", "dev", "eth0")
	n := labNetwork()
	n.DisableProbe = true
	srv := l.serve("srv", setup{Networks: []dhcp.Network{n}})
	c := l.udhcpc("cli", "-q", "-n", "-a500", "-A", "1")
	srv.waitFor("err=declined")
	c.waitFor("lease of 10.77.0.101 obtained")
}
