package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"

	"github.com/bedplate/bedplate/agent/network"
	"github.com/bedplate/bedplate/agent/system"
	domain "github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/medium"
)

// readOptions takes what a boot medium says, where there is one, or else the
// kernel's arguments.
func readOptions(cmdline string) (system.Options, error) {
	f, err := os.Open(medium.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return system.ParseOptions(cmdline)
	}
	if err != nil {
		return system.Options{}, fmt.Errorf("reading the boot medium's configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, medium.MaxSize+1))
	if err != nil {
		return system.Options{}, fmt.Errorf("reading the boot medium's configuration: %w", err)
	}
	return system.ParseMedium(cmdline, data)
}

// advice is what to do when DHCP doesn't answer a machine that booted from a
// medium: most likely it was meant to have an address there.
func advice(o system.Options) string {
	if !o.Medium {
		return ""
	}
	return " The boot medium has no address for it: give one as address of the machine's spec.interfaces, and make the medium again."
}

// interfaces are the medium's as package network has them.
func interfaces(known []medium.Interface) []network.Interface {
	var all []network.Interface
	for _, i := range known {
		mac, err := domain.ParseMAC(i.MAC)
		if err != nil {
			continue // medium.Parse refuses it
		}
		n := network.Interface{MAC: mac, VLAN: i.VLAN}
		if i.Address.IsValid() {
			n.Lease = network.Static(i.Address, i.Gateway, i.Nameservers)
			n.Lease.Search, n.Lease.MTU = i.Search, i.MTU
			for _, r := range i.Routes {
				n.Lease.Routes = append(n.Lease.Routes, network.Route{To: netip.PrefixFrom(r.To.Addr(), r.To.Bits()).Masked(), Via: r.Via})
			}
		}
		all = append(all, n)
	}
	return all
}
