package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/machine"
)

// manyNetwork has room for 200 clients.
func manyNetwork() Network {
	n := labNetwork()
	n.Pools = []lease.Range{{Start: ip("10.77.0.20"), End: ip("10.77.0.219")}}
	return n
}

func TestServer_Lease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, newFakeStore(), nil, labNetwork())
		defer f.stop()
		a := f.lease(macA)
		if got := f.store.at(a.String()); got.MAC != macA {
			t.Errorf("stored %+v", got)
		}
		m := dhclient(msgRelease, macA)
		m.ciaddr = a.String()
		f.link().in <- fakePacket{b: m.bytes(), source: netip.AddrPortFrom(a, 68), local: server}
		synctest.Wait()
		if got := f.store.at(a.String()); got.Address.IsValid() {
			t.Errorf("after its release: %+v", got)
		}
		want := []string{macA.String() + " has 10.77.0.100", macA.String() + " had 10.77.0.100"}
		if diff := cmp.Diff(want, f.changed()); diff != "" {
			t.Errorf("LeaseChanged (-want +got):\n%s", diff)
		}
		var events []string
		for _, s := range f.seen {
			events = append(events, s.Event)
		}
		if diff := cmp.Diff([]string{"DISCOVER", "OFFER", "REQUEST", "ACK", "RELEASE", "RELEASE"}, events); diff != "" {
			t.Errorf("sightings (-want +got):\n%s", diff)
		}
	})
}

func TestServer_Durable(t *testing.T) {
	t.Run("an ACK waits until the lease is durable", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, newFakeStore(), nil, labNetwork())
			defer f.stop()
			f.store.delay[macA] = 2 * time.Second
			begin := time.Now()
			f.lease(macA)
			if got := time.Since(begin); got < 2*time.Second {
				t.Errorf("acknowledged after %v", got)
			}
		})
	})
	t.Run("no ACK when it can't be made durable, and one when it can again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, newFakeStore(), nil, labNetwork())
			defer f.stop()
			f.store.fault = errFault
			f.link().broadcast(dhclient(msgDiscover, macA))
			o, _ := f.link().reply(time.Second)
			req := dhclient(msgRequest, macA).with(opt(54, server.AsSlice()...), opt(50, o.packet.YourIPAddr.To4()...))
			f.link().broadcast(req)
			if r, ok := f.link().reply(time.Minute); ok {
				t.Errorf("got %v", r.packet)
			}
			if got := f.counter("request", "store_failed"); got != 1 {
				t.Errorf("store_failed counted %v times", got)
			}
			if got := len(f.Leases()); got != 0 {
				t.Errorf("%d leases", got)
			}
			f.store.mu.Lock()
			f.store.fault = nil
			f.store.mu.Unlock()
			f.link().broadcast(req)
			if r, ok := f.link().reply(time.Second); !ok || r.packet.MessageType() != dhcpv4.MessageTypeAck {
				t.Error("no ACK")
			}
		})
	})
	t.Run("a store that hangs is given up, and the others are answered meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, newFakeStore(), func(c *Config, _ *Server) { c.Workers = 64 }, manyNetwork())
			defer f.stop()
			f.store.delay[macA] = time.Hour
			f.link().broadcast(dhclient(msgRequest, macA).with(opt(54, server.AsSlice()...), opt(50, 10, 77, 0, 200)))
			begin, answered := time.Now(), 0
			for _, mac := range f.elsewhere(macA, 20) {
				f.link().broadcast(dhclient(msgDiscover, mac))
			}
			for {
				if _, ok := f.link().reply(time.Second); !ok {
					break
				}
				answered++
			}
			if answered != 20 || time.Since(begin) > 2*time.Second {
				t.Errorf("%d of 20 answered after %v", answered, time.Since(begin))
			}
			time.Sleep(5 * time.Second) // virtual
			if got := f.counter("request", "store_failed"); got != 1 {
				t.Errorf("store_failed counted %v times", got)
			}
		})
	})
	t.Run("a release that is slow to be stored doesn't take away the next client's lease", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := labNetwork()
			n.Pools = []lease.Range{{Start: ip("10.77.0.100"), End: ip("10.77.0.100")}}
			f := newFleet(t, newFakeStore(), func(c *Config, _ *Server) { c.Workers = 64 }, n)
			defer f.stop()
			a := f.lease(macA)
			f.store.mu.Lock()
			f.store.delay[macA] = 3 * time.Second
			f.store.mu.Unlock()
			m := dhclient(msgRelease, macA)
			m.ciaddr = a.String()
			f.link().broadcast(m)
			synctest.Wait()
			next := f.elsewhere(macA, 1)[0]
			if got := f.lease(next); got != a {
				t.Fatalf("got %v", got)
			}
			time.Sleep(time.Minute)
			if got := f.store.at(a.String()); got.MAC != next {
				t.Errorf("stored %+v", got)
			}
		})
	})
}

func TestServer_Restart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		f := newFleet(t, store, nil, manyNetwork())
		a := f.lease(macA)
		f.lease(macB)
		f.stop()

		f = newFleet(t, store, nil, manyNetwork())
		defer f.stop()
		if got := len(f.changed()); got != 2 {
			t.Errorf("told of %d leases at start", got)
		}
		if got := f.lease(macC); got == a {
			t.Error("a third client got an address that is in use")
		}
		m := dhclient(msgRequest, macA)
		m.ciaddr = a.String()
		f.link().in <- fakePacket{b: m.bytes(), source: netip.AddrPortFrom(a, 68), local: server}
		if r, ok := f.link().reply(time.Second); !ok || r.packet.MessageType() != dhcpv4.MessageTypeAck {
			t.Error("the first client's renewal wasn't acknowledged")
		}
	})
}

func TestServer_Expiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, newFakeStore(), nil, labNetwork())
		defer f.stop()
		a := f.lease(macA)
		if got := f.Networks(); got[0].Leases != 1 || got[0].PoolSize != 3 {
			t.Errorf("status %+v", got)
		}
		time.Sleep(time.Hour + sweepEvery)
		if got := f.changed(); len(got) != 2 || got[1] != macA.String()+" had "+a.String() {
			t.Errorf("told %q", got)
		}
		if got := f.Networks(); got[0].Leases != 0 {
			t.Errorf("status %+v", got)
		}
		if got := f.store.at(a.String()); !got.Address.IsValid() {
			t.Error("forgotten at once: the machine wouldn't get its address back")
		}
		time.Sleep(keepExpired + sweepEvery)
		if got := f.store.at(a.String()); got.Address.IsValid() {
			t.Error("kept for ever")
		}
	})
}

func TestServer_Probe(t *testing.T) {
	probed := labNetwork()
	probed.DisableProbe = false
	start := func(t *testing.T, p *fakeProber) *fleet {
		p.timeout = 250 * time.Millisecond
		return newFleet(t, newFakeStore(), func(_ *Config, s *Server) {
			if s != nil {
				s.prober = p
			}
		}, probed)
	}
	t.Run("an offer comes after the probe, and the next one at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := start(t, &fakeProber{})
			defer f.stop()
			begin := time.Now()
			f.link().broadcast(ovmfPXE(msgDiscover, macA))
			if _, ok := f.link().reply(time.Second); !ok || time.Since(begin) != 250*time.Millisecond {
				t.Errorf("offered %v after %v", ok, time.Since(begin))
			}
			begin = time.Now()
			f.link().broadcast(romIPXE(msgDiscover, macA))
			if _, ok := f.link().reply(time.Second); !ok || time.Since(begin) != 0 {
				t.Errorf("offered %v after %v", ok, time.Since(begin))
			}
		})
	})
	t.Run("addresses in use are passed over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &fakeProber{used: map[netip.Addr]bool{ip("10.77.0.100"): true, ip("10.77.0.101"): true}}
			f := start(t, p)
			defer f.stop()
			f.link().broadcast(ovmfPXE(msgDiscover, macA))
			r, ok := f.link().reply(time.Second)
			if !ok || specified(r.packet.YourIPAddr) != ip("10.77.0.102") {
				t.Errorf("got %v", r.packet)
			}
			f.link().broadcast(ovmfPXE(msgDiscover, macB))
			if r, ok := f.link().reply(time.Second); ok {
				t.Errorf("another client got %v", r.packet.YourIPAddr)
			}
		})
	})
	t.Run("a client that asks again meanwhile gets one offer, to what it asked last", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &fakeProber{}
			f := start(t, p)
			defer f.stop()
			m := ovmfPXE(msgDiscover, macA)
			f.link().broadcast(m)
			time.Sleep(100 * time.Millisecond)
			m.xid++
			f.link().broadcast(m)
			r, ok := f.link().reply(time.Second)
			if !ok || r.packet.TransactionID != [4]byte{0xa1, 0xb2, 0xc3, 0xd5} {
				t.Errorf("got %v", r.packet)
			}
			if r, ok := f.link().reply(time.Second); ok {
				t.Errorf("and %v", r.packet)
			}
			if len(p.asked) != 1 {
				t.Errorf("asked %v", p.asked)
			}
		})
	})
	t.Run("an address that can't be probed now is offered without", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := start(t, &fakeProber{refuses: true})
			defer f.stop()
			f.link().broadcast(ovmfPXE(msgDiscover, macA))
			if _, ok := f.link().reply(time.Second); !ok {
				t.Error("no offer")
			}
		})
	})
	t.Run("other clients don't wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := start(t, &fakeProber{})
			defer f.stop()
			next := f.elsewhere(macA, 1)[0]
			f.Server.policy.machines = fakeMachines{host("web1", next, "10.77.0.5/24")}
			f.link().broadcast(ovmfPXE(msgDiscover, macA))
			synctest.Wait()
			begin := time.Now()
			f.link().broadcast(ovmfPXE(msgDiscover, next))
			if _, ok := f.link().reply(time.Second); !ok || time.Since(begin) != 0 {
				t.Errorf("offered %v after %v", ok, time.Since(begin))
			}
		})
	})
}

func TestServer_SetNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, newFakeStore(), nil)
		defer f.stop()
		if got := f.sys.names(); len(got) != 0 {
			t.Errorf("open without networks: %v", got)
		}
		set := func(want string, networks ...Network) error {
			t.Helper()
			err := f.SetNetworks(networks)
			if got := strings.Join(f.sys.names(), " "); got != want {
				t.Errorf("open: %q, want %q", got, want)
			}
			return err
		}
		if err := set("eth1:4011 eth1:67", labNetwork()); err != nil {
			t.Error(err)
		}
		a := f.lease(macA)

		off := labNetwork()
		off.Mode = Off
		if err := set("", off); err != nil {
			t.Error(err)
		}
		bad := rackNetwork(Full)
		bad.Pools[0].End = ip("10.99.0.1")
		err := set("eth1:4011 eth1:67", labNetwork(), bad)
		if err == nil || !strings.Contains(err.Error(), `network "rack": pool 10.88.0.100-10.99.0.1 is not inside 10.88.0.0/24`) {
			t.Errorf("got %v", err)
		}
		if got := f.lease(macA); got != a {
			t.Errorf("after being off: got %v, want %v", got, a)
		}

		// An interface that appears later is served without being told.
		named := labNetwork()
		named.Interfaces = []string{"eth9"}
		err = set("", named)
		if err == nil || !strings.Contains(err.Error(), `interface "eth9" doesn't exist`) {
			t.Errorf("got %v", err)
		}
		f.sys.mu.Lock()
		f.sys.ifaces = append(slices.Clone(labLinks), link{name: "eth9", index: 9, up: true, addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24")}})
		f.sys.mu.Unlock()
		time.Sleep(lookEvery)
		synctest.Wait()
		if got := strings.Join(f.sys.names(), " "); got != "eth9:4011 eth9:67" {
			t.Errorf("open: %q", got)
		}
	})
}

func TestServer_NewSubnet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, newFakeStore(), nil, labNetwork())
		defer f.stop()
		a := f.lease(macA)
		n := labNetwork()
		n.CIDR, n.Pools = netip.MustParsePrefix("10.78.0.0/24"), []lease.Range{{Start: ip("10.78.0.100"), End: ip("10.78.0.102")}}
		n.Interfaces, n.ServerAddress = []string{"eth1"}, ip("10.78.0.1")
		if err := f.SetNetworks([]Network{n}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := f.store.at(a.String()); got.Address.IsValid() {
			t.Errorf("the lease of the old subnet is still stored: %+v", got)
		}
	})
}

func TestServer_Listen(t *testing.T) {
	s, err := New(Config{Machines: fakeMachines{}, Leases: newFakeStore(), BootFiles: bootFiles, HTTPBase: httpBase, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	sys := newFakeSystem()
	s.sys = sys
	if err := s.SetNetworks([]Network{labNetwork()}); err != nil {
		t.Fatal(err)
	}
	sys.taken["eth1:4011"] = errFault
	if err := s.Listen(); !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
	if open := sys.names(); len(open) > 0 {
		t.Errorf("left open: %v", open)
	}
	delete(sys.taken, "eth1:4011")
	if err := s.Listen(); err != nil {
		t.Errorf("second try: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.prober = &fakeProber{}
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	if open := sys.names(); len(open) > 0 {
		t.Errorf("left open: %v", open)
	}
}

func TestServer_Flood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, newFakeStore(), func(c *Config, _ *Server) { c.Workers = 1 }, manyNetwork())
		defer f.stop()
		f.link().in <- fakePacket{b: []byte("not DHCP")}
		m := dhclient(msgOffer, macA)
		f.link().broadcast(m)
		synctest.Wait()
		if got := f.counter("none", "malformed"); got != 2 {
			t.Errorf("malformed counted %v times", got)
		}
		// While one write hangs, a worker's queue holds so much and no more.
		f.store.delay[macA] = time.Hour
		f.link().broadcast(dhclient(msgRequest, macA).with(opt(54, server.AsSlice()...), opt(50, 10, 77, 0, 30)))
		synctest.Wait()
		for i := range queueLength + 10 {
			f.link().broadcast(dhclient(msgDiscover, machine.MAC{2, 0, 0, 0, 1, byte(i)}))
		}
		synctest.Wait()
		if got := f.counter("discover", "overload"); got != 10 {
			t.Errorf("overload counted %v times", got)
		}
		time.Sleep(10 * time.Second)
		if got := len(f.link().out); got != queueLength {
			t.Errorf("%d answered after the hang", got)
		}
	})
}

func TestConfig_Required(t *testing.T) {
	full := Config{Machines: fakeMachines{}, Leases: newFakeStore(), BootFiles: bootFiles, HTTPBase: httpBase, Now: time.Now}
	for field, drop := range map[string]func(*Config){
		"Machines": func(c *Config) { c.Machines = nil }, "Leases": func(c *Config) { c.Leases = nil },
		"BootFiles": func(c *Config) { c.BootFiles = nil }, "HTTPBase": func(c *Config) { c.HTTPBase = nil },
		"Now": func(c *Config) { c.Now = nil },
	} {
		c := full
		drop(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("without %s: %v", field, err)
		}
	}
}

func TestNetwork_Validate(t *testing.T) {
	for want, change := range map[string]func(*Network){
		"it has no name": func(n *Network) { n.Name = "" },
		"is not an IPv4 subnet such as 10.77.0.0/24":    func(n *Network) { n.CIDR = netip.MustParsePrefix("fd00::/64") },
		"is not inside 10.77.0.0/24":                    func(n *Network) { n.Pools[0].End = ip("10.78.0.1") },
		"ends before it starts":                         func(n *Network) { n.Pools[0].End = ip("10.77.0.1") },
		"gateway fd00::1 is not an IPv4 address":        func(n *Network) { n.Gateway = ip("fd00::1") },
		`"a..b" is not a domain name`:                   func(n *Network) { n.SearchDomains = []string{"a..b"} },
		"lease time 1s is less than 10s":                func(n *Network) { n.LeaseTime = time.Second },
		"route to 10.1.0.0/16 via invalid IP is not":    func(n *Network) { n.Routes = []Route{{Destination: netip.MustParsePrefix("10.1.0.0/16")}} },
		"nameserver fd00::53 is not an IPv4 address":    func(n *Network) { n.Nameservers = []netip.Addr{ip("fd00::53")} },
		"server address fd00::2 is not an IPv4 address": func(n *Network) { n.ServerAddress = ip("fd00::2") },
	} {
		n := labNetwork()
		change(&n)
		if err := n.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := labNetwork().Validate(); err != nil {
		t.Error(err)
	}
}

func ExampleNetwork_Validate() {
	n := labNetwork()
	n.Pools = []lease.Range{{Start: ip("10.77.1.5"), End: ip("10.77.1.9")}}
	fmt.Println(n.Validate())
	// Output: network "lab": pool 10.77.1.5-10.77.1.9 is not inside 10.77.0.0/24
}
