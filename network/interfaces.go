package network

import (
	"fmt"
	"net/netip"

	"github.com/bedplate/bedplate/machine"
)

// gatewayStep lies between the metrics of default routes that nobody gave one.
const gatewayStep = 100

// FromInterfaces is the network of an installed system for which nothing is
// declared, on a machine whose interfaces have addresses that DHCP won't give
// it: those addresses, and DHCP where there is none. Ports are called nic0, nic1, …
// in the order of the interfaces.
func FromInterfaces(m machine.Machine) *Config {
	c := &Config{Hostname: m.Hostname}
	gateways := uint32(0)
	for i, nic := range m.Interfaces {
		path := fmt.Sprintf("interfaces[%d]", i)
		port := &Link{Name: fmt.Sprintf("nic%d", i), Path: path, Kind: Port, MAC: nic.MAC}
		c.Links = append(c.Links, port)
		on := port
		if nic.VLAN != 0 {
			on = &Link{Name: fmt.Sprintf("nic%d.%d", i, nic.VLAN), Path: path + ".vlan", Kind: Tagged, VLAN: &VLAN{Link: port, ID: nic.VLAN}}
			c.Links = append(c.Links, on)
		}
		if !nic.Address.IsValid() {
			on.DHCP4, on.Optional = true, true
			continue
		}
		on.Addresses, on.Nameservers = []netip.Prefix{nic.Address}, nic.Nameservers
		if nic.Gateway.IsValid() {
			// One of several default routes has to win; the first interface's does.
			on.Metric = gateways * gatewayStep
			gateways++
			on.setGateway(nic.Gateway)
		}
	}
	return c
}
