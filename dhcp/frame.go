package dhcp

import (
	"encoding/binary"
	"net/netip"
)

// udpHeaders is the length of the IPv4 and UDP headers that appendUDP writes.
const udpHeaders = 20 + 8

// appendUDP appends an IPv4 packet without options that carries payload:
//
//	0x45 tos(16: low delay, as ISC's and dnsmasq's) length id(0) DF ttl(64) 17 checksum source destination | ports length checksum payload
func appendUDP(dst []byte, from, to netip.AddrPort, payload []byte) []byte {
	src, dest := from.Addr().As4(), to.Addr().As4()
	start := len(dst)
	dst = append(dst, 0x45, 0x10)
	dst = binary.BigEndian.AppendUint16(dst, uint16(udpHeaders+len(payload)))
	dst = append(dst, 0, 0, 0x40, 0, 64, 17, 0, 0)
	dst = append(append(dst, src[:]...), dest[:]...)
	binary.BigEndian.PutUint16(dst[start+10:], checksum(0, dst[start:]))

	udp := len(dst)
	length := uint16(8 + len(payload))
	dst = binary.BigEndian.AppendUint16(dst, from.Port())
	dst = binary.BigEndian.AppendUint16(dst, to.Port())
	dst = binary.BigEndian.AppendUint16(dst, length)
	dst = append(dst, 0, 0)
	dst = append(dst, payload...)
	pseudo := append(append(make([]byte, 0, 12), src[:]...), dest[:]...)
	pseudo = binary.BigEndian.AppendUint16(append(pseudo, 0, 17), length)
	sum := checksum(partial(0, pseudo), dst[udp:])
	if sum == 0 {
		sum = 0xffff // 0 stands for no checksum (RFC 768)
	}
	binary.BigEndian.PutUint16(dst[udp+6:], sum)
	return dst
}

// partial adds octets to an Internet checksum (RFC 1071); only the last call
// may have an odd number of them.
func partial(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

// checksum finishes an Internet checksum.
func checksum(sum uint32, b []byte) uint16 {
	sum = partial(sum, b)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func nativeUint16(b [2]byte) uint16 { return binary.NativeEndian.Uint16(b[:]) }
