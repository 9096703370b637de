// Package render names the forms in which a machine's network can be written.
package render

import (
	"fmt"
	"strings"

	"github.com/bedplate/bedplate/network"
	"github.com/bedplate/bedplate/network/bgpd"
	"github.com/bedplate/bedplate/network/ignition"
	"github.com/bedplate/bedplate/network/kernelargs"
	"github.com/bedplate/bedplate/network/netplan"
	"github.com/bedplate/bedplate/network/networkd"
	"github.com/bedplate/bedplate/network/networkmanager"
	"github.com/bedplate/bedplate/network/talos"
)

// Form is one way of writing a network.
type Form struct {
	// Name is what a person calls it.
	Name string
	// For says in a few words what reads it.
	For string
	// Files writes a network. A file without a path is no file of the system, but
	// a document or arguments that are given to it in another way.
	Files func(*network.Config) ([]network.File, network.Gaps)
}

// Forms are all there are.
var Forms = []Form{
	{"netplan", "netplan; cloud-init's network-config is what is under `network:`", netplan.Files},
	{"cloud-init", "cloud-init, version 2", document(netplan.Render)},
	{"networkd", "systemd-networkd", networkd.Files},
	{"networkmanager", "NetworkManager", networkmanager.Files},
	{"flatcar", "Ignition, with units for systemd-networkd", document(ignition.Flatcar)},
	{"fedora-coreos", "Ignition, with keyfiles for NetworkManager", document(ignition.FedoraCoreOS)},
	{"talos", "Talos, as a patch of its machine configuration", document(talos.Render)},
	{"kernel-arguments", "dracut and nm-initrd-generator", arguments(kernelargs.Dracut)},
	{"systemd-kernel-arguments", "systemd-network-generator", arguments(kernelargs.Systemd)},
	{"talos-kernel-arguments", "Talos", arguments(kernelargs.Talos)},
	{"frr", "FRR", bgpd.FRR},
	{"bird", "BIRD 2", bgpd.BIRD},
}

// Names returns the forms' names.
func Names() []string {
	var out []string
	for _, f := range Forms {
		out = append(out, f.Name)
	}
	return out
}

// Named returns a form by name.
func Named(name string) (Form, error) {
	for _, f := range Forms {
		if f.Name == name {
			return f, nil
		}
	}
	return Form{}, fmt.Errorf("%q: not one of %s", name, strings.Join(Names(), ", "))
}

// Text writes files one after the other, each under its path.
func Text(files []network.File) string {
	var b strings.Builder
	for i, f := range files {
		if i > 0 {
			b.WriteString("\n")
		}
		if f.Path != "" {
			fmt.Fprintf(&b, "# %s, mode %04o\n", f.Path, f.Mode)
		}
		b.Write(f.Data)
	}
	return b.String()
}

func document(render func(*network.Config) ([]byte, network.Gaps)) func(*network.Config) ([]network.File, network.Gaps) {
	return func(c *network.Config) ([]network.File, network.Gaps) {
		data, gaps := render(c)
		return []network.File{{Data: data}}, gaps
	}
}

// arguments are written one a line; on a command line they are one after the other.
func arguments(render func(*network.Config) ([]string, network.Gaps)) func(*network.Config) ([]network.File, network.Gaps) {
	return func(c *network.Config) ([]network.File, network.Gaps) {
		list, gaps := render(c)
		return []network.File{{Data: []byte(strings.Join(list, "\n") + "\n")}}, gaps
	}
}
