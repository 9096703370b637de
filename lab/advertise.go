package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/mdlayher/packet"
)

// advertiser answers router solicitations on a bridge. It advertises no prefix
// and no default router, only that there is nothing to wait for: machines get
// no global address, and iPXE's IPv6 configuration ends (RFC 4861 §4.1, §4.2, §6.2).
// Raw frames, because the bridge has no link-local address until a port is up.
type advertiser struct {
	conn *packet.Conn
	mac  net.HardwareAddr
	now  func() time.Time
}

// interval between unsolicited advertisements, for solicitations that were lost.
const advertiseInterval = 2 * time.Second

const etherTypeIPv6 = 0x86dd

// Sizes and places in a frame.
const (
	etherHeader = 14
	ipv6Header  = 40
	icmpAt      = etherHeader + ipv6Header
	advertSize  = icmpAt + 16 + 8
)

// ICMPv6 types (RFC 4861 §4) and the next header number (RFC 4443 §1).
const (
	routerSolicitation  = 133
	routerAdvertisement = 134
	nextHeaderICMPv6    = 58
)

func newAdvertiser(ns *Namespace, bridge string, now func() time.Time) (*advertiser, error) {
	a := &advertiser{now: now}
	err := ns.Do(func() error {
		ifi, err := net.InterfaceByName(bridge)
		if err != nil {
			return err
		}
		a.mac = ifi.HardwareAddr
		a.conn, err = packet.Listen(ifi, packet.Raw, etherTypeIPv6, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket on %s: %w", bridge, err)
	}
	return a, nil
}

// run answers until ctx is done.
func (a *advertiser) run(ctx context.Context, log *slog.Logger) {
	stop := context.AfterFunc(ctx, func() { _ = a.conn.Close() })
	defer stop()
	advert := appendAdvertisement(nil, a.mac)
	all := &packet.Addr{HardwareAddr: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}}
	buf := make([]byte, 2048)
	for ctx.Err() == nil {
		if err := a.conn.SetReadDeadline(a.now().Add(advertiseInterval)); err != nil {
			return // closed
		}
		n, _, err := a.conn.ReadFrom(buf)
		if err == nil && !isSolicitation(buf[:n]) {
			continue
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return // closed
		}
		// ENETDOWN and the like while no machine is connected are no news.
		if _, err := a.conn.WriteTo(advert, all); err != nil && ctx.Err() == nil {
			log.Debug("sending a router advertisement", "err", err)
		}
	}
}

// isSolicitation reports whether frame is a valid router solicitation (RFC 4861 §6.1.1).
func isSolicitation(frame []byte) bool {
	if len(frame) < icmpAt+8 || binary.BigEndian.Uint16(frame[12:]) != etherTypeIPv6 {
		return false
	}
	ip := frame[etherHeader:]
	payload := int(binary.BigEndian.Uint16(ip[4:]))
	return ip[0]>>4 == 6 && ip[6] == nextHeaderICMPv6 && ip[7] == 255 && payload >= 8 &&
		payload <= len(ip)-ipv6Header && ip[ipv6Header] == routerSolicitation && ip[ipv6Header+1] == 0
}

// appendAdvertisement appends a frame to all nodes on the link.
//
//	Ethernet 14 | IPv6 40 | type 134, code 0, checksum 2, hop limit, flags, lifetime 2 (0: no
//	default router), reachable 4, retransmit 4 | option 1: source link-layer address 8
func appendAdvertisement(b []byte, mac net.HardwareAddr) []byte {
	start := len(b)
	b = append(b, 0x33, 0x33, 0, 0, 0, 1)
	b = append(b, mac...)
	b = binary.BigEndian.AppendUint16(b, etherTypeIPv6)
	b = append(b, 0x60, 0, 0, 0, 0, advertSize-icmpAt, nextHeaderICMPv6, 255)
	// Source: fe80:: and the modified EUI-64 of the MAC (RFC 4291 appendix A).
	b = append(b, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0]^2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5])
	b = append(b, 0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
	b = append(b, routerAdvertisement, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, 1, 1)
	b = append(b, mac...)
	icmp := b[start+icmpAt:]
	binary.BigEndian.PutUint16(icmp[2:], checksum(b[start+etherHeader:]))
	return b
}

// checksum is that of ICMPv6 with its pseudo-header (RFC 8200 §8.1), over an
// IPv6 packet whose checksum field is zero.
func checksum(ip []byte) uint16 {
	sum := uint32(len(ip)-ipv6Header) + nextHeaderICMPv6
	for i := 8; i+1 < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
