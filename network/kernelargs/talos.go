package kernelargs

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/bedplate/bedplate/network"
)

// Talos returns the arguments that Talos reads. It reads the first bond= and the
// first vlan= only, and looks up names by hardware address in ip= only
// (internal/app/machined/pkg/controllers/network/cmdline.go).
func Talos(c *network.Config) ([]string, network.Gaps) {
	a := &args{c: c, name: talosName}
	if c.Hostname != "" {
		a.add("talos.hostname=%s", c.Hostname)
	}
	said := map[network.Kind]bool{}
	for _, l := range c.Links {
		if why := a.talosCant(l, said); why != "" {
			a.gaps.Break(l.Path, why)
			continue
		}
		said[l.Kind] = true
		switch l.Kind {
		case network.Bonded:
			a.bond(l)
			a.gaps.Break(l.Path+".bond.ports", "Talos looks up hardware addresses in ip= only: put the kernel's names of the ports in place of enx…, or say it in the machine configuration")
		case network.Tagged:
			a.add("vlan=%s:%s", a.name(l), a.name(l.VLAN.Link))
		}
		if l.MTU != 0 && l.Kind != network.Bonded {
			a.gaps.Break(l.Path+".mtu", "Talos takes the MTU of a bond only from kernel arguments")
		}
		a.talosIP(l)
	}
	a.talosDNS()
	a.common()
	return a.out, a.gaps
}

// talosCant says why a link can't be said at all; empty when it can.
func (a *args) talosCant(l *network.Link, said map[network.Kind]bool) string {
	switch {
	case l.Kind == network.Lo:
		return "kernel arguments give lo no address"
	case l.Kind == network.Bridge:
		return "Talos knows no bridges as kernel arguments: its machine configuration does"
	case l.VLAN != nil && l.VLAN.Link.Kind != network.Bonded:
		return "Talos knows VLANs on a bond by kernel arguments, or on a port whose kernel name one knows: its machine configuration has others"
	case said[l.Kind] && l.Kind != network.Port:
		return fmt.Sprintf("Talos reads one %s from kernel arguments: its machine configuration has more", l.Kind)
	}
	return ""
}

// talosName calls ports enx and their hardware address, which Talos looks up,
// and VLANs by what they lie on and their number.
func talosName(l *network.Link) string {
	switch l.Kind {
	case network.Port:
		return "enx" + strings.ReplaceAll(l.MAC.String(), ":", "")
	case network.Tagged:
		return fmt.Sprintf("%s.%d", talosName(l.VLAN.Link), l.VLAN.ID)
	}
	return l.Name
}

func (a *args) talosIP(l *network.Link) {
	said := false
	for _, p := range l.Addresses {
		gw := l.Gateway4
		if p.Addr().Is6() {
			gw = l.Gateway6
		}
		a.add("ip=%s::%s:%s::%s:off", bracket(p.Addr()), bracket(gw), mask(p), a.name(l))
		said = true
	}
	switch {
	case l.DHCP4 && said:
		a.gaps.Break(l.Path+".dhcp4", "beside static addresses: kernel arguments have one way for an interface")
	case l.DHCP4:
		a.add("ip=%s:dhcp", a.name(l))
	}
	if l.DHCP6 {
		a.gaps.Break(l.Path+".dhcp6", "Talos asks DHCPv6 by its machine configuration only")
	}
	for i := range l.Routes {
		a.gaps.Break(fmt.Sprintf("%s.routes[%d]", l.Path, i), "Talos takes no routes from kernel arguments, but gateways")
	}
}

// maxServers is how many name servers an ip= has room for.
const maxServers = 2

func (a *args) talosDNS() {
	servers, search := a.c.AllDNS()
	if len(servers) > 0 {
		two := append(append([]netip.Addr(nil), servers[:min(len(servers), maxServers)]...), netip.Addr{})
		a.add("ip=:::::::%s:%s", bracket(two[0]), bracket(two[1]))
	}
	if len(servers) > maxServers {
		a.gaps.Add("nameservers", "only the first two: an ip= argument has no room for more")
	}
	if len(search) > 0 {
		a.gaps.Add("search_domains", "kernel arguments have no search domains")
	}
}
