package dhcp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/dhcp/pxe"
	"github.com/bedplate/bedplate/machine"
)

var (
	start  = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	macA   = machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}
	macB   = machine.MAC{0x52, 0x54, 0, 0x77, 0, 2}
	macC   = machine.MAC{0x52, 0x54, 0, 0x77, 0, 3}
	server = netip.MustParseAddr("10.77.0.1")
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// fakeMachines is a small inventory.
type fakeMachines []machine.Machine

func (f fakeMachines) ByMAC(mac machine.MAC) (machine.Machine, bool) {
	for _, m := range f {
		if _, ok := m.InterfaceByMAC(mac); ok {
			return m, true
		}
	}
	return machine.Machine{}, false
}

func (f fakeMachines) ByUUID(u machine.UUID) (machine.Machine, bool) {
	for _, m := range f {
		if m.UUID == u {
			return m, true
		}
	}
	return machine.Machine{}, false
}

func (f fakeMachines) ByAddress(a netip.Addr) (machine.Machine, bool) {
	for _, m := range f {
		for _, i := range m.Interfaces {
			if i.Address.Addr() == a {
				return m, true
			}
		}
	}
	return machine.Machine{}, false
}

func bootFiles(c pxe.Client, _ machine.Machine) (string, bool) {
	name, ok := map[pxe.Platform]string{
		pxe.BIOS: "undionly.kpxe", pxe.UEFIAMD64: "snponly.efi", pxe.UEFIARM64: "snponly-arm64.efi",
	}[c.Platform]
	return name, ok
}

func httpBase(a netip.Addr) string { return "http://" + a.String() + ":8080" }

// labNetwork is 10.77.0.0/24 on eth1 with a pool of .100 to .102.
func labNetwork() Network {
	return Network{
		Name: "lab", CIDR: netip.MustParsePrefix("10.77.0.0/24"), Mode: Full,
		Pools:   []lease.Range{{Start: ip("10.77.0.100"), End: ip("10.77.0.102")}},
		Gateway: ip("10.77.0.1"), Nameservers: []netip.Addr{ip("10.77.0.53")}, NTPServers: []netip.Addr{ip("10.77.0.123")},
		Domain: "lab.example", SearchDomains: []string{"lab.example", "example"}, MTU: 9000, DisableProbe: true,
	}
}

var labLinks = []link{
	{name: "lo", index: 1, addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
	{name: "eth0", index: 2, up: true, addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24")}},
	{name: "eth1", index: 3, up: true, addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24")}},
}

// rig is a policy with its networks, and what a server does around it without
// sockets, workers and store.
type rig struct {
	t      testing.TB
	policy *policy
	table  *table
	now    time.Time
}

func newRig(t testing.TB, machines fakeMachines, networks ...Network) *rig {
	t.Helper()
	ready := make([]*network, 0, len(networks))
	for _, n := range networks {
		if err := n.Validate(); err != nil {
			t.Fatal(err)
		}
		n = n.normal()
		st := &state{pool: lease.New(lease.Config{Prefix: n.CIDR, Ranges: n.Pools}), prefix: n.CIDR}
		t.Cleanup(func() {
			if err := st.pool.Check(); err != nil {
				t.Errorf("Check: %v", err)
			}
		})
		ready = append(ready, &network{Network: n, state: st, options: networkOptions(n)})
	}
	return &rig{
		t: t, table: newTable(ready, labLinks, nil), now: start,
		policy: &policy{machines: machines, files: bootFiles, httpBase: httpBase, commit: 10 * time.Second},
	}
}

// do decides a request, binds what is to be bound, and returns the outcome.
func (g *rig) do(r *request) outcome {
	g.t.Helper()
	out := g.policy.decide(g.table, r, g.now)
	if out.bind.Address.IsValid() {
		out.network.pool.Bind(out.bind, g.now)
	}
	return out
}

func (g *rig) send(m message) outcome {
	g.t.Helper()
	return g.do(mustParse(g.t, m))
}

// unicast sends a message that a client with an address sends to ours.
func (g *rig) unicast(m message) outcome {
	g.t.Helper()
	return g.do(mustParseFrom(g.t, m, arrival{iface: "eth1", source: netip.AddrPortFrom(ip(m.ciaddr), 68), local: server}))
}

// lease takes a client through DISCOVER and REQUEST and returns its address.
func (g *rig) lease(mac machine.MAC) netip.Addr {
	g.t.Helper()
	out := g.send(dhclient(msgDiscover, mac))
	a := g.yiaddr(out, msgOffer)
	g.yiaddr(g.send(dhclient(msgRequest, mac).with(opt(54, server.AsSlice()...), opt(50, a.AsSlice()...))), msgAck)
	return a
}

// yiaddr checks that the outcome is a reply of a kind, and returns its address.
func (g *rig) yiaddr(out outcome, kind byte) netip.Addr {
	g.t.Helper()
	if out.reply == nil {
		g.t.Fatalf("no reply: %s %s %s", out.result, out.detail, out.warn)
	}
	if got := out.reply.MessageType(); got != dhcpv4.MessageType(kind) {
		g.t.Fatalf("reply is %v (%s %s)", got, out.result, out.detail)
	}
	return specified(out.reply.YourIPAddr)
}

// silent checks that there is no reply, for a reason.
func (g *rig) silent(out outcome, why result) {
	g.t.Helper()
	if out.reply != nil || out.result != why {
		g.t.Errorf("got %v (%s %s), want silence: %s", out.reply, out.result, out.detail, why)
	}
}

// host is a machine with one interface on the lab network.
func host(name string, mac machine.MAC, address string) machine.Machine {
	m := machine.Machine{Name: machine.Name(name), Hostname: name, Interfaces: []machine.Interface{{MAC: mac}}}
	if address != "" {
		m.Interfaces[0].Address = netip.MustParsePrefix(address)
	}
	return m
}
