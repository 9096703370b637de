package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// prober finds out whether somebody uses an address.
type prober interface {
	// probe asks addr, and calls done once, from another goroutine, with the
	// result. It returns false, and doesn't call done, when it can't ask now.
	probe(addr netip.Addr, done func(used bool)) bool
	// run does the work until stop is closed.
	run(stop <-chan struct{})
}

// maxProbes is how many addresses are asked at once. Each costs the kernel an
// unanswered neighbour entry for 3 s, of which it has 1,024 by default.
const maxProbes = 128

// echoProber asks by ICMP echo (RFC 2131 §2.2), which on a link also asks by ARP.
type echoProber struct {
	conn    net.PacketConn
	now     func() time.Time
	timeout time.Duration
	id      uint16

	mu      sync.Mutex
	pending map[netip.Addr]*echo
	// order has the pending ones, the oldest first; all wait equally long.
	order []*echo
	wake  chan struct{}
}

type echo struct {
	addr netip.Addr
	done []func(bool)
	due  time.Time
	over bool
}

func newEchoProber(now func() time.Time, timeout time.Duration) (*echoProber, error) {
	conn, err := net.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return nil, fmt.Errorf("opening ICMP socket: %w", err)
	}
	return &echoProber{
		conn: conn, now: now, timeout: timeout,
		// Any number that other pingers of this host are unlikely to have.
		id:      uint16(now().UnixNano() >> 10),
		pending: map[netip.Addr]*echo{}, wake: make(chan struct{}, 1),
	}, nil
}

func (p *echoProber) probe(addr netip.Addr, done func(bool)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.pending[addr]; e != nil {
		e.done = append(e.done, done)
		return true
	}
	if len(p.pending) >= maxProbes {
		return false
	}
	// A worker waits here: not for a neighbour, and not for long for the buffer.
	if err := p.conn.SetWriteDeadline(p.now().Add(10 * time.Millisecond)); err != nil {
		return false
	}
	if _, err := p.conn.WriteTo(appendEcho(nil, p.id, uint16(len(p.order))), &net.IPAddr{IP: addr.AsSlice()}); err != nil {
		return false
	}
	e := &echo{addr: addr, done: []func(bool){done}, due: p.now().Add(p.timeout)}
	p.pending[addr] = e
	p.order = append(p.order, e)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return true
}

func (p *echoProber) run(stop <-chan struct{}) {
	var reader sync.WaitGroup
	reader.Go(func() { p.read(stop) })
	defer reader.Wait()
	defer func() { _ = p.conn.Close() }()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := p.expire()
		timer.Reset(wait)
		select {
		case <-stop:
			return
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// expire finishes the probes that nobody answered in time, and returns how long
// the next one has left.
func (p *echoProber) expire() time.Duration {
	for {
		p.mu.Lock()
		for len(p.order) > 0 && p.order[0].over {
			p.order = p.order[1:]
		}
		if len(p.order) == 0 {
			p.order = nil
			p.mu.Unlock()
			return time.Hour
		}
		e := p.order[0]
		left := e.due.Sub(p.now())
		p.mu.Unlock()
		if left > 0 {
			return left
		}
		p.finish(e.addr, false)
	}
}

// read finishes the probes that somebody answers.
func (p *echoProber) read(stop <-chan struct{}) {
	buf := make([]byte, 1500)
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// A network that is down, and comes back.
			select {
			case <-stop:
				return
			case <-time.After(p.timeout):
			}
			continue
		}
		ip, ok := from.(*net.IPAddr)
		if !ok {
			continue
		}
		if id, ok := parseEchoReply(buf[:n]); ok && id == p.id {
			addr, _ := netip.AddrFromSlice(ip.IP)
			p.finish(addr.Unmap(), true)
		}
	}
}

func (p *echoProber) finish(addr netip.Addr, used bool) {
	p.mu.Lock()
	e := p.pending[addr]
	if e == nil {
		p.mu.Unlock()
		return
	}
	delete(p.pending, addr)
	e.over = true
	p.mu.Unlock()
	for _, done := range e.done {
		done(used)
	}
}

// Types of ICMP (RFC 792).
const (
	icmpEchoReply = 0
	icmpEcho      = 8
)

// appendEcho appends an ICMP echo request: type, code, checksum, identifier,
// sequence number and, as 8 octets of data, the name of who asks.
func appendEcho(b []byte, id, seq uint16) []byte {
	start := len(b)
	b = append(b, icmpEcho, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, seq)
	b = append(b, "bedplate"...)
	binary.BigEndian.PutUint16(b[start+2:], checksum(0, b[start:]))
	return b
}

// parseEchoReply returns the identifier of an ICMP echo reply, whose IP header
// the kernel has taken off.
func parseEchoReply(b []byte) (id uint16, ok bool) {
	if len(b) < 8 || b[0] != icmpEchoReply || b[1] != 0 || checksum(0, b) != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[4:]), true
}
