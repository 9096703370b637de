package network

import (
	"net/netip"
	"regexp"
	"slices"

	"github.com/bedplate/bedplate/machine"
)

// check looks at links on their own and at all of them together. The links are
// connected and without a cycle.
func (r *reader) check() {
	for _, l := range r.Links {
		r.checkName(l)
		r.checkMaster(l)
		r.checkMTU(l)
		r.checkAddresses(l)
		r.checkRoutes(l)
		switch l.Kind {
		case Bonded:
			r.checkBond(l)
		case Lo:
			r.checkLoopback(l)
		case Bridge:
			r.checkBridge(l)
		}
	}
	r.checkHardware()
	r.checkVLANs()
	r.checkSubnets()
	r.checkGateways()
	r.checkBGP()
}

// kernelName are the names that the kernel gives by itself.
var kernelName = regexp.MustCompile(`^eth[0-9]+$`)

func (r *reader) checkName(l *Link) {
	switch {
	case l.Name == "all" || l.Name == "default":
		r.fail(l.Path+".name", "%q: Linux has another use for it (/proc/sys/net/ipv4/conf)", l.Name)
	case l.Kind == Port && kernelName.MatchString(l.Name):
		// dracut.cmdline(7), ifname=; systemd.link(5), Name=.
		r.fail(l.Path+".name", "%q: the kernel itself calls cards so, and another card may have the name first: take another, such as nic0", l.Name)
	}
}

func (r *reader) checkMaster(l *Link) {
	if l.Master == nil {
		return
	}
	if l.Addressed() || l.Gateway4.IsValid() || l.Gateway6.IsValid() || len(l.Routes) > 0 {
		r.fail(l.Path, "is a port of %s: addresses and routes go there", l.Master.Name)
	}
}

func (r *reader) checkVLANs() {
	type tag struct {
		on *Link
		id int
	}
	seen := map[tag]*Link{}
	for _, l := range r.Links {
		if l.VLAN == nil {
			continue
		}
		on := l.VLAN.Link
		switch was := seen[tag{on, l.VLAN.ID}]; {
		case on.Kind == Lo || on.Kind == Tagged:
			r.fail(l.Path+".vlan.link", "%s is a %s: a VLAN lies on a port, bond or bridge", on.Name, on.Kind)
		case on.Master != nil:
			r.fail(l.Path+".vlan.link", "%s is a port of %s: put the VLAN there", on.Name, on.Master.Name)
		case was != nil:
			r.fail(l.Path+".vlan.id", "%d is given twice: %s has it too", l.VLAN.ID, was.Path)
		}
		seen[tag{on, l.VLAN.ID}] = l
	}
}

// ethernetMTU is what a link has that says nothing.
const ethernetMTU = 1500

// mtu returns what a link will have.
func (l *Link) mtu() int {
	switch {
	case l.MTU != 0:
		return l.MTU
	case l.Master != nil && l.Master.Kind == Bonded && l.Master.MTU != 0:
		return l.Master.MTU // the bonding driver sets that of its ports
	}
	return ethernetMTU
}

func (r *reader) checkMTU(l *Link) {
	if l.MTU == 0 {
		return
	}
	path := l.Path + ".mtu"
	switch {
	case l.MTU < 68: // RFC 791 §3.1
		r.fail(path, "%d: less than 68", l.MTU)
	case l.MTU < 1280 && (l.Has6() || l.DHCP6): // RFC 8200 §5
		r.fail(path, "%d: IPv6 needs 1280", l.MTU)
	case l.VLAN != nil && l.MTU > l.VLAN.Link.mtu():
		r.fail(path, "%d is more than the %d of %s, which it lies on", l.MTU, l.VLAN.Link.mtu(), l.VLAN.Link.Name)
	}
	for _, p := range l.Ports() {
		switch {
		case l.Kind == Bonded && p.MTU != 0 && p.MTU != l.MTU:
			r.fail(p.Path+".mtu", "%d, but the bond sets its ports to its own, which is %d", p.MTU, l.MTU)
		case l.Kind == Bridge && l.MTU > p.mtu():
			r.fail(path, "%d is more than the %d of its port %s", l.MTU, p.mtu(), p.Name)
		}
	}
}

func (r *reader) checkLoopback(l *Link) {
	if l.DHCP4 || l.DHCP6 || l.AcceptRA != nil || l.Gateway4.IsValid() || l.Gateway6.IsValid() || l.MTU != 0 || len(l.Routes) > 0 || len(l.Nameservers) > 0 {
		r.fail(l.Path, "lo has addresses and nothing else")
	}
}

func (r *reader) checkHardware() {
	macs, nics := map[machine.MAC]*Link{}, map[string]*Link{}
	for _, l := range r.Links {
		switch {
		case !l.MAC.IsZero() && l.MAC[0]&1 != 0:
			r.fail(l.Path+".mac", "%s: not the address of one interface", l.MAC)
		case l.Kind == Port && !l.MAC.IsZero():
			if was := macs[l.MAC]; was != nil {
				r.fail(l.Path+".mac", "%s is given twice: %s has it too", l.MAC, was.Path)
			}
			macs[l.MAC] = l
		case l.Kind == Port && l.NIC != "":
			if was := nics[l.NIC]; was != nil {
				r.fail(l.Path+".nic", "%s is given twice: %s has it too", l.NIC, was.Path)
			}
			nics[l.NIC] = l
		}
	}
}

func (r *reader) checkAddresses(l *Link) {
	for i, p := range l.Addresses {
		a, path := p.Addr(), at(l.Path+".addresses", i)
		switch {
		case a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is4In6() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			r.fail(path, "%s: not an address that a machine can have", a)
		case a.Is4() && p.Bits() == 0, a.Is6() && p.Bits() == 0:
			r.fail(path, "%s: a prefix length of 0 makes everything its own link", p)
		case a.Is4() && p.Bits() < 31 && (a == p.Masked().Addr() || a == last4(p)):
			r.fail(path, "%s: the first or last address of %s can't be a machine's", a, p.Masked())
		}
	}
}

// last4 returns the highest address of an IPv4 prefix.
func last4(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// checkSubnets finds addresses that are given twice, and subnets that lie on
// two links: the kernel would answer for both and send by one of them.
func (r *reader) checkSubnets() {
	type use struct {
		prefix netip.Prefix
		link   *Link
		path   string
	}
	var uses []use
	for _, l := range r.Links {
		for i, p := range l.Addresses {
			path := at(l.Path+".addresses", i)
			for _, u := range uses {
				switch {
				case u.prefix.Addr() == p.Addr():
					r.fail(path, "%s is given twice: %s has it too", p.Addr(), u.path)
				case u.link != l && !p.Addr().IsLinkLocalUnicast() && u.prefix.Overlaps(p) && !u.prefix.IsSingleIP() && !p.IsSingleIP():
					r.fail(path, "%s overlaps %s of %s", p.Masked(), u.prefix.Masked(), u.path)
				default:
					continue
				}
				break
			}
			uses = append(uses, use{p, l, path})
		}
	}
}

// onLink reports whether an address is in a subnet of the link's.
func (l *Link) onLink(a netip.Addr) bool {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return true
	}
	return slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
}

// isOwn reports whether an address is the link's own.
func (l *Link) isOwn(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
}

func (r *reader) checkRoutes(l *Link) {
	r.checkGateway(l, l.Path+".gateway4", l.Gateway4, l.Has4(), "IPv4")
	r.checkGateway(l, l.Path+".gateway6", l.Gateway6, l.Has6(), "IPv6")
	seen := map[Route]int{}
	for i, route := range l.Routes {
		path := at(l.Path+".routes", i)
		switch {
		case !route.Via.IsValid() && route.OnLink:
			r.fail(path+".on_link", "without via there is nothing that it could be said of")
		case route.Via.IsValid() && l.isOwn(route.Via):
			r.fail(path+".via", "%s is the machine's own address", route.Via)
		case route.Via.IsValid() && !route.OnLink && !l.onLink(route.Via) && !r.dynamic(l, route.Via):
			r.fail(path+".via", "%s is in no subnet of %s: with on_link: true it is reached all the same", route.Via, l.Name)
		}
		key := Route{To: route.To, Metric: route.Metric, Table: route.Table}
		if j, ok := seen[key]; ok {
			r.fail(path, "%s is routed twice: by routes[%d] too", route.To, j)
		}
		seen[key] = i
	}
}

// dynamic reports whether the link gets addresses of a's family that nobody knows yet.
func (r *reader) dynamic(l *Link, a netip.Addr) bool {
	if a.Is4() {
		return l.DHCP4
	}
	return l.DHCP6 || l.AcceptRA == nil || *l.AcceptRA
}

func (r *reader) checkGateway(l *Link, path string, gw netip.Addr, has bool, family string) {
	switch {
	case !gw.IsValid():
	case !has && !gw.IsLinkLocalUnicast():
		r.fail(path, "%s, but %s has no %s address", gw, l.Name, family)
	case !l.onLink(gw):
		r.fail(path, "%s is in no subnet of %s", gw, l.Name)
	case l.isOwn(gw):
		r.fail(path, "%s is the machine's own address", gw)
	}
}

// checkGateways finds default routes that no metric tells apart.
func (r *reader) checkGateways() {
	type way struct {
		to            netip.Prefix
		metric, table uint32
	}
	seen := map[way]*Link{}
	for _, l := range r.Links {
		for i, route := range l.All() {
			if route.To.Bits() != 0 {
				continue
			}
			key := way{route.To, route.Metric, route.Table}
			if was := seen[key]; was != nil {
				r.fail(gatewayPath(l, i), "%s is a default gateway already: give one of them another metric", was.Name)
			}
			seen[key] = l
		}
	}
}

// gatewayPath names the field of the i-th of All.
func gatewayPath(l *Link, i int) string {
	var fields []string
	if l.Gateway4.IsValid() {
		fields = append(fields, ".gateway4")
	}
	if l.Gateway6.IsValid() {
		fields = append(fields, ".gateway6")
	}
	if i < len(fields) {
		return l.Path + fields[i]
	}
	return at(l.Path+".routes", i-len(fields))
}
