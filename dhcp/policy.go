package dhcp

import (
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/dhcp/pxe"
	"github.com/bedplate/bedplate/machine"
)

// policy decides what is answered. Apart from the pools of the networks, which
// are its memory, it has no state; it does no I/O and waits for nothing but a
// pool's mutex.
type policy struct {
	machines Machines
	files    pxe.Files
	httpBase func(netip.Addr) string
	// commit is how long an address is kept while its lease is made durable.
	commit time.Duration
}

// result is why a request ended as it did; it is a metrics label, so there are
// few of them.
type result string

// The results.
const (
	answered       result = "answered"
	probing        result = "probing"
	noNetwork      result = "no_network"
	noServerAddr   result = "no_server_address"
	relayedOnly    result = "relayed_only"
	disabled       result = "disabled"
	ignoredUnknown result = "unknown_machine"
	notBootClient  result = "not_boot_client"
	noBootFile     result = "no_boot_file"
	otherServer    result = "other_server"
	noRecord       result = "no_record"
	exhausted      result = "pool_exhausted"
	wrongNetwork   result = "wrong_network"
	wrongAddress   result = "wrong_address"
	addressTaken   result = "address_taken"
	released       result = "released"
	declined       result = "declined"
	notHolder      result = "not_holder"
	proxyOnly      result = "proxy_only"
	badPort        result = "wrong_port"
	badAddress     result = "bad_address"
	storeFailed    result = "store_failed"
	sendFailed     result = "send_failed"
	overload       result = "overload"
	malformed      result = "malformed"
)

// outcome is what is to be done about a request.
type outcome struct {
	result result
	// reply is the answer, or nil for silence.
	reply *dhcpv4.DHCPv4
	to    destination
	// network is nil when none was found.
	network *network
	// bind is a lease to be made durable and bound before the reply is sent, if
	// it has an address.
	bind lease.Lease
	// drop are leases that ended, to be deleted.
	drop []lease.Lease
	// probe is a held address to be probed before the request is decided again.
	probe netip.Addr
	// machine is the machine that the client is known as, if it is.
	machine machine.Machine
	// file is what the client is told to boot, or empty.
	file string
	// warn is for people, when they have to do something; empty otherwise.
	warn string
	// detail explains the result to people.
	detail string
}

// client is who a request is from: the machine and its interface, when known.
type client struct {
	known   bool
	machine machine.Machine
	iface   machine.Interface
}

// identify finds the machine by its address, else by the UUID that firmware sends.
func (p *policy) identify(r *request) client {
	var c client
	if !r.mac.IsZero() {
		if c.machine, c.known = p.machines.ByMAC(r.mac); c.known {
			c.iface, _ = c.machine.InterfaceByMAC(r.mac)
			return c
		}
	}
	if r.boot.UUID != "" {
		c.machine, c.known = p.machines.ByUUID(r.boot.UUID)
	}
	return c
}

// decide returns what is to be done about r.
func (p *policy) decide(t *table, r *request, now time.Time) outcome {
	c := p.identify(r)
	networks := t.candidates(r)
	out := outcome{machine: c.machine}
	if len(networks) == 0 {
		out.result = noNetwork
		if len(t.direct[r.iface]) > 0 && !r.relay.IsValid() {
			out.result = relayedOnly
		}
		return out
	}
	networks = prefer(networks, r, c)
	q := query{policy: p, table: t, request: r, client: c, now: now}
	out = q.among(networks)
	out.machine = c.machine
	return out
}

// query is one request being decided.
type query struct {
	*policy
	table *table
	*request
	client client
	now    time.Time
	// network and its addresses, set by on.
	network        *network
	server, source netip.Addr
}

// among decides the request in the first network that has an answer. Several
// networks share a link rarely; then a full pool makes the next one's turn.
func (q query) among(networks []*network) outcome {
	var first outcome
	for i, n := range networks {
		out := q.on(n)
		if i == 0 {
			first = out
		}
		if out.result != exhausted {
			return out
		}
	}
	return first
}

// on decides the request in a network.
func (q query) on(n *network) outcome {
	q.network = n
	q.server, q.source = q.table.serverAddress(n, q.request)
	if !q.server.IsValid() {
		return q.silent(noServerAddr)
	}
	ending := q.kind == dhcpv4.MessageTypeRelease || q.kind == dhcpv4.MessageTypeDecline
	if !q.client.known && n.Unknown == Ignore && !ending {
		return q.silent(ignoredUnknown)
	}
	if q.client.iface.DisableDHCP && !ending {
		return q.silent(disabled)
	}
	switch {
	case q.bootServer:
		return q.bootService()
	case n.Mode == Proxy:
		return q.proxy()
	}
	switch q.kind {
	case dhcpv4.MessageTypeDiscover:
		return q.discover()
	case dhcpv4.MessageTypeRequest:
		return q.requested()
	case dhcpv4.MessageTypeDecline:
		return q.declined()
	case dhcpv4.MessageTypeRelease:
		return q.released()
	default:
		return q.inform()
	}
}

// prefer puts the network that concerns the client first, if a link has several:
// the one with its reservation, with the address it has or asks for, with its
// lease, or with a pool.
func prefer(networks []*network, r *request, c client) []*network {
	if len(networks) < 2 {
		return networks
	}
	score := func(n *network) int {
		switch {
		case c.iface.Address.IsValid() && n.CIDR.Contains(c.iface.Address.Addr()):
			return 0
		case r.ciaddr.IsValid() && n.CIDR.Contains(r.ciaddr), r.wanted.IsValid() && n.CIDR.Contains(r.wanted):
			return 1
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		switch _, leased := n.pool.ByClient(r.client); {
		case leased:
			return 2
		case len(n.Pools) > 0:
			return 3
		}
		return 4
	}
	sorted := make([]*network, 0, len(networks))
	for want := range 5 {
		for _, n := range networks {
			if score(n) == want {
				sorted = append(sorted, n)
			}
		}
	}
	return sorted
}

// silent is the outcome of a request that isn't answered.
func (q query) silent(r result) outcome { return outcome{result: r, network: q.network} }

// reserved returns the address that the client's interface has in the network.
func (q query) reserved() (netip.Addr, bool) {
	a := q.client.iface.Address.Addr()
	return a, a.IsValid() && q.network.CIDR.Contains(a)
}

// usable reports whether the client may have a pool address: not the address of
// a router or of this server, nor one that is reserved for another.
func (q query) usable(a netip.Addr) bool {
	n := q.network
	if a == n.Gateway || a == q.server || a == q.source || q.table.ours(a) {
		return false
	}
	for _, ns := range n.Nameservers {
		if a == ns {
			return false
		}
	}
	return !q.reservedForOther(a)
}

func (q query) reservedForOther(a netip.Addr) bool {
	m, ok := q.machines.ByAddress(a)
	if !ok {
		return false
	}
	for _, i := range m.Interfaces {
		if i.Address.Addr() == a && i.MAC != q.mac {
			return true
		}
	}
	return false
}

// bootFile returns what the client is to boot. The reason is for people.
func (q query) bootFile(role pxe.Role) (pxe.Boot, string) {
	if q.client.iface.DisableNetboot {
		if q.request.boot.Method == pxe.None {
			return pxe.Boot{}, ""
		}
		return pxe.Boot{}, "network boot is disabled for this interface"
	}
	b, err := q.request.boot.Boot(role, q.files, q.client.machine, q.httpBase(q.server))
	if err != nil {
		return b, err.Error()
	}
	return b, ""
}

// answer finishes an outcome with a reply.
func (q query) answer(kind dhcpv4.MessageType, yiaddr netip.Addr, b pxe.Boot) outcome {
	a := answer{
		kind: kind, network: q.network, server: q.server, yiaddr: yiaddr,
		machine: q.client.machine, iface: q.client.iface, boot: b,
	}
	packet := reply(q.request, a)
	return outcome{
		result: answered, network: q.network, reply: packet, file: b.File,
		to: destinationOf(q.request, packet, q.network.CIDR, q.source),
	}
}

// refuse is a NAK.
func (q query) refuse(why result, message string) outcome {
	packet := reply(q.request, answer{kind: dhcpv4.MessageTypeNak, network: q.network, server: q.server, message: message})
	return outcome{
		result: why, network: q.network, reply: packet, detail: message,
		to: destinationOf(q.request, packet, q.network.CIDR, q.source),
	}
}
