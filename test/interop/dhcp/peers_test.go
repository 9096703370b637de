package dhcp

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/dhcp"
	"github.com/bedplate/bedplate/dhcp/lease"
)

// dnsmasq starts dnsmasq without DNS.
func (l *lab) dnsmasq(ns string, args ...string) *process {
	l.t.Helper()
	fixed := []string{
		"-k", "--port=0", "--conf-file=/dev/null", "--user=root", "--log-dhcp", "--log-facility=-", "--pid-file=",
		"--dhcp-leasefile=" + filepath.Join(l.dir, "dnsmasq.leases"), "--no-ping",
	}
	return l.start(ns, nil, "dnsmasq", append(fixed, args...)...)
}

func TestPortTaken(t *testing.T) {
	l := twoHosts(t, "dnsmasq")
	d := l.dnsmasq("srv", "--interface=eth0", "--dhcp-range=10.77.0.150,10.77.0.160")
	d.waitFor("started")
	p := l.tryServe("srv", setup{Networks: []dhcp.Network{labNetwork()}})
	<-p.done
	wantAll(t, "the error", p.output(), "port 67 on eth0 is already in use by dnsmasq (pid ",
		"another DHCP server runs here: stop it, or set dhcp_mode of the networks on eth0 to off")
}

// TestProxy is our server in proxy mode on a link where dnsmasq gives the addresses.
func TestProxy(t *testing.T) {
	l := newLab(t, "dnsmasq", "dhclient", "tcpdump", "busybox")
	for _, ns := range []string{"srv", "dns", "cli"} {
		l.namespace(ns)
	}
	l.bridge("sw", "srv", "dns", "cli")
	l.in("srv", "ip", "addr", "add", "10.77.0.1/24", "dev", "eth0")
	l.in("dns", "ip", "addr", "add", "10.77.0.9/24", "dev", "eth0")
	d := l.dnsmasq("dns", "--interface=eth0", "--dhcp-range=10.77.0.150,10.77.0.160")
	d.waitFor("started")
	n := labNetwork()
	n.Mode, n.Pools = dhcp.Proxy, nil
	srv := l.serve("srv", setup{Networks: []dhcp.Network{n}})

	t.Run("an installed system gets its address from dnsmasq alone", func(t *testing.T) {
		c := l.dhclient("cli", "-1")
		c.waitFor("bound to 10.77.0.1")
		wantAll(t, "dhclient", c.output(), "DHCPOFFER of", "from 10.77.0.9")
		if strings.Contains(c.output(), "from 10.77.0.1\n") {
			t.Errorf("our server answered as well:\n%s", c.output())
		}
		c.kill()
		l.in("cli", "ip", "addr", "flush", "dev", "eth0")
	})
	for name, tc := range map[string]struct {
		args []string
		file string
		// class is option 60 of the answer, in hexadecimal with its code and length.
		class string
	}{
		"BIOS":      {[]string{"-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x5d:0000"}, "undionly.kpxe", "PXEClient"},
		"UEFI":      {[]string{"-V", "PXEClient:Arch:00007:UNDI:003000", "-x", "0x5d:0007"}, "snponly.efi", "PXEClient"},
		"UEFI HTTP": {[]string{"-V", "HTTPClient:Arch:00016:UNDI:003000", "-x", "0x5d:0010"}, "http://10.77.0.1:8080/boot/snponly.efi", "HTTPClient"},
		"iPXE":      {[]string{"-V", "PXEClient:Arch:00007:UNDI:003010", "-x", "0x5d:0007", "-x", "0x4d:69505845"}, "http://10.77.0.1:8080/ipxe/boot.ipxe", "PXEClient"},
	} {
		t.Run(name+" firmware hears boot information from us and an address from dnsmasq", func(t *testing.T) {
			l := l.sub(t)
			dump := filepath.Join(l.dir, "proxy.pcap")
			w := l.start("cli", nil, "tcpdump", "-i", "eth0", "-U", "-w", dump, "udp", "dst", "port", "68")
			w.waitFor("listening on")
			// udhcpc is no PXE client: it may take the offer without an address
			// and come to nothing. What counts is what it could hear.
			l.udhcpc("cli", append(tc.args, "-q", "-n", "-t", "1")...)
			var ours, theirs []byte
			for deadline := time.Now().Add(5 * time.Second); ours == nil || theirs == nil; {
				if time.Now().After(deadline) {
					t.Fatalf("offer of ours: %v, of dnsmasq: %v", ours != nil, theirs != nil)
				}
				ours, theirs = messageFrom(t, dump, ip("10.77.0.1")), messageFrom(t, dump, ip("10.77.0.9"))
			}
			if a := netip.AddrFrom4([4]byte(theirs[16:20])); a.IsUnspecified() {
				t.Error("dnsmasq offers no address")
			}
			yiaddr, _ := netip.AddrFromSlice(ours[16:20])
			if !yiaddr.IsUnspecified() {
				t.Errorf("yiaddr %v", yiaddr)
			}
			for code, want := range map[byte]string{60: tc.class, 67: tc.file} {
				if o := append([]byte{code, byte(len(want))}, want...); !bytes.Contains(ours, o) {
					t.Errorf("option %d isn't %q in\n%s", code, want, hex.Dump(ours))
				}
			}
		})
	}
	t.Run("port 4011 answers firmware that has an address", func(t *testing.T) {
		l := l.sub(t)
		l.in("cli", "ip", "addr", "flush", "dev", "eth0")
		l.in("cli", "ip", "addr", "add", "10.77.0.155/24", "dev", "eth0")
		m := make([]byte, 236, 400)
		copy(m, []byte{1, 1, 6, 0, 0xca, 0xfe, 0xba, 0xbe})
		copy(m[12:], []byte{10, 77, 0, 155})
		copy(m[28:], parseMACOctets(t, l.mac("cli", "eth0")))
		m = append(m, 99, 130, 83, 99, 53, 1, 3, 93, 2, 0, 7, 60, 32)
		m = append(append(m, "PXEClient:Arch:00007:UNDI:003000"...), 255)
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		c := l.start("cli", []string{askEnv + "=10.77.0.155:68 10.77.0.1:4011 " + hex.EncodeToString(m)}, self)
		c.waitFor("ANSWER 0201060")
		wantAll(t, "the answer", c.output(), hex.EncodeToString(append([]byte{67, 11}, "snponly.efi"...)), "350105")
	})
	srv.waitFor("file=undionly.kpxe")
}

func parseMACOctets(t *testing.T, s string) []byte {
	m := parseMAC(t, s)
	return m[:]
}

// messageFrom returns the first DHCP message from an address in a capture.
func messageFrom(t *testing.T, pcap string, from netip.Addr) []byte {
	t.Helper()
	b, err := os.ReadFile(pcap)
	if err != nil || len(b) < 24 {
		return nil
	}
	// A file header of 24 octets; a record header of 16, its third word the
	// captured length, little-endian here; Ethernet 14, IPv4 20, UDP 8.
	for b = b[24:]; len(b) >= 16; {
		n := int(b[8]) | int(b[9])<<8
		if len(b) < 16+n {
			return nil
		}
		p := b[16 : 16+n]
		if n > 42 && netip.AddrFrom4([4]byte(p[26:30])) == from {
			return p[42:]
		}
		b = b[16+n:]
	}
	return nil
}

// TestRelay is a client behind a relay agent: dhcrelay, and then dnsmasq.
func TestRelay(t *testing.T) {
	for name, start := range map[string]func(*lab){
		"dhcrelay": func(l *lab) {
			p := l.start("rel", nil, "dhcrelay", "-4", "-d", "-a", "-id", "lan", "-iu", "wan", "192.0.2.10")
			p.waitFor("Sending on   Socket")
		},
		"dnsmasq": func(l *lab) {
			p := l.dnsmasq("rel", "--dhcp-relay=10.88.0.1,192.0.2.10", "--interface=lan", "--interface=wan")
			p.waitFor("started")
		},
	} {
		for _, mode := range []dhcp.Mode{dhcp.Relay, dhcp.Full} {
			t.Run(name+" to a network in mode "+mode.String(), func(t *testing.T) {
				l := newLab(t, name, "dhclient")
				for _, ns := range []string{"srv", "rel", "cli"} {
					l.namespace(ns)
				}
				l.plug("srv", "eth0", "rel", "wan")
				l.plug("rel", "lan", "cli", "eth0")
				l.in("srv", "ip", "addr", "add", "192.0.2.10/24", "dev", "eth0")
				l.in("srv", "ip", "route", "add", "10.88.0.0/24", "via", "192.0.2.1")
				l.in("rel", "ip", "addr", "add", "192.0.2.1/24", "dev", "wan")
				l.in("rel", "ip", "addr", "add", "10.88.0.1/24", "dev", "lan")
				l.in("rel", "sysctl", "-qw", "net.ipv4.ip_forward=1")
				n := dhcp.Network{
					Name: "rack", CIDR: netip.MustParsePrefix("10.88.0.0/24"), Mode: mode, Gateway: ip("10.88.0.1"),
					Pools: []lease.Range{{Start: ip("10.88.0.100"), End: ip("10.88.0.109")}}, LeaseTime: 20 * time.Second,
				}
				srv := l.serve("srv", setup{Networks: []dhcp.Network{n}})
				start(l)

				script, _ := l.script()
				if err := appendRoute(script); err != nil {
					t.Fatal(err)
				}
				c := l.start("cli", nil, "dhclient", "-4", "-d", "-v", "-cf", "/dev/null", "-sf", script,
					"-lf", filepath.Join(l.dir, "dhclient.leases"), "-pf", filepath.Join(l.dir, "dhclient.pid"), "eth0")
				c.waitFor("bound to 10.88.0.100")
				// The renewal goes past the relay agent, over the router.
				c.waitFor("DHCPREQUEST for 10.88.0.100 on eth0 to 192.0.2.10 port 67")
				for deadline := time.Now().Add(10 * time.Second); strings.Count(c.output(), "DHCPACK of 10.88.0.100 from 192.0.2.10") < 1; {
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
		}
	}
}

// appendRoute makes the client's script set the default route too.
func appendRoute(script string) error {
	b, err := os.ReadFile(script)
	if err != nil {
		return err
	}
	s := strings.Replace(string(b), "exit 0\n", "[ -n \"$new_routers\" ] && ip route replace default via $new_routers dev $interface\nexit 0\n", 1)
	return os.WriteFile(script, []byte(s), 0o700) //nolint:gosec // it has to be run
}
