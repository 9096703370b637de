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
// whether there was anything. A link that comes up meanwhile, as fast ones do
// seconds after their driver, is given the whole wait from then on; but nothing
// is waited for longer than twice.
func Neighbours(ctx context.Context, inv *pb.Inventory, wait time.Duration) (bool, error) {
	if len(inv.GetNics()) == 0 {
		return false, nil
	}
	fd, err := listenLLDP()
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithTimeout(ctx, 2*wait)
	defer cancel()
	h := hearing{fd: fd, nics: inv.GetNics(), links: map[int]*pb.NIC{}, running: map[int]bool{}}
	end := time.Now().Add(wait)
	for !h.complete() && ctx.Err() == nil && time.Now().Before(end) {
		if h.join() {
			end = time.Now().Add(wait)
		}
		if err := h.listen(); err != nil {
			return h.heard > 0, err
		}
	}
	return h.heard > 0, nil
}

// hearing is one time of listening.
type hearing struct {
	fd    int
	nics  []*pb.NIC
	links map[int]*pb.NIC // those that are listened on, by index
	// running are links with a carrier.
	running map[int]bool
	heard   int
}

// complete reports whether every interface was heard.
func (h *hearing) complete() bool { return h.heard == len(h.nics) }

// join begins to listen on links that have come up, and reports whether one of
// them, or of those that were up, has got its carrier.
func (h *hearing) join() (news bool) {
	for _, n := range h.nics {
		ifc, err := net.InterfaceByName(n.GetName())
		if err != nil || ifc.Flags&net.FlagUp == 0 {
			continue
		}
		if h.links[ifc.Index] == nil {
			if joinLLDP(h.fd, ifc.Index) != nil {
				continue // gone again; else it is tried again
			}
			h.links[ifc.Index] = n
		}
		if ifc.Flags&net.FlagRunning != 0 && !h.running[ifc.Index] {
			h.running[ifc.Index], news = true, true
		}
	}
	return news
}

// listen waits a moment for a frame and takes it.
func (h *hearing) listen() error {
	const step = 500 // milliseconds between looks at links and ctx
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}, step); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("waiting for LLDP: %w", err)
	}
	buf := make([]byte, 2048)
	n, from, err := unix.Recvfrom(h.fd, buf, 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("receiving LLDP: %w", err)
	}
	if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
		h.take(h.links[ll.Ifindex], buf[:n])
	}
	return nil
}

func (h *hearing) take(nic *pb.NIC, frame []byte) {
	neighbour, err := lldp.Parse(frame)
	if nic == nil || err != nil || neighbour.TTL == 0 {
		return
	}
	if nic.Lldp == nil {
		h.heard++
	}
	nic.Link = true // whatever it was when the hardware was read
	nic.Lldp = &pb.LLDPNeighbour{
		ChassisId: neighbour.ChassisID, PortId: neighbour.PortID, SystemName: neighbour.SystemName,
		PortDescription: neighbour.PortDescription, Vlan: uint32(neighbour.VLAN),
	}
}

// listenLLDP opens one packet socket for all links, for frames without their
// Ethernet header.
func listenLLDP() (int, error) {
	protocol := lldp.EtherType>>8 | lldp.EtherType&0xff<<8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return 0, fmt.Errorf("opening LLDP socket: %w", err)
	}
	return fd, nil
}

// joinLLDP has a link let through what is sent to the group address.
func joinLLDP(fd, index int) error {
	group := lldp.Multicast()
	m := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(group))}
	copy(m.Address[:], group[:])
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
		return fmt.Errorf("joining LLDP group: %w", err)
	}
	return nil
}
