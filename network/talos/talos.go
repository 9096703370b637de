// Package talos writes a machine's network as the part machine.network of a
// Talos machine configuration (v1alpha1), which Talos merges as a patch.
//
// Ports are selected by their permanent hardware address and keep the kernel's
// name; VLANs are called by what they lie on and their number. Facts are from
// the Talos reference of v1.12 and its pkg/machinery.
package talos

import (
	"fmt"
	"net/netip"

	"go.yaml.in/yaml/v3"

	"github.com/bedplate/bedplate/network"
)

type patch struct {
	Machine struct {
		Network section `yaml:"network"`
	} `yaml:"machine"`
}

type section struct {
	Hostname      string    `yaml:"hostname,omitempty"`
	Interfaces    []*device `yaml:"interfaces,omitempty"`
	Nameservers   []string  `yaml:"nameservers,omitempty"`
	SearchDomains []string  `yaml:"searchDomains,omitempty"`
}

type selector struct {
	PermanentAddr string `yaml:"permanentAddr"`
}

// addressing is what devices and VLANs have alike.
type addressing struct {
	MTU         int          `yaml:"mtu,omitempty"`
	Addresses   []string     `yaml:"addresses,omitempty"`
	Routes      []route      `yaml:"routes,omitempty"`
	DHCP        bool         `yaml:"dhcp"`
	DHCPOptions *dhcpOptions `yaml:"dhcpOptions,omitempty"`
}

type device struct {
	Interface  string    `yaml:"interface,omitempty"`
	Selector   *selector `yaml:"deviceSelector,omitempty"`
	Bond       *bond     `yaml:"bond,omitempty"`
	Bridge     *bridge   `yaml:"bridge,omitempty"`
	BridgePort *master   `yaml:"bridgePort,omitempty"`
	addressing `yaml:",inline"`
	VLANs      []*vlan `yaml:"vlans,omitempty"`
}

type master struct {
	Master string `yaml:"master"`
}

type vlan struct {
	ID         int `yaml:"vlanId"`
	addressing `yaml:",inline"`
}

type dhcpOptions struct {
	RouteMetric uint32 `yaml:"routeMetric,omitempty"`
	IPv4        bool   `yaml:"ipv4"`
	IPv6        bool   `yaml:"ipv6"`
}

type route struct {
	Network string `yaml:"network,omitempty"`
	Gateway string `yaml:"gateway,omitempty"`
	Metric  uint32 `yaml:"metric,omitempty"`
}

type bond struct {
	Selectors       []selector `yaml:"deviceSelectors"`
	Mode            string     `yaml:"mode"`
	HashPolicy      string     `yaml:"xmitHashPolicy,omitempty"`
	LACPRate        string     `yaml:"lacpRate,omitempty"`
	PrimaryReselect string     `yaml:"primaryReselect,omitempty"`
	FailOverMAC     string     `yaml:"failOverMac,omitempty"`
	ADSelect        string     `yaml:"adSelect,omitempty"`
	MIIMon          int64      `yaml:"miimon,omitempty"`
	UpDelay         int64      `yaml:"updelay,omitempty"`
	DownDelay       int64      `yaml:"downdelay,omitempty"`
	MinLinks        int        `yaml:"minLinks,omitempty"`
}

type bridge struct {
	// Interfaces are VLANs and bonds; ports say themselves what they are a port of.
	Interfaces []string `yaml:"interfaces,omitempty"`
	STP        struct {
		Enabled bool `yaml:"enabled"`
	} `yaml:"stp"`
}

// Render returns the patch.
func Render(c *network.Config) ([]byte, network.Gaps) {
	w := &writer{c: c}
	var p patch
	n := &p.Machine.Network
	n.Hostname = c.Hostname
	for _, l := range c.Links {
		if l.Kind == network.Tagged || l.Kind == network.Port && l.Master != nil && l.Master.Kind == network.Bonded && l.MTU == 0 {
			continue // said with what it lies on, or with its bond
		}
		n.Interfaces = append(n.Interfaces, w.device(l))
	}
	servers, search := c.AllDNS()
	for _, a := range servers {
		n.Nameservers = append(n.Nameservers, a.String())
	}
	n.SearchDomains = search
	if c.BGP != nil {
		w.gaps.Break("bgp", "Talos 1.12 has no BGP: a CNI that speaks it, such as Cilium or MetalLB, has to be told")
	}
	data, err := yaml.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("writing a Talos patch: %v", err)) // it is a value of this package
	}
	return data, w.gaps
}

type writer struct {
	c    *network.Config
	gaps network.Gaps
}

// nameOf is what Talos calls a link that has a name there.
func nameOf(l *network.Link) string {
	if l.VLAN != nil {
		return fmt.Sprintf("%s.%d", nameOf(l.VLAN.Link), l.VLAN.ID)
	}
	return l.Name
}

func (w *writer) device(l *network.Link) *device {
	d := &device{Interface: l.Name, addressing: w.addressing(l)}
	switch l.Kind {
	case network.Port:
		d.Interface, d.Selector = "", &selector{l.MAC.String()}
		if l.Master != nil && l.Master.Kind == network.Bridge {
			d.BridgePort = &master{l.Master.Name}
		}
	case network.Bonded:
		d.Bond = w.bond(l)
	case network.Bridge:
		d.Bridge = w.bridge(l)
	}
	if !l.MAC.IsZero() && l.Kind != network.Port && (l.Kind != network.Bonded || l.MAC != l.Bond.Ports[0].MAC) {
		w.gaps.Break(l.Path+".mac", "Talos gives a bond and a bridge their first port's hardware address")
	}
	for _, v := range w.c.VLANs(l) {
		d.VLANs = append(d.VLANs, &vlan{ID: v.VLAN.ID, addressing: w.addressing(v)})
		switch {
		case l.Kind == network.Port:
			w.gaps.Add(v.Path+".name", fmt.Sprintf("it is called by the kernel's name of the port and .%d", v.VLAN.ID))
		case v.Name != nameOf(v):
			w.gaps.Add(v.Path+".name", "it is called "+nameOf(v))
		}
	}
	return d
}

func (w *writer) addressing(l *network.Link) addressing {
	a := addressing{MTU: l.MTU, DHCP: l.DHCP4 || l.DHCP6}
	if a.DHCP && (l.DHCP6 || l.Metric != 0) {
		a.DHCPOptions = &dhcpOptions{RouteMetric: l.Metric, IPv4: l.DHCP4, IPv6: l.DHCP6}
	}
	for _, p := range l.Addresses {
		a.Addresses = append(a.Addresses, p.String())
	}
	gateways := len(l.All()) - len(l.Routes)
	for i, r := range l.All() {
		path := fmt.Sprintf("%s.routes[%d]", l.Path, i-gateways)
		switch {
		case r.Table != 0:
			w.gaps.Break(path+".table", "Talos's v1alpha1 network knows the main table only")
			continue
		case r.OnLink:
			w.gaps.Add(path+".on_link", "Talos finds out itself how to reach the gateway; give it a route without via")
		}
		out := route{Network: r.To.String(), Metric: r.Metric}
		if r.Via.IsValid() {
			out.Gateway = r.Via.String()
		}
		a.Routes = append(a.Routes, out)
	}
	if l.AcceptRA != nil {
		w.gaps.Add(l.Path+".accept_ra", "Talos leaves router advertisements to the kernel, which takes them: machine.sysctls can say otherwise")
	}
	if len(l.Nameservers)+len(l.Search) > 0 && len(w.others(l)) > 0 {
		w.gaps.Add(l.Path+".nameservers", "Talos has one list of name servers and domains: these are in it")
	}
	return a
}

// others returns the name servers of other links.
func (w *writer) others(l *network.Link) []netip.Addr {
	out := append([]netip.Addr(nil), w.c.Nameservers...)
	for _, o := range w.c.Links {
		if o != l {
			out = append(out, o.Nameservers...)
		}
	}
	return out
}

func (w *writer) bond(l *network.Link) *bond {
	b, path := l.Bond, l.Path+".bond"
	out := &bond{
		Mode: b.Mode, HashPolicy: b.HashPolicy, LACPRate: b.LACPRate, PrimaryReselect: b.PrimaryReselect, FailOverMAC: b.FailOver, ADSelect: b.ADSelect,
		MIIMon: b.MIIMon.Milliseconds(), UpDelay: b.UpDelay.Milliseconds(), DownDelay: b.DownDelay.Milliseconds(), MinLinks: b.MinLinks,
	}
	for _, p := range b.Ports {
		out.Selectors = append(out.Selectors, selector{p.MAC.String()})
	}
	if b.Primary != "" {
		w.gaps.Add(path+".primary", "Talos wants the kernel's name of the port, which isn't known here")
	}
	if b.ARPInterval != 0 {
		// machinery's checkBond refuses arpIPTarget.
		w.gaps.Break(path+".arp_interval", "Talos can't watch ports by ARP: the kernel wouldn't look at their carrier, so miimon 100 is set")
		out.MIIMon = 100
	}
	return out
}

func (w *writer) bridge(l *network.Link) *bridge {
	b := &bridge{}
	b.STP.Enabled = l.Spanning.STP
	for _, p := range l.Spanning.Ports {
		switch {
		case p.Kind == network.Tagged && p.VLAN.Link.Kind == network.Port:
			w.gaps.Break(l.Path+".bridge.ports", p.Name+" is a VLAN on a port, whose name in Talos isn't known here")
		case p.Kind != network.Port:
			b.Interfaces = append(b.Interfaces, nameOf(p))
		}
	}
	if l.Spanning.Priority != 0 || l.Spanning.ForwardDelay != 0 {
		w.gaps.Add(l.Path+".bridge", "Talos has no bridge priority and no forward delay")
	}
	return b
}
