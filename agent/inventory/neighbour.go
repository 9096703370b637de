package inventory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/inventory/lldp"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// LLDPWait is how long to listen: switches send every 30 s (802.1AB §9.2.5.7).
const LLDPWait = 35 * time.Second

// Neighbours listens on every interface of inv that has a link, until each was
// heard, wait is over or ctx is done, and fills in what it heard. It reports
// whether there was anything.
func Neighbours(ctx context.Context, inv *pb.Inventory, wait time.Duration) (bool, error) {
	links := map[int]*pb.NIC{}
	for _, n := range inv.GetNics() {
		ifc, err := net.InterfaceByName(n.GetName())
		if err == nil && ifc.Flags&net.FlagUp != 0 {
			links[ifc.Index] = n
		}
	}
	if len(links) == 0 {
		return false, nil
	}
	fd, err := listenLLDP(links)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	heard := 0
	buf := make([]byte, 2048)
	for heard < len(links) && ctx.Err() == nil {
		const step = 500 // milliseconds between looks at ctx
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, step); err != nil && !errors.Is(err, unix.EINTR) {
			return heard > 0, fmt.Errorf("waiting for LLDP: %w", err)
		}
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return heard > 0, fmt.Errorf("receiving LLDP: %w", err)
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		nic := links[ll.Ifindex]
		neighbour, err := lldp.Parse(buf[:n])
		if nic == nil || err != nil || neighbour.TTL == 0 {
			continue
		}
		if nic.Lldp == nil {
			heard++
		}
		nic.Lldp = &pb.LLDPNeighbour{
			ChassisId: neighbour.ChassisID, PortId: neighbour.PortID, SystemName: neighbour.SystemName,
			PortDescription: neighbour.PortDescription, Vlan: uint32(neighbour.VLAN),
		}
	}
	return heard > 0, nil
}

// listenLLDP opens one packet socket for all links, frames without their
// Ethernet header, and joins the group address on each.
func listenLLDP(links map[int]*pb.NIC) (int, error) {
	protocol := lldp.EtherType>>8 | lldp.EtherType&0xff<<8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return 0, fmt.Errorf("opening LLDP socket: %w", err)
	}
	group := lldp.Multicast()
	for index := range links {
		m := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(group))}
		copy(m.Address[:], group[:])
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
			unix.Close(fd)
			return 0, fmt.Errorf("joining LLDP group: %w", err)
		}
	}
	return fd, nil
}
