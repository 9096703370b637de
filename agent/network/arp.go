package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/machine"
)

// ARP for IPv4 on Ethernet (RFC 826):
//
//	0     2     4   5   6    8            14         18           24        28
//	+-----+-----+---+---+----+------------+----------+------------+----------+
//	|  1  |0x800| 6 | 4 | op | sender MAC | sender IP| target MAC | target IP|
//	+-----+-----+---+---+----+------------+----------+------------+----------+
const (
	arpSize    = 28
	arpRequest = 1
	// arpTries and arpWait are fewer and shorter than RFC 5227 §2.1.1 has them,
	// as nothing waits for them.
	arpTries = 3
	arpWait  = 500 * time.Millisecond
)

var arpHead = [6]byte{0, 1, 8, 0, 6, 4}

// appendProbe appends an ARP probe (RFC 5227 §1.1): it asks for an address
// without laying claim to it.
func appendProbe(b []byte, mac machine.MAC, addr netip.Addr) []byte {
	b = append(b, arpHead[:]...)
	b = binary.BigEndian.AppendUint16(b, arpRequest)
	b = append(b, mac[:]...)
	b = append(b, make([]byte, 4+6)...)
	a := addr.As4()
	return append(b, a[:]...)
}

// parseARP returns who says that they have which address. An address of zero is
// nobody's: the packet is a probe.
func parseARP(b []byte) (mac machine.MAC, addr netip.Addr, ok bool) {
	if len(b) < arpSize || [6]byte(b[:6]) != arpHead {
		return machine.MAC{}, netip.Addr{}, false
	}
	return machine.MAC(b[8:14]), netip.AddrFrom4([4]byte(b[14:18])), true
}

// Holder returns another host on the link that has an IPv4 address, if one
// answers for it.
func Holder(ctx context.Context, link Link, addr netip.Addr) (machine.MAC, bool, error) {
	if !addr.Is4() {
		return machine.MAC{}, false, nil
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ARP)))
	if err != nil {
		return machine.MAC{}, false, fmt.Errorf("opening ARP socket: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is lost
	all := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: link.Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: link.Index}); err != nil {
		return machine.MAC{}, false, fmt.Errorf("binding ARP socket to %s: %w", link.Name, err)
	}
	wait := unix.NsecToTimeval(int64(arpWait))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return machine.MAC{}, false, fmt.Errorf("setting deadline: %w", err)
	}
	for range arpTries {
		if err := unix.Sendto(fd, appendProbe(nil, link.MAC, addr), 0, all); err != nil {
			return machine.MAC{}, false, fmt.Errorf("sending ARP probe over %s: %w", link.Name, err)
		}
		if mac, ok := hearHolder(ctx, fd, link, addr); ok {
			return mac, true, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return machine.MAC{}, false, ctx.Err()
}

// maxHeard bounds the packets that are read after one probe, in a network where
// much is said.
const maxHeard = 4096

// hearHolder reads what is said on the link until it is quiet or time is up.
func hearHolder(ctx context.Context, fd int, link Link, addr netip.Addr) (machine.MAC, bool) {
	buf := make([]byte, 128)
	until := time.Now().Add(arpWait)
	for range maxHeard {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil || ctx.Err() != nil || time.Now().After(until) {
			break
		}
		if mac, has, ok := parseARP(buf[:n]); ok && has == addr && mac != link.MAC {
			return mac, true
		}
	}
	return machine.MAC{}, false
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
