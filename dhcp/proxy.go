package dhcp

import (
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/dhcp/pxe"
)

// This file has the answers of a ProxyDHCP server and of a PXE boot server
// (PXE 2.1 §2.2.3 and §2.2.5): boot information without an address.

// proxy answers on port 67 beside the network's own DHCP server: the DISCOVER
// of a boot client. Its REQUEST is for the other server.
func (q query) proxy() outcome {
	if q.request.boot.Method == pxe.None {
		return q.silent(notBootClient)
	}
	if q.kind != dhcpv4.MessageTypeDiscover {
		return q.silent(proxyOnly)
	}
	return q.bootInfo(dhcpv4.MessageTypeOffer, pxe.Proxy)
}

// bootService answers on port 4011. UEFI firmware that was offered no option 43
// comes here with a REQUEST, and so does whoever was told to discover servers.
func (q query) bootService() outcome {
	switch {
	case q.request.boot.Method == pxe.None:
		return q.silent(notBootClient)
	case q.kind != dhcpv4.MessageTypeRequest && q.kind != dhcpv4.MessageTypeInform:
		return q.silent(badPort)
	case !q.network.CIDR.Contains(q.request.source.Addr().Unmap()):
		// The answer goes to the sender: a forged one must not be a stranger.
		return q.silent(badAddress)
	}
	return q.bootInfo(dhcpv4.MessageTypeAck, pxe.BootServer)
}

func (q query) bootInfo(kind dhcpv4.MessageType, role pxe.Role) outcome {
	b, why := q.bootFile(role)
	if b.File == "" {
		// Another server's answer may have something to boot; ours has not.
		out := q.silent(noBootFile)
		out.detail = why
		if q.client.iface.DisableNetboot {
			out.result = disabled
		}
		return out
	}
	return q.answer(kind, netip.Addr{}, b)
}
