// Package machine holds the domain types that every service shares: what a
// machine is, how it is recognised, and what it is to boot. It does no I/O,
// depends on the standard library only, and its values may be copied and read
// by any number of goroutines.
package machine

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Name is the name of a Machine resource.
type Name string

// MAC is an EUI-48 hardware address. The zero value means "none".
type MAC [6]byte

// ErrMAC is what ParseMAC returns for text that is no EUI-48 address.
var ErrMAC = errors.New("not a MAC address such as 52:54:00:77:00:01")

// ParseMAC reads six octets in hexadecimal with colons, dashes or nothing
// between them, in either case.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if len(s) == 12 {
		if _, err := hex.Decode(m[:], []byte(s)); err != nil {
			return MAC{}, fmt.Errorf("%q: %w", s, ErrMAC)
		}
		return m, nil
	}
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(m) {
		return MAC{}, fmt.Errorf("%q: %w", s, ErrMAC)
	}
	return MAC(hw), nil
}

// String returns the address in lower case with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsZero reports whether m is no address at all.
func (m MAC) IsZero() bool { return m == MAC{} }

// UUID is an SMBIOS system UUID in lower case with dashes; empty means unknown.
type UUID string

// ParseUUID returns s as a UUID, in lower case, if it looks like one.
func ParseUUID(s string) (UUID, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	raw := strings.ReplaceAll(s, "-", "")
	if len(s) != 36 || len(raw) != 32 {
		return "", fmt.Errorf("%q: not a UUID", s)
	}
	if _, err := hex.DecodeString(raw); err != nil {
		return "", fmt.Errorf("%q: not a UUID", s)
	}
	return UUID(s), nil
}

// UUIDFromWire returns the UUID that 16 octets of DHCP option 97 carry: the
// first three fields are little-endian (SMBIOS 2.6 and later, §7.2.1).
func UUIDFromWire(b [16]byte) UUID {
	h := hex.EncodeToString([]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}) + hex.EncodeToString(b[8:])
	return UUID(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
}

// BootTarget is what a machine is told to boot when it asks the network.
type BootTarget uint8

// The boot targets. The zero value tells the machine to boot its own disk, so
// that a mistake never reinstalls anything.
const (
	BootDisk BootTarget = iota
	BootAgent
	// BootNothing gives the machine a message on its console and nothing to run.
	BootNothing
)

// String returns disk, agent or nothing.
func (t BootTarget) String() string {
	switch t {
	case BootAgent:
		return "agent"
	case BootNothing:
		return "nothing"
	default:
		return "disk"
	}
}

// Machine is what the boot services need to know of a machine. It is made
// once when the resource changes and never altered after.
type Machine struct {
	Name       Name
	UUID       UUID
	Serial     string
	Hostname   string
	Interfaces []Interface
	Boot       BootTarget
	Console    string
	KernelArgs []string
	// Medium says that the machine boots the agent from a boot medium.
	Medium bool
	// Addresses are those that the installed system has besides the interfaces' own.
	Addresses []netip.Addr
	// Instance is the name of the instance that the machine is given to.
	Instance string
	Labels   map[string]string
}

// Interface is one network interface of a machine.
type Interface struct {
	MAC MAC
	// Address is the reserved address and prefix; invalid when it comes from a pool.
	Address     netip.Prefix
	Gateway     netip.Addr
	Nameservers []netip.Addr
	// VLAN is the 802.1Q VLAN that the agent uses when it boots from a medium; 0: none.
	VLAN           int
	DisableDHCP    bool
	DisableNetboot bool
}

// InterfaceByMAC returns the machine's interface with that address.
func (m Machine) InterfaceByMAC(mac MAC) (Interface, bool) {
	for _, i := range m.Interfaces {
		if i.MAC == mac {
			return i, true
		}
	}
	return Interface{}, false
}

// Sighting is one thing that a service saw of a machine. Either Machine or
// MAC (or Address) says which; the engine fills in the rest.
type Sighting struct {
	Time    time.Time
	Source  Source
	Machine Name
	MAC     MAC
	Address netip.Addr
	// Event is a short constant, such as DISCOVER, OFFER, RRQ, script, kernel, connected.
	Event string
	// Detail is for people: a file name, an error.
	Detail string
	// Err marks a sighting of something that went wrong.
	Err bool
}

// Source is the service that saw a machine.
type Source string

// The sources of sightings.
const (
	SourceDHCP     Source = "dhcp"
	SourceTFTP     Source = "tftp"
	SourceHTTP     Source = "http"
	SourceAgent    Source = "agent"
	SourceMetadata Source = "metadata"
	SourceBMC      Source = "bmc"
	SourceLab      Source = "lab"
)
