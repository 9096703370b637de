package engine

import (
	"net/netip"

	"github.com/bedplate/bedplate/dhcp"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/metadata"
)

// networkConfig returns cloud-init's network configuration for a machine whose
// installed system gets no address by DHCP; nil for others. An instance's own
// goes before it.
func (e *Engine) networkConfig(m machine.Machine) []byte {
	if !e.withoutDHCP(m) {
		return nil
	}
	var all []metadata.StaticInterface
	for _, nic := range m.Interfaces {
		i := metadata.StaticInterface{MAC: nic.MAC, VLAN: nic.VLAN}
		if nic.Address.IsValid() {
			s := e.staticOf(nic)
			i.Address, i.Gateway, i.Nameservers, i.Search, i.MTU = nic.Address, s.gateway, s.nameservers, s.search, s.mtu
			for _, r := range s.routes {
				i.Routes = append(i.Routes, metadata.StaticRoute{To: r.Destination, Via: r.Gateway})
			}
		}
		all = append(all, i)
	}
	data, err := metadata.NetworkConfig(all)
	if err != nil {
		e.log.Error("network configuration not made", "machine", m.Name, "err", err)
	}
	return data
}

// withoutDHCP reports whether a machine has an address that DHCP won't give it:
// it boots from a medium, or it is told so for the interface or the network.
func (e *Engine) withoutDHCP(m machine.Machine) bool {
	for _, nic := range m.Interfaces {
		if !nic.Address.IsValid() {
			continue
		}
		n, known := e.networks.of(nic.Address.Addr())
		if m.Medium || nic.DisableDHCP || known && n.Mode == dhcp.Off {
			return true
		}
	}
	return false
}

// static is what an interface's reserved address comes with where DHCP doesn't
// say it.
type static struct {
	gateway     netip.Addr
	nameservers []netip.Addr
	search      []string
	mtu         int
	routes      []dhcp.Route
}

// staticOf returns what the interface's own spec says, and where that is silent
// the network that its address is in.
func (e *Engine) staticOf(nic machine.Interface) static {
	s := static{gateway: nic.Gateway, nameservers: nic.Nameservers}
	n, ok := e.networks.of(nic.Address.Addr())
	if !ok {
		return s
	}
	if !s.gateway.IsValid() && nic.Address.Contains(n.Gateway) {
		s.gateway = n.Gateway
	}
	if len(s.nameservers) == 0 {
		s.nameservers = n.Nameservers
	}
	s.search = n.SearchDomains
	if len(s.search) == 0 && n.Domain != "" {
		s.search = []string{n.Domain}
	}
	s.mtu, s.routes = int(n.MTU), n.Routes
	return s
}
