package dhcp

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/bedplate/bedplate/machine"
)

// This file builds the messages that real clients send, octet by octet, with
// the habits that were seen of them.

// opt is one option on the wire.
func opt(code byte, value ...byte) []byte {
	return append([]byte{code, byte(len(value))}, value...)
}

func optString(code byte, s string) []byte { return opt(code, []byte(s)...) }

func addr4(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

// message is a DHCP message being built.
type message struct {
	kind      byte
	mac       machine.MAC
	xid       uint32
	broadcast bool
	ciaddr    string
	giaddr    string
	htype     byte // 0: Ethernet
	options   [][]byte
}

func (m message) with(options ...[]byte) message {
	m.options = append(append([][]byte{}, m.options...), options...)
	return m
}

// bytes draws the message as RFC 2131 figure 1 does.
func (m message) bytes() []byte {
	htype := m.htype
	if htype == 0 {
		htype = 1
	}
	b := []byte{1 /* BOOTREQUEST */, htype, 6 /* hlen */, 0 /* hops */}
	b = binary.BigEndian.AppendUint32(b, m.xid)
	flags := uint16(0)
	if m.broadcast {
		flags = 0x8000
	}
	b = binary.BigEndian.AppendUint16(b, 0) // secs
	b = binary.BigEndian.AppendUint16(b, flags)
	for _, a := range []string{m.ciaddr, "", "", m.giaddr} { // ciaddr yiaddr siaddr giaddr
		if a == "" {
			a = "0.0.0.0"
		}
		b = append(b, addr4(a)...)
	}
	b = append(b, m.mac[:]...)
	b = append(b, make([]byte, 10+64+128)...) // rest of chaddr, sname, file
	b = append(b, 99, 130, 83, 99)            // magic cookie
	b = append(b, opt(53, m.kind)...)
	for _, o := range m.options {
		b = append(b, o...)
	}
	return append(b, 255)
}

// Message types.
const (
	msgDiscover = 1
	msgOffer    = 2
	msgRequest  = 3
	msgDecline  = 4
	msgAck      = 5
	msgNak      = 6
	msgRelease  = 7
	msgInform   = 8
)

var wireUUID = []byte{0, 0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x00}

// romIPXE is QEMU's NIC ROM (iPXE 1.20.1), and byte for byte Debian's undionly.kpxe.
func romIPXE(kind byte, mac machine.MAC) message {
	return message{kind: kind, mac: mac, xid: 0x11223344, options: [][]byte{
		opt(57, 0x05, 0xc0), // 1472
		opt(93, 0, 0),
		opt(94, 1, 2, 1),
		optString(60, "PXEClient:Arch:00000:UNDI:002001"),
		optString(77, "iPXE"), // a bare string, not RFC 3004
		opt(55, 1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 129, 130, 131, 132, 133, 134, 135, 175, 203),
		opt(175, 0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 0xeb, 3, 1, 20, 1, 23, 1, 1, 21, 1, 1, 19, 1, 1, 17, 1, 1, 27, 1, 1, 29, 1, 1, 39, 1, 1),
		append([]byte{61, 7, 1}, mac[:]...),
		opt(97, wireUUID...),
	}}
}

// ovmfPXE is OVMF 2022.11.
func ovmfPXE(kind byte, mac machine.MAC) message {
	return message{kind: kind, mac: mac, xid: 0xa1b2c3d4, broadcast: true, options: [][]byte{
		opt(57, 0x05, 0xb8), // 1464
		opt(55, 1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66, 67, 97, 128, 129, 130, 131, 132, 133, 134, 135),
		opt(97, wireUUID...),
		opt(94, 1, 3, 0),
		opt(93, 0, 7),
		optString(60, "PXEClient:Arch:00007:UNDI:003000"),
	}}
}

// ovmfHTTP is OVMF's UEFI HTTP Boot.
func ovmfHTTP(kind byte, mac machine.MAC) message {
	return message{kind: kind, mac: mac, xid: 0x55667788, broadcast: true, options: [][]byte{
		opt(57, 0x05, 0xb8),
		opt(55, 1, 3, 6, 12, 15, 17, 28, 40, 41, 42, 43, 51, 54, 58, 59, 60, 66, 67, 97),
		opt(97, wireUUID...),
		opt(94, 1, 3, 0),
		opt(93, 0, 16),
		optString(60, "HTTPClient:Arch:00016:UNDI:003000"),
	}}
}

// networkd is systemd-networkd 252: an RFC 4361 identifier made of a DUID.
func networkd(kind byte, mac machine.MAC) message {
	return message{kind: kind, mac: mac, xid: 0xdeadbeef, options: [][]byte{
		opt(55, 1, 3, 6, 12, 15, 26, 33, 42, 119, 120, 121),
		opt(57, 0x05, 0xc0),
		opt(61, 0xff, 0xb6, 0x22, 0x0f, 0xeb, 0, 2, 0, 0, 0xab, 0x11, 1, 2, 3, 4, 5, 6, 7, 8),
		optString(12, "node"),
	}}
}

// dhclient is ISC dhclient 4.4.3.
func dhclient(kind byte, mac machine.MAC) message {
	return message{kind: kind, mac: mac, xid: 0x0badcafe, options: [][]byte{
		optString(12, "debian"),
		opt(55, 1, 28, 2, 3, 15, 6, 119, 12, 44, 47, 26, 121, 42),
	}}
}

// udhcpc is BusyBox 1.35, as in many initramfs.
func udhcpc(kind byte, mac machine.MAC) message {
	return message{kind: kind, mac: mac, xid: 0x00c0ffee, options: [][]byte{
		append([]byte{61, 7, 1}, mac[:]...),
		opt(55, 1, 3, 6, 12, 15, 28, 42),
		opt(57, 2, 64), // 576
		optString(60, "udhcp 1.35.0"),
	}}
}

// fingerprints has every client above.
func fingerprints(kind byte, mac machine.MAC) map[string]message {
	return map[string]message{
		"iPXE": romIPXE(kind, mac), "OVMF PXE": ovmfPXE(kind, mac), "OVMF HTTP": ovmfHTTP(kind, mac),
		"systemd-networkd": networkd(kind, mac), "dhclient": dhclient(kind, mac), "udhcpc": udhcpc(kind, mac),
	}
}

// mustParse reads a message that arrived on eth1 by broadcast.
func mustParse(t testing.TB, m message) *request {
	t.Helper()
	return mustParseFrom(t, m, arrival{iface: "eth1", source: netip.MustParseAddrPort("0.0.0.0:68")})
}

func mustParseFrom(t testing.TB, m message, a arrival) *request {
	t.Helper()
	r, err := parse(m.bytes(), a)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return r
}
