package dhcp

import (
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/dhcp/pxe"
)

// This file has the answers of a server that gives addresses (RFC 2131 §4.3).

// maxConflicts is how many pool addresses in a row may turn out to be in use
// before a DISCOVER is given up. The client sends another.
const maxConflicts = 4

// discover answers DHCPDISCOVER (§4.3.1).
func (q query) discover() outcome {
	addr, probe, warn := q.choose()
	if !addr.IsValid() {
		out := q.silent(exhausted)
		out.warn = warn
		return out
	}
	if probe && !q.network.DisableProbe {
		out := q.silent(probing)
		out.probe, out.warn = addr, warn
		return out
	}
	b, why := q.bootFile(pxe.Server)
	out := q.answer(dhcpv4.MessageTypeOffer, addr, b)
	out.warn, out.detail = warn, why
	return out
}

// choose holds an address for the client: its reservation, or one of the pools.
func (q query) choose() (addr netip.Addr, probe bool, warn string) {
	n := q.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := q.reserved(); ok {
		if n.pool.OfferReserved(q.request.client, a, q.now) == nil {
			return a, false, ""
		}
		warn = "the reserved address " + a.String() + " is in use by another client; it gets one of the pool until that lease ends"
	}
	addr, probe, err := n.pool.Offer(q.request.client, q.wanted, q.usable, q.now)
	if err != nil {
		if warn == "" {
			warn = "no address left: widen the network's pools, reserve an address, or shorten the lease time"
		}
		return netip.Addr{}, false, warn
	}
	return addr, probe, warn
}

// requested answers DHCPREQUEST in each of the client's states (§4.3.2, table 4).
func (q query) requested() outcome {
	switch {
	case q.request.server.IsValid():
		return q.selecting()
	case q.ciaddr.IsValid():
		return q.renewing()
	case q.wanted.IsValid():
		return q.rebooting()
	default:
		return q.silent(badAddress)
	}
}

// selecting is a client that has collected offers and names one server.
func (q query) selecting() outcome {
	chosen := q.request.server
	if chosen != q.server && chosen != q.override && !q.table.ours(chosen) {
		q.network.mu.Lock()
		defer q.network.mu.Unlock()
		q.network.pool.Cancel(q.request.client, q.now)
		return q.silent(otherServer)
	}
	addr := q.wanted
	if !addr.IsValid() {
		// Some early clients put the address here and name a server as well.
		addr = q.ciaddr
	}
	if !addr.IsValid() {
		return q.silent(badAddress)
	}
	return q.grant(addr)
}

// rebooting is a client that remembers an address (INIT-REBOOT).
func (q query) rebooting() outcome {
	if !q.network.CIDR.Contains(q.wanted) {
		return q.refuse(wrongNetwork, "the address is of another network")
	}
	if _, reserved := q.reserved(); !reserved && !q.recorded() {
		// "If the server has no record of this client, then it MUST remain silent".
		return q.silent(noRecord)
	}
	return q.grant(q.wanted)
}

// recorded reports whether the client has, had, or was offered an address.
func (q query) recorded() bool {
	q.network.mu.Lock()
	defer q.network.mu.Unlock()
	_, bound := q.network.pool.ByClient(q.request.client)
	_, held := q.network.pool.Held(q.request.client)
	return bound || held
}

// renewing is a client that uses an address and asks to keep it: RENEWING by
// unicast, REBINDING by broadcast. Both get the same answer.
func (q query) renewing() outcome {
	if !q.network.CIDR.Contains(q.ciaddr) {
		return q.refuse(wrongNetwork, "the address is of another network")
	}
	return q.grant(q.ciaddr)
}

// grant acknowledges addr if the client may have it, and refuses it otherwise.
func (q query) grant(addr netip.Addr) outcome {
	if !q.network.CIDR.Contains(addr) {
		return q.refuse(wrongNetwork, "the address is of another network")
	}
	n := q.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if why, ok := q.mayHaveLocked(addr); !ok {
		return q.refuse(wrongAddress, why)
	}
	if !n.pool.Hold(q.request.client, addr, q.now.Add(q.commit), q.now) {
		return q.refuse(addressTaken, "another client has the address")
	}
	l := q.leaseLocked(addr)
	b, why := q.bootFile(pxe.Server)
	out := q.answer(dhcpv4.MessageTypeAck, addr, b)
	out.bind, out.detail = l, why
	return out
}

// mayHaveLocked says whether addr is the address that the client should have. A
// client whose reservation was changed is refused its old address and asks again.
func (q query) mayHaveLocked(addr netip.Addr) (why string, ok bool) {
	pool := q.network.pool
	if a, reserved := q.reserved(); reserved {
		if a == addr {
			return "", true
		}
		if pool.Available(q.request.client, a, q.now) {
			return "another address is reserved for the client", false
		}
	}
	held, isHeld := pool.Held(q.request.client)
	bound, isBound := pool.ByClient(q.request.client)
	its := isHeld && held == addr || isBound && bound.Address == addr
	if !its && (isHeld || isBound && !bound.Expired(q.now)) {
		return "the client has another address", false
	}
	if !pool.InRange(addr) || !q.usable(addr) {
		return "the address is not one to be given to the client", false
	}
	return "", true
}

// leaseLocked is the lease as it is to be made durable.
func (q query) leaseLocked(addr netip.Addr) lease.Lease {
	l := lease.Lease{
		Network: q.network.Name, Address: addr, Client: q.request.client, MAC: q.mac,
		Identifier: short(q.packet.Options[optClientID]), Hostname: string(short([]byte(q.packet.HostName()))),
		Start: q.now, Renewed: q.now, Expires: q.now.Add(q.network.LeaseTime),
	}
	if old, ok := q.network.pool.ByClient(q.request.client); ok && old.Address == addr && !old.Expired(q.now) {
		l.Start = old.Start
	}
	if a, ok := q.reserved(); ok && a == addr {
		l.Reserved = true
	}
	return l
}

// short bounds what a client makes us store: an option may come in many pieces.
func short(b []byte) []byte { return b[:min(len(b), 255)] }

// declined handles DHCPDECLINE (§4.3.3): the client found its address in use.
func (q query) declined() outcome {
	out := q.silent(notHolder)
	q.network.mu.Lock()
	defer q.network.mu.Unlock()
	bound, ok := q.network.pool.Decline(q.request.client, q.wanted, q.now)
	if !ok {
		return out
	}
	out.result = declined
	out.warn = q.wanted.String() + " is used by somebody else on this network; it isn't given out for a while"
	if bound.Address.IsValid() {
		out.drop = []lease.Lease{bound}
	}
	return out
}

// released handles DHCPRELEASE (§4.3.4).
func (q query) released() outcome {
	out := q.silent(notHolder)
	q.network.mu.Lock()
	defer q.network.mu.Unlock()
	if l, ok := q.network.pool.Release(q.request.client, q.ciaddr, q.now); ok {
		out.result, out.drop = released, []lease.Lease{l}
	}
	return out
}

// inform answers DHCPINFORM (§4.3.5): options without an address. The answer
// goes to the address that the client says it has, so that has to be on the network.
func (q query) inform() outcome {
	if !q.ciaddr.IsValid() || !q.network.CIDR.Contains(q.ciaddr) {
		return q.silent(badAddress)
	}
	b, why := q.bootFile(pxe.Server)
	out := q.answer(dhcpv4.MessageTypeAck, netip.Addr{}, b)
	out.detail = why
	return out
}
