// Package networkmanager writes a machine's network as keyfiles of
// NetworkManager: nm-settings-keyfile(5), nm-settings(5), with properties that
// NetworkManager 1.36 knows (RHEL 9, Debian 12, Fedora CoreOS); lo needs 1.42.
//
// Connections of ports match by permanent hardware address, and whatever lies
// on another names it by UUID, so that they hold under any interface name. The
// UUIDs are made from the names: the same declaration gives the same files.
// Names are udev's business: .link files say them.
package networkmanager

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/uuid"

	"github.com/bedplate/bedplate/network"
	"github.com/bedplate/bedplate/network/networkd"
)

const dir = "/etc/NetworkManager/system-connections/"

// namespace is that of the connections' UUIDs (version 5).
var namespace = uuid.MustParse("6b6f9d0c-2f4d-5c0e-9a39-6f0b5a1f7c11")

func idOf(l *network.Link) string { return uuid.NewSHA1(namespace, []byte(l.Name)).String() }

// keyfile is a file in the making.
type keyfile struct{ strings.Builder }

func (k *keyfile) section(name string) {
	if k.Len() > 0 {
		k.WriteString("\n")
	}
	fmt.Fprintf(k, "[%s]\n", name)
}

func (k *keyfile) set(key string, value any) { fmt.Fprintf(k, "%s=%v\n", key, value) }

func setIf[T comparable](k *keyfile, key string, value T) {
	var zero T
	if value != zero {
		k.set(key, value)
	}
}

// Files returns the keyfiles and the .link files of the ports.
func Files(c *network.Config) ([]network.File, network.Gaps) {
	var gaps network.Gaps
	files := networkd.Links(c)
	for _, l := range c.Links {
		files = append(files, connection(c, l))
		if l.DHCP6 && (l.AcceptRA == nil || *l.AcceptRA) {
			gaps.Add(l.Path+".dhcp6", "NetworkManager asks DHCPv6 where a router advertisement says so; with accept_ra: false it asks in any case")
		}
	}
	if c.BGP != nil {
		gaps.Break("bgp", "NetworkManager has no BGP: FRR or BIRD has to run on the system, with the file that --render frr or bird prints")
	}
	return files, gaps
}

var types = map[network.Kind]string{network.Lo: "loopback", network.Port: "ethernet", network.Bonded: "bond", network.Bridge: "bridge", network.Tagged: "vlan"}

func connection(c *network.Config, l *network.Link) network.File {
	k := &keyfile{}
	k.section("connection")
	k.set("id", l.Name)
	k.set("uuid", idOf(l))
	k.set("type", types[l.Kind])
	if l.Kind != network.Port {
		k.set("interface-name", l.Name)
	}
	if l.Master != nil {
		// `controller` and `port-type` are the new names of these; 1.36 doesn't know them.
		k.set("master", idOf(l.Master))
		k.set("slave-type", types[l.Master.Kind])
	}
	k.device(l)
	if l.Master == nil {
		k.ip(c, l, "ipv4")
		k.ip(c, l, "ipv6")
	}
	// NetworkManager passes over files that others than root may read.
	return network.File{Path: dir + l.Name + ".nmconnection", Mode: 0o600, Data: []byte(k.String())}
}

// device writes what the link is.
func (k *keyfile) device(l *network.Link) {
	switch l.Kind {
	case network.Bonded:
		k.section("bond")
		k.bond(l.Bond)
	case network.Bridge:
		k.section("bridge")
		k.set("stp", l.Spanning.STP)
		setIf(k, "priority", l.Spanning.Priority)
		setIf(k, "forward-delay", int64(l.Spanning.ForwardDelay.Seconds()))
	case network.Tagged:
		k.section("vlan")
		k.set("id", l.VLAN.ID)
		k.set("parent", idOf(l.VLAN.Link))
		k.set("flags", 1) // REORDER_HDR, as the kernel itself would
	}
	mac := l.Hardware()
	if l.Kind == network.Lo || l.Kind != network.Port && l.MTU == 0 && mac.IsZero() {
		return
	}
	k.section("ethernet")
	switch {
	case l.Kind == network.Port:
		k.set("mac-address", strings.ToUpper(mac.String()))
	case !mac.IsZero():
		k.set("cloned-mac-address", strings.ToUpper(mac.String()))
	}
	setIf(k, "mtu", l.MTU)
}

// bond writes the driver's options under its own names.
func (k *keyfile) bond(b *network.Bond) {
	k.set("mode", b.Mode)
	setIf(k, "lacp_rate", b.LACPRate)
	setIf(k, "miimon", b.MIIMon.Milliseconds())
	setIf(k, "updelay", b.UpDelay.Milliseconds())
	setIf(k, "downdelay", b.DownDelay.Milliseconds())
	setIf(k, "xmit_hash_policy", b.HashPolicy)
	setIf(k, "ad_select", b.ADSelect)
	setIf(k, "min_links", b.MinLinks)
	setIf(k, "primary", b.Primary)
	setIf(k, "primary_reselect", b.PrimaryReselect)
	setIf(k, "fail_over_mac", b.FailOver)
	setIf(k, "arp_interval", b.ARPInterval.Milliseconds())
	setIf(k, "arp_ip_target", join(b.ARPTargets, ","))
}

// ip writes one family's settings.
func (k *keyfile) ip(c *network.Config, l *network.Link, family string) {
	k.section(family)
	is4 := family == "ipv4"
	k.set("method", method(l, is4))
	n := 0
	for _, a := range l.Addresses {
		if a.Addr().Is4() == is4 {
			n++
			k.set(fmt.Sprintf("address%d", n), a)
		}
	}
	if gw := map[bool]netip.Addr{true: l.Gateway4, false: l.Gateway6}[is4]; gw.IsValid() {
		k.set("gateway", gw)
	}
	setIf(k, "route-metric", l.Metric)
	k.routes(l, is4)
	servers, search := network.DNS(c, l)
	var own []netip.Addr
	for _, a := range servers {
		if a.Is4() == is4 {
			own = append(own, a)
		}
	}
	setIf(k, "dns", list(own))
	if len(search) > 0 && (len(own) > 0 || is4) {
		k.set("dns-search", strings.Join(search, ";")+";")
	}
}

// method is how a link gets its addresses. NetworkManager's `auto` takes static
// addresses too; for IPv6 it is router advertisements, and DHCPv6 where they say so.
func method(l *network.Link, is4 bool) string {
	switch {
	case is4 && l.DHCP4:
		return "auto"
	case is4 && l.Has4():
		return "manual"
	case is4:
		return "disabled"
	case l.DHCP6 && (l.AcceptRA == nil || *l.AcceptRA), l.AcceptRA != nil && *l.AcceptRA:
		return "auto"
	case l.DHCP6:
		return "dhcp"
	case l.Kind == network.Lo && !l.Has6():
		return "disabled"
	case l.Has6():
		return "manual"
	case l.AcceptRA != nil || !l.Addressed():
		return "link-local"
	}
	return "auto"
}

func (k *keyfile) routes(l *network.Link, is4 bool) {
	n := 0
	for _, r := range l.Routes {
		if r.To.Addr().Is4() != is4 {
			continue
		}
		n++
		value := r.To.String()
		if r.Via.IsValid() || r.Metric != 0 {
			value += ","
			if r.Via.IsValid() {
				value += r.Via.String()
			}
		}
		if r.Metric != 0 {
			value += fmt.Sprintf(",%d", r.Metric)
		}
		k.set(fmt.Sprintf("route%d", n), value)
		var options []string
		if r.OnLink {
			options = append(options, "onlink=true")
		}
		if r.Table != 0 {
			options = append(options, fmt.Sprintf("table=%d", r.Table))
		}
		setIf(k, fmt.Sprintf("route%d_options", n), strings.Join(options, ","))
	}
}

func join(addrs []netip.Addr, between string) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return strings.Join(out, between)
}

// list writes a list as keyfiles have it, with a semicolon after each.
func list(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return ""
	}
	return join(addrs, ";") + ";"
}
