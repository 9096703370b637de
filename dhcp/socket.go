package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// system is the part of the operating system that the server uses.
type system interface {
	// links returns the host's network interfaces.
	links() ([]link, error)
	// open binds a UDP port on one interface.
	open(l link, port uint16) (socket, error)
}

// socket is one UDP port on one interface.
type socket interface {
	// Read reads one packet. local is where it was sent to, invalid for
	// broadcasts. The error is net.ErrClosed after Close.
	Read(b []byte) (n int, source netip.AddrPort, local netip.Addr, err error)
	// Send sends one packet. It waits for the kernel's buffer, and not for long.
	Send(b []byte, to destination) error
	Close() error
	// index is the interface's number when the socket was opened.
	index() int
}

// osSystem is Linux. now is the clock that write deadlines are set by.
type osSystem struct{ now func() time.Time }

// sendTimeout bounds how long a worker waits for room in the kernel's buffer.
const sendTimeout = 100 * time.Millisecond

func (osSystem) links() ([]link, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	links := make([]link, 0, len(ifaces))
	for _, i := range ifaces {
		addrs, err := i.Addrs()
		if err != nil {
			// It went while we looked.
			continue
		}
		l := link{name: i.Name, index: i.Index, up: i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok || n.IP.To4() == nil {
				continue
			}
			bits, _ := n.Mask.Size()
			l.addrs = append(l.addrs, netip.PrefixFrom(netip.AddrFrom4([4]byte(n.IP.To4())), bits))
		}
		links = append(links, l)
	}
	return links, nil
}

// open binds with SO_BINDTODEVICE, so that one server can have port 67 on each
// of several interfaces and another server its own on the rest. It doesn't set
// SO_REUSEADDR: with it, Linux would let two DHCP servers have the port (dnsmasq
// sets it) and give each broadcast to both.
func (o osSystem) open(l link, port uint16) (socket, error) {
	var optErr error
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		err := c.Control(func(fd uintptr) {
			optErr = errors.Join(
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, l.name),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1),
			)
		})
		return errors.Join(err, optErr)
	}}
	// The context only bounds name resolution, and there is no name.
	c, err := lc.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), port).String())
	if err != nil {
		return nil, listenError(l.name, port, err)
	}
	s := &udpSocket{conn: c.(*net.UDPConn), link: l, port: port, now: o.now, frames: -1}
	// Best effort: without it, clients without an address get broadcasts.
	if fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err == nil {
		s.frames = fd
	}
	return s, nil
}

// listenError says what to do about a port that can't be had.
func listenError(iface string, port uint16, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("port %d on %s is already in use%s: %w; another DHCP server runs here: stop it, or set dhcp_mode of the networks on %s to off",
			port, iface, holders("/proc", port), err, iface)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("port %d on %s: %w; run as root, or with CAP_NET_BIND_SERVICE and CAP_NET_RAW", port, iface, err)
	default:
		return fmt.Errorf("port %d on %s: %w", port, iface, err)
	}
}

// udpSocket is a UDP socket, and a packet socket to send frames to clients that
// have no address yet.
type udpSocket struct {
	conn *net.UDPConn
	link link
	port uint16
	now  func() time.Time

	mu     sync.Mutex
	frames int // -1: none
}

func (s *udpSocket) index() int { return s.link.index }

func (s *udpSocket) Read(b []byte) (int, netip.AddrPort, netip.Addr, error) {
	var oob [64]byte
	n, oobn, flags, source, err := s.conn.ReadMsgUDPAddrPort(b, oob[:])
	if err != nil {
		return 0, netip.AddrPort{}, netip.Addr{}, err
	}
	if flags&unix.MSG_TRUNC != 0 {
		n = 0 // longer than any DHCP message: parse drops it
	}
	return n, source, packetLocal(oob[:oobn]), nil
}

// packetLocal returns the destination address of a packet, from IP_PKTINFO; the
// invalid address for broadcast and multicast.
func packetLocal(oob []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		// struct in_pktinfo: interface index, local address, destination address.
		if m.Header.Level != unix.IPPROTO_IP || m.Header.Type != unix.IP_PKTINFO || len(m.Data) < 12 {
			continue
		}
		local, dst := [4]byte(m.Data[4:8]), [4]byte(m.Data[8:12])
		if local == dst {
			return specified(dst[:])
		}
	}
	return netip.Addr{}
}

func (s *udpSocket) Send(b []byte, to destination) error {
	if !to.hardware.IsZero() {
		err := s.sendFrame(b, to)
		if err == nil {
			return nil
		}
		// Without a packet socket: to all, which RFC 2131 §4.1 allows where
		// unicast isn't possible.
		to.addr = netip.AddrPortFrom(broadcastAddr, to.addr.Port())
	}
	var oob []byte
	if to.source.Is4() {
		oob = unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(s.link.index), Spec_dst: to.source.As4()})
	}
	if err := s.conn.SetWriteDeadline(s.now().Add(sendTimeout)); err != nil {
		return err
	}
	_, _, err := s.conn.WriteMsgUDPAddrPort(b, oob, to.addr)
	return err
}

var errNoFrames = errors.New("no packet socket")

func (s *udpSocket) sendFrame(b []byte, to destination) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frames < 0 || !to.source.Is4() {
		return errNoFrames
	}
	packet := appendUDP(make([]byte, 0, len(b)+udpHeaders), netip.AddrPortFrom(to.source, s.port), to.addr, b)
	ll := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_IP), Ifindex: s.link.index, Halen: 6}
	copy(ll.Addr[:], to.hardware[:])
	return unix.Sendto(s.frames, packet, unix.MSG_DONTWAIT, ll)
}

// networkOrder swaps the octets of what the kernel wants big-endian.
func networkOrder(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return nativeUint16(b)
}

func (s *udpSocket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.conn.Close()
	if s.frames >= 0 {
		err = errors.Join(err, unix.Close(s.frames))
		s.frames = -1
	}
	return err
}
