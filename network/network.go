// Package network is what the network of a machine's installed system is to
// be: ports, bonds, VLANs, bridges, their addresses and routes, name servers
// and BGP peers. It is one model for every system; the packages below it say
// the same in netplan's, networkd's, NetworkManager's, Ignition's and Talos's
// way, on a kernel command line, and to FRR and BIRD.
//
// A Config is made by Read from what a person declared, or by FromInterfaces
// from a machine's static addresses. Resolve finds ports by the machine's
// inventory, Fill takes what is left open from the site's networks. What a
// renderer can't say it lists as Gaps, and never drops in silence.
//
// The package does no I/O. Read, Resolve and Fill make and change a Config that
// nobody else has; renderers change nothing.
package network

import (
	"net/netip"
	"time"

	"github.com/bedplate/bedplate/machine"
)

// Loopback is the name of the link that every machine has.
const Loopback = "lo"

// Kind is what a link is.
type Kind string

// The kinds of links.
const (
	Lo     Kind = "loopback"
	Port   Kind = "port"
	Bonded Kind = "bond"
	Tagged Kind = "VLAN"
	Bridge Kind = "bridge"
)

// Config is the network of one machine.
type Config struct {
	// Hostname is the machine's own, for renderers that write one; may be empty.
	Hostname string
	// Links are ordered so that what lies on others comes after them.
	Links       []*Link
	Nameservers []netip.Addr
	Search      []string
	// BGP is nil where there is none.
	BGP *BGP
}

// Link is one network interface.
type Link struct {
	Name string
	// Path is the field that declares it, such as links[2].
	Path string
	Kind Kind
	// MAC is a port's hardware address, or what a bond or bridge gets; zero: not known, or the kernel's choice.
	MAC machine.MAC
	// NIC is how the inventory calls a port that is declared without its MAC.
	NIC string
	// Bond, VLAN and Spanning are set for their kinds.
	Bond     *Bond
	VLAN     *VLAN
	Spanning *Spanning
	// MTU is in bytes; 0: the system's.
	MTU          int
	Addresses    []netip.Prefix
	DHCP4, DHCP6 bool
	// AcceptRA is nil where that is left to the system.
	AcceptRA           *bool
	Gateway4, Gateway6 netip.Addr
	Routes             []Route
	Nameservers        []netip.Addr
	Search             []string
	// Metric is that of the gateways' and DHCP's routes; 0: the system's.
	Metric uint32
	// Optional links aren't waited for at boot.
	Optional bool
	// Master is the bond or bridge that the link is a port of, or nil.
	Master *Link
}

// Bond is how ports are joined. Durations are whole milliseconds.
type Bond struct {
	Ports              []*Link
	Mode               string
	MIIMon             time.Duration
	UpDelay, DownDelay time.Duration
	// Of these "" is the kernel's choice.
	LACPRate, HashPolicy, ADSelect     string
	MinLinks                           int
	Primary, PrimaryReselect, FailOver string
	ARPInterval                        time.Duration
	ARPTargets                         []netip.Addr
}

// VLAN is a tag on another link.
type VLAN struct {
	Link *Link
	ID   int
}

// Spanning is what a bridge does with its ports.
type Spanning struct {
	Ports []*Link
	STP   bool
	// Priority and ForwardDelay are 0 for the kernel's choice.
	Priority     int
	ForwardDelay time.Duration
}

// Route is a static route.
type Route struct {
	To netip.Prefix
	// Via is invalid where everything is on the link.
	Via           netip.Addr
	Metric, Table uint32
	OnLink        bool
}

// BGP is the machine as a BGP speaker.
type BGP struct {
	ASN      uint32
	RouterID netip.Addr
	Peers    []Peer
	Announce []netip.Prefix
}

// Peer is a neighbour. Address is invalid where it is whoever is on Link.
type Peer struct {
	Address  netip.Addr
	Link     *Link
	ASN      uint32
	Multihop int
	BFD      bool
}

// File is a file of the installed system.
type File struct {
	Path string
	Mode uint32
	Data []byte
}

// Problem is one thing that is wrong with a declaration.
type Problem struct {
	// Path is the field, below the declaration: links[2].vlan.link.
	Path    string
	Message string
}

// Gap is a part of a declaration that a renderer can't say.
type Gap struct {
	// Path is the field, as in Problem.
	Path    string
	Message string
	// Broken says that the machine's network would not be what was declared
	// without it. Other gaps make it less fast, less sure or less pretty.
	Broken bool
}

// Gaps collects what can't be said.
type Gaps []Gap

// Add notes something that the machine can be reached without.
func (g *Gaps) Add(path, message string) { *g = append(*g, Gap{Path: path, Message: message}) }

// Break notes something that the network isn't as declared without.
func (g *Gaps) Break(path, message string) { *g = append(*g, Gap{path, message, true}) }

// Link returns the link of that name, or nil.
func (c *Config) Link(name string) *Link {
	for _, l := range c.Links {
		if l.Name == name {
			return l
		}
	}
	return nil
}

// VLANs returns the VLANs on a link.
func (c *Config) VLANs(on *Link) []*Link {
	var out []*Link
	for _, l := range c.Links {
		if l.VLAN != nil && l.VLAN.Link == on {
			out = append(out, l)
		}
	}
	return out
}

// Addressed reports whether the link has, or asks for, an address of its own.
func (l *Link) Addressed() bool {
	return len(l.Addresses) > 0 || l.DHCP4 || l.DHCP6 || l.AcceptRA != nil && *l.AcceptRA
}

// Ports returns those of a bond or bridge.
func (l *Link) Ports() []*Link {
	switch {
	case l.Bond != nil:
		return l.Bond.Ports
	case l.Spanning != nil:
		return l.Spanning.Ports
	}
	return nil
}

// Hardware returns the hardware address that a bond or bridge is to get: the
// one given, or a bond's first port's, so that a DHCP reservation for that port
// holds for the bond whatever the system would choose. Zero: the kernel's choice.
func (l *Link) Hardware() machine.MAC {
	if l.MAC.IsZero() && l.Bond != nil {
		return l.Bond.Ports[0].MAC
	}
	return l.MAC
}

// All returns the gateways and the routes of a link, in that order.
func (l *Link) All() []Route {
	var out []Route
	for _, gw := range []netip.Addr{l.Gateway4, l.Gateway6} {
		if gw.IsValid() {
			out = append(out, Route{To: defaultTo(gw), Via: gw, Metric: l.Metric})
		}
	}
	return append(out, l.Routes...)
}

// defaultTo returns everything of an address's family.
func defaultTo(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// Has4 and Has6 report whether the link has static addresses of a family.
func (l *Link) Has4() bool { return l.has(netip.Addr.Is4) }

// Has6 is Has4 for IPv6.
func (l *Link) Has6() bool { return l.has(netip.Addr.Is6) }

func (l *Link) has(family func(netip.Addr) bool) bool {
	for _, a := range l.Addresses {
		if family(a.Addr()) {
			return true
		}
	}
	return false
}
