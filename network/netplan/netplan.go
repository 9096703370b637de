// Package netplan writes a machine's network as netplan has it, version 2,
// which is also cloud-init's network configuration version 2
// (https://netplan.readthedocs.io/en/stable/netplan-yaml/ and cloud-init's
// "Networking config Version 2"). Only keys are used that netplan 0.106 (Debian
// 12, Ubuntu 22.04) knows.
//
// Ports are matched by their hardware address and renamed: cloud-init's own
// renderers, as of 22.4, want name and address to fit both.
//
// cloud-init gives the document to netplan as it is where the system has
// netplan; its renderer for ifupdown and NetworkManager understands bonds, VLANs
// and bridges, and its renderer for systemd-networkd (22.4) only ports.
package netplan

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/bedplate/bedplate/network"
)

// Path is where the file is that File makes.
const Path = "/etc/netplan/60-bedplate.yaml"

type document struct {
	Version   int                `yaml:"version"`
	Ethernets map[string]*device `yaml:"ethernets,omitempty"`
	Bonds     map[string]*device `yaml:"bonds,omitempty"`
	Bridges   map[string]*device `yaml:"bridges,omitempty"`
	VLANs     map[string]*device `yaml:"vlans,omitempty"`
}

type device struct {
	Match          map[string]string   `yaml:"match,omitempty"`
	SetName        string              `yaml:"set-name,omitempty"`
	Interfaces     []string            `yaml:"interfaces,omitempty"`
	Parameters     *parameters         `yaml:"parameters,omitempty"`
	MACAddress     string              `yaml:"macaddress,omitempty"`
	ID             int                 `yaml:"id,omitempty"`
	Link           string              `yaml:"link,omitempty"`
	DHCP4          bool                `yaml:"dhcp4"`
	DHCP6          bool                `yaml:"dhcp6,omitempty"`
	DHCP4Overrides map[string]uint32   `yaml:"dhcp4-overrides,omitempty"`
	DHCP6Overrides map[string]uint32   `yaml:"dhcp6-overrides,omitempty"`
	AcceptRA       *bool               `yaml:"accept-ra,omitempty"`
	Optional       bool                `yaml:"optional,omitempty"`
	MTU            int                 `yaml:"mtu,omitempty"`
	Addresses      []string            `yaml:"addresses,omitempty"`
	Gateway6       string              `yaml:"gateway6,omitempty"`
	Routes         []route             `yaml:"routes,omitempty"`
	Nameservers    map[string][]string `yaml:"nameservers,omitempty"`
}

type route struct {
	To     string `yaml:"to"`
	Via    string `yaml:"via,omitempty"`
	Metric uint32 `yaml:"metric,omitempty"`
	Table  uint32 `yaml:"table,omitempty"`
	OnLink bool   `yaml:"on-link,omitempty"`
	Scope  string `yaml:"scope,omitempty"`
}

// parameters are those of bonds and bridges. Intervals are in milliseconds,
// forward-delay in seconds.
type parameters struct {
	Mode            string   `yaml:"mode,omitempty"`
	LACPRate        string   `yaml:"lacp-rate,omitempty"`
	MIIMon          int64    `yaml:"mii-monitor-interval,omitempty"`
	MinLinks        int      `yaml:"min-links,omitempty"`
	HashPolicy      string   `yaml:"transmit-hash-policy,omitempty"`
	ADSelect        string   `yaml:"ad-select,omitempty"`
	ARPInterval     int64    `yaml:"arp-interval,omitempty"`
	ARPTargets      []string `yaml:"arp-ip-targets,omitempty"`
	UpDelay         int64    `yaml:"up-delay,omitempty"`
	DownDelay       int64    `yaml:"down-delay,omitempty"`
	FailOverMAC     string   `yaml:"fail-over-mac-policy,omitempty"`
	Primary         string   `yaml:"primary,omitempty"`
	PrimaryReselect string   `yaml:"primary-reselect-policy,omitempty"`
	// STP is always written for bridges: netplan's own choice is on.
	STP          *bool `yaml:"stp,omitempty"`
	Priority     int   `yaml:"priority,omitempty"`
	ForwardDelay int64 `yaml:"forward-delay,omitempty"`
}

// Render returns what goes under `network:`: cloud-init's network-config.
func Render(c *network.Config) ([]byte, network.Gaps) {
	d, gaps := build(c)
	for _, l := range c.Links {
		quirks(l, d.device(l), &gaps)
	}
	return mustMarshal(d), gaps
}

// quirks are what cloud-init 22.4 (Debian 12) makes of a document that netplan
// takes, where it isn't netplan that it gives it to.
func quirks(l *network.Link, v *device, gaps *network.Gaps) {
	if len(v.Nameservers["addresses"]) == 0 && len(v.Nameservers["search"]) > 0 {
		// It passes over the whole device: "Command missing address of required keys".
		v.Nameservers = nil
		gaps.Add(l.Path+".search_domains", "cloud-init has search domains together with a name server only")
	}
	if l.Gateway6.IsValid() && l.Metric == 0 {
		// It reads ::/0 as ::/64, and `default` not at all.
		i := slices.IndexFunc(v.Routes, func(r route) bool { return r.To == "::/0" && r.Via == l.Gateway6.String() })
		v.Routes, v.Gateway6 = slices.Delete(v.Routes, i, i+1), l.Gateway6.String()
	}
	if l.Bond != nil && len(l.Bond.ARPTargets) > 0 {
		// KeyError: 'arp-ip-targets', which is netplan's word.
		gaps.Break(l.Path+".bond.arp_targets", "cloud-init takes ARP targets on systems with netplan only: elsewhere there is no network with them")
	}
}

// device returns what a link has become.
func (d *document) device(l *network.Link) *device {
	return map[network.Kind]map[string]*device{
		network.Lo: d.Ethernets, network.Port: d.Ethernets, network.Bonded: d.Bonds, network.Bridge: d.Bridges, network.Tagged: d.VLANs,
	}[l.Kind][l.Name]
}

// Files returns netplan's file.
func Files(c *network.Config) ([]network.File, network.Gaps) {
	d, gaps := build(c)
	// Others than root are warned of: it may have secrets in it (netplan 1.0).
	return []network.File{{Path: Path, Mode: 0o600, Data: mustMarshal(map[string]*document{"network": d})}}, gaps
}

// mustMarshal writes a value of this package, which can't fail.
func mustMarshal(v any) []byte {
	data, err := yaml.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("writing netplan: %v", err))
	}
	return data
}

func build(c *network.Config) (*document, network.Gaps) {
	var gaps network.Gaps
	d := &document{Version: 2, Ethernets: map[string]*device{}, Bonds: map[string]*device{}, Bridges: map[string]*device{}, VLANs: map[string]*device{}}
	for _, l := range c.Links {
		v := newDevice(c, l)
		switch l.Kind {
		case network.Lo:
			v.Match = map[string]string{"name": l.Name}
			d.Ethernets[l.Name] = v
		case network.Port:
			v.Match, v.SetName = map[string]string{"macaddress": l.MAC.String()}, l.Name
			d.Ethernets[l.Name] = v
		case network.Bonded:
			v.Interfaces, v.Parameters = names(l.Bond.Ports), bond(l.Bond)
			d.Bonds[l.Name] = v
		case network.Bridge:
			v.Interfaces, v.Parameters = names(l.Spanning.Ports), bridge(l.Spanning)
			d.Bridges[l.Name] = v
		case network.Tagged:
			v.ID, v.Link = l.VLAN.ID, l.VLAN.Link.Name
			d.VLANs[l.Name] = v
		}
		if mac := l.Hardware(); l.Kind != network.Port && !mac.IsZero() {
			v.MACAddress = mac.String()
		}
	}
	if c.BGP != nil {
		gaps.Break("bgp", "netplan has no BGP: FRR or BIRD has to run on the system, with the file that --render frr or bird prints")
	}
	return d, gaps
}

// newDevice fills in what links of every kind have.
func newDevice(c *network.Config, l *network.Link) *device {
	v := &device{DHCP4: l.DHCP4, DHCP6: l.DHCP6, AcceptRA: l.AcceptRA, Optional: l.Optional, MTU: l.MTU}
	if l.Metric != 0 && l.DHCP4 {
		v.DHCP4Overrides = map[string]uint32{"route-metric": l.Metric}
	}
	if l.Metric != 0 && l.DHCP6 {
		v.DHCP6Overrides = map[string]uint32{"route-metric": l.Metric}
	}
	for _, a := range l.Addresses {
		v.Addresses = append(v.Addresses, a.String())
	}
	for _, r := range l.All() {
		out := route{To: r.To.String(), Metric: r.Metric, Table: r.Table, OnLink: r.OnLink}
		if r.Via.IsValid() {
			out.Via = r.Via.String()
		} else {
			out.Scope = "link"
		}
		v.Routes = append(v.Routes, out)
	}
	servers, search := network.DNS(c, l)
	if len(servers)+len(search) > 0 {
		v.Nameservers = map[string][]string{}
		if len(servers) > 0 {
			v.Nameservers["addresses"] = texts(servers)
		}
		if len(search) > 0 {
			v.Nameservers["search"] = slices.Clone(search)
		}
	}
	return v
}

func bond(b *network.Bond) *parameters {
	return &parameters{
		Mode: b.Mode, LACPRate: b.LACPRate, MIIMon: ms(b.MIIMon), MinLinks: b.MinLinks, HashPolicy: b.HashPolicy, ADSelect: b.ADSelect,
		ARPInterval: ms(b.ARPInterval), ARPTargets: texts(b.ARPTargets), UpDelay: ms(b.UpDelay), DownDelay: ms(b.DownDelay),
		FailOverMAC: b.FailOver, Primary: b.Primary, PrimaryReselect: b.PrimaryReselect,
	}
}

func bridge(s *network.Spanning) *parameters {
	return &parameters{STP: &s.STP, Priority: s.Priority, ForwardDelay: int64(s.ForwardDelay / time.Second)}
}

func ms(d time.Duration) int64 { return d.Milliseconds() }

func names(links []*network.Link) []string {
	out := []string{}
	for _, l := range links {
		out = append(out, l.Name)
	}
	return out
}

func texts(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}
