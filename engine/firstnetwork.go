package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// probeTimeout is how long a first start waits for another DHCP server's offer.
const probeTimeout = 2 * time.Second

// errNoAddress means that an interface has no IPv4 address to serve on.
var errNoAddress = errors.New("it has no IPv4 address: give it one (ip addr add 10.0.0.1/24 dev …) and start again")

// firstNetwork describes the network on an interface for a server that has
// none configured: full DHCP where nobody else serves it, else only boot
// information beside the server that is there.
func firstNetwork(ctx context.Context, iface string, probe func(context.Context, string) (netip.Addr, error)) (*pb.Network, error) {
	prefix, err := interfacePrefix(iface)
	if err != nil {
		return nil, fmt.Errorf("serving on %s: %w", iface, err)
	}
	n := &pb.Network{
		Metadata: &pb.Metadata{Name: strings.ToLower(strings.ReplaceAll(iface, "_", "-"))},
		Spec:     &pb.NetworkSpec{Cidr: prefix.Masked().String(), Interfaces: []string{iface}},
	}
	other, err := probe(ctx, iface)
	if err != nil {
		return nil, fmt.Errorf("looking for another DHCP server on %s: %w", iface, err)
	}
	if other.IsValid() {
		n.Spec.DhcpMode = pb.DHCPMode_PROXY
		n.Metadata.Annotations = map[string]string{"bedplate/reason": "DHCP server " + other.String() + " serves this network: only boot information is added"}
		return n, nil
	}
	n.Spec.DhcpMode = pb.DHCPMode_FULL
	n.Metadata.Annotations = map[string]string{"bedplate/reason": "no other DHCP server answered on this network"}
	if start, end, ok := upperHalf(prefix); ok {
		n.Spec.Pools = []*pb.AddressRange{{Start: start.String(), End: end.String()}}
	}
	return n, nil
}

// interfacePrefix returns the interface's first IPv4 address and prefix.
func interfacePrefix(name string) (netip.Prefix, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("there is no interface of that name; `ip link` lists those that are there: %w", err)
	}
	list, err := iface.Addrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return p, nil
		}
	}
	return netip.Prefix{}, errNoAddress
}

// upperHalf returns the upper half of a subnet without its broadcast address
// and without the server's own address, for a pool; false for a subnet that is
// too small to be shared.
func upperHalf(p netip.Prefix) (start, end netip.Addr, ok bool) {
	if p.Bits() > 29 {
		return netip.Addr{}, netip.Addr{}, false
	}
	base := p.Masked().Addr().As4()
	first := binary.BigEndian.Uint32(base[:])
	size := uint32(1) << (32 - p.Bits())
	own4 := p.Addr().As4()
	own := binary.BigEndian.Uint32(own4[:])
	from, to := first+size/2, first+size-2
	if own >= from && own <= to {
		from, to = first+1, first+size/2-1
	}
	return addr4(from), addr4(to), true
}

func addr4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// probeDHCP asks for an offer on the interface and returns the server that
// made one; an invalid address when nobody does.
func probeDHCP(ctx context.Context, iface string) (netip.Addr, error) {
	c, err := nclient4.New(iface, nclient4.WithTimeout(probeTimeout), nclient4.WithRetry(1))
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	offer, err := c.DiscoverOffer(ctx, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("bedplate")))
	if err != nil {
		if errors.Is(err, nclient4.ErrNoResponse) {
			return netip.Addr{}, nil
		}
		return netip.Addr{}, err
	}
	a, _ := netip.AddrFromSlice(offer.ServerIdentifier().To4())
	if !a.IsValid() {
		a, _ = netip.AddrFromSlice(offer.ServerIPAddr.To4())
	}
	return a, nil
}
