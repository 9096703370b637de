package network

import (
	"net/netip"
	"slices"
	"strings"
)

// optionModes are the modes in which the driver takes an option; it refuses or
// forgets it in others (Documentation/networking/bonding.rst).
var optionModes = map[string][]string{
	"lacp_rate":            {"802.3ad"},
	"ad_select":            {"802.3ad"},
	"min_links":            {"802.3ad"},
	"transmit_hash_policy": {"802.3ad", "balance-xor", "balance-tlb"},
	"primary":              {"active-backup", "balance-tlb", "balance-alb"},
	"primary_reselect":     {"active-backup", "balance-tlb", "balance-alb"},
	"fail_over_mac":        {"active-backup"},
	"arp_interval":         {"active-backup", "balance-xor", "balance-rr", "broadcast"},
}

func (r *reader) checkBond(l *Link) {
	b, path := l.Bond, l.Path+".bond"
	if b.Mode == "" {
		r.fail(path+".mode", "missing, such as active-backup or 802.3ad")
		return
	}
	given := []struct {
		name string
		is   bool
	}{
		{"lacp_rate", b.LACPRate != ""},
		{"ad_select", b.ADSelect != ""},
		{"min_links", b.MinLinks != 0},
		{"transmit_hash_policy", b.HashPolicy != ""},
		{"primary", b.Primary != ""},
		{"primary_reselect", b.PrimaryReselect != ""},
		{"fail_over_mac", b.FailOver != ""},
		{"arp_interval", b.ARPInterval != 0},
	}
	for _, g := range given {
		if modes := optionModes[g.name]; g.is && !slices.Contains(modes, b.Mode) {
			r.fail(path+"."+g.name, "is for mode %s; this is %s", strings.Join(modes, ", "), b.Mode)
		}
	}
	if b.Primary != "" && !slices.ContainsFunc(b.Ports, func(p *Link) bool { return p.Name == b.Primary }) {
		r.fail(path+".primary", "%q is none of its ports", b.Primary)
	}
	if b.MinLinks > len(b.Ports) {
		r.fail(path+".min_links", "%d, but it has %d ports", b.MinLinks, len(b.Ports))
	}
	r.checkMonitor(path, b)
}

// checkMonitor looks at how the bond finds out that a port is dead.
func (r *reader) checkMonitor(path string, b *Bond) {
	switch {
	case b.ARPInterval != 0 && b.MIIMon != 0:
		r.fail(path+".arp_interval", "given together with miimon: the driver has one of them")
	case b.ARPInterval != 0 && len(b.ARPTargets) == 0:
		r.fail(path+".arp_targets", "missing: whom to ask for")
	case b.ARPInterval == 0 && len(b.ARPTargets) > 0:
		r.fail(path+".arp_interval", "missing: how often arp_targets are asked for")
	case b.MIIMon == 0 && (b.UpDelay != 0 || b.DownDelay != 0):
		r.fail(path, "up_delay and down_delay need miimon")
	case b.MIIMon != 0 && (b.UpDelay%b.MIIMon != 0 || b.DownDelay%b.MIIMon != 0):
		r.fail(path, "up_delay and down_delay are multiples of miimon, %s: the driver rounds others down", b.MIIMon)
	}
	for i, a := range b.ARPTargets {
		if !a.Is4() {
			r.fail(at(path+".arp_targets", i), "%s: the driver asks for IPv4 addresses only", a)
		}
	}
}

func (r *reader) checkBridge(l *Link) {
	s := l.Spanning
	if s.ForwardDelay != 0 && !s.STP {
		r.fail(l.Path+".bridge.forward_delay", "is for bridges with stp")
	}
	// IEEE 802.1D-2004 §17.14, table 17-1: 4 to 30 s.
	if s.ForwardDelay != 0 && (s.ForwardDelay.Seconds() < 4 || s.ForwardDelay.Seconds() > 30 || s.ForwardDelay.Milliseconds()%1000 != 0) {
		r.fail(l.Path+".bridge.forward_delay", "%s: want whole seconds, 4s to 30s", s.ForwardDelay)
	}
}

func isIPv4(a netip.Addr) bool { return a.IsValid() && a.Is4() }
