// Package ignition writes a machine's network as an Ignition configuration of
// files (https://coreos.github.io/ignition/configuration-v3_3/): units of
// systemd-networkd for Flatcar, keyfiles of NetworkManager for Fedora CoreOS.
// The host name is among them, where there is one, and FRR's files for a
// container that runs it: neither system has a routing daemon of its own.
package ignition

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/bedplate/bedplate/network"
	"github.com/bedplate/bedplate/network/bgpd"
	"github.com/bedplate/bedplate/network/networkd"
	"github.com/bedplate/bedplate/network/networkmanager"
)

// Version is the version of Ignition's specification: that of Flatcar 3227 and
// Fedora CoreOS 35 and all later ones.
const Version = "3.3.0"

type config struct {
	Ignition struct {
		Version string `json:"version"`
	} `json:"ignition"`
	Storage struct {
		Files []file `json:"files"`
	} `json:"storage"`
}

type file struct {
	Path      string `json:"path"`
	Mode      uint32 `json:"mode"`
	Overwrite bool   `json:"overwrite"`
	Contents  struct {
		Source string `json:"source"`
	} `json:"contents"`
}

// Flatcar writes the network for systemd-networkd.
func Flatcar(c *network.Config) ([]byte, network.Gaps) {
	files, gaps := networkd.Files(c)
	return render(c, files, gaps)
}

// FedoraCoreOS writes the network for NetworkManager.
func FedoraCoreOS(c *network.Config) ([]byte, network.Gaps) {
	files, gaps := networkmanager.Files(c)
	return render(c, files, gaps)
}

func render(c *network.Config, files []network.File, gaps network.Gaps) ([]byte, network.Gaps) {
	if c.Hostname != "" {
		files = append(files, network.File{Path: "/etc/hostname", Mode: 0o644, Data: []byte(c.Hostname + "\n")})
	}
	frr, _ := bgpd.FRR(c)
	return Files(append(files, frr...)), gaps
}

// Files writes files as an Ignition configuration.
func Files(files []network.File) []byte {
	var out config
	out.Ignition.Version = Version
	for _, f := range files {
		v := file{Path: f.Path, Mode: f.Mode, Overwrite: true}
		v.Contents.Source = "data:;base64," + base64.StdEncoding.EncodeToString(f.Data)
		out.Storage.Files = append(out.Storage.Files, v)
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("writing Ignition: %v", err)) // it is a value of this package
	}
	return append(data, '\n')
}
