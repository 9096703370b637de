// Package kernelargs writes a machine's network as kernel arguments, for
// initramfs systems and for systems that have no other configuration yet.
//
// Dracut's form (dracut.cmdline(7)) is read by dracut's network modules and by
// nm-initrd-generator (Fedora CoreOS, RHEL). systemd-network-generator (Flatcar)
// reads the same, but for a bond's options. Talos's form is the kernel's own ip=
// with more fields (Talos reference, Kernel): it names ports enx and their
// hardware address, and knows neither bridges nor routes.
package kernelargs

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/bedplate/bedplate/network"
)

// args are kernel arguments in the making.
type args struct {
	c    *network.Config
	out  []string
	gaps network.Gaps
	// name is what the arguments call a link.
	name func(*network.Link) string
}

func (a *args) add(format string, values ...any) {
	a.out = append(a.out, fmt.Sprintf(format, values...))
}

// Dracut returns the arguments that dracut and nm-initrd-generator read.
func Dracut(c *network.Config) ([]string, network.Gaps) {
	return dracut(c).finish()
}

// Systemd returns the arguments that systemd-network-generator reads: as of
// version 252 it makes every bond with the driver's defaults.
func Systemd(c *network.Config) ([]string, network.Gaps) {
	a := dracut(c)
	for _, l := range c.Links {
		if l.Bond != nil {
			a.gaps.Break(l.Path+".bond", "systemd-network-generator passes over a bond's options: it will be balance-rr, and not look at carrier")
		}
	}
	return a.finish()
}

func (a *args) finish() ([]string, network.Gaps) { return a.out, a.gaps }

func dracut(c *network.Config) *args {
	a := &args{c: c, name: dracutName}
	a.add("rd.neednet=1")
	for _, l := range c.Links {
		switch l.Kind {
		case network.Lo:
			a.gaps.Break(l.Path, "kernel arguments give lo no address")
			continue
		case network.Port:
			a.add("ifname=%s:%s", l.Name, l.MAC)
		case network.Bonded:
			a.bond(l)
		case network.Bridge:
			a.add("bridge=%s:%s", l.Name, a.names(l.Spanning.Ports))
			if l.Spanning.STP || l.Spanning.Priority != 0 {
				a.gaps.Add(l.Path+".bridge", "dracut has no spanning tree and no priority")
			}
			a.noHardware(l)
		case network.Tagged:
			a.vlan(l)
		}
		a.dracutIP(l)
	}
	a.dracutDNS()
	a.common()
	return a
}

// vlanName are names from which dracut takes the VLAN's number (dracut.cmdline(7), vlan=).
var vlanName = regexp.MustCompile(`^(?:vlan|.*\.)0*([0-9]+)$`)

// dracutName is a link's name; a VLAN's has its number at the end.
func dracutName(l *network.Link) string {
	if l.VLAN == nil {
		return l.Name
	}
	if m := vlanName.FindStringSubmatch(l.Name); m != nil && m[1] == fmt.Sprint(l.VLAN.ID) {
		return l.Name
	}
	return fmt.Sprintf("vlan%d", l.VLAN.ID)
}

func (a *args) vlan(l *network.Link) {
	if a.name(l) != l.Name {
		a.gaps.Add(l.Path+".name", fmt.Sprintf("it is called %s: the number of a VLAN is told by its name", a.name(l)))
	}
	a.add("vlan=%s:%s", a.name(l), a.name(l.VLAN.Link))
}

func (a *args) names(links []*network.Link) string {
	var out []string
	for _, l := range links {
		out = append(out, a.name(l))
	}
	return strings.Join(out, ",")
}

// noHardware notes an address of a bond or bridge that is not its first port's.
func (a *args) noHardware(l *network.Link) {
	if !l.MAC.IsZero() && l.MAC != firstMAC(l) {
		a.gaps.Break(l.Path+".mac", "kernel arguments give it its first port's hardware address")
	}
}

func firstMAC(l *network.Link) (mac [6]byte) {
	if ports := l.Ports(); len(ports) > 0 {
		return ports[0].MAC
	}
	return mac
}

// bond writes the driver's options under its own names.
func (a *args) bond(l *network.Link) {
	b := l.Bond
	options := []string{"mode=" + b.Mode}
	add := func(name string, value any, is bool) {
		if is {
			options = append(options, fmt.Sprintf("%s=%v", name, value))
		}
	}
	add("lacp_rate", b.LACPRate, b.LACPRate != "")
	add("miimon", b.MIIMon.Milliseconds(), b.MIIMon != 0)
	add("updelay", b.UpDelay.Milliseconds(), b.UpDelay != 0)
	add("downdelay", b.DownDelay.Milliseconds(), b.DownDelay != 0)
	add("xmit_hash_policy", b.HashPolicy, b.HashPolicy != "")
	add("ad_select", b.ADSelect, b.ADSelect != "")
	add("min_links", b.MinLinks, b.MinLinks != 0)
	add("primary", a.primary(b), b.Primary != "")
	add("primary_reselect", b.PrimaryReselect, b.PrimaryReselect != "")
	add("fail_over_mac", b.FailOver, b.FailOver != "")
	add("arp_interval", b.ARPInterval.Milliseconds(), b.ARPInterval != 0)
	if len(b.ARPTargets) > 0 {
		add("arp_ip_target", b.ARPTargets[0], true)
	}
	if len(b.ARPTargets) > 1 {
		a.gaps.Add(l.Path+".bond.arp_targets", "only the first: the comma between them is the one between options")
	}
	out := fmt.Sprintf("bond=%s:%s:%s", a.name(l), a.names(b.Ports), strings.Join(options, ","))
	if l.MTU != 0 {
		out += fmt.Sprintf(":%d", l.MTU)
	}
	a.out = append(a.out, out)
	a.noHardware(l)
}

func (a *args) primary(b *network.Bond) string {
	for _, p := range b.Ports {
		if p.Name == b.Primary {
			return a.name(p)
		}
	}
	return b.Primary
}

// dracutIP writes a link's addresses and routes.
func (a *args) dracutIP(l *network.Link) {
	name, mtu := a.name(l), ""
	if l.MTU != 0 && l.Kind != network.Bonded {
		mtu = fmt.Sprintf(":%d", l.MTU)
	}
	said := false
	for _, p := range l.Addresses {
		gw := l.Gateway4
		if p.Addr().Is6() {
			gw = l.Gateway6
		}
		if !gw.IsValid() || !p.Contains(gw) && !gw.IsLinkLocalUnicast() {
			gw = netip.Addr{}
		}
		a.add("ip=%s::%s:%s:%s:%s:none%s", bracket(p.Addr()), bracket(gw), mask(p), a.c.Hostname, name, mtu)
		said = true
	}
	for _, auto := range []struct {
		word string
		on   bool
	}{{"dhcp", l.DHCP4}, {"dhcp6", l.DHCP6}, {"auto6", !l.DHCP6 && l.AcceptRA != nil && *l.AcceptRA}} {
		if auto.on && said {
			a.gaps.Break(l.Path, auto.word+" beside another way to get addresses: kernel arguments have one for an interface")
		} else if auto.on {
			a.add("ip=%s:%s%s", name, auto.word, mtu)
			said = true
		}
	}
	if !said && mtu != "" {
		a.gaps.Break(l.Path+".mtu", "kernel arguments set the MTU of interfaces with an address only")
	}
	for i, r := range l.Routes {
		if !r.Via.IsValid() || r.Metric != 0 || r.Table != 0 || r.OnLink {
			a.gaps.Break(fmt.Sprintf("%s.routes[%d]", l.Path, i), "kernel arguments know routes by a gateway, without metric, table and on_link")
			continue
		}
		a.add("rd.route=%s:%s:%s", bracketPrefix(r.To), bracket(r.Via), name)
	}
}

func (a *args) dracutDNS() {
	servers, search := a.c.AllDNS()
	for _, s := range servers {
		a.add("nameserver=%s", s) // in brackets systemd-network-generator 252 refuses the whole command line
	}
	if len(search) > 0 {
		a.gaps.Add("search_domains", "kernel arguments have no search domains")
	}
}

// common notes what no form can say.
func (a *args) common() {
	for _, l := range a.c.Links {
		if l.Metric != 0 {
			a.gaps.Break(l.Path+".metric", "kernel arguments have no metrics")
		}
		if l.AcceptRA != nil && !*l.AcceptRA {
			a.gaps.Add(l.Path+".accept_ra", "kernel arguments can't turn router advertisements off")
		}
	}
	if a.c.BGP != nil {
		a.gaps.Break("bgp", "kernel arguments have no BGP")
	}
}

// bracket writes an address as fields between colons have it; "" for none.
func bracket(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return ""
	case a.Is6():
		return "[" + a.String() + "]"
	}
	return a.String()
}

func bracketPrefix(p netip.Prefix) string {
	if p.Addr().Is6() {
		return "[" + p.String() + "]"
	}
	return p.String()
}

// mask writes an IPv4 prefix length as dotted quad, as all readers take it, and
// an IPv6 one as number.
func mask(p netip.Prefix) string {
	if p.Addr().Is6() {
		return fmt.Sprint(p.Bits())
	}
	m := ^uint32(0) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}).String()
}
