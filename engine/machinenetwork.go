package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/bedplate/bedplate/dhcp"
	"github.com/bedplate/bedplate/ignition"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/network"
	"github.com/bedplate/bedplate/network/bgpd"
	"github.com/bedplate/bedplate/network/netplan"
	"github.com/bedplate/bedplate/network/networkd"
	"github.com/bedplate/bedplate/network/networkmanager"
	"github.com/bedplate/bedplate/network/talos"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// declarations are the networks that machines' specs declare, in memory, with
// the network cards that their ports may be declared by.
type declarations struct {
	mu     sync.RWMutex
	byName map[machine.Name]declaration
}

type declaration struct {
	spec *pb.MachineNetwork
	nics []*pb.NIC
}

func newDeclarations() *declarations {
	return &declarations{byName: map[machine.Name]declaration{}}
}

func (d *declarations) set(m *pb.Machine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := machine.Name(m.GetMetadata().GetName())
	if m.GetSpec().GetNetwork() == nil {
		delete(d.byName, name)
		return
	}
	d.byName[name] = declaration{m.Spec.Network, m.GetStatus().GetInventory().GetNics()}
}

func (d *declarations) remove(name machine.Name) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.byName, name)
}

func (d *declarations) of(name machine.Name) (declaration, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	v, ok := d.byName[name]
	return v, ok
}

// systemNetwork is a machine's network as its metadata has it.
type systemNetwork struct {
	// cloudInit is its network configuration, version 2.
	cloudInit []byte
	// files are what Ignition writes.
	files []ignition.File
	// talos are patches of Talos' machine configuration.
	talos []string
}

// systemNetwork returns the network of a machine with an image; the zero value
// for one whose installed system asks DHCP. An instance's own goes before it.
func (e *Engine) systemNetwork(m machine.Machine, image string) (systemNetwork, error) {
	c, err := e.networkOf(m)
	if c == nil || err != nil {
		return systemNetwork{}, err
	}
	i, _ := e.catalogue.get(image)
	data, gaps := netplan.Render(c)
	for _, g := range gaps {
		e.log.Debug("a machine's network is not all in its metadata", "machine", m.Name, "err", g.Path+": "+g.Message)
	}
	// The host name is the instance's, which is said elsewhere.
	unnamed := *c
	unnamed.Hostname = ""
	patch, _ := talos.Render(&unnamed) // the gaps are those of netplan, and what `bedplate machine network` lists
	return systemNetwork{data, ignitionFiles(c, i.GetSpec().GetOs()), []string{string(patch)}}, nil
}

// managed are the systems whose network is NetworkManager's; others that are
// configured by Ignition have systemd-networkd.
var managed = []string{"fedora", "fcos", "rhel", "rhcos", "centos", "rocky", "alma", "sle-micro", "opensuse-microos"}

// ignitionFiles are the network's files for a system, with those of FRR where there is BGP.
func ignitionFiles(c *network.Config, os string) []ignition.File {
	write := networkd.Files
	if slices.ContainsFunc(managed, func(name string) bool { return strings.HasPrefix(os, name) }) {
		write = networkmanager.Files
	}
	files, _ := write(c) // the gaps are those of netplan
	frr, _ := bgpd.FRR(c)
	var out []ignition.File
	for _, f := range append(files, frr...) {
		out = append(out, ignition.File{Path: f.Path, Content: f.Data, Mode: f.Mode})
	}
	return out
}

// networkOf returns the network of a machine's installed system; nil where that
// asks DHCP.
func (e *Engine) networkOf(m machine.Machine) (*network.Config, error) {
	d, ok := e.declared.of(m.Name)
	return networkOf(m, d, ok, e.networks)
}

// MachineNetwork is what the network of a machine's installed system is to be,
// in a site of those networks; nil where the system asks DHCP.
func MachineNetwork(m *pb.Machine, site []*pb.Network) (*network.Config, error) {
	n := &networks{}
	var list []dhcp.Network
	for _, s := range site {
		if v, err := networkValue(s); err == nil {
			list = append(list, v)
		}
	}
	n.set(list)
	return networkOf(machineValue(m), declaration{m.GetSpec().GetNetwork(), m.GetStatus().GetInventory().GetNics()}, m.GetSpec().GetNetwork() != nil, n)
}

func networkOf(m machine.Machine, d declaration, declared bool, site *networks) (*network.Config, error) {
	var c *network.Config
	switch {
	case declared:
		var problems []network.Problem
		if c, problems = network.Read(d.spec); c != nil {
			problems = c.Resolve(d.nics)
		}
		if len(problems) > 0 {
			return nil, declarationError(m.Name, problems)
		}
	case withoutDHCP(m, site):
		c = network.FromInterfaces(m)
	default:
		return nil, nil
	}
	c.Hostname = m.Hostname
	c.Fill(site.site)
	return c, nil
}

// declarationError says what is wrong as apply would.
func declarationError(name machine.Name, problems []network.Problem) error {
	var errs []error
	for _, p := range problems {
		errs = append(errs, fmt.Errorf("machine/%s: %w", name, resource.FieldError{Path: "spec.network." + p.Path, Message: p.Message}))
	}
	return errors.Join(errs...)
}

// site returns what the network that an address is on has for machines without DHCP.
func (n *networks) site(a netip.Addr) (network.Site, bool) {
	v, ok := n.of(a)
	if !ok {
		return network.Site{}, false
	}
	s := network.Site{Prefix: v.CIDR, Gateway: v.Gateway, Nameservers: v.Nameservers, Search: v.SearchDomains, MTU: int(v.MTU)}
	if len(s.Search) == 0 && v.Domain != "" {
		s.Search = []string{v.Domain}
	}
	for _, r := range v.Routes {
		s.Routes = append(s.Routes, network.Route{To: r.Destination, Via: r.Gateway})
	}
	return s, true
}

// withoutDHCP reports whether a machine has an address that DHCP won't give it:
// it boots from a medium, or it is told so for the interface or the network.
func withoutDHCP(m machine.Machine, site *networks) bool {
	for _, nic := range m.Interfaces {
		if !nic.Address.IsValid() {
			continue
		}
		n, known := site.of(nic.Address.Addr())
		if m.Medium || nic.DisableDHCP || known && n.Mode == dhcp.Off {
			return true
		}
	}
	return false
}
