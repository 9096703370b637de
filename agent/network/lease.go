package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/machine"
)

// Lease is an address and what comes with it.
type Lease struct {
	Address     netip.Prefix
	Routes      []Route
	Nameservers []netip.Addr
	Search      []string
	// MTU is 0 when the server doesn't say.
	MTU int
	// Server is the DHCP server; invalid for a static address.
	Server netip.Addr
	// Renew, Rebind and Expire are when the client asks its server, asks any
	// server, and gives the address up.
	Renew, Rebind, Expire time.Time
}

// Route is where packets to a network go.
type Route struct {
	To netip.Prefix
	// Via is invalid for a network on the link itself.
	Via netip.Addr
}

var errLease = errors.New("not a usable lease")

const (
	userClass = "bedplate-agent"
	// minLease keeps a server's odd lease time from making us ask without end.
	minLease = 10 * time.Second
	minMTU   = 576 // RFC 2132 §5.1: legal values from 68; nothing of ours works below this
)

// newRequest is what DISCOVER and REQUEST have in common.
func newRequest(kind dhcpv4.MessageType, mac machine.MAC, xid dhcpv4.TransactionID, elapsed time.Duration) (*dhcpv4.DHCPv4, error) {
	return dhcpv4.New(
		dhcpv4.WithTransactionID(xid),
		dhcpv4.WithHwAddr(net.HardwareAddr(mac[:])),
		dhcpv4.WithMessageType(kind),
		func(d *dhcpv4.DHCPv4) { d.NumSeconds = uint16(min(elapsed/time.Second, 0xffff)) },
		dhcpv4.WithOption(dhcpv4.OptUserClass(userClass)),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1500)),
		dhcpv4.WithRequestedOptions(
			dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionHostName,
			dhcpv4.OptionDomainName, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionClasslessStaticRoute,
			dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue, dhcpv4.OptionIPAddressLeaseTime,
		),
	)
}

// parseLease reads an ACK that came at now.
func parseLease(ack *dhcpv4.DHCPv4, now time.Time) (*Lease, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || !addr.IsGlobalUnicast() {
		return nil, fmt.Errorf("%w: address %v", errLease, ack.YourIPAddr)
	}
	bits := 32
	if mask := ack.SubnetMask(); mask != nil {
		ones, size := mask.Size()
		if size != 32 {
			return nil, fmt.Errorf("%w: subnet mask %v", errLease, mask)
		}
		bits = ones
	}
	l := &Lease{Address: netip.PrefixFrom(addr, bits), Nameservers: addrs(ack.DNS())}
	l.Server, _ = netip.AddrFromSlice(ack.ServerIdentifier().To4())
	l.Routes = leaseRoutes(ack)
	if s := ack.DomainSearch(); s != nil {
		l.Search = s.Labels
	} else if d := ack.DomainName(); d != "" {
		l.Search = []string{d}
	}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && mtu >= minMTU {
		l.MTU = int(mtu)
	}
	l.setTimes(ack, now)
	return l, nil
}

func (l *Lease) setTimes(ack *dhcpv4.DHCPv4, now time.Time) {
	d := max(ack.IPAddressLeaseTime(time.Hour), minLease)
	t1, t2 := ack.IPAddressRenewalTime(d/2), ack.IPAddressRebindingTime(d*7/8)
	if t1 <= 0 || t1 >= t2 || t2 >= d { // RFC 2131 §4.4.5: T1 < T2 < lease
		t1, t2 = d/2, d*7/8
	}
	l.Renew, l.Rebind, l.Expire = now.Add(t1), now.Add(t2), now.Add(d)
}

// leaseRoutes is option 121 where there is one (RFC 3442: option 3 is then to
// be ignored), else the first router.
func leaseRoutes(ack *dhcpv4.DHCPv4) []Route {
	var routes []Route
	for _, r := range ack.ClasslessStaticRoute() {
		ip, ok := netip.AddrFromSlice(r.Dest.IP.To4())
		ones, size := r.Dest.Mask.Size()
		via, ok2 := netip.AddrFromSlice(r.Router.To4())
		if !ok || !ok2 || size != 32 {
			continue
		}
		if via.IsUnspecified() {
			via = netip.Addr{}
		}
		routes = append(routes, Route{To: netip.PrefixFrom(ip, ones).Masked(), Via: via})
	}
	if routes != nil {
		return routes
	}
	if r := addrs(ack.Router()); len(r) > 0 {
		return []Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: r[0]}}
	}
	return nil
}

func addrs(ips []net.IP) []netip.Addr {
	var all []netip.Addr
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && !a.IsUnspecified() {
			all = append(all, a)
		}
	}
	return all
}

// Static makes a lease of an address given on the kernel's command line; it
// never ends. The gateway may be invalid.
func Static(address netip.Prefix, gateway netip.Addr, nameservers []netip.Addr) Lease {
	l := Lease{Address: address, Nameservers: nameservers}
	if gateway.IsValid() {
		all := netip.IPv4Unspecified()
		if gateway.Is6() {
			all = netip.IPv6Unspecified()
		}
		l.Routes = []Route{{To: netip.PrefixFrom(all, 0), Via: gateway}}
	}
	return l
}
