package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/bedplate/bedplate/dhcp/lease"
)

// Mode says how DHCP is answered on a network.
type Mode uint8

// The modes. The zero value answers nothing.
const (
	Off Mode = iota
	// Full gives addresses and boot information, to requests from the link and
	// from relay agents.
	Full
	// Proxy gives boot information only, beside another DHCP server (PXE 2.1 §2.2.3).
	Proxy
	// Relay is Full for requests that a relay agent forwarded, and for renewals
	// that reach the server by routing; what comes from the link isn't answered.
	Relay
)

// String returns off, full, proxy or relay.
func (m Mode) String() string {
	switch m {
	case Full:
		return "full"
	case Proxy:
		return "proxy"
	case Relay:
		return "relay"
	default:
		return "off"
	}
}

// Unknown says what happens to a machine that Machines doesn't know.
type Unknown uint8

// The policies for unknown machines.
const (
	// UnknownDefault is Discover where the server gives addresses, Ignore beside another server.
	UnknownDefault Unknown = iota
	// Ignore gives no answer at all.
	Ignore
	// Discover treats it as a machine; the boot script makes it known.
	Discover
	// Refuse gives an address and a boot script, which says on the console that
	// nobody knows the machine. To DHCP it is the same as Discover.
	Refuse
)

// Route is a classless static route (option 121, RFC 3442).
type Route struct {
	Destination netip.Prefix
	Gateway     netip.Addr
}

// Network is one IPv4 subnet and the policy for it.
type Network struct {
	// Name is unique. Leases carry it.
	Name string
	CIDR netip.Prefix
	Mode Mode
	// Interfaces that the network is on. Empty: those with an address in CIDR.
	Interfaces []string
	// Pools are the dynamic ranges. None: reservations only.
	Pools []lease.Range
	// Gateway is option 3. Invalid: none.
	Gateway netip.Addr
	// Nameservers and NTPServers are options 6 and 42.
	Nameservers, NTPServers []netip.Addr
	// Domain and SearchDomains are options 15 and 119.
	Domain        string
	SearchDomains []string
	// MTU is option 26. 0: not sent.
	MTU uint16
	// Routes are option 121. The default route through Gateway is added, since
	// clients that take option 121 pass over option 3 (RFC 3442 page 5).
	Routes []Route
	// LeaseTime is option 51. 0: one hour.
	LeaseTime time.Duration
	Unknown   Unknown
	// ServerAddress is the address that machines on this network reach the
	// server by. Invalid: that of the interface.
	ServerAddress netip.Addr
	// DisableProbe offers pool addresses without an ICMP echo first.
	DisableProbe bool
}

// DefaultLeaseTime is used where a Network has none.
const DefaultLeaseTime = time.Hour

// minLeaseTime keeps a mistyped lease time from turning into a flood of renewals.
const minLeaseTime = 10 * time.Second

// Validate says what is wrong with a network.
func (n Network) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if n.Name == "" {
		bad("it has no name")
	}
	if !n.CIDR.IsValid() || !n.CIDR.Addr().Is4() || n.CIDR.Bits() == 0 {
		bad("%v is not an IPv4 subnet such as 10.77.0.0/24", n.CIDR)
		return fmt.Errorf("network %q: %w", n.Name, errors.Join(errs...))
	}
	for _, r := range n.Pools {
		switch {
		case !n.CIDR.Contains(r.Start) || !n.CIDR.Contains(r.End):
			bad("pool %v-%v is not inside %v", r.Start, r.End, n.CIDR)
		case r.End.Less(r.Start):
			bad("pool %v-%v ends before it starts", r.Start, r.End)
		}
	}
	v4 := func(what string, addrs ...netip.Addr) {
		for _, a := range addrs {
			if a.IsValid() && !a.Is4() {
				bad("%s %v is not an IPv4 address", what, a)
			}
		}
	}
	v4("gateway", n.Gateway)
	v4("nameserver", n.Nameservers...)
	v4("NTP server", n.NTPServers...)
	v4("server address", n.ServerAddress)
	for _, r := range n.Routes {
		if !r.Destination.Addr().Is4() || !r.Gateway.Is4() {
			bad("route to %v via %v is not an IPv4 route", r.Destination, r.Gateway)
		}
	}
	for _, d := range n.SearchDomains {
		if _, err := appendDomain(nil, d); err != nil {
			errs = append(errs, err)
		}
	}
	if n.LeaseTime != 0 && n.LeaseTime < minLeaseTime {
		bad("lease time %v is less than %v", n.LeaseTime, minLeaseTime)
	}
	if len(errs) > 0 {
		return fmt.Errorf("network %q: %w", n.Name, errors.Join(errs...))
	}
	return nil
}

// normal returns n with defaults filled in, sharing no slice that a caller may change.
func (n Network) normal() Network {
	n.CIDR = n.CIDR.Masked()
	if n.LeaseTime == 0 {
		n.LeaseTime = DefaultLeaseTime
	}
	if n.Unknown == UnknownDefault {
		n.Unknown = Discover
		if n.Mode == Proxy {
			n.Unknown = Ignore
		}
	}
	n.Interfaces = slices.Clone(n.Interfaces)
	n.Pools = slices.Clone(n.Pools)
	return n
}

// gives reports whether the server gives addresses on the network.
func (n Network) gives() bool { return n.Mode == Full || n.Mode == Relay }
