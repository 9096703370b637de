package dhcp

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Option codes that replies carry.
const (
	optSubnetMask    = 1
	optRouter        = 3
	optNameservers   = 6
	optHostname      = 12
	optDomain        = 15
	optMTU           = 26
	optBroadcast     = 28
	optNTP           = 42
	optVendor        = 43
	optLeaseTime     = 51
	optMessageType   = 53
	optServerID      = 54
	optMessage       = 56
	optMaxSize       = 57
	optT1            = 58
	optT2            = 59
	optVendorClass   = 60
	optClientID      = 61
	optTFTPServer    = 66
	optBootFile      = 67
	optUUID          = 97
	optSearch        = 119
	optRoutes        = 121
	optIPXE          = 175
	optParameterList = 55
)

// options is the octets of options by code. Those of a network are made once
// and shared by all replies, which only read them.
type options map[uint8][]byte

// droppable has the options that a reply can do without, the least important
// first, for clients that take small messages only.
var droppable = []uint8{optSearch, optNTP, optBroadcast, optDomain, optHostname, optTFTPServer, optMTU}

// networkOptions makes the options that are the same for all clients of n.
func networkOptions(n Network) options {
	o := options{optSubnetMask: netmask(n.CIDR)}
	if n.CIDR.Bits() < 31 {
		o[optBroadcast] = broadcast(n.CIDR)
	}
	o.addrs(optRouter, n.Gateway)
	o.addrs(optNameservers, n.Nameservers...)
	o.addrs(optNTP, n.NTPServers...)
	if n.Domain != "" {
		o[optDomain] = []byte(n.Domain)
	}
	for _, d := range n.SearchDomains {
		// Validate has looked at them.
		o[optSearch], _ = appendDomain(o[optSearch], d)
	}
	if n.MTU > 0 {
		o[optMTU] = binary.BigEndian.AppendUint16(nil, n.MTU)
	}
	if len(n.Routes) > 0 {
		o[optRoutes] = appendRoutes(nil, n.Routes, n.Gateway)
	}
	return o
}

// leaseTimes adds options 51, 58 and 59: T1 is a half, T2 seven eighths (RFC 2131 §4.4.5).
func (o options) leaseTimes(d time.Duration) {
	s := min(uint64(d/time.Second), math.MaxUint32)
	if s == math.MaxUint32 {
		// For ever: there is nothing to renew (RFC 2131 §3.3).
		o[optLeaseTime] = binary.BigEndian.AppendUint32(nil, math.MaxUint32)
		return
	}
	b := make([]byte, 0, 12)
	b = binary.BigEndian.AppendUint32(b, uint32(s))
	b = binary.BigEndian.AppendUint32(b, uint32(s/2))
	b = binary.BigEndian.AppendUint32(b, uint32(s*7/8))
	o[optLeaseTime], o[optT1], o[optT2] = b[:4:4], b[4:8:8], b[8:]
}

// addrs adds an option that is a list of addresses; invalid ones are left out.
func (o options) addrs(code uint8, addrs ...netip.Addr) {
	var b []byte
	for _, a := range addrs {
		if a.IsValid() {
			b = append(b, a.AsSlice()...)
		}
	}
	if len(b) > 0 {
		o[code] = b
	}
}

// fit drops options until the message is no longer than limit, and reports
// whether it is. Options 1, 3, 6 and 121 stay: a machine without them is worse off
// than one that never gets the message.
func (o options) fit(limit int) bool {
	size := o.size()
	for _, code := range droppable {
		if size <= limit {
			return true
		}
		if v, ok := o[code]; ok {
			size -= optionSize(v)
			delete(o, code)
		}
	}
	return size <= limit
}

// size returns the length of a DHCP message with these options: the fixed part
// of 236 octets, the cookie, the options and the end.
func (o options) size() int {
	n := 236 + 4 + 1
	for _, v := range o {
		n += optionSize(v)
	}
	return n
}

// optionSize is the length of an option on the wire; long ones are split (RFC 3396).
func optionSize(v []byte) int {
	pieces := max(1, (len(v)+254)/255)
	return len(v) + 2*pieces
}

func netmask(p netip.Prefix) []byte {
	return binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
}

func broadcast(p netip.Prefix) []byte {
	a := p.Addr().As4()
	host := ^(^uint32(0) << (32 - p.Bits()))
	return binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(a[:])|host)
}

// appendRoutes appends option 121, with the default route if no route is one.
func appendRoutes(b []byte, routes []Route, gateway netip.Addr) []byte {
	hasDefault := false
	for _, r := range routes {
		hasDefault = hasDefault || r.Destination.Bits() == 0
		b = appendRoute(b, r)
	}
	if gateway.IsValid() && !hasDefault {
		b = appendRoute(b, Route{Destination: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: gateway})
	}
	return b
}

// appendRoute appends the width of the prefix, its octets that aren't all host
// bits, and the router (RFC 3442).
func appendRoute(b []byte, r Route) []byte {
	dst := r.Destination.Masked().Addr().As4()
	b = append(b, byte(r.Destination.Bits()))
	b = append(b, dst[:(r.Destination.Bits()+7)/8]...)
	return append(b, r.Gateway.AsSlice()...)
}

// appendDomain appends a domain name in DNS wire format (RFC 3397 §2), without compression.
func appendDomain(b []byte, name string) ([]byte, error) {
	name = strings.TrimSuffix(name, ".")
	start := len(b)
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 {
			return b[:start], fmt.Errorf("%q is not a domain name", name)
		}
		b = append(append(b, byte(len(label))), label...)
	}
	if len(b)-start > 254 {
		return b[:start], fmt.Errorf("%q is longer than a domain name may be", name)
	}
	return append(b, 0), nil
}

// requests reports whether the client asks for an option; one that has no list
// asks for all (RFC 2131 §3.5).
func requests(p *dhcpv4.DHCPv4, code uint8) bool {
	list, there := p.Options[optParameterList]
	if !there {
		return true
	}
	for _, c := range list {
		if c == code {
			return true
		}
	}
	return false
}

// sizeLimit returns how long a message the client takes. Option 57 counts the
// IP and UDP headers for some clients (ISC) and not for others: here it does. A client
// that says nothing takes an IP datagram of 576 octets (RFC 2131 §2); nobody gets
// more than an Ethernet frame.
func sizeLimit(p *dhcpv4.DHCPv4) int {
	const headers, least, most = 20 + 8, 576, 1500
	size := least
	if v := p.Options[optMaxSize]; len(v) == 2 {
		size = min(max(int(binary.BigEndian.Uint16(v)), least), most)
	}
	return size - headers
}
