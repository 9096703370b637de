package dhcp

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/dhcp/pxe"
	"github.com/bedplate/bedplate/machine"
)

// answer is what a reply says, apart from what it copies of the request.
type answer struct {
	kind    dhcpv4.MessageType
	network *network
	// server is option 54 and siaddr.
	server netip.Addr
	// yiaddr is the client's address; invalid in NAK, INFORM and proxy answers.
	yiaddr  netip.Addr
	machine machine.Machine
	iface   machine.Interface
	boot    pxe.Boot
	// message is option 56 of a NAK.
	message string
}

// reply builds the packet that answers r (RFC 2131 table 3).
func reply(r *request, a answer) *dhcpv4.DHCPv4 {
	q := r.packet
	p := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        q.HWType,
		TransactionID: q.TransactionID,
		Flags:         q.Flags,
		GatewayIPAddr: q.GatewayIPAddr,
		ClientHWAddr:  q.ClientHWAddr,
		ClientIPAddr:  net.IPv4zero,
		YourIPAddr:    net.IPv4zero,
		ServerIPAddr:  net.IPv4zero,
	}
	o := options{
		optMessageType: {byte(a.kind)},
		optServerID:    a.server.AsSlice(),
	}
	copied(o, q, optClientID, optRelayInfo, optSubnetSelection)
	if r.override.IsValid() && r.relay.IsValid() {
		o[optServerID] = r.override.AsSlice()
	}
	switch {
	case a.kind == dhcpv4.MessageTypeNak:
		if a.message != "" {
			o[optMessage] = []byte(a.message)
		}
		if r.relay.IsValid() {
			// The relay agent then broadcasts it (§4.3.2).
			p.SetBroadcast()
		}
		p.Options = dhcpv4.Options(o)
		return p
	case a.yiaddr.IsValid():
		p.YourIPAddr = a.yiaddr.AsSlice()
		o.leaseTimes(a.network.LeaseTime)
	}
	if a.kind == dhcpv4.MessageTypeAck && r.ciaddr.IsValid() {
		p.ClientIPAddr = q.ClientIPAddr
	}
	if a.network.gives() {
		a.configure(o, r)
	}
	a.addBoot(p, o, r)
	o.fit(sizeLimit(q))
	p.Options = dhcpv4.Options(o)
	return p
}

// copied copies options of the request as they are: the client identifier (RFC
// 6842), the relay agent information (RFC 3046 §2.2; the codec writes it last) and
// the subnet selection (RFC 3011).
func copied(o options, q *dhcpv4.DHCPv4, codes ...uint8) {
	for _, c := range codes {
		if v, ok := q.Options[c]; ok {
			o[c] = v
		}
	}
}

// configure adds the network's options that the client asks for. Mask, router
// and nameservers go to everyone: firmware is known to forget them in its list.
func (a answer) configure(o options, r *request) {
	for code, v := range a.network.options {
		if code == optSubnetMask || code == optRouter || code == optNameservers || requests(r.packet, code) {
			o[code] = v
		}
	}
	if a.iface.Gateway.Is4() {
		o.addrs(optRouter, a.iface.Gateway)
		if _, ok := o[optRoutes]; ok {
			o[optRoutes] = appendRoutes(nil, a.network.Routes, a.iface.Gateway)
		}
	}
	if len(a.iface.Nameservers) > 0 {
		o.addrs(optNameservers, a.iface.Nameservers...)
	}
	if h := a.machine.Hostname; h != "" && len(h) <= 255 && requests(r.packet, optHostname) {
		o[optHostname] = []byte(h)
	}
}

// addBoot adds what the client is to boot. Boot clients get it whether their
// parameter list has it or not: iPXE's and some firmware's are not complete.
func (a answer) addBoot(p *dhcpv4.DHCPv4, o options, r *request) {
	b := a.boot
	if len(b.IPXE) > 0 {
		o[optIPXE] = b.IPXE
	}
	if b.File == "" {
		return
	}
	server := a.server.String()
	// iPXE takes a boot file from a ProxyDHCP offer only if siaddr is set.
	p.ServerIPAddr = a.server.AsSlice()
	p.ServerHostName = server
	o[optBootFile] = []byte(b.File)
	if len(b.File) < bootFileField {
		// The field as well: early PXE ROMs look nowhere else.
		p.BootFileName = b.File
	}
	if b.Class != "" {
		o[optVendorClass] = []byte(b.Class)
	}
	if len(b.Vendor) > 0 {
		o[optVendor] = b.Vendor
	}
	if r.boot.Method == pxe.TFTP {
		o[optTFTPServer] = []byte(server)
	}
	// RFC 4578 §2.3; PXE clients pass over answers that don't repeat it.
	copied(o, r.packet, optUUID)
	if item, ok := pxe.BootItem(r.packet.Options); ok && r.bootServer {
		o[optVendor] = pxe.AppendBootItem(o[optVendor], item)
	}
}

// bootFileField is the length of the file field, with its NUL.
const bootFileField = 128
