package dhcp

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/machine"
)

// FuzzDecide feeds whole packets, as they come from the link, from a relay
// agent and on port 4011: nothing may panic, and what is answered can be read again,
// is no longer than the client takes, and echoes what has to be echoed.
func FuzzDecide(f *testing.F) {
	for kind := byte(msgDiscover); kind <= msgInform; kind++ {
		for _, m := range fingerprints(kind, macA) {
			f.Add(m.bytes(), byte(0))
			m.ciaddr = "10.77.0.101"
			f.Add(m.with(opt(82, 1, 4, 'p', 'o', 'r', 't', 5, 4, 10, 88, 0, 0)).bytes(), byte(1))
			f.Add(m.with(opt(43, 71, 4, 0, 1, 0, 0, 255)).bytes(), byte(2))
			m.giaddr, m.ciaddr = "10.88.0.1", ""
			f.Add(m.with(opt(50, 10, 88, 0, 100), opt(82, 11, 4, 10, 88, 0, 1, 19, 0)).bytes(), byte(3))
			f.Add(m.with(opt(54, 10, 77, 0, 1), opt(50, 10, 77, 0, 100), opt(118, 10, 88, 0, 0), opt(52, 3)).bytes(), byte(3))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, how byte) {
		g := newRig(t, fakeMachines{host("web1", macB, "10.77.0.5/24")}, labNetwork(), rackNetwork(Relay), secondLink())
		a := arrival{iface: "eth1", source: netip.MustParseAddrPort("10.77.0.101:68"), bootServer: how&2 != 0 && how&1 == 0}
		if how&1 != 0 {
			a.iface, a.local = "eth0", ip("192.0.2.10")
		}
		r, err := parse(b, a)
		if err != nil {
			return
		}
		for range 2 {
			out := g.do(r)
			if out.reply != nil {
				checkReply(t, r, out)
			}
		}
		_ = out(r)
	})
}

// out exercises what is logged of a request.
func out(r *request) string { return r.boot.String() + r.client.String() + r.mac.String() }

// secondLink is a proxy network on eth0.
func secondLink() Network {
	return Network{Name: "office", CIDR: netip.MustParsePrefix("192.0.2.0/24"), Mode: Proxy, Unknown: Discover}
}

func checkReply(t *testing.T, r *request, out outcome) {
	t.Helper()
	b := out.reply.ToBytes()
	back, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatalf("the reply can't be read: %v", err)
	}
	if back.OpCode != dhcpv4.OpcodeBootReply || back.TransactionID != r.packet.TransactionID || !bytes.Equal(back.ClientHWAddr, r.packet.ClientHWAddr) {
		t.Errorf("the reply isn't one to this request: %v", back)
	}
	if !bytes.Equal(back.Options[82], r.packet.Options[82]) || !bytes.Equal(back.Options[61], r.packet.Options[61]) {
		t.Error("option 82 or 61 doesn't come back as it was")
	}
	if len(back.Options[54]) != 4 {
		t.Error("no server identifier")
	}
	// What is echoed is as long as the client made it; the rest has to fit.
	echoed := 0
	for _, code := range []uint8{61, 82, 97, 118, 43} {
		echoed += optionSize(r.packet.Options[code])
	}
	if len(b) > max(300, sizeLimit(r.packet))+echoed {
		t.Errorf("%d octets for a client that takes %d", len(b), sizeLimit(r.packet))
	}
	if !out.to.addr.IsValid() || out.to.addr.Addr().IsMulticast() {
		t.Errorf("sent to %v", out.to.addr)
	}
	if a := specified(back.YourIPAddr); a.IsValid() && !out.network.CIDR.Contains(a) {
		t.Errorf("%v isn't in %v", a, out.network.CIDR)
	}
}

// FuzzRelayInfo feeds option 82 to a request that came through a relay agent.
func FuzzRelayInfo(f *testing.F) {
	f.Add([]byte{1, 4, 'p', 'o', 'r', 't', 5, 4, 10, 88, 0, 0})
	f.Add([]byte{11, 4, 10, 88, 0, 1, 19, 0})
	f.Add([]byte{5, 200, 1})
	f.Fuzz(func(t *testing.T, info []byte) {
		r := &request{packet: &dhcpv4.DHCPv4{}}
		r.readRelayInfo(info)
		for _, a := range []netip.Addr{r.link, r.override} {
			if a.IsValid() && (!a.Is4() || a.IsUnspecified()) {
				t.Errorf("address %v", a)
			}
		}
	})
}

// FuzzEchoReply feeds ICMP messages to the prober.
func FuzzEchoReply(f *testing.F) {
	b := appendEcho(nil, 7, 1)
	f.Add(bytes.Clone(b))
	b[0] = icmpEchoReply
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, ok := parseEchoReply(b); ok && len(b) < 8 {
			t.Error("a reply without a header")
		}
	})
}

func benchmarkDecide(b *testing.B, messages func(i int) message, machines fakeMachines) {
	n := labNetwork()
	n.CIDR = netip.MustParsePrefix("10.77.0.0/16")
	n.Pools[0].End = ip("10.77.200.1")
	g := newRig(b, machines, n)
	const clients = 10000
	packets := make([][]byte, clients)
	for i := range packets {
		packets[i] = messages(i).bytes()
	}
	a := arrival{iface: "eth1", source: netip.MustParseAddrPort("0.0.0.0:68")}
	var size int
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r, err := parse(packets[i%clients], a)
		if err != nil {
			b.Fatal(err)
		}
		out := g.do(r)
		if out.reply == nil {
			b.Fatal(out.result)
		}
		size += len(out.reply.ToBytes())
	}
}

func clientMAC(i int) machine.MAC { return machine.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)} }

// BenchmarkDiscoverOffer is a packet in and a packet out, without sockets, for
// 10,000 clients of a dynamic pool.
func BenchmarkDiscoverOffer(b *testing.B) {
	benchmarkDecide(b, func(i int) message { return ovmfPXE(msgDiscover, clientMAC(i)) }, nil)
}

// BenchmarkRequestAck is a request and the ACK of its lease, apart from the store.
func BenchmarkRequestAck(b *testing.B) {
	benchmarkDecide(b, func(i int) message {
		return ovmfPXE(msgRequest, clientMAC(i)).with(opt(54, server.AsSlice()...), opt(50, 10, 77, 1+byte(i>>8), byte(i)))
	}, nil)
}
