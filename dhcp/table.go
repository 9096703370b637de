package dhcp

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/bedplate/bedplate/dhcp/lease"
)

// link is a network interface of this host as it was last seen.
type link struct {
	name  string
	index int
	// addrs are its IPv4 addresses, in the kernel's order.
	addrs []netip.Prefix
	// up is set when it is up, and isn't a loopback.
	up bool
}

// addrIn returns the link's address inside a subnet.
func (l link) addrIn(p netip.Prefix) (netip.Addr, bool) {
	for _, a := range l.addrs {
		if p.Contains(a.Addr()) {
			return a.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// state is what a network keeps when its configuration changes.
type state struct {
	mu   sync.Mutex
	pool *lease.Pool // guarded by mu
	// prefix is the subnet that the pool was made for.
	prefix netip.Prefix
}

// network is a Network made ready for use. All but state is never altered.
type network struct {
	Network
	*state
	options options
}

// table is the networks and links at one time. It is never altered.
type table struct {
	networks []*network
	byName   map[string]*network
	links    map[string]link
	// direct has the networks on an interface, in the order of their names.
	direct map[string][]*network
	// wanted has the interfaces to listen on; true: the server can't do without.
	wanted map[string]bool
}

// newTable works out which networks are on which interfaces. networks are valid
// and normal; only, if not empty, are the interfaces that may be used without
// being named by a network.
func newTable(networks []*network, links []link, only []string) *table {
	t := &table{
		networks: slices.SortedFunc(slices.Values(networks), func(a, b *network) int { return strings.Compare(a.Name, b.Name) }),
		byName:   map[string]*network{},
		links:    map[string]link{},
		direct:   map[string][]*network{},
		wanted:   map[string]bool{},
	}
	for _, l := range links {
		t.links[l.name] = l
	}
	for _, n := range t.networks {
		t.byName[n.Name] = n
		if n.Mode == Off {
			continue
		}
		on := t.interfacesOf(n, only)
		for _, name := range on {
			t.direct[name] = append(t.direct[name], n)
			t.wanted[name] = true
		}
		if len(on) == 0 || n.Mode == Relay {
			t.wantRelayed(links, only)
		}
	}
	return t
}

// interfacesOf returns the interfaces that a network is on itself.
func (t *table) interfacesOf(n *network, only []string) []string {
	if len(n.Interfaces) > 0 {
		return n.Interfaces
	}
	var on []string
	for name, l := range t.links {
		if _, ok := l.addrIn(n.CIDR); ok && (len(only) == 0 || slices.Contains(only, name)) {
			on = append(on, name)
		}
	}
	slices.Sort(on)
	return on
}

// wantRelayed asks for every interface that a relay agent's packets may come in on.
func (t *table) wantRelayed(links []link, only []string) {
	for _, name := range only {
		t.wanted[name] = true
	}
	if len(only) > 0 {
		return
	}
	for _, l := range links {
		if _, there := t.wanted[l.name]; !there && l.up && len(l.addrs) > 0 {
			t.wanted[l.name] = false
		}
	}
}

// ours reports whether addr is one that this server answers as.
func (t *table) ours(addr netip.Addr) bool {
	if !addr.IsValid() {
		return false
	}
	for _, l := range t.links {
		for _, a := range l.addrs {
			if a.Addr() == addr {
				return true
			}
		}
	}
	for _, n := range t.networks {
		if n.ServerAddress == addr && n.Mode != Off {
			return true
		}
	}
	return false
}

// candidates returns the networks that a client may be on: those that its relay
// agent is on or selects, or those of the link that it was heard on. One that
// writes from an address of its own may also be beyond a router.
func (t *table) candidates(r *request) []*network {
	if r.relay.IsValid() {
		at := r.relay
		if r.link.IsValid() {
			at = r.link
		}
		return t.containing(at, func(n *network) bool { return n.Mode != Off })
	}
	near := t.direct[r.iface]
	if !r.ciaddr.IsValid() || r.source.Addr().Unmap() != r.ciaddr {
		return slices.DeleteFunc(slices.Clone(near), func(n *network) bool { return n.Mode == Relay })
	}
	// A client with an address sent this itself, from this address: over a
	// router, if it isn't on the link.
	var at []*network
	for _, n := range near {
		if n.CIDR.Contains(r.ciaddr) {
			at = append(at, n)
		}
	}
	if len(at) == 0 {
		at = t.containing(r.ciaddr, func(n *network) bool { return n.Mode == Full || n.Mode == Relay || r.bootServer && n.Mode == Proxy })
	}
	if len(at) == 0 {
		at = slices.DeleteFunc(slices.Clone(near), func(n *network) bool { return n.Mode == Relay })
	}
	return at
}

func (t *table) containing(a netip.Addr, ok func(*network) bool) []*network {
	var in []*network
	for _, n := range t.networks {
		if n.CIDR.Contains(a) && ok(n) {
			in = append(in, n)
		}
	}
	return in
}

// serverAddress returns the address that a client on n reaches the server by,
// and the address of ours that replies are sent from. Invalid: there is none.
func (t *table) serverAddress(n *network, r *request) (server, source netip.Addr) {
	l := t.links[r.iface]
	source, ok := l.addrIn(n.CIDR)
	if !ok && t.ours(r.local) {
		source, ok = r.local, true
	}
	if !ok && len(l.addrs) > 0 {
		source = l.addrs[0].Addr()
	}
	if n.ServerAddress.IsValid() {
		return n.ServerAddress, source
	}
	return source, source
}
