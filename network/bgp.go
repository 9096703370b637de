package network

import (
	"net/netip"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func (r *reader) readBGP(s *pb.NetworkBGP) {
	if s == nil {
		return
	}
	b := &BGP{ASN: s.GetAsn(), RouterID: r.gateway("bgp.router_id", s.GetRouterId(), netip.Addr.Is4, "an IPv4 address such as 10.77.0.31")}
	for i, p := range s.GetPeers() {
		b.Peers = append(b.Peers, r.readPeer(at("bgp.peers", i), p))
	}
	for i, text := range s.GetAnnounce() {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			r.fail(at("bgp.announce", i), "%q: not a subnet such as 10.77.0.0/24", text)
		case p != p.Masked():
			r.fail(at("bgp.announce", i), "%s has bits after its prefix: write %s", p, p.Masked())
		default:
			b.Announce = append(b.Announce, p)
		}
	}
	r.BGP = b
}

func (r *reader) readPeer(path string, s *pb.NetworkBGPPeer) Peer {
	p := Peer{ASN: s.GetAsn(), Multihop: int(s.GetMultihop()), BFD: s.GetBfd()}
	switch {
	case (s.GetAddress() == "") == (s.GetLink() == ""):
		r.fail(path, "give one of address and link")
	case s.GetLink() != "":
		p.Link = r.find(path+".link", s.GetLink())
		if p.Multihop > 1 {
			r.fail(path+".multihop", "a peer that is found on a link is one hop away")
		}
	default:
		if found := r.addrs(path+".address", []string{s.GetAddress()}); len(found) == 1 {
			p.Address = found[0]
		}
	}
	return p
}

func (r *reader) checkBGP() {
	b := r.BGP
	if b == nil {
		return
	}
	if !b.RouterID.IsValid() {
		b.RouterID = r.firstIPv4()
	}
	if !b.RouterID.IsValid() {
		r.fail("bgp.router_id", "missing: the machine has no IPv4 address to take it from")
	}
	if len(b.Announce) == 0 {
		if lo := r.Link(Loopback); lo != nil {
			for _, p := range lo.Addresses {
				b.Announce = append(b.Announce, p.Masked())
			}
		}
	}
	seen := map[netip.Addr]int{}
	for i, p := range b.Peers {
		path := at("bgp.peers", i)
		if p.Link != nil {
			if p.Link.Kind == Lo || p.Link.Master != nil {
				r.fail(path+".link", "%s has nobody at its other end", p.Link.Name)
			}
			continue
		}
		if j, ok := seen[p.Address]; ok {
			r.fail(path+".address", "%s is given twice: bgp.peers[%d] has it too", p.Address, j)
		}
		seen[p.Address] = i
		for _, l := range r.Links {
			if l.isOwn(p.Address) {
				r.fail(path+".address", "%s is the machine's own address", p.Address)
			}
		}
	}
}

// firstIPv4 returns the first address of lo, or else of any link.
func (r *reader) firstIPv4() netip.Addr {
	links := r.Links
	if lo := r.Link(Loopback); lo != nil {
		links = append([]*Link{lo}, links...)
	}
	for _, l := range links {
		for _, p := range l.Addresses {
			if isIPv4(p.Addr()) {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}
