package hardware

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/trust"
)

// The roles that a machine may have towards its peers.
const (
	roleAuto    = "auto"
	roleListen  = "listen"
	roleConnect = "connect"
)

const (
	maxPeers = 256
	// dialLimit is how long a peer may take to answer at all.
	dialLimit = 3 * time.Second
	// again is how long a round of vain attempts is rested for, and up to as
	// long again, so that machines that got in each other's way don't again.
	again = 500 * time.Millisecond
	// waitingConnections bounds strangers that have not said who they are.
	waitingConnections = 64
)

// meeting is where the machines that were given the same list of addresses
// find each other, without anybody to tell them when: each listens for a
// window, and of each pair one end, that with the lower address, connects and
// measures both ways. A machine takes part in one measurement at a time; one
// that is busy says so, and is asked again.
type meeting struct {
	t      *networkTest
	id     Identity
	tls    *tls.Config
	window time.Duration
	port   uint16

	// call are the peers to connect to, await those that will connect.
	call, await []netip.AddrPort
	// anyone: whoever comes is measured with, until the window is over.
	anyone bool

	turn chan struct{} // has one element while nothing is being measured
	mu   sync.Mutex
	met  map[netip.Addr]bool
	news chan struct{}
}

// meeting reads where and whom to meet; nil if nobody.
func (t *networkTest) meeting(ctx context.Context, req step.Request) (*meeting, error) {
	names, role := texts(req, "peers"), text(req, "role")
	if role == "" {
		role = roleAuto
	}
	if len(names) == 0 && role != roleListen {
		return nil, nil
	}
	m := &meeting{t: t, turn: make(chan struct{}, 1), met: map[netip.Addr]bool{}, news: make(chan struct{}, 1), anyone: len(names) == 0}
	port, err := number(req, "port", PeerPort, 1, 65535)
	if err != nil {
		return nil, err
	}
	m.port = uint16(port)
	if m.window, err = duration(req, "window", networkWindow); err != nil {
		return nil, err
	}
	if err := m.identify(); err != nil {
		return nil, err
	}
	peers, err := resolvePeers(ctx, names, m.port)
	if err != nil {
		return nil, err
	}
	own, err := ownAddresses()
	if err != nil {
		return nil, err
	}
	for _, p := range peers {
		switch {
		case own[p.Addr()] && p.Port() == m.port:
			continue // the same list can be given to everyone
		case role == roleListen, role == roleAuto && !m.calls(p):
			m.await = append(m.await, p)
		default:
			m.call = append(m.call, p)
		}
	}
	return m, nil
}

func (m *meeting) identify() error {
	var ok bool
	if m.t.s.Identity != nil {
		m.id, ok = m.t.s.Identity()
	}
	if !ok {
		return errors.New("this machine has no certificate to show to its peers")
	}
	var err error
	m.tls, err = trust.PeerTLS(m.id.CA, m.id.Certificate, m.t.s.Now)
	return err
}

// resolvePeers reads addresses, with or without a port, and host names.
func resolvePeers(ctx context.Context, names []string, port uint16) ([]netip.AddrPort, error) {
	if len(names) > maxPeers {
		return nil, fmt.Errorf("%d peers are too many: at most %d", len(names), maxPeers)
	}
	var out []netip.AddrPort
	for _, name := range names {
		p, err := netip.ParseAddrPort(name)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(name); err != nil {
				a, err = lookUp(ctx, name)
			}
			p = netip.AddrPortFrom(a, port)
		}
		if err != nil {
			return nil, fmt.Errorf("peer %q is no address of a machine: %w", name, err)
		}
		if p = netip.AddrPortFrom(p.Addr().Unmap(), p.Port()); !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

func lookUp(ctx context.Context, name string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil || len(all) == 0 {
		return netip.Addr{}, err
	}
	return all[0], nil
}

func ownAddresses() (map[netip.Addr]bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing this machine's addresses: %w", err)
	}
	own := map[netip.Addr]bool{}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own[p.Addr().Unmap()] = true
		}
	}
	return own, nil
}

// calls reports whether this end of a pair is the one to connect: the one
// with the lower address, or the lower port at the same one.
func (m *meeting) calls(peer netip.AddrPort) bool {
	c, err := net.Dial("udp", peer.String()) // sends nothing
	if err != nil {
		return true
	}
	defer c.Close()
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return true
	}
	return netip.AddrPortFrom(local.Addr().Unmap(), m.port).Compare(peer) < 0
}

// run meets everyone, or until the window is over.
func (m *meeting) run(ctx context.Context) error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", m.port))
	if err != nil {
		return fmt.Errorf("listening for other machines: %w", err)
	}
	m.t.rep.Log(step.Agent, fmt.Sprintf("as %s on port %d: %d machines to connect to, %d to wait for, at most %s", m.id.Machine, m.port, len(m.call), len(m.await), m.window))
	inner, cancel := context.WithTimeout(ctx, m.window)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { m.listen(inner, l) })
	stop := context.AfterFunc(inner, func() { l.Close() })
	defer stop()
	m.turn <- struct{}{}
	m.callAll(inner)
	m.awaitAll(inner)
	cancel()
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.missing()
	return nil
}

// callAll connects to each peer until there is a measurement of every one.
func (m *meeting) callAll(ctx context.Context) {
	pending := slices.Clone(m.call)
	g := splitmix(m.t.seed)
	said := map[netip.AddrPort]string{}
	for len(pending) > 0 {
		m.progress()
		var left []netip.AddrPort
		for _, p := range pending {
			err := m.tryCall(ctx, p)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				m.meet(p.Addr())
				continue
			}
			if said[p] != err.Error() {
				said[p] = err.Error()
				m.t.rep.Log(step.Agent, fmt.Sprintf("%s: %v; trying again", p.Addr(), err))
			}
			left = append(left, p)
		}
		pending = left
		if len(pending) > 0 && !rest(ctx, again+time.Duration(g.next()%uint64(again))) {
			return
		}
	}
}

// tryCall measures with one peer, if neither is busy.
func (m *meeting) tryCall(ctx context.Context, p netip.AddrPort) error {
	select {
	case <-m.turn:
		defer func() { m.turn <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialLimit}, Config: m.tls}
	ctxDial, cancel := context.WithTimeout(ctx, 2*dialLimit)
	defer cancel()
	conn, err := d.DialContext(ctxDial, "tcp", p.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	return m.connected(ctx, conn.(*tls.Conn))
}

// listen serves peers, one at a time; the others are told that this machine is busy.
func (m *meeting) listen(ctx context.Context, l net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, waitingConnections)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || !rest(ctx, again) {
				return
			}
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			m.welcome(ctx, conn)
		})
	}
}

// welcome takes one connection. Only an agent of the same server is served, and
// only from an address that is expected.
func (m *meeting) welcome(ctx context.Context, conn net.Conn) {
	from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil || !m.expects(from.Addr().Unmap()) {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(2 * dialLimit))
	c := tls.Server(conn, m.tls)
	if err := c.HandshakeContext(ctx); err != nil {
		m.t.rep.Log(step.Agent, fmt.Sprintf("%s was refused: %v", from.Addr(), err))
		return
	}
	select {
	case <-m.turn:
		defer func() { m.turn <- struct{}{} }()
	default:
		_ = send(c, message{Busy: true})
		return
	}
	if err := m.accepted(ctx, c); err != nil {
		m.t.rep.Log(step.Agent, fmt.Sprintf("%s: %v", from.Addr(), err))
		return
	}
	m.meet(from.Addr().Unmap())
}

func (m *meeting) expects(a netip.Addr) bool {
	same := func(p netip.AddrPort) bool { return p.Addr() == a }
	return m.anyone || slices.ContainsFunc(m.await, same) || slices.ContainsFunc(m.call, same)
}

func (m *meeting) meet(a netip.Addr) {
	m.mu.Lock()
	m.met[a] = true
	m.mu.Unlock()
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// pending are the peers that have not been met.
func (m *meeting) pending() []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []netip.AddrPort
	for _, p := range slices.Concat(m.call, m.await) {
		if !m.met[p.Addr()] {
			out = append(out, p)
		}
	}
	return out
}

func (m *meeting) awaitAll(ctx context.Context) {
	for m.anyone || len(m.pending()) > 0 {
		m.progress()
		select {
		case <-m.news:
		case <-ctx.Done():
			return
		}
	}
}

func (m *meeting) progress() {
	all := len(m.call) + len(m.await)
	m.t.rep.Progress(int64(all-len(m.pending())), int64(all), "machines", "measured with")
}

// missing reports who has not come. That is no fault of this machine.
func (m *meeting) missing() {
	for _, p := range m.pending() {
		m.t.report.add(result{
			subject: nicTowards(p.String()), measure: "peer_met", unit: unitBool, peer: p.Addr().String(),
			message: fmt.Sprintf("no measurement within %s", m.window),
		})
	}
}

// rest waits; false if ctx is done first.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
