package dhcp

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/dhcp/pxe"
	"github.com/bedplate/bedplate/machine"
)

// Option codes and sub-options that the codec has no name for or that are
// looked at as octets.
const (
	optRelayInfo       = 82
	optSubnetSelection = 118 // RFC 3011

	subLinkSelection   = 5  // RFC 3527
	subServerOverride  = 11 // RFC 5107
	subRelaySourcePort = 19 // RFC 8357
)

// arrival is how a packet came in.
type arrival struct {
	// iface is the name of the interface.
	iface string
	// source is the sender's address and port.
	source netip.AddrPort
	// local is the address that the packet was sent to, if it was sent to one
	// address; invalid for broadcasts.
	local netip.Addr
	// bootServer is set for what came in on port 4011.
	bootServer bool
}

// request is one message of a client, read as far as policy needs it.
type request struct {
	arrival
	packet *dhcpv4.DHCPv4
	kind   dhcpv4.MessageType
	client lease.Client
	mac    machine.MAC
	boot   pxe.Client
	// relay is giaddr, the relay agent's address; invalid when the client was heard directly.
	relay netip.Addr
	// ciaddr is the address that the client says it has and answers ARP for.
	ciaddr netip.Addr
	// wanted is option 50, the requested address.
	wanted netip.Addr
	// server is option 54: the server that the client has chosen.
	server netip.Addr
	// link is the subnet that a relay agent or the client has selected by
	// option 82.5 or 118.
	link netip.Addr
	// override is the server identifier that the relay agent wants (82.11).
	override netip.Addr
	// relayPort is set when the relay agent wants replies at its source port (82.19).
	relayPort bool
	// attempts counts the addresses that were probed for this message and found in use.
	attempts int
}

// Reasons to drop a packet before policy sees it.
var (
	errNotRequest = errors.New("not a BOOTREQUEST")
	errNotDHCP    = errors.New("no message type: BOOTP is not served")
	errHops       = errors.New("more than 16 relay agents")
	errHardware   = errors.New("no hardware address and no client identifier")
	errServerType = errors.New("a message type that only servers send")
)

// maxHops is the most relay agents that a message may have passed (RFC 1542 §4.1.1).
const maxHops = 16

// parse reads a packet. b may be reused after it returns.
func parse(b []byte, a arrival) (*request, error) {
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil, fmt.Errorf("parsing packet: %w", err)
	}
	return newRequest(p, a)
}

func newRequest(p *dhcpv4.DHCPv4, a arrival) (*request, error) {
	r := &request{arrival: a, packet: p, kind: p.MessageType()}
	switch r.kind {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDecline,
		dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeInform:
	case dhcpv4.MessageTypeNone:
		return nil, errNotDHCP
	default:
		return nil, errServerType
	}
	switch {
	case p.OpCode != dhcpv4.OpcodeBootRequest:
		return nil, errNotRequest
	case p.HopCount > maxHops:
		return nil, errHops
	}
	if p.HWType == hardwareEthernet && len(p.ClientHWAddr) == 6 {
		r.mac = machine.MAC(p.ClientHWAddr)
	}
	identifier := p.Options.Get(dhcpv4.OptionClientIdentifier)
	if r.mac.IsZero() && len(identifier) == 0 && len(p.ClientHWAddr) == 0 {
		return nil, errHardware
	}
	r.client = lease.ClientOf(r.mac, uint16(p.HWType), p.ClientHWAddr, identifier)
	r.boot = pxe.Classify(p.Options)
	r.relay = specified(p.GatewayIPAddr)
	r.ciaddr = specified(p.ClientIPAddr)
	r.wanted = specified(p.Options.Get(dhcpv4.OptionRequestedIPAddress))
	r.server = specified(p.Options.Get(dhcpv4.OptionServerIdentifier))
	if r.relay.IsValid() {
		// Only a relay agent may say which link a client is on.
		r.readRelayInfo(p.Options[optRelayInfo])
		if !r.link.IsValid() {
			r.link = specified(p.Options[optSubnetSelection])
		}
	}
	return r, nil
}

const hardwareEthernet = 1

// readRelayInfo reads the sub-options of option 82 that concern the server. A
// list that is cut short keeps what could be read, since it is echoed whatever
// it says (RFC 3046 §2.2).
func (r *request) readRelayInfo(b []byte) {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		v := b[2 : 2+int(b[1])]
		switch b[0] {
		case subLinkSelection:
			r.link = specified(v)
		case subServerOverride:
			r.override = specified(v)
		case subRelaySourcePort:
			r.relayPort = true
		}
		b = b[2+len(v):]
	}
}

// specified returns four octets as an address, and the invalid address for
// 0.0.0.0 or another length.
func specified(b []byte) netip.Addr {
	if len(b) != 4 {
		return netip.Addr{}
	}
	a := netip.AddrFrom4([4]byte(b))
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
