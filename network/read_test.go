package network

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// spec reads a declaration as people write it.
func spec(t testing.TB, text string) *pb.MachineNetwork {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	s := &pb.MachineNetwork{}
	if err := protojson.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	return s
}

const ports = `
links:
- {name: p0, mac: 52:54:00:77:00:01}
- {name: p1, mac: 52:54:00:77:00:02}
`

func TestRead_Problems(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"no name", "links: [{mac: 52:54:00:77:00:01}]", "links[0].name: missing"},
		{"two of a name", ports + "- {name: p0, mac: 52:54:00:77:00:03}", "links[2].name: p0 is given twice: links[0] has it too"},
		{"a name of the kernel's", "links: [{name: eth1, mac: 52:54:00:77:00:01}]", "links[0].name: \"eth1\": the kernel itself calls cards so, and another card may have the name first: take another, such as nic0"},
		{"nothing that it is", "links: [{name: a}]", "links[0]: what is it? give one of mac, nic, bond, vlan and bridge"},
		{"two things at once", ports + "- {name: a, mac: 52:54:00:77:00:03, vlan: {link: p0, id: 4}}", "links[2]: is a port and a VLAN: only one of them"},
		{"a port by two", "links: [{name: a, mac: 52:54:00:77:00:01, nic: eno1}]", "links[0].nic: given together with mac: only one of them picks the port"},
		{"two of a mac", ports + "- {name: a, mac: 52:54:00:77:00:02}", "links[2].mac: 52:54:00:77:00:02 is given twice: links[1] has it too"},
		{"a mac of many", "links: [{name: a, mac: 53:54:00:77:00:01}]", "links[0].mac: 53:54:00:77:00:01: not the address of one interface"},
		{"a port that there isn't", ports + "- {name: b, bond: {ports: [p0, p7], mode: active-backup}}", "links[2].bond.ports[1]: \"p7\" is no link: there are p0, p1, b"},
		{"a port of two", ports + "- {name: b, bond: {ports: [p0], mode: active-backup}}\n- {name: c, bond: {ports: [p0], mode: active-backup}}", "links[3].bond.ports[0]: p0 is a port of b already"},
		{"a VLAN in a bond", ports + "- {name: v, vlan: {link: p0, id: 4}}\n- {name: b, bond: {ports: [v], mode: active-backup}}", "links[3].bond.ports[0]: v is a VLAN, which can't be a port of a bond"},
		{"an address on a port", "links:\n- {name: p0, mac: 52:54:00:77:00:01, dhcp4: true}\n- {name: b, bond: {ports: [p0], mode: active-backup}}", "links[0]: is a port of b: addresses and routes go there"},
		{"a VLAN on a port of a bond", ports + "- {name: b, bond: {ports: [p0], mode: active-backup}}\n- {name: v, vlan: {link: p0, id: 4}}", "links[3].vlan.link: p0 is a port of b: put the VLAN there"},
		{"a VLAN on a VLAN", ports + "- {name: v, vlan: {link: p0, id: 4}}\n- {name: w, vlan: {link: v, id: 4}}", "links[3].vlan.link: v is a VLAN: a VLAN lies on a port, bond or bridge"},
		{"a VLAN twice", ports + "- {name: v, vlan: {link: p0, id: 4}}\n- {name: w, vlan: {link: p0, id: 4}}", "links[3].vlan.id: 4 is given twice: links[2] has it too"},
		{"a cycle", "links: [{name: v, vlan: {link: br, id: 4}}, {name: br, bridge: {ports: [v]}}]", "links[1]: lies on itself, by way of v"},
		{"a VLAN on itself", "links: [{name: v, vlan: {link: v, id: 4}}]", "links[0]: lies on itself, by way of v"},
		{"no mode", ports + "- {name: b, bond: {ports: [p0]}}", "links[2].bond.mode: missing, such as active-backup or 802.3ad"},
		{"an option of another mode", ports + "- {name: b, bond: {ports: [p0], mode: active-backup, lacp_rate: fast}}", "links[2].bond.lacp_rate: is for mode 802.3ad; this is active-backup"},
		{"a stranger as primary", ports + "- {name: b, bond: {ports: [p0], mode: active-backup, primary: p1}}", "links[2].bond.primary: \"p1\" is none of its ports"},
		{"more ports than there are", ports + "- {name: b, bond: {ports: [p0], mode: 802.3ad, min_links: 2}}", "links[2].bond.min_links: 2, but it has 1 ports"},
		{"two ways to watch", ports + "- {name: b, bond: {ports: [p0], mode: active-backup, miimon: 100ms, arp_interval: 1s, arp_targets: [10.0.0.1]}}", "links[2].bond.arp_interval: given together with miimon: the driver has one of them"},
		{"nobody to ask", ports + "- {name: b, bond: {ports: [p0], mode: active-backup, arp_interval: 1s}}", "links[2].bond.arp_targets: missing: whom to ask for"},
		{"a delay that doesn't fit", ports + "- {name: b, bond: {ports: [p0], mode: active-backup, up_delay: 150ms}}", "links[2].bond: up_delay and down_delay are multiples of miimon, 100ms: the driver rounds others down"},
		{"no duration", ports + "- {name: b, bond: {ports: [p0], mode: active-backup, miimon: often}}", "links[2].bond.miimon: \"often\": not a duration such as 100ms"},
		{"less than a millisecond", ports + "- {name: b, bond: {ports: [p0], mode: active-backup, miimon: 10us}}", "links[2].bond.miimon: \"10us\": want whole milliseconds, up to 10m0s"},
		{"a VLAN larger than its bond", ports + "- {name: b, bond: {ports: [p0], mode: active-backup}, mtu: 4000}\n- {name: v, vlan: {link: b, id: 4}, mtu: 9000}", "links[3].mtu: 9000 is more than the 4000 of b, which it lies on"},
		{"a VLAN larger than Ethernet", ports + "- {name: v, vlan: {link: p0, id: 4}, mtu: 9000}", "links[2].mtu: 9000 is more than the 1500 of p0, which it lies on"},
		{"a port unlike its bond", "links:\n- {name: p0, mac: 52:54:00:77:00:01, mtu: 1500}\n- {name: b, bond: {ports: [p0], mode: active-backup}, mtu: 9000}", "links[0].mtu: 1500, but the bond sets its ports to its own, which is 9000"},
		{"too small for IPv6", "links: [{name: a, mac: 52:54:00:77:00:01, mtu: 1000, addresses: [\"2001:db8::1/64\"]}]", "links[0].mtu: 1000: IPv6 needs 1280"},
		{"no address", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1]}]", "links[0].addresses[0]: \"10.0.0.1\": not an address with a prefix length such as 10.77.0.31/24"},
		{"the network's address", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.0/24]}]", "links[0].addresses[0]: 10.0.0.0: the first or last address of 10.0.0.0/24 can't be a machine's"},
		{"an address of many", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [224.0.0.5/24]}]", "links[0].addresses[0]: 224.0.0.5: not an address that a machine can have"},
		{"an address twice", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/24]}, {name: b, mac: 52:54:00:77:00:02, addresses: [10.0.0.1/24]}]", "links[1].addresses[0]: 10.0.0.1 is given twice: links[0].addresses[0] has it too"},
		{"a subnet on two links", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/16]}, {name: b, mac: 52:54:00:77:00:02, addresses: [10.0.7.1/24]}]", "links[1].addresses[0]: 10.0.7.0/24 overlaps 10.0.0.0/16 of links[0].addresses[0]"},
		{"a gateway elsewhere", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/24], gateway4: 10.0.1.1}]", "links[0].gateway4: 10.0.1.1 is in no subnet of a"},
		{"a gateway without an address", "links: [{name: a, mac: 52:54:00:77:00:01, gateway4: 10.0.1.1}]", "links[0].gateway4: 10.0.1.1, but a has no IPv4 address"},
		{"itself as gateway", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/24], gateway4: 10.0.0.1}]", "links[0].gateway4: 10.0.0.1 is the machine's own address"},
		{"a gateway of the other family", "links: [{name: a, mac: 52:54:00:77:00:01, gateway4: \"fe80::1\"}]", "links[0].gateway4: \"fe80::1\": not an IPv4 address such as 10.77.0.1"},
		{"two gateways", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/24], gateway4: 10.0.0.9}, {name: b, mac: 52:54:00:77:00:02, addresses: [10.1.0.1/24], gateway4: 10.1.0.9}]", "links[1].gateway4: a is a default gateway already: give one of them another metric"},
		{"a gateway and a route like it", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/24], gateway4: 10.0.0.9, routes: [{to: default, via: 10.0.0.8}]}]", "links[0].routes[0]: a is a default gateway already: give one of them another metric"},
		{"a route with host bits", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/24], routes: [{to: 10.9.0.1/16, via: 10.0.0.9}]}]", "links[0].routes[0].to: 10.9.0.1/16 has bits after its prefix: write 10.9.0.0/16"},
		{"a route of two families", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/24], routes: [{to: \"2001:db8::/32\", via: 10.0.0.9}]}]", "links[0].routes[0].via: 10.0.0.9 is of another family than 2001:db8::/32"},
		{"a route by nobody", "links: [{name: a, mac: 52:54:00:77:00:01, routes: [{to: default}]}]", "links[0].routes[0].via: missing: it says whether `default` is IPv4's or IPv6's"},
		{"a route by somebody elsewhere", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/24], routes: [{to: 10.9.0.0/16, via: 10.8.0.9}]}]", "links[0].routes[0].via: 10.8.0.9 is in no subnet of a: with on_link: true it is reached all the same"},
		{"a route twice", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/24], routes: [{to: 10.9.0.0/16, via: 10.0.0.9}, {to: 10.9.0.0/16, via: 10.0.0.8}]}]", "links[0].routes[1]: 10.9.0.0/16 is routed twice: by routes[0] too"},
		{"lo with DHCP", "links: [{name: lo, dhcp4: true}]", "links[0]: lo has addresses and nothing else"},
		{"a domain that is none", "search_domains: [\"a b\"]", "search_domains[0]: \"a b\": not a domain name"},
		{"a name server that is none", "nameservers: [ns1]", "nameservers[0]: \"ns1\": not an address such as 10.77.0.2"},
		{"a bridge's delay", "links: [{name: b, bridge: {stp: true, forward_delay: 1s}}]", "links[0].bridge.forward_delay: 1s: want whole seconds, 4s to 30s"},
		{"a peer that is two", ports + "bgp: {asn: 1, router_id: 10.0.0.1, peers: [{link: p0, address: 10.0.0.2}]}", "bgp.peers[0]: give one of address and link"},
		{"a peer on no link", ports + "bgp: {asn: 1, router_id: 10.0.0.1, peers: [{link: p9}]}", "bgp.peers[0].link: \"p9\" is no link: there are p0, p1"},
		{"a speaker without a name", ports + "bgp: {asn: 1, peers: [{link: p0}]}", "bgp.router_id: missing: the machine has no IPv4 address to take it from"},
		{"itself as peer", "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.0.0.1/24]}]\nbgp: {asn: 1, peers: [{address: 10.0.0.1}]}", "bgp.peers[0].address: 10.0.0.1 is the machine's own address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, problems := Read(spec(t, c.text))
			var got []string
			for _, p := range problems {
				got = append(got, p.Path+": "+p.Message)
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRead(t *testing.T) {
	c, problems := Read(spec(t, `
links:
- {name: br, bridge: {ports: [v]}}
- {name: v, vlan: {link: b, id: 4}}
- {name: b, bond: {ports: [p0, p1], mode: active-backup}}
- {name: p0, mac: 52:54:00:77:00:01}
- {name: p1, mac: 52-54-00-77-00-02}
`))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	t.Run("what lies on others comes after them", func(t *testing.T) {
		var names []string
		for _, l := range c.Links {
			names = append(names, l.Name)
		}
		if diff := cmp.Diff([]string{"p0", "p1", "b", "v", "br"}, names); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("a bond has its first port's address, and looks at carrier", func(t *testing.T) {
		b := c.Link("b")
		if b.Hardware() != c.Link("p0").MAC || b.Bond.MIIMon != defaultMIIMon {
			t.Errorf("%s, %s", b.Hardware(), b.Bond.MIIMon)
		}
	})
}

func TestResolve(t *testing.T) {
	nics := []*pb.NIC{{Name: "eno1", Mac: "52:54:00:77:00:01", PciAddress: "0000:3b:00.0"}, {Name: "eno2", Mac: "52:54:00:77:00:02", PciAddress: "0000:3b:00.1"}}
	c, _ := Read(spec(t, `links: [{name: a, nic: eno1}, {name: b, nic: "0000:3b:00.1"}, {name: c, nic: eno7}]`))
	problems := c.Resolve(nics)
	if len(problems) != 1 || problems[0].Path != "links[2].nic" || !strings.Contains(problems[0].Message, "no network card") {
		t.Errorf("%v", problems)
	}
	if c.Links[0].MAC.String() != "52:54:00:77:00:01" || c.Links[1].MAC.String() != "52:54:00:77:00:02" {
		t.Errorf("%s, %s", c.Links[0].MAC, c.Links[1].MAC)
	}
	c, _ = Read(spec(t, `links: [{name: a, nic: eno1}]`))
	if problems := c.Resolve(nil); len(problems) != 1 || !strings.Contains(problems[0].Message, "hasn't been read yet") {
		t.Errorf("%v", problems)
	}
}

func TestFill(t *testing.T) {
	site := Site{
		Prefix: netip.MustParsePrefix("10.77.0.0/24"), Gateway: netip.MustParseAddr("10.77.0.1"), Nameservers: []netip.Addr{netip.MustParseAddr("10.77.0.2")},
		Search: []string{"lab.example"}, MTU: 9000, Routes: []Route{{To: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("10.77.0.3")}},
	}
	fill := func(t *testing.T, text string) *Config {
		c, problems := Read(spec(t, text))
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		c.Fill(func(a netip.Addr) (Site, bool) { return site, site.Prefix.Contains(a) })
		return c
	}
	const bond = "links:\n- {name: p0, mac: 52:54:00:77:00:01}\n- {name: b, bond: {ports: [p0], mode: active-backup}}\n"
	t.Run("what is left open comes from the site's network", func(t *testing.T) {
		l := fill(t, bond+"- {name: v, vlan: {link: b, id: 4}, addresses: [10.77.0.31/24]}").Link("v")
		if l.Gateway4 != site.Gateway || l.MTU != 9000 || l.VLAN.Link.MTU != 9000 || len(l.Routes) != 1 || len(l.Nameservers) != 1 || len(l.Search) != 1 {
			t.Errorf("%+v", l)
		}
	})
	t.Run("what is declared stays", func(t *testing.T) {
		l := fill(t, bond+"- {name: v, vlan: {link: b, id: 4}, addresses: [10.77.0.31/24], gateway4: 10.77.0.9, mtu: 1400, nameservers: [10.77.0.8], routes: [{to: 10.0.0.0/8, via: 10.77.0.7}]}\nsearch_domains: [other.example]").Link("v")
		if l.Gateway4.String() != "10.77.0.9" || l.MTU != 1400 || l.VLAN.Link.MTU != 0 || l.Routes[0].Via.String() != "10.77.0.7" || len(l.Routes) != 1 || l.Nameservers[0].String() != "10.77.0.8" || len(l.Search) != 0 {
			t.Errorf("%+v", l)
		}
	})
	t.Run("a link below that was told less keeps it", func(t *testing.T) {
		c := fill(t, "links:\n- {name: p0, mac: 52:54:00:77:00:01, mtu: 1500}\n- {name: v, vlan: {link: p0, id: 4}, addresses: [10.77.0.31/24]}")
		if c.Link("v").MTU != 0 || c.Link("p0").MTU != 1500 {
			t.Errorf("%d on %d", c.Link("v").MTU, c.Link("p0").MTU)
		}
	})
	t.Run("a machine has one default route", func(t *testing.T) {
		for _, text := range []string{
			"links:\n- {name: a, mac: 52:54:00:77:00:01, addresses: [10.77.0.31/24]}\n- {name: b, mac: 52:54:00:77:00:02, addresses: [10.9.0.1/24], gateway4: 10.9.0.9}",
			"links:\n- {name: a, mac: 52:54:00:77:00:01, addresses: [10.77.0.31/24]}\n- {name: b, mac: 52:54:00:77:00:02, dhcp4: true}",
			"links:\n- {name: a, mac: 52:54:00:77:00:01, addresses: [10.77.0.31/24], routes: [{to: default, via: 10.77.0.5, metric: 7}]}",
		} {
			if gw := fill(t, text).Link("a").Gateway4; gw.IsValid() {
				t.Errorf("a second one, %s, with %s", gw, text)
			}
		}
	})
	t.Run("the network's gateway doesn't become its own", func(t *testing.T) {
		if gw := fill(t, "links: [{name: a, mac: 52:54:00:77:00:01, addresses: [10.77.0.1/24]}]").Link("a").Gateway4; gw.IsValid() {
			t.Error(gw)
		}
	})
}

// FuzzRead holds every declaration that is accepted to have its links in order
// and connected, whatever bytes it came from.
func FuzzRead(f *testing.F) {
	for _, text := range []string{
		ports + "- {name: b, bond: {ports: [p0, p1], mode: 802.3ad}, addresses: [10.0.0.1/24]}\n- {name: v, vlan: {link: b, id: 4}}",
		"links: [{name: v, vlan: {link: br, id: 4}}, {name: br, bridge: {ports: [v]}}]",
		"links: [{name: lo, addresses: [10.0.0.1/32]}]\nbgp: {asn: 1, peers: [{address: 10.0.0.2}]}",
	} {
		data, err := proto.Marshal(spec(f, text))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &pb.MachineNetwork{}
		if len(data) > 1<<16 || proto.Unmarshal(data, s) != nil {
			return
		}
		c, problems := Read(s)
		if len(problems) > 0 {
			return
		}
		seen := map[*Link]bool{}
		for _, l := range c.Links {
			for _, on := range l.on() {
				if !seen[on] {
					t.Fatalf("%s comes before %s", l.Name, on.Name)
				}
			}
			seen[l] = true
		}
		c.Fill(func(netip.Addr) (Site, bool) { return Site{}, false })
	})
}
