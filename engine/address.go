package engine

import (
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"

	"github.com/bedplate/bedplate/dhcp"
)

// networks is what the server knows of its networks: replaced as a whole when
// one changes, read by every service.
type networks struct {
	list atomic.Pointer[[]dhcp.Network]
}

func (n *networks) set(list []dhcp.Network) { n.list.Store(&list) }

// of returns the network that an address is on.
func (n *networks) of(a netip.Addr) (dhcp.Network, bool) {
	list := n.list.Load()
	if list == nil {
		return dhcp.Network{}, false
	}
	for _, network := range *list {
		if network.CIDR.Contains(a.Unmap()) {
			return network, true
		}
	}
	return dhcp.Network{}, false
}

// ours reports whether this server gives out every address on peer's network,
// so that an address that nobody holds is nobody's.
func (n *networks) ours(peer netip.Addr) bool {
	network, ok := n.of(peer)
	return ok && (network.Mode == dhcp.Full || network.Mode == dhcp.Relay)
}

// serverAddress returns the address by which a machine at peer reaches this
// server: what its network says, or else the one that the route to it leaves from.
func (n *networks) serverAddress(peer netip.Addr) netip.Addr {
	if network, ok := n.of(peer); ok && network.ServerAddress.IsValid() {
		return network.ServerAddress
	}
	// Connecting a UDP socket sends nothing; it asks the kernel for the route.
	conn, err := net.Dial("udp", netip.AddrPortFrom(peer, 9).String())
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return local.Addr().Unmap()
}

// hostPort joins an address and a port; empty without an address.
func hostPort(a netip.Addr, port uint16) string {
	if !a.IsValid() {
		return ""
	}
	return net.JoinHostPort(a.String(), strconv.Itoa(int(port)))
}

// httpBase returns the base of URLs at a server's address; empty without one.
func httpBase(a netip.Addr, port uint16) string {
	if hp := hostPort(a, port); hp != "" {
		return "http://" + hp
	}
	return ""
}
