package dhcp

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/bedplate/bedplate/dhcp/lease"
)

// rackNetwork is 10.88.0.0/24 behind a relay agent at 10.88.0.1.
func rackNetwork(mode Mode) Network {
	return Network{
		Name: "rack", CIDR: netip.MustParsePrefix("10.88.0.0/24"), Mode: mode,
		Pools:   []lease.Range{{Start: ip("10.88.0.100"), End: ip("10.88.0.102")}},
		Gateway: ip("10.88.0.1"), DisableProbe: true,
	}
}

// relayed is a message as a relay agent forwards it: from its port 67 to our address.
func relayed(t testing.TB, m message, giaddr string, options ...[]byte) *request {
	t.Helper()
	m = m.with(options...)
	m.giaddr = giaddr
	return mustParseFrom(t, m, arrival{iface: "eth0", source: netip.MustParseAddrPort("192.0.2.1:67"), local: ip("192.0.2.10")})
}

func TestPolicy_Relay(t *testing.T) {
	circuit := opt(82, 1, 4, 'p', 'o', 'r', 't', 2, 2, 0xab, 0xcd)
	t.Run("the network of the relay agent, and the answer to its port 67", func(t *testing.T) {
		for _, mode := range []Mode{Full, Relay} {
			g := newRig(t, nil, labNetwork(), rackNetwork(mode))
			out := g.do(relayed(t, ovmfPXE(msgDiscover, macA), "10.88.0.1", circuit))
			if got := g.yiaddr(out, msgOffer); got != ip("10.88.0.100") {
				t.Errorf("got %v", got)
			}
			if out.to.addr.Addr() != ip("10.88.0.1") || out.to.addr.Port() != 0 || !out.to.relay {
				t.Errorf("sent to %+v", out.to)
			}
			if got := specified(out.reply.GatewayIPAddr); got != ip("10.88.0.1") {
				t.Errorf("giaddr %v", got)
			}
			if got := specified(out.reply.Options[54]); got != ip("192.0.2.10") {
				t.Errorf("server %v: want the address that the relay agent sends to", got)
			}
		}
	})
	t.Run("option 82 comes back as it was, as the last option", func(t *testing.T) {
		g := newRig(t, nil, rackNetwork(Relay))
		b := g.do(relayed(t, romIPXE(msgDiscover, macA), "10.88.0.1", circuit)).reply.ToBytes()
		b = bytes.TrimRight(b, "\x00")
		if want := append(bytes.Clone(circuit), 255); !bytes.HasSuffix(b, want) {
			t.Errorf("the reply ends in % x", b[len(b)-24:])
		}
	})
	t.Run("option 82 that can't be read comes back too", func(t *testing.T) {
		g := newRig(t, nil, rackNetwork(Relay))
		out := g.do(relayed(t, romIPXE(msgDiscover, macA), "10.88.0.1", opt(82, 1, 200, 3)))
		if got := out.reply.Options[82]; !bytes.Equal(got, []byte{1, 200, 3}) {
			t.Errorf("got % x", got)
		}
	})
	t.Run("link selection goes before giaddr, and subnet selection between them", func(t *testing.T) {
		link := opt(82, append([]byte{5, 4}, addr4("10.88.0.0")...)...)
		subnet := opt(118, addr4("10.88.0.0")...)
		wrong := opt(118, addr4("10.77.0.0")...)
		for name, options := range map[string][][]byte{"82": {link}, "118": {subnet}, "82 and 118": {wrong, link}} {
			g := newRig(t, nil, labNetwork(), rackNetwork(Relay))
			out := g.do(relayed(t, dhclient(msgDiscover, macA), "10.77.0.254", options...))
			if got := g.yiaddr(out, msgOffer); got != ip("10.88.0.100") {
				t.Errorf("%s: got %v", name, got)
			}
			if out.to.addr.Addr() != ip("10.77.0.254") {
				t.Errorf("%s: sent to %v", name, out.to.addr)
			}
		}
		g := newRig(t, nil, labNetwork(), rackNetwork(Relay))
		out := g.do(relayed(t, dhclient(msgDiscover, macA), "10.77.0.254", subnet))
		if got := out.reply.Options[118]; !bytes.Equal(got, addr4("10.88.0.0")) {
			t.Errorf("option 118 comes back as % x", got)
		}
	})
	t.Run("a client on the link can't choose its network", func(t *testing.T) {
		g := newRig(t, nil, labNetwork(), rackNetwork(Relay))
		out := g.send(dhclient(msgDiscover, macA).with(opt(118, addr4("10.88.0.0")...)))
		if got := g.yiaddr(out, msgOffer); got != ip("10.77.0.100") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("the server identifier that the relay agent wants", func(t *testing.T) {
		override := opt(82, append([]byte{11, 4}, addr4("10.88.0.1")...)...)
		g := newRig(t, nil, rackNetwork(Relay))
		out := g.do(relayed(t, dhclient(msgDiscover, macA), "10.88.0.1", override))
		a := g.yiaddr(out, msgOffer)
		if got := specified(out.reply.Options[54]); got != ip("10.88.0.1") {
			t.Errorf("server %v", got)
		}
		m := dhclient(msgRequest, macA).with(opt(54, addr4("10.88.0.1")...), opt(50, a.AsSlice()...))
		g.yiaddr(g.do(relayed(t, m, "10.88.0.1", override)), msgAck)
	})
	t.Run("the source port that the relay agent wants replies at", func(t *testing.T) {
		g := newRig(t, nil, rackNetwork(Relay))
		r := relayed(t, dhclient(msgDiscover, macA), "10.88.0.1", opt(82, 19, 0))
		r.source = netip.MustParseAddrPort("10.88.0.1:4067")
		if out := g.do(r); out.to.addr != netip.MustParseAddrPort("10.88.0.1:4067") {
			t.Errorf("sent to %v", out.to.addr)
		}
	})
	t.Run("a NAK has the broadcast flag, for the relay agent to heed", func(t *testing.T) {
		g := newRig(t, nil, rackNetwork(Relay))
		out := g.do(relayed(t, dhclient(msgRequest, macA).with(opt(50, 192, 168, 1, 7)), "10.88.0.1", circuit))
		g.yiaddr(out, msgNak)
		if !out.reply.IsBroadcast() || out.to.addr.Addr() != ip("10.88.0.1") || len(out.reply.Options[82]) == 0 {
			t.Errorf("flags %x, sent to %v", out.reply.Flags, out.to.addr)
		}
	})
	t.Run("a renewal that comes over a router", func(t *testing.T) {
		g := newRig(t, nil, labNetwork(), rackNetwork(Relay))
		a := g.yiaddr(g.do(relayed(t, dhclient(msgDiscover, macA), "10.88.0.1")), msgOffer)
		m := dhclient(msgRequest, macA)
		m.ciaddr = a.String()
		out := g.do(mustParseFrom(t, m, arrival{iface: "eth0", source: netip.AddrPortFrom(a, 68), local: ip("192.0.2.10")}))
		if got := g.yiaddr(out, msgAck); got != a || out.to.addr.Addr() != a {
			t.Errorf("got %v, sent to %v", got, out.to.addr)
		}
	})
	t.Run("a network in relay mode doesn't answer its own link", func(t *testing.T) {
		n := labNetwork()
		n.Mode = Relay
		g := newRig(t, nil, n)
		g.silent(g.send(dhclient(msgDiscover, macA)), relayedOnly)
	})
	t.Run("a relay agent on a network that we don't have is met with silence", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		g.silent(g.do(relayed(t, dhclient(msgDiscover, macA), "10.99.0.1")), noNetwork)
	})
}

func TestTable_Wanted(t *testing.T) {
	named := func(n Network, ifaces ...string) Network {
		n.Interfaces = ifaces
		return n
	}
	off := labNetwork()
	off.Mode = Off
	for name, tc := range map[string]struct {
		networks []Network
		only     []string
		want     map[string]bool
	}{
		"an interface with an address in the subnet":        {[]Network{labNetwork()}, nil, map[string]bool{"eth1": true}},
		"no interface for a network that is off":            {[]Network{off}, nil, map[string]bool{}},
		"all that have an address, for relay agents":        {[]Network{rackNetwork(Relay)}, nil, map[string]bool{"eth0": false, "eth1": false}},
		"also for a full network that no interface is on":   {[]Network{labNetwork(), rackNetwork(Full)}, nil, map[string]bool{"eth0": false, "eth1": true}},
		"the configured interface alone, for relay agents":  {[]Network{rackNetwork(Relay)}, []string{"eth0"}, map[string]bool{"eth0": true}},
		"an interface that the network names, there or not": {[]Network{named(labNetwork(), "eth7")}, nil, map[string]bool{"eth7": true}},
	} {
		t.Run(name, func(t *testing.T) {
			var ready []*network
			for _, n := range tc.networks {
				ready = append(ready, &network{Network: n.normal()})
			}
			got := newTable(ready, labLinks, tc.only).wanted
			if len(got) != len(tc.want) {
				t.Fatalf("got %v, want %v", got, tc.want)
			}
			for k, v := range tc.want {
				if needed, ok := got[k]; !ok || needed != v {
					t.Errorf("got %v, want %v", got, tc.want)
				}
			}
		})
	}
}
