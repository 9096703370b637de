// Package bgpd writes a machine's BGP for the two routing daemons that servers
// run: FRR (https://docs.frrouting.org/en/latest/bgp.html) and BIRD 2
// (https://bird.network.cz/?get_doc&v=20&f=bird-6.html).
//
// Both announce what was declared and nothing else, and take every route that
// peers send. No link configuration is in the files.
package bgpd

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/bedplate/bedplate/network"
)

// FRR returns frr.conf, and which daemons FRR starts. Nothing where there is no BGP.
func FRR(c *network.Config) ([]network.File, network.Gaps) {
	if c.BGP == nil {
		return nil, nil
	}
	b := &strings.Builder{}
	p := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	// `traditional` wants each address family activated, and a policy isn't asked for by default.
	p("frr defaults traditional")
	if c.Hostname != "" {
		p("hostname %s", c.Hostname)
	}
	p("service integrated-vtysh-config")
	for _, family := range []string{"ip", "ipv6"} {
		n := 0
		for _, a := range c.BGP.Announce {
			if (family == "ip") == a.Addr().Is4() {
				n++
				p("%s prefix-list bedplate-announce seq %d permit %s", family, n*10, a)
			}
		}
		if n == 0 {
			p("%s prefix-list bedplate-announce seq 10 deny any", family)
		}
	}
	p("route-map bedplate-out permit 10\n match ip address prefix-list bedplate-announce\nroute-map bedplate-out permit 20\n match ipv6 address prefix-list bedplate-announce")
	p("router bgp %d\n bgp router-id %s\n no bgp ebgp-requires-policy", c.BGP.ASN, c.BGP.RouterID)
	for _, peer := range c.BGP.Peers {
		frrPeer(p, c, peer)
	}
	for _, is4 := range []bool{true, false} {
		frrFamily(p, c, is4)
	}
	daemons := "zebra=yes\nbgpd=yes\n"
	if bfd(c) {
		daemons += "bfdd=yes\n"
	}
	daemons += "vtysh_enable=yes\nzebra_options=\"  -A 127.0.0.1 -s 90000000\"\nbgpd_options=\"   -A 127.0.0.1\"\nbfdd_options=\"   -A 127.0.0.1\"\n"
	return []network.File{
		{Path: "/etc/frr/frr.conf", Mode: 0o640, Data: []byte(b.String())},
		{Path: "/etc/frr/daemons", Mode: 0o640, Data: []byte(daemons)},
	}, nil
}

func bfd(c *network.Config) bool {
	for _, p := range c.BGP.Peers {
		if p.BFD {
			return true
		}
	}
	return false
}

func frrPeer(p func(string, ...any), c *network.Config, peer network.Peer) {
	as := "external"
	if peer.ASN != 0 {
		as = fmt.Sprint(peer.ASN)
	}
	name := peer.Address.String()
	if peer.Link != nil {
		name = peer.Link.Name
		p(" neighbor %s interface remote-as %s", name, as)
	} else {
		p(" neighbor %s remote-as %s", name, as)
	}
	if peer.Multihop > 1 && peer.ASN != c.BGP.ASN {
		p(" neighbor %s ebgp-multihop %d", name, peer.Multihop)
	}
	if peer.BFD {
		p(" neighbor %s bfd", name)
	}
}

// frrFamily activates peers and announces one family's subnets. A peer by
// address has its own family; one on a link has both.
func frrFamily(p func(string, ...any), c *network.Config, is4 bool) {
	word := "ipv6"
	if is4 {
		word = "ipv4"
	}
	p(" address-family %s unicast", word)
	for _, a := range c.BGP.Announce {
		if a.Addr().Is4() == is4 {
			p("  network %s", a)
		}
	}
	for _, peer := range c.BGP.Peers {
		name := peer.Address.String()
		if peer.Link != nil {
			name = peer.Link.Name
		} else if peer.Address.Is4() != is4 {
			if is4 {
				// FRR activates IPv4 for every neighbour by itself.
				p("  no neighbor %s activate", name)
			}
			continue
		}
		p("  neighbor %s activate\n  neighbor %s route-map bedplate-out out", name, name)
	}
	p(" exit-address-family")
}

// BIRD returns bird.conf. Nothing where there is no BGP.
func BIRD(c *network.Config) ([]network.File, network.Gaps) {
	if c.BGP == nil {
		return nil, nil
	}
	var gaps network.Gaps
	b := &strings.Builder{}
	p := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	p("router id %s;", c.BGP.RouterID)
	p("protocol device {}")
	p("protocol direct { ipv4; ipv6; }")
	for _, family := range []string{"ipv4", "ipv6"} {
		p("protocol kernel { %s { import none; export where source = RTS_BGP; }; merge paths yes; }", family)
		birdStatic(p, c, family)
	}
	if bfd(c) {
		p("protocol bfd {}")
	}
	for i, peer := range c.BGP.Peers {
		birdPeer(p, c, i, peer)
	}
	return []network.File{{Path: "/etc/bird/bird.conf", Mode: 0o640, Data: []byte(b.String())}}, gaps
}

// birdStatic announces subnets that no interface has as well: BIRD sends on
// what is in its table only. A subnet of an interface's own goes first.
func birdStatic(p func(string, ...any), c *network.Config, family string) {
	var own []netip.Prefix
	for _, a := range c.BGP.Announce {
		if a.Addr().Is4() == (family == "ipv4") {
			own = append(own, a)
		}
	}
	if len(own) == 0 {
		return
	}
	p("protocol static announce_%s {\n  %s { preference 1; };", family, family)
	for _, a := range own {
		p("  route %s unreachable;", a)
	}
	p("}")
}

func birdPeer(p func(string, ...any), c *network.Config, i int, peer network.Peer) {
	p("protocol bgp peer%d {\n  local as %d;", i, c.BGP.ASN)
	as := "external"
	if peer.ASN != 0 {
		as = fmt.Sprintf("as %d", peer.ASN)
	}
	if peer.Link != nil {
		p("  neighbor range fe80::/64 %s;\n  interface \"%s\";\n  dynamic name \"peer%d_\";", as, peer.Link.Name, i)
	} else {
		p("  neighbor %s %s;", peer.Address, as)
	}
	if peer.Multihop > 1 {
		p("  multihop %d;", peer.Multihop)
	} else {
		p("  direct;")
	}
	if peer.BFD {
		p("  bfd on;")
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		if peer.Link == nil && peer.Address.Is4() != (family == "ipv4") {
			continue
		}
		extra := ""
		if peer.Link != nil && family == "ipv4" {
			extra = " extended next hop on;"
		}
		p("  %s { import all;%s export where %s; };", family, extra, announced(c, family))
	}
	p("}")
}

// announced is BIRD's condition for what is told to peers.
func announced(c *network.Config, family string) string {
	var own []string
	for _, a := range c.BGP.Announce {
		if a.Addr().Is4() == (family == "ipv4") {
			own = append(own, a.String())
		}
	}
	if len(own) == 0 {
		return "false"
	}
	return "net ~ [ " + strings.Join(own, ", ") + " ]"
}
