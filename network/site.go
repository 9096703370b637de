package network

import (
	"fmt"
	"net/netip"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Site is what a Network resource says of a subnet.
type Site struct {
	Prefix      netip.Prefix
	Gateway     netip.Addr
	Nameservers []netip.Addr
	Search      []string
	MTU         int
	Routes      []Route
}

// SiteOf reads a Network. What doesn't parse is left out: the API refuses it
// before it is stored. It reports false where there is no subnet.
func SiteOf(n *pb.NetworkSpec) (Site, bool) {
	p, err := netip.ParsePrefix(n.GetCidr())
	if err != nil {
		return Site{}, false
	}
	s := Site{Prefix: p.Masked(), MTU: int(n.GetMtu()), Search: n.GetSearchDomains()}
	if a, err := netip.ParseAddr(n.GetGateway()); err == nil {
		s.Gateway = a
	}
	for _, text := range n.GetNameservers() {
		if a, err := netip.ParseAddr(text); err == nil {
			s.Nameservers = append(s.Nameservers, a)
		}
	}
	if len(s.Search) == 0 && n.GetDomain() != "" {
		s.Search = []string{n.GetDomain()}
	}
	for _, route := range n.GetStaticRoutes() {
		to, err1 := netip.ParsePrefix(route.GetDestination())
		via, err2 := netip.ParseAddr(route.GetGateway())
		if err1 == nil && err2 == nil {
			s.Routes = append(s.Routes, Route{To: to.Masked(), Via: via})
		}
	}
	return s, true
}

// Fill takes from the site's networks what the declaration leaves open: for
// links with an address in one of them its static routes, its MTU, its name
// servers where the machine has none, and its gateway where the machine has no
// default route yet. of returns the network that an address is in.
func (c *Config) Fill(of func(netip.Addr) (Site, bool)) {
	own := c.hasNameservers()
	for _, l := range c.Links {
		if l.Kind == Lo {
			continue
		}
		for _, p := range l.Addresses {
			s, ok := of(p.Addr())
			if !ok {
				continue
			}
			if s.Gateway.IsValid() && p.Contains(s.Gateway) && s.Gateway != p.Addr() && !c.hasDefault(s.Gateway) {
				l.setGateway(s.Gateway)
			}
			if !own {
				l.Nameservers = appendNew(l.Nameservers, s.Nameservers)
			}
			if len(c.Search) == 0 {
				l.Search = appendNew(l.Search, s.Search)
			}
			l.fillRoutes(s.Routes)
			if s.MTU != 0 && l.MTU == 0 {
				l.raise(s.MTU)
			}
		}
	}
}

func (c *Config) hasNameservers() bool {
	if len(c.Nameservers) > 0 {
		return true
	}
	for _, l := range c.Links {
		if len(l.Nameservers) > 0 {
			return true
		}
	}
	return false
}

// hasDefault reports whether there is a default route of a gateway's family, or
// a DHCP server that may bring one.
func (c *Config) hasDefault(gw netip.Addr) bool {
	for _, l := range c.Links {
		if gw.Is4() && l.DHCP4 {
			return true
		}
		for _, route := range l.All() {
			if route.Table == 0 && route.To == defaultTo(gw) {
				return true
			}
		}
	}
	return false
}

func (l *Link) setGateway(gw netip.Addr) {
	if gw.Is4() {
		l.Gateway4 = gw
	} else {
		l.Gateway6 = gw
	}
}

// fillRoutes adds the site's routes to where the link has none.
func (l *Link) fillRoutes(routes []Route) {
next:
	for _, route := range routes {
		if !l.onLink(route.Via) || l.isOwn(route.Via) {
			continue
		}
		for _, has := range l.All() {
			if has.To == route.To && has.Table == 0 {
				continue next
			}
		}
		l.Routes = append(l.Routes, route)
	}
}

// raise sets a link's MTU, and lifts what it lies on to it. A link below that
// was told less keeps it, and then this one keeps its own.
func (l *Link) raise(mtu int) {
	for _, on := range l.on() {
		if on.MTU != 0 && on.MTU < mtu {
			return
		}
		if on.Kind == Bonded {
			for _, p := range on.Bond.Ports {
				if p.MTU != 0 && p.MTU != mtu {
					return
				}
			}
		}
	}
	l.MTU = mtu
	for _, on := range l.on() {
		if on.MTU == 0 && l.Kind != Bonded {
			on.MTU = mtu
		}
	}
}

func appendNew[T comparable](list, more []T) []T {
	for _, m := range more {
		found := false
		for _, has := range list {
			found = found || has == m
		}
		if !found {
			list = append(list, m)
		}
	}
	return list
}

// Resolve finds the hardware addresses of ports that are declared by their
// place in the inventory. The problems are of ports that it can't find.
func (c *Config) Resolve(nics []*pb.NIC) []Problem {
	var problems []Problem
	for _, l := range c.Links {
		if l.Kind != Port || !l.MAC.IsZero() {
			continue
		}
		found := false
		for _, nic := range nics {
			if nic.GetName() != l.NIC && nic.GetPciAddress() != l.NIC {
				continue
			}
			if mac, err := machine.ParseMAC(nic.GetMac()); err == nil {
				l.MAC, found = mac, true
				break
			}
		}
		switch {
		case found:
		case len(nics) == 0:
			problems = append(problems, Problem{l.Path + ".nic", fmt.Sprintf("%q can't be looked up: the machine's hardware hasn't been read yet: give its mac, or wait for the inspection", l.NIC)})
		default:
			problems = append(problems, Problem{l.Path + ".nic", fmt.Sprintf("%q is no network card of this machine by name or PCI address: `bedplate machine inventory` lists them", l.NIC)})
		}
	}
	return problems
}
