// Package networkd writes a machine's network as unit files of systemd-networkd:
// systemd.link(5), systemd.netdev(5), systemd.network(5), with keys that systemd
// 247 (2020) and later know.
//
// Ports are matched by their permanent hardware address: a bond gives its own to
// its ports, and a VLAN has that of what it lies on. Names are udev's business,
// so that a .link file is read by it even where networkd doesn't run; Links has
// those alone.
package networkd

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/bedplate/bedplate/network"
)

const dir = "/etc/systemd/network/"

// unit is a file in the making.
type unit struct{ strings.Builder }

func (u *unit) section(name string) {
	if u.Len() > 0 {
		u.WriteString("\n")
	}
	fmt.Fprintf(u, "[%s]\n", name)
}

func (u *unit) set(key string, value any) { fmt.Fprintf(u, "%s=%v\n", key, value) }

// setIf writes a key unless its value is the zero one.
func setIf[T comparable](u *unit, key string, value T) {
	var zero T
	if value != zero {
		u.set(key, value)
	}
}

func (u *unit) file(name string) network.File {
	return network.File{Path: dir + name, Mode: 0o644, Data: []byte(u.String())}
}

// Files returns all unit files, in the order of the links.
func Files(c *network.Config) ([]network.File, network.Gaps) {
	var files []network.File
	var gaps network.Gaps
	for _, l := range c.Links {
		switch l.Kind {
		case network.Port:
			files = append(files, link(l))
		case network.Bonded, network.Bridge, network.Tagged:
			files = append(files, netdev(l))
		}
		files = append(files, networkFile(c, l))
	}
	if c.BGP != nil {
		gaps.Break("bgp", "systemd-networkd has no BGP: FRR or BIRD has to run on the system, with the file that --render frr or bird prints")
	}
	return files, gaps
}

// Links returns the files by which udev gives ports their names, for systems
// whose network is another program's.
func Links(c *network.Config) []network.File {
	var files []network.File
	for _, l := range c.Links {
		if l.Kind == network.Port {
			files = append(files, link(l))
		}
	}
	return files
}

func link(l *network.Link) network.File {
	u := &unit{}
	u.section("Match")
	u.set("PermanentMACAddress", l.MAC)
	u.section("Link")
	u.set("Name", l.Name)
	setIf(u, "MTUBytes", l.MTU)
	return u.file("10-bedplate-" + l.Name + ".link")
}

func netdev(l *network.Link) network.File {
	u := &unit{}
	u.section("NetDev")
	u.set("Name", l.Name)
	u.set("Kind", map[network.Kind]string{network.Bonded: "bond", network.Bridge: "bridge", network.Tagged: "vlan"}[l.Kind])
	setIf(u, "MTUBytes", l.MTU)
	if mac := l.Hardware(); !mac.IsZero() {
		u.set("MACAddress", mac)
	}
	switch l.Kind {
	case network.Bonded:
		u.bond(l.Bond)
	case network.Bridge:
		u.section("Bridge")
		u.set("STP", yes(l.Spanning.STP))
		setIf(u, "Priority", l.Spanning.Priority)
		setIf(u, "ForwardDelaySec", seconds(l.Spanning.ForwardDelay.Milliseconds(), ""))
	case network.Tagged:
		u.section("VLAN")
		u.set("Id", l.VLAN.ID)
	}
	return u.file("10-bedplate-" + l.Name + ".netdev")
}

func (u *unit) bond(b *network.Bond) {
	u.section("Bond")
	u.set("Mode", b.Mode)
	setIf(u, "TransmitHashPolicy", b.HashPolicy)
	setIf(u, "LACPTransmitRate", b.LACPRate)
	setIf(u, "MIIMonitorSec", seconds(b.MIIMon.Milliseconds(), "ms"))
	setIf(u, "UpDelaySec", seconds(b.UpDelay.Milliseconds(), "ms"))
	setIf(u, "DownDelaySec", seconds(b.DownDelay.Milliseconds(), "ms"))
	setIf(u, "AdSelect", b.ADSelect)
	setIf(u, "MinLinks", b.MinLinks)
	setIf(u, "FailOverMACPolicy", b.FailOver)
	setIf(u, "PrimaryReselectPolicy", b.PrimaryReselect)
	setIf(u, "ARPIntervalSec", seconds(b.ARPInterval.Milliseconds(), "ms"))
	setIf(u, "ARPIPTargets", join(b.ARPTargets))
}

// seconds writes a time as systemd.time(7) has it, in milliseconds or, without
// a unit, in whole seconds; empty for 0.
func seconds(ms int64, unit string) string {
	switch {
	case ms == 0:
		return ""
	case unit == "":
		return fmt.Sprint(ms / 1000)
	}
	return fmt.Sprintf("%d%s", ms, unit)
}

func networkFile(c *network.Config, l *network.Link) network.File {
	u := &unit{}
	u.section("Match")
	if l.Kind == network.Port {
		u.set("PermanentMACAddress", l.MAC)
	} else {
		u.set("Name", l.Name)
	}
	if l.MTU != 0 || l.Optional {
		u.section("Link")
		setIf(u, "MTUBytes", l.MTU)
		if l.Optional {
			u.set("RequiredForOnline", "no")
		}
	}
	u.section("Network")
	if l.Master != nil {
		u.enslave(l)
		return u.file("20-bedplate-" + l.Name + ".network")
	}
	u.addressing(c, l)
	for _, r := range l.All() {
		u.route(r)
	}
	for _, dhcp := range []struct {
		on      bool
		section string
	}{{l.DHCP4, "DHCPv4"}, {l.DHCP6, "DHCPv6"}} {
		if dhcp.on && l.Metric != 0 && dhcp.section == "DHCPv4" {
			u.section(dhcp.section)
			u.set("RouteMetric", l.Metric)
		}
	}
	if l.Metric != 0 && (l.DHCP6 || l.AcceptRA != nil && *l.AcceptRA) {
		// IPv6 has its default route from router advertisements, not by DHCPv6.
		u.section("IPv6AcceptRA")
		u.set("RouteMetric", l.Metric)
	}
	return u.file("20-bedplate-" + l.Name + ".network")
}

func (u *unit) enslave(l *network.Link) {
	key := "Bridge"
	if l.Master.Kind == network.Bonded {
		key = "Bond"
	}
	u.set(key, l.Master.Name)
	u.set("LinkLocalAddressing", "no")
	if key == "Bond" && l.Master.Bond.Primary == l.Name {
		u.set("PrimarySlave", "yes")
	}
}

func (u *unit) addressing(c *network.Config, l *network.Link) {
	for _, v := range c.VLANs(l) {
		u.set("VLAN", v.Name)
	}
	u.set("DHCP", map[[2]bool]string{{false, false}: "no", {true, false}: "ipv4", {false, true}: "ipv6", {true, true}: "yes"}[[2]bool{l.DHCP4, l.DHCP6}])
	if l.AcceptRA != nil {
		u.set("IPv6AcceptRA", yes(*l.AcceptRA))
	}
	for _, a := range l.Addresses {
		u.set("Address", a)
	}
	servers, search := network.DNS(c, l)
	for _, a := range servers {
		u.set("DNS", a)
	}
	setIf(u, "Domains", strings.Join(search, " "))
	if l.Kind == network.Bonded || l.Kind == network.Bridge {
		// What lies on it needs it, whether or not anybody is at the other end.
		u.set("ConfigureWithoutCarrier", "yes")
	}
}

func (u *unit) route(r network.Route) {
	u.section("Route")
	u.set("Destination", r.To)
	if r.Via.IsValid() {
		u.set("Gateway", r.Via)
	} else {
		u.set("Scope", "link")
	}
	setIf(u, "Metric", r.Metric)
	setIf(u, "Table", r.Table)
	if r.OnLink {
		u.set("GatewayOnLink", "yes")
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func join(addrs []netip.Addr) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}
