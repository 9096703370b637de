package dhcp

import (
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/machine"
)

// destination is where a reply goes.
type destination struct {
	iface string
	// source is the address that it is sent from, one of the interface's.
	source netip.Addr
	// addr is the receiver. Port 0 stands for the client port or, for a relay
	// agent, the server port.
	addr netip.AddrPort
	// hardware, if not zero, is who gets the frame: a client that doesn't answer
	// ARP for addr yet.
	hardware machine.MAC
	// relay is set when addr is a relay agent.
	relay bool
}

var broadcastAddr = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// destinationOf follows RFC 2131 §4.1: to the relay agent; else a NAK to all; else
// to the client's address; else to all if it asks for that; else to the new
// address, in a frame for the client's hardware address. Answers on port 4011
// go back where the question came from.
func destinationOf(r *request, p *dhcpv4.DHCPv4, subnet netip.Prefix, source netip.Addr) destination {
	d := destination{iface: r.iface, source: source}
	yiaddr := specified(p.YourIPAddr)
	switch {
	case r.bootServer:
		d.addr = netip.AddrPortFrom(r.source.Addr().Unmap(), r.source.Port())
	case r.relay.IsValid():
		d.relay = true
		d.addr = netip.AddrPortFrom(r.relay, 0)
		if r.relayPort {
			d.addr = netip.AddrPortFrom(r.relay, r.source.Port())
		}
	case p.MessageType() == dhcpv4.MessageTypeNak:
		d.addr = netip.AddrPortFrom(broadcastAddr, 0)
	case r.ciaddr.IsValid() && subnet.Contains(r.ciaddr) && p.MessageType() == dhcpv4.MessageTypeAck:
		// Nowhere else: a forged ciaddr must not make us send to strangers.
		d.addr = netip.AddrPortFrom(r.ciaddr, 0)
	case r.packet.IsBroadcast(), !yiaddr.IsValid(), r.mac.IsZero():
		// Without a new address (ProxyDHCP) there is nothing to unicast to; and
		// only an Ethernet address can be put into a frame.
		d.addr = netip.AddrPortFrom(broadcastAddr, 0)
	default:
		d.addr = netip.AddrPortFrom(yiaddr, 0)
		d.hardware = r.mac
	}
	return d
}
