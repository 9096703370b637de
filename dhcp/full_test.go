package dhcp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/machine"
)

func TestPolicy_Discover(t *testing.T) {
	t.Run("a reservation is offered", func(t *testing.T) {
		g := newRig(t, fakeMachines{host("web1", macA, "10.77.0.5/24")}, labNetwork())
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer); got != ip("10.77.0.5") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("a machine without a reservation gets an address of the pool", func(t *testing.T) {
		g := newRig(t, fakeMachines{host("web1", macA, "")}, labNetwork())
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer); got != ip("10.77.0.100") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("a pool address that is reserved for another isn't offered", func(t *testing.T) {
		g := newRig(t, fakeMachines{host("web1", macA, "10.77.0.100/24")}, labNetwork())
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macB)), msgOffer); got != ip("10.77.0.101") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("the server's, the gateway's and the nameserver's address aren't offered", func(t *testing.T) {
		n := labNetwork()
		n.Gateway, n.Nameservers = ip("10.77.0.2"), []netip.Addr{ip("10.77.0.3")}
		n.Pools = []lease.Range{{Start: ip("10.77.0.0"), End: ip("10.77.0.4")}}
		g := newRig(t, nil, n)
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer); got != ip("10.77.0.4") {
			t.Errorf("got %v", got)
		}
		g.silent(g.send(dhclient(msgDiscover, macB)), exhausted)
	})
	t.Run("a reservation that another client has falls back to the pool, with a warning", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		taken := g.lease(macB)
		g.policy.machines = fakeMachines{host("web1", macA, taken.String()+"/24")}
		out := g.send(dhclient(msgDiscover, macA))
		if got := g.yiaddr(out, msgOffer); got == taken || out.warn == "" {
			t.Errorf("got %v, warning %q", got, out.warn)
		}
		// The other one is refused when it renews, and the reservation holds.
		m := dhclient(msgRequest, macB)
		m.ciaddr = taken.String()
		g.yiaddr(g.unicast(m), msgNak)
		g.now = g.now.Add(2 * time.Hour)
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer); got != taken {
			t.Errorf("later: got %v, want %v", got, taken)
		}
	})
	t.Run("a full pool is silence, and says what to do", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		for i := range 3 {
			g.lease(machine.MAC{2, 0, 0, 0, 0, byte(i + 1)})
		}
		out := g.send(dhclient(msgDiscover, macA))
		g.silent(out, exhausted)
		if out.warn == "" {
			t.Error("no warning")
		}
	})
	t.Run("a new pool address is to be probed first, a reservation isn't", func(t *testing.T) {
		n := labNetwork()
		n.DisableProbe = false
		g := newRig(t, fakeMachines{host("web1", macA, "10.77.0.5/24")}, n)
		g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer)
		out := g.send(dhclient(msgDiscover, macB))
		g.silent(out, probing)
		if out.probe != ip("10.77.0.100") {
			t.Errorf("probe %v", out.probe)
		}
		g.table.byName["lab"].pool.Checked(out.probe, g.now)
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macB)), msgOffer); got != out.probe {
			t.Errorf("after the probe: %v", got)
		}
	})
	t.Run("firmware, iPXE, agent and system get one address", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		want := g.lease(macA)
		for name, m := range fingerprints(msgDiscover, macA) {
			if got := g.yiaddr(g.send(m), msgOffer); got != want {
				t.Errorf("%s: got %v, want %v", name, got, want)
			}
		}
	})
	t.Run("a machine with DHCP disabled isn't answered", func(t *testing.T) {
		m := host("web1", macA, "10.77.0.5/24")
		m.Interfaces[0].DisableDHCP = true
		g := newRig(t, fakeMachines{m}, labNetwork())
		g.silent(g.send(ovmfPXE(msgDiscover, macA)), disabled)
	})
	t.Run("a machine known by its UUID is known", func(t *testing.T) {
		m := host("web1", macA, "")
		m.UUID = "11223344-5566-7788-99aa-bbccddeeff00"
		n := labNetwork()
		n.Unknown = Ignore
		g := newRig(t, fakeMachines{m}, n)
		if out := g.send(ovmfPXE(msgDiscover, macB)); out.machine.Name != "web1" || out.reply == nil {
			t.Errorf("machine %q, %s", out.machine.Name, out.result)
		}
	})
}

func TestPolicy_Unknown(t *testing.T) {
	for policy, answer := range map[Unknown]bool{UnknownDefault: true, Discover: true, Refuse: true, Ignore: false} {
		n := labNetwork()
		n.Unknown = policy
		g := newRig(t, nil, n)
		for name, m := range fingerprints(msgDiscover, macA) {
			out := g.send(m)
			if answer {
				g.yiaddr(out, msgOffer)
			} else {
				g.silent(out, ignoredUnknown)
			}
			_ = name
		}
	}
	t.Run("an ignored machine may still give back its address", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		a := g.lease(macA)
		g.table.byName["lab"].Unknown = Ignore
		m := dhclient(msgRelease, macA)
		m.ciaddr = a.String()
		g.silent(g.unicast(m), released)
	})
}

func TestPolicy_Request(t *testing.T) {
	selecting := func(mac machine.MAC, srv, a string) message {
		return dhclient(msgRequest, mac).with(opt(54, addr4(srv)...), opt(50, addr4(a)...))
	}
	rebooting := func(mac machine.MAC, a string) message { return dhclient(msgRequest, mac).with(opt(50, addr4(a)...)) }
	renewing := func(mac machine.MAC, a string) message {
		m := dhclient(msgRequest, mac)
		m.ciaddr = a
		return m
	}

	t.Run("SELECTING: the address offered is acknowledged, and to be made durable", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		a := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer)
		out := g.send(selecting(macA, "10.77.0.1", a.String()))
		if got := g.yiaddr(out, msgAck); got != a {
			t.Errorf("got %v, want %v", got, a)
		}
		l := out.bind
		if l.Network != "lab" || l.Address != a || l.MAC != macA || l.Hostname != "debian" || !l.Start.Equal(start) || !l.Expires.Equal(start.Add(time.Hour)) || l.Reserved {
			t.Errorf("lease %+v", l)
		}
	})
	t.Run("SELECTING: another server is met with silence, and the offer is withdrawn", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		a := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer)
		g.silent(g.send(selecting(macA, "10.77.0.9", a.String())), otherServer)
		g.lease(macB)
		g.lease(macC)
		if got := g.yiaddr(g.send(dhclient(msgDiscover, machine.MAC{2})), msgOffer); got != a {
			t.Errorf("the withdrawn address isn't free: %v", got)
		}
	})
	t.Run("SELECTING: an address that wasn't offered is refused", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer)
		g.yiaddr(g.send(selecting(macA, "10.77.0.1", "10.77.0.102")), msgNak)
	})
	t.Run("SELECTING: after a restart the offer is still good", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		if got := g.yiaddr(g.send(selecting(macA, "10.77.0.1", "10.77.0.101")), msgAck); got != ip("10.77.0.101") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("SELECTING: another's address is refused", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		a := g.lease(macB)
		g.yiaddr(g.send(selecting(macA, "10.77.0.1", a.String())), msgNak)
	})
	t.Run("INIT-REBOOT: a client on record gets its address", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		a := g.lease(macA)
		if got := g.yiaddr(g.send(rebooting(macA, a.String())), msgAck); got != a {
			t.Errorf("got %v", got)
		}
		g.now = g.now.Add(5 * time.Hour)
		if got := g.yiaddr(g.send(rebooting(macA, a.String())), msgAck); got != a {
			t.Errorf("after its lease ran out: got %v", got)
		}
	})
	t.Run("INIT-REBOOT: a client nobody has a record of is met with silence", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		g.silent(g.send(rebooting(macA, "10.77.0.101")), noRecord)
	})
	t.Run("INIT-REBOOT: an address of another network is refused, by broadcast", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		out := g.send(rebooting(macA, "192.168.1.7"))
		g.yiaddr(out, msgNak)
		if out.to.addr.Addr() != broadcastAddr {
			t.Errorf("sent to %v", out.to.addr)
		}
		if got := out.reply.Message(); got == "" {
			t.Error("no message")
		}
	})
	t.Run("INIT-REBOOT: another address than the one on record is refused", func(t *testing.T) {
		g := newRig(t, fakeMachines{host("web1", macA, "10.77.0.5/24")}, labNetwork())
		g.yiaddr(g.send(rebooting(macA, "10.77.0.101")), msgNak)
		g.yiaddr(g.send(rebooting(macA, "10.77.0.5")), msgAck)
		g.lease(macB)
		g.yiaddr(g.send(rebooting(macB, "10.77.0.102")), msgNak)
	})
	t.Run("RENEWING: the lease is extended from now, its start stays", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		a := g.lease(macA)
		g.now = g.now.Add(30 * time.Minute)
		out := g.unicast(renewing(macA, a.String()))
		if got := g.yiaddr(out, msgAck); got != a {
			t.Errorf("got %v", got)
		}
		if !out.bind.Start.Equal(start) || !out.bind.Expires.Equal(start.Add(90*time.Minute)) {
			t.Errorf("lease from %v to %v", out.bind.Start, out.bind.Expires)
		}
		if out.to.addr.Addr() != a || !out.to.hardware.IsZero() {
			t.Errorf("sent to %v in a frame for %v", out.to.addr, out.to.hardware)
		}
		if got := specified(out.reply.ClientIPAddr); got != a {
			t.Errorf("ciaddr %v", got)
		}
	})
	t.Run("REBINDING: the same by broadcast", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		a := g.lease(macA)
		m := renewing(macA, a.String())
		if got := g.yiaddr(g.do(mustParseFrom(t, m, arrival{iface: "eth1", source: netip.AddrPortFrom(a, 68)})), msgAck); got != a {
			t.Errorf("got %v", got)
		}
	})
	t.Run("RENEWING: what nobody has a record of is taken up", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		if got := g.yiaddr(g.unicast(renewing(macA, "10.77.0.101")), msgAck); got != ip("10.77.0.101") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("RENEWING: an address that another has, or that isn't ours to give, is refused", func(t *testing.T) {
		g := newRig(t, fakeMachines{host("db1", macC, "10.77.0.102/24")}, labNetwork())
		a := g.lease(macB)
		g.yiaddr(g.unicast(renewing(macA, a.String())), msgNak)
		g.yiaddr(g.unicast(renewing(macA, "10.77.0.200")), msgNak)
		g.yiaddr(g.unicast(renewing(macA, "10.77.0.102")), msgNak)
	})
	t.Run("RENEWING: a client whose reservation was changed is refused and gets the new one", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		old := g.lease(macA)
		g.policy.machines = fakeMachines{host("web1", macA, "10.77.0.5/24")}
		g.yiaddr(g.unicast(renewing(macA, old.String())), msgNak)
		if got := g.lease(macA); got != ip("10.77.0.5") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("REBINDING: an address of another network is refused", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		g.yiaddr(g.unicast(renewing(macA, "192.168.1.7")), msgNak)
	})
	t.Run("a REQUEST without any address is nothing", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		g.silent(g.send(dhclient(msgRequest, macA)), badAddress)
	})
}

func TestPolicy_End(t *testing.T) {
	t.Run("DECLINE: the address isn't offered for a while", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		a := g.lease(macA)
		out := g.send(dhclient(msgDecline, macA).with(opt(54, server.AsSlice()...), opt(50, a.AsSlice()...)))
		g.silent(out, declined)
		if len(out.drop) != 1 || out.drop[0].Address != a || out.warn == "" {
			t.Errorf("dropped %v, warning %q", out.drop, out.warn)
		}
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer); got == a {
			t.Error("it was offered again")
		}
	})
	t.Run("DECLINE: of another's address is nothing", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		a := g.lease(macA)
		g.silent(g.send(dhclient(msgDecline, macB).with(opt(50, a.AsSlice()...))), notHolder)
	})
	t.Run("DECLINE: of a reservation falls back to the pool", func(t *testing.T) {
		g := newRig(t, fakeMachines{host("web1", macA, "10.77.0.5/24")}, labNetwork())
		a := g.lease(macA)
		g.silent(g.send(dhclient(msgDecline, macA).with(opt(50, a.AsSlice()...))), declined)
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer); got != ip("10.77.0.100") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("RELEASE: the lease is dropped, the client gets the address back", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		a := g.lease(macA)
		m := dhclient(msgRelease, macA)
		m.ciaddr = a.String()
		out := g.unicast(m)
		g.silent(out, released)
		if len(out.drop) != 1 || out.drop[0].Address != a {
			t.Errorf("dropped %v", out.drop)
		}
		g.silent(g.unicast(m), notHolder)
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer); got != a {
			t.Errorf("got %v", got)
		}
	})
	t.Run("INFORM: options without an address or times", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		m := dhclient(msgInform, macA)
		m.ciaddr = "10.77.0.77"
		out := g.unicast(m)
		if got := g.yiaddr(out, msgAck); got.IsValid() {
			t.Errorf("yiaddr %v", got)
		}
		for _, code := range []uint8{51, 58, 59} {
			if _, ok := out.reply.Options[code]; ok {
				t.Errorf("option %d is there", code)
			}
		}
		if out.to.addr.Addr() != ip("10.77.0.77") || out.bind.Address.IsValid() {
			t.Errorf("sent to %v, bound %v", out.to.addr, out.bind.Address)
		}
	})
	t.Run("INFORM: from an address of another network is nothing", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		m := dhclient(msgInform, macA)
		m.ciaddr = "192.168.1.7"
		g.silent(g.unicast(m), badAddress)
	})
}

func TestPolicy_SharedLink(t *testing.T) {
	second := Network{
		Name: "zwei", CIDR: netip.MustParsePrefix("10.78.0.0/24"), Mode: Full, Interfaces: []string{"eth1"},
		Pools: []lease.Range{{Start: ip("10.78.0.100"), End: ip("10.78.0.101")}}, DisableProbe: true,
	}
	t.Run("the network of the reservation", func(t *testing.T) {
		g := newRig(t, fakeMachines{host("web1", macA, "10.78.0.5/24")}, labNetwork(), second)
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer); got != ip("10.78.0.5") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("the next network when one is full, and the same one after", func(t *testing.T) {
		g := newRig(t, nil, labNetwork(), second)
		for i := range 3 {
			g.lease(machine.MAC{2, 0, 0, 0, 0, byte(i + 1)})
		}
		a := g.lease(macA)
		if a != ip("10.78.0.100") {
			t.Errorf("got %v", a)
		}
		m := dhclient(msgRequest, macA)
		m.ciaddr = a.String()
		if got := g.yiaddr(g.unicast(m), msgAck); got != a {
			t.Errorf("renewed %v", got)
		}
		if got := g.yiaddr(g.send(dhclient(msgDiscover, macA)), msgOffer); got != a {
			t.Errorf("offered %v", got)
		}
	})
}
