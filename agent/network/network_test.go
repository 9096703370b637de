package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"github.com/bedplate/bedplate/machine"
)

var bootMAC = machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}

// conn is a packet connection to a server in the same process.
type conn struct {
	serve   func(*dhcpv4.DHCPv4, net.Addr) []*dhcpv4.DHCPv4
	replies chan []byte

	mu       sync.Mutex
	deadline time.Time
	moved    chan struct{}
}

func newConn(serve func(*dhcpv4.DHCPv4, net.Addr) []*dhcpv4.DHCPv4) *conn {
	return &conn{serve: serve, replies: make(chan []byte, 16), moved: make(chan struct{})}
}

func (c *conn) WriteTo(b []byte, to net.Addr) (int, error) {
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return 0, err
	}
	for _, r := range c.serve(m, to) {
		c.replies <- r.ToBytes()
	}
	return len(b), nil
}

func (c *conn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		c.mu.Lock()
		wait, moved := time.Until(c.deadline), c.moved
		c.mu.Unlock()
		if wait <= 0 {
			return 0, nil, os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(wait)
		select {
		case r := <-c.replies:
			timer.Stop()
			return copy(b, r), &net.UDPAddr{}, nil
		case <-timer.C:
		case <-moved:
			timer.Stop()
		}
	}
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	close(c.moved)
	c.moved = make(chan struct{})
	return nil
}

func (c *conn) Close() error                     { return nil }
func (c *conn) LocalAddr() net.Addr              { return &net.UDPAddr{} }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// world is the kernel, the network and the server of a test.
type world struct {
	mu      sync.Mutex
	links   []Link
	configs []string // what was configured, in order
	served  []string // what the DHCP server was asked
	said    []string
	dns     []netip.Addr

	dhcp    func(w *world, iface string, m *dhcpv4.DHCPv4, to net.Addr) []*dhcpv4.DHCPv4
	reaches map[string]bool
}

func (w *world) Links() ([]Link, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Link(nil), w.links...), nil
}

func (w *world) Up(Link) error { return nil }

func (w *world) VLAN(parent Link, id int) (Link, error) {
	return Link{Name: fmt.Sprintf("%s.%d", parent.Name, id), Index: 100 + parent.Index, MAC: parent.MAC}, nil
}

func (w *world) Configure(l Link, lease *Lease, metric int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := l.Name + " nothing"
	if lease != nil {
		text = fmt.Sprintf("%s %s metric %d", l.Name, lease.Address, metric)
	}
	w.configs = append(w.configs, text)
	return nil
}

func (w *world) open(iface, kind string) (net.PacketConn, error) {
	return newConn(func(m *dhcpv4.DHCPv4, to net.Addr) []*dhcpv4.DHCPv4 {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.served = append(w.served, fmt.Sprintf("%s %s %s to %s", iface, kind, m.MessageType(), to))
		return w.dhcp(w, iface, m, to)
	}), nil
}

func (w *world) Raw(iface string) (net.PacketConn, error)   { return w.open(iface, "raw") }
func (w *world) Bound(iface string) (net.PacketConn, error) { return w.open(iface, "bound") }

func (w *world) manager(t *testing.T) *Manager {
	t.Helper()
	x := uint32(0)
	m, err := New(Config{
		Kernel: w, Conns: w, Prefer: bootMAC, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Rand: func() uint32 { w.mu.Lock(); defer w.mu.Unlock(); x += 512; return x },
		Probe: func(_ context.Context, iface string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !w.reaches[iface] {
				return errors.New("connection refused")
			}
			return nil
		},
		Resolver: func(ns []netip.Addr, _ []string) error { w.mu.Lock(); defer w.mu.Unlock(); w.dns = ns; return nil },
		Say: func(f string, args ...any) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.said = append(w.said, fmt.Sprintf(f, args...))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// run runs a manager for some simulated time.
func (w *world) run(t *testing.T, d time.Duration, during ...func()) *Manager {
	t.Helper()
	m := w.manager(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	for _, f := range during {
		time.Sleep(d)
		synctest.Wait()
		f()
	}
	time.Sleep(d)
	cancel()
	<-done
	return m
}

// answer is a server that gives 10.0.INDEX.5/24 for an hour.
func answer(w *world, iface string, m *dhcpv4.DHCPv4, _ net.Addr) []*dhcpv4.DHCPv4 {
	kind := dhcpv4.MessageTypeOffer
	if m.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	third := byte(iface[len(iface)-1] - '0')
	r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(10, 0, third, 5)),
		dhcpv4.WithServerIP(net.IPv4(10, 0, third, 1)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, third, 1))),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.IPv4(10, 0, third, 1)), dhcpv4.WithDNS(net.IPv4(10, 0, third, 2)), dhcpv4.WithLeaseTime(3600))
	if err != nil {
		panic(err)
	}
	return []*dhcpv4.DHCPv4{r}
}

func two() []Link {
	return []Link{{Name: "eth0", Index: 2, MAC: machine.MAC{0x52, 0x54, 0, 0x77, 0, 9}, Carrier: true}, {Name: "eth1", Index: 3, MAC: bootMAC, Carrier: true}}
}

func TestManager(t *testing.T) {
	t.Run("the link that the machine booted over wins if both reach the server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), dhcp: answer, reaches: map[string]bool{"eth0": true, "eth1": true}}
			m := w.run(t, 5*time.Second, func() {})
			<-m.Ready()
			if got := m.Address().String(); got != "10.0.1.5" {
				t.Errorf("address %s", got)
			}
			all := strings.Join(w.configs, "\n")
			for _, want := range []string{"eth0 10.0.0.5/24 metric 302", "eth1 10.0.1.5/24 metric 200", "eth1 10.0.1.5/24 metric 100"} {
				if !strings.Contains(all, want) {
					t.Errorf("no %q in:\n%s", want, all)
				}
			}
			if diff := cmp.Diff([]netip.Addr{netip.MustParseAddr("10.0.1.2")}, w.dns, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("name servers (-want +got):\n%s", diff)
			}
		})
	})
	t.Run("else the one that does", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), dhcp: answer, reaches: map[string]bool{"eth0": true}}
			m := w.run(t, 5*time.Second)
			if got := m.Address().String(); got != "10.0.0.5" {
				t.Errorf("address %s", got)
			}
		})
	})
	t.Run("leases are renewed with their server at half time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two()[1:], dhcp: answer, reaches: map[string]bool{"eth1": true}}
			w.run(t, 100*time.Minute)
			want := []string{"eth1 raw DISCOVER to 255.255.255.255:67", "eth1 raw REQUEST to 255.255.255.255:67",
				"eth1 bound REQUEST to 10.0.1.1:67", "eth1 bound REQUEST to 10.0.1.1:67", "eth1 bound REQUEST to 10.0.1.1:67"}
			if diff := cmp.Diff(want, w.served); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			if len(w.configs) != 2 { // the lease, then as the winner
				t.Errorf("configured again and again: %v", w.configs)
			}
		})
	})
	t.Run("a server that is gone: rebinding with any, then a new address", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			w := &world{links: two()[1:], reaches: map[string]bool{"eth1": true}}
			w.dhcp = func(w *world, iface string, m *dhcpv4.DHCPv4, to net.Addr) []*dhcpv4.DHCPv4 {
				if d := time.Since(begun); d > time.Minute && d < 61*time.Minute {
					return nil
				}
				return answer(w, iface, m, to)
			}
			w.run(t, 70*time.Minute)
			all := strings.Join(w.served, "\n")
			if !strings.Contains(all, "bound REQUEST to 255.255.255.255:67") {
				t.Errorf("never rebinding:\n%s", all)
			}
			if n := len(w.served); n > 40 {
				t.Errorf("%d requests", n)
			}
			configs := strings.Join(w.configs, "\n")
			if !strings.Contains(configs, "eth1 nothing") || !strings.HasSuffix(configs, "eth1 10.0.1.5/24 metric 100") {
				t.Errorf("configurations:\n%s", configs)
			}
			if !strings.Contains(strings.Join(w.said, "\n"), "has run out") {
				t.Errorf("said: %q", w.said)
			}
		})
	})
	t.Run("a refusal starts it again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two()[1:], reaches: map[string]bool{}}
			refused := false
			w.dhcp = func(w *world, iface string, m *dhcpv4.DHCPv4, to net.Addr) []*dhcpv4.DHCPv4 {
				r := answer(w, iface, m, to)
				if m.MessageType() == dhcpv4.MessageTypeRequest && !refused {
					refused = true
					r[0].UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak))
				}
				return r
			}
			w.run(t, 10*time.Second)
			if !strings.Contains(strings.Join(w.said, "\n"), "NAK") || len(w.configs) == 0 {
				t.Errorf("said %q, configured %q", w.said, w.configs)
			}
		})
	})
	t.Run("silence is said to be so", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), dhcp: func(*world, string, *dhcpv4.DHCPv4, net.Addr) []*dhcpv4.DHCPv4 { return nil }}
			w.links[0].Carrier = false
			w.run(t, 2*time.Minute)
			all := strings.Join(w.said, "\n")
			for _, want := range []string{"eth0 (52:54:00:77:00:09): no carrier for 10s", "eth1 (52:54:00:77:00:01): no DHCP offer for"} {
				if !strings.Contains(all, want) {
					t.Errorf("no %q in:\n%s", want, all)
				}
			}
			if n := len(w.said); n > 12 {
				t.Errorf("said %d times:\n%s", n, all)
			}
		})
	})
	t.Run("no interface at all is said to be so", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			w.run(t, time.Minute)
			if len(w.said) != 1 || !strings.Contains(w.said[0], "no network interface found") {
				t.Errorf("said %q", w.said)
			}
		})
	})
	t.Run("an interface that comes late, and goes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{dhcp: answer, reaches: map[string]bool{"eth1": true}}
			m := w.run(t, 3*time.Second,
				func() { w.mu.Lock(); w.links = two()[1:]; w.mu.Unlock() },
				func() { w.mu.Lock(); w.links = nil; w.mu.Unlock() })
			<-m.Ready()
			if m.Address().IsValid() {
				t.Errorf("address %s is still there", m.Address())
			}
		})
	})
	t.Run("a static address", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), reaches: map[string]bool{"eth1": true}}
			m := w.manager(t)
			m.cfg.Static = Static(netip.MustParsePrefix("10.9.0.5/24"), netip.MustParseAddr("10.9.0.1"), nil)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_ = m.Run(ctx)
			if diff := cmp.Diff([]string{"eth1 10.9.0.5/24 metric 200", "eth1 10.9.0.5/24 metric 100"}, w.configs); diff != "" {
				t.Errorf("configurations (-want +got):\n%s", diff)
			}
		})
	})
}

func ack(t testing.TB, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 5)), dhcpv4.WithMessageType(dhcpv4.MessageTypeAck)}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParseLease(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	addr := netip.MustParseAddr
	opts := cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, time.Time{})

	t.Run("all of it", func(t *testing.T) {
		got, err := parseLease(ack(t, dhcpv4.WithNetmask(net.CIDRMask(23, 32)), dhcpv4.WithRouter(net.IPv4(10, 0, 0, 1)), dhcpv4.WithDNS(net.IPv4(10, 0, 0, 2)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 3))), dhcpv4.WithLeaseTime(1000),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x23, 0x28})),
			dhcpv4.WithOption(dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: []string{"lab.example"}}))), now)
		want := &Lease{
			Address: netip.MustParsePrefix("10.0.0.5/23"), Routes: []Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: addr("10.0.0.1")}},
			Nameservers: []netip.Addr{addr("10.0.0.2")}, Search: []string{"lab.example"}, MTU: 9000, Server: addr("10.0.0.3"),
			Renew: now.Add(500 * time.Second), Rebind: now.Add(875 * time.Second), Expire: now.Add(1000 * time.Second),
		}
		if diff := cmp.Diff(want, got, opts); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
	t.Run("classless routes replace the router", func(t *testing.T) {
		got, err := parseLease(ack(t, dhcpv4.WithRouter(net.IPv4(10, 0, 0, 1)), dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
			&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4(192, 168, 7, 9).To4(), Mask: net.CIDRMask(24, 32)}, Router: net.IPv4(10, 0, 0, 9).To4()}))), now)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Route{{To: netip.MustParsePrefix("192.168.7.0/24"), Via: addr("10.0.0.9")}}, got.Routes, opts); diff != "" {
			t.Errorf("routes (-want +got):\n%s", diff)
		}
	})
	t.Run("times that make no sense are made anew", func(t *testing.T) {
		got, err := parseLease(ack(t, dhcpv4.WithLeaseTime(1), dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRenewTimeValue, []byte{0, 0, 255, 255}))), now)
		if err != nil || got.Expire != now.Add(minLease) || !got.Renew.Before(got.Rebind) || !got.Rebind.Before(got.Expire) {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("no address is no lease", func(t *testing.T) {
		if _, err := parseLease(ack(t, dhcpv4.WithYourIP(net.IPv4zero)), now); !errors.Is(err, errLease) {
			t.Errorf("error %v", err)
		}
	})
}

func FuzzParseLease(f *testing.F) {
	f.Add(ack(f, dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.IPv4(10, 0, 0, 1))).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		now := time.Unix(0, 0)
		l, err := parseLease(m, now)
		if err != nil {
			return
		}
		if !l.Address.IsValid() || !now.Before(l.Renew) || !l.Renew.Before(l.Rebind) || !l.Rebind.Before(l.Expire) {
			t.Errorf("a lease that makes no sense: %+v", l)
		}
	})
}
