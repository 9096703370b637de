// Package medium is the configuration that a boot medium carries to the agent:
// who the machine is, where its server is, what it enrols with, and the
// addresses of its interfaces where there is no DHCP.
//
// It is a JSON file in a second initramfs, /etc/bedplate/medium.json, which
// only root can read; nothing of it is on the kernel's command line. The server
// writes it and the agent reads it, which may be of different versions: fields
// that a reader doesn't know are passed over, and a Version that it doesn't know
// is an error.
//
// The package does no I/O and depends on package machine alone.
package medium

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"

	"github.com/bedplate/bedplate/machine"
)

// Path is where the file is in the agent's system.
const Path = "/etc/bedplate/medium.json"

// Version is the version of the format.
const Version = 1

// Bounds on a configuration.
const (
	MaxSize       = 56 << 10
	maxInterfaces = 64
	maxList       = 64
	maxText       = 1024
	maxVLAN       = 4094 // IEEE 802.1Q §9.6: 0 and 4095 are reserved
	minMTU        = 576
	maxMTU        = 65535
)

// Config is what the medium says.
type Config struct {
	Version int `json:"version"`
	// Machine is the machine's name, for messages.
	Machine machine.Name `json:"machine"`
	// Server is HOST:PORT of the agents' service, HTTP the base URL of the
	// server's HTTP port.
	Server string `json:"server"`
	HTTP   string `json:"http"`
	// CA is the SHA-256 of the DER of the server's CA certificate, as sha256:HEX.
	CA string `json:"ca"`
	// Token is what the machine enrols with.
	Token string `json:"token"`
	// Interfaces are those that the machine is known to have. Where none has an
	// address, every interface asks DHCP; else only those that are listed
	// without one do.
	Interfaces []Interface `json:"interfaces,omitempty"`
}

// Interface is one interface's configuration.
type Interface struct {
	// MAC is the hardware address, with colons.
	MAC string `json:"mac"`
	// Address is the address with the length of its prefix; the zero value: DHCP.
	Address     netip.Prefix `json:"address,omitzero"`
	Gateway     netip.Addr   `json:"gateway,omitzero"`
	Nameservers []netip.Addr `json:"nameservers,omitempty"`
	Search      []string     `json:"search,omitempty"`
	Routes      []Route      `json:"routes,omitempty"`
	// VLAN is the 802.1Q VLAN that all of this is on; 0: none.
	VLAN int `json:"vlan,omitempty"`
	// MTU is 0 for the interface's own.
	MTU int `json:"mtu,omitempty"`
}

// Route is where packets to a network go.
type Route struct {
	To  netip.Prefix `json:"to"`
	Via netip.Addr   `json:"via"`
}

// ErrConfig is what every refusal of a configuration wraps.
var ErrConfig = errors.New("not a boot medium's configuration")

// Static reports whether any interface has an address.
func (c Config) Static() bool {
	for _, i := range c.Interfaces {
		if i.Address.IsValid() {
			return true
		}
	}
	return false
}

// Parse reads and checks a configuration.
func Parse(data []byte) (Config, error) {
	var c Config
	if len(data) > MaxSize {
		return c, fmt.Errorf("%w: %d bytes, at most %d", ErrConfig, len(data), MaxSize)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := c.Check(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// Marshal checks and writes a configuration.
func (c Config) Marshal() ([]byte, error) {
	c.Version = Version
	if err := c.Check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrConfig, len(data), MaxSize)
	}
	return data, nil
}

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Check says what is wrong with a configuration.
func (c Config) Check() error {
	if c.Version != Version {
		return fmt.Errorf("%w: version %d, this program knows %d: build the agent's system and the medium anew", ErrConfig, c.Version, Version)
	}
	if host, port, err := net.SplitHostPort(c.Server); err != nil || host == "" || port == "" || len(c.Server) > maxText {
		return fmt.Errorf("%w: server %.80q is not HOST:PORT", ErrConfig, c.Server)
	}
	if u, err := url.Parse(c.HTTP); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || len(c.HTTP) > maxText {
		return fmt.Errorf("%w: %.80q is not an http:// URL", ErrConfig, c.HTTP)
	}
	if !digestPattern.MatchString(c.CA) {
		return fmt.Errorf("%w: the CA's digest is not sha256: and 64 hexadecimal digits", ErrConfig)
	}
	if c.Token == "" || len(c.Token) > maxText || len(c.Machine) > maxText {
		return fmt.Errorf("%w: no token, or one that is too long", ErrConfig)
	}
	if len(c.Interfaces) > maxInterfaces {
		return fmt.Errorf("%w: %d interfaces, at most %d", ErrConfig, len(c.Interfaces), maxInterfaces)
	}
	seen := map[machine.MAC]bool{}
	for _, i := range c.Interfaces {
		mac, err := machine.ParseMAC(i.MAC)
		if err != nil || seen[mac] {
			return fmt.Errorf("%w: interface %.40q has no MAC address of its own", ErrConfig, i.MAC)
		}
		seen[mac] = true
		if err := i.check(); err != nil {
			return fmt.Errorf("%w: interface %s: %w", ErrConfig, i.MAC, err)
		}
	}
	return nil
}

func (i Interface) check() error {
	switch {
	case i.VLAN < 0 || i.VLAN > maxVLAN:
		return fmt.Errorf("VLAN %d, want 1 to %d", i.VLAN, maxVLAN)
	case i.MTU != 0 && (i.MTU < minMTU || i.MTU > maxMTU):
		return fmt.Errorf("MTU %d, want %d to %d", i.MTU, minMTU, maxMTU)
	case len(i.Nameservers) > maxList || len(i.Search) > maxList || len(i.Routes) > maxList:
		return fmt.Errorf("more than %d name servers, domains or routes", maxList)
	case !i.Address.IsValid() && (i.Gateway.IsValid() || len(i.Routes) > 0):
		return errors.New("a gateway or routes, but no address")
	case i.Address.IsValid() && (!i.Address.Addr().IsGlobalUnicast() || i.Address.Addr().Zone() != ""):
		return fmt.Errorf("%s is not a machine's address", i.Address)
	case i.Gateway.IsValid() && i.Gateway.BitLen() != i.Address.Addr().BitLen():
		return fmt.Errorf("gateway %s is of another family than %s", i.Gateway, i.Address)
	}
	for _, r := range i.Routes {
		if !r.To.IsValid() || !r.Via.IsValid() || r.To.Addr().BitLen() != i.Address.Addr().BitLen() || r.Via.BitLen() != i.Address.Addr().BitLen() {
			return fmt.Errorf("route to %s by %s is not one for %s", r.To, r.Via, i.Address)
		}
	}
	for _, n := range i.Nameservers {
		if !n.IsValid() {
			return errors.New("a name server without an address")
		}
	}
	for _, s := range i.Search {
		if !hostPattern.MatchString(s) {
			return fmt.Errorf("%.80q is not a domain", s)
		}
	}
	return nil
}

// hostPattern keeps a search domain one word of /etc/resolv.conf.
var hostPattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})$`)
