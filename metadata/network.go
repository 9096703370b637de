package metadata

import (
	"fmt"
	"net/netip"

	"go.yaml.in/yaml/v3"

	"github.com/bedplate/bedplate/machine"
)

// StaticInterface is an interface of an installed system whose network has no DHCP.
type StaticInterface struct {
	MAC machine.MAC
	// Address is invalid for an interface that asks DHCP all the same.
	Address     netip.Prefix
	Gateway     netip.Addr
	Nameservers []netip.Addr
	Search      []string
	Routes      []StaticRoute
	// VLAN and MTU are 0 for none, and the interface's own.
	VLAN, MTU int
}

// StaticRoute is where packets to a network go.
type StaticRoute struct {
	To  netip.Prefix
	Via netip.Addr
}

type netplan struct {
	Version   int                      `yaml:"version"`
	Ethernets map[string]netplanDevice `yaml:"ethernets"`
	VLANs     map[string]netplanDevice `yaml:"vlans,omitempty"`
}

type netplanDevice struct {
	Match       map[string]string   `yaml:"match,omitempty"`
	SetName     string              `yaml:"set-name,omitempty"`
	ID          int                 `yaml:"id,omitempty"`
	Link        string              `yaml:"link,omitempty"`
	DHCP4       bool                `yaml:"dhcp4"`
	Optional    bool                `yaml:"optional,omitempty"`
	MTU         int                 `yaml:"mtu,omitempty"`
	Addresses   []string            `yaml:"addresses,omitempty"`
	Routes      []map[string]string `yaml:"routes,omitempty"`
	Nameservers map[string][]string `yaml:"nameservers,omitempty"`
}

// NetworkConfig writes cloud-init's network configuration, version 2, for a
// system on a network without DHCP. Interfaces are renamed to nic0, nic1, …: the
// networkd renderer of cloud-init 22.4 wants name and address to fit both, and
// only renames where it is told to.
func NetworkConfig(interfaces []StaticInterface) ([]byte, error) {
	n := netplan{Version: 2, Ethernets: map[string]netplanDevice{}, VLANs: map[string]netplanDevice{}}
	for i, s := range interfaces {
		name := fmt.Sprintf("nic%d", i)
		port := netplanDevice{Match: map[string]string{"macaddress": s.MAC.String()}, SetName: name, MTU: s.MTU}
		if s.VLAN == 0 {
			s.configure(&port)
		} else {
			vlan := netplanDevice{ID: s.VLAN, Link: name, MTU: s.MTU}
			s.configure(&vlan)
			n.VLANs[fmt.Sprintf("%s.%d", name, s.VLAN)] = vlan
		}
		n.Ethernets[name] = port
	}
	data, err := yaml.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("writing network configuration: %w", err)
	}
	return data, nil
}

// configure fills in what is on the device that carries the address.
func (s StaticInterface) configure(d *netplanDevice) {
	if !s.Address.IsValid() {
		d.DHCP4, d.Optional = true, true
		return
	}
	d.Addresses = []string{s.Address.String()}
	if s.Gateway.IsValid() {
		d.Routes = append(d.Routes, map[string]string{"to": "0.0.0.0/0", "via": s.Gateway.String()})
	}
	for _, r := range s.Routes {
		d.Routes = append(d.Routes, map[string]string{"to": r.To.String(), "via": r.Via.String()})
	}
	if len(s.Nameservers) == 0 && len(s.Search) == 0 {
		return
	}
	d.Nameservers = map[string][]string{}
	for _, a := range s.Nameservers {
		d.Nameservers["addresses"] = append(d.Nameservers["addresses"], a.String())
	}
	if len(s.Search) > 0 {
		d.Nameservers["search"] = s.Search
	}
}
