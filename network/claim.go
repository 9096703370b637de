package network

import (
	"net/netip"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Claim is an address that a declaration takes for one machine alone.
type Claim struct {
	// Path is the field, below the declaration.
	Path    string
	Address netip.Addr
}

// Claimed returns the addresses that no other machine may have: all that parse,
// but for those of lo, which may be anycast, and link-local ones.
func Claimed(s *pb.MachineNetwork) []Claim {
	var out []Claim
	for i, l := range s.GetLinks() {
		if l.GetName() == Loopback {
			continue
		}
		for j, text := range l.GetAddresses() {
			if p, err := netip.ParsePrefix(text); err == nil && !p.Addr().IsLinkLocalUnicast() {
				out = append(out, Claim{at(at("links", i)+".addresses", j), p.Addr()})
			}
		}
	}
	return out
}
