package dhcp

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/dhcp/pxe"
	"github.com/bedplate/bedplate/machine"
)

// queue is what waits for one worker. There is room for the result of every
// probe that can be under way, so that a prober never waits for a worker.
type queue struct {
	requests chan *request
	probes   chan *probeResult
}

// probeResult says whether somebody answers at an address that is held for a client.
type probeResult struct {
	client lease.Client
	state  *state
	addr   netip.Addr
	used   bool
}

// maxPacket is the largest DHCP message that is read: an Ethernet frame's worth and more.
const maxPacket = 4096

// read passes what comes in on a socket to the workers, until it is closed.
func (s *Server) read(k socketKey, c socket) {
	buf := make([]byte, maxPacket)
	for {
		n, source, local, err := c.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// The interface is down or gone; a new socket comes with it.
			s.cfg.Log.Debug("reading DHCP socket", "iface", k.iface, "err", err)
			if s.pause(time.Second) {
				return
			}
			continue
		}
		r, err := parse(buf[:n], arrival{iface: k.iface, source: source, local: local, bootServer: k.bootServer})
		if err != nil {
			s.metrics.count(dhcpv4.MessageTypeNone, malformed)
			s.cfg.Log.Debug("dropping packet", "iface", k.iface, "addr", source, "err", err)
			continue
		}
		select {
		case s.queueOf(r.client).requests <- r:
		default:
			s.metrics.count(r.kind, overload)
			s.cfg.Log.Debug("dropping packet: the queue is full", "iface", k.iface, "mac", r.mac)
		}
	}
}

// pause waits, and reports whether the server is stopping.
func (s *Server) pause(d time.Duration) (stopping bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return false
	case <-s.stopping:
		return true
	}
}

// queueOf returns the queue that all messages of a client go through.
func (s *Server) queueOf(c lease.Client) queue {
	return s.queues[maphash.String(s.seed, string(c))%uint64(len(s.queues))]
}

// work does what is in one queue.
func (s *Server) work(ctx context.Context, q queue) {
	// probed has the requests that wait for a probe: one a client, the newest.
	probed := map[lease.Client]*request{}
	for {
		var r *request
		select {
		case <-s.stopping:
			return
		case r = <-q.requests:
			s.sight(r, outcome{}, r.kind.String(), r.boot.String(), false)
			if old := probed[r.client]; old != nil && r.kind == dhcpv4.MessageTypeDiscover {
				s.metrics.count(old.kind, probing)
				r.attempts = old.attempts
				probed[r.client] = r
				continue
			}
		case p := <-q.probes:
			r = probed[p.client]
			delete(probed, p.client)
			if !s.afterProbe(ctx, p, r) {
				continue
			}
		}
		if s.handle(ctx, r) {
			probed[r.client] = r
		}
	}
}

// afterProbe records a probe's result. It reports whether the request that waits
// for it, if any, is to be decided again.
func (s *Server) afterProbe(ctx context.Context, p *probeResult, r *request) bool {
	now := s.cfg.Now()
	p.state.mu.Lock()
	var former lease.Lease
	if p.used {
		former, _ = p.state.pool.Quarantine(p.addr, now)
	} else {
		p.state.pool.Checked(p.addr, now)
	}
	p.state.mu.Unlock()
	if p.used {
		s.cfg.Log.Warn("passing over an address that somebody uses without a lease", "ip", p.addr)
	}
	if former.Address.IsValid() {
		s.drop(ctx, p.state, []lease.Lease{former})
	}
	if r == nil || !p.used {
		return r != nil
	}
	if r.attempts++; r.attempts >= maxConflicts {
		s.metrics.count(r.kind, addressTaken)
		return false
	}
	return true
}

// handle decides a request and does what was decided. It reports whether the
// request waits for a probe.
func (s *Server) handle(ctx context.Context, r *request) (waits bool) {
	out := s.policy.decide(s.table.Load(), r, s.cfg.Now())
	if out.probe.IsValid() {
		if s.startProbe(r, out) {
			return true
		}
		// Better an address that nobody asked for than none.
		out.network.mu.Lock()
		out.network.pool.Checked(out.probe, s.cfg.Now())
		out.network.mu.Unlock()
		if out = s.policy.decide(s.table.Load(), r, s.cfg.Now()); out.probe.IsValid() {
			s.metrics.count(r.kind, overload)
			return false
		}
	}
	s.finish(ctx, r, out)
	return false
}

// startProbe has the held address probed, if that is possible now.
func (s *Server) startProbe(r *request, out outcome) bool {
	if s.prober == nil {
		return false
	}
	probes := s.queueOf(r.client).probes
	result := &probeResult{client: r.client, state: out.network.state, addr: out.probe}
	return s.prober.probe(out.probe, func(used bool) {
		result.used = used
		s.metrics.probed(used)
		select {
		case probes <- result:
		case <-s.stopping:
		}
	})
}

// finish makes durable what has to be, and then answers.
func (s *Server) finish(ctx context.Context, r *request, out outcome) {
	if out.bind.Address.IsValid() {
		former, err := s.bind(ctx, out)
		if former.Address.IsValid() {
			out.drop = append(out.drop, former)
		}
		if err != nil {
			out.result, out.reply = storeFailed, nil
			s.cfg.Log.Error("storing lease: the client isn't answered", "mac", r.mac, "ip", out.bind.Address, "err", err)
		}
	}
	if out.reply != nil {
		if err := s.send(r, out); err != nil {
			out.result = sendFailed
			s.cfg.Log.Warn("sending reply", "mac", r.mac, "iface", out.to.iface, "addr", out.to.addr, "err", err)
		}
	}
	if len(out.drop) > 0 {
		s.drop(ctx, out.network.state, out.drop)
	}
	s.metrics.count(r.kind, out.result)
	s.report(r, out)
}

// bind makes a lease durable and then binds it. It returns the lease of another
// address that it takes the place of, if there is one.
func (s *Server) bind(ctx context.Context, out outcome) (former lease.Lease, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PutTimeout)
	defer cancel()
	unlock, err := s.lockKey(ctx, out.bind)
	if err != nil {
		return lease.Lease{}, err
	}
	defer unlock()
	start := s.cfg.Now()
	err = s.cfg.Leases.Put(ctx, out.bind)
	now := s.cfg.Now()
	s.metrics.stored(now.Sub(start), err)
	if err != nil {
		return lease.Lease{}, err
	}
	out.network.mu.Lock()
	former, _ = out.network.pool.Bind(out.bind, now)
	s.changed(out.bind, false)
	out.network.mu.Unlock()
	return former, nil
}

// lockKey waits for its turn to tell the store of a lease's address. Without it,
// deleting a lease that ended could take away the one that was made of the same
// address meanwhile.
func (s *Server) lockKey(ctx context.Context, l lease.Lease) (unlock func(), err error) {
	key := s.keys[maphash.Comparable(s.seed, l.Address)%uint64(len(s.keys))]
	select {
	case key <- struct{}{}:
		return func() { <-key }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for an earlier write of %v: %w", l.Address, ctx.Err())
	}
}

// drop deletes leases that ended, and tells of it.
func (s *Server) drop(ctx context.Context, st *state, leases []lease.Lease) {
	for _, l := range leases {
		s.delete(ctx, st, l)
		s.changed(l, true)
	}
}

// delete removes a lease from the store, unless its address has one again. One
// that stays there after a fault does no harm: it runs out.
func (s *Server) delete(ctx context.Context, st *state, l lease.Lease) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PutTimeout)
	defer cancel()
	unlock, err := s.lockKey(ctx, l)
	if err != nil {
		s.cfg.Log.Warn("deleting lease", "mac", l.MAC, "ip", l.Address, "err", err)
		return
	}
	defer unlock()
	if st != nil {
		st.mu.Lock()
		_, again := st.pool.ByAddress(l.Address)
		st.mu.Unlock()
		if again {
			return
		}
	}
	if err := s.cfg.Leases.Delete(ctx, l); err != nil {
		s.cfg.Log.Warn("deleting lease", "mac", l.MAC, "ip", l.Address, "err", err)
	}
}

// changed tells the owner of the server. It is called with the pool's lock held
// where that keeps what is told of an address in order.
func (s *Server) changed(l lease.Lease, released bool) {
	if s.cfg.LeaseChanged != nil {
		s.cfg.LeaseChanged(l, released)
	}
}

// send sends a reply through the socket that its request came in on.
func (s *Server) send(r *request, out outcome) error {
	c := s.socketOn(socketKey{r.iface, r.bootServer})
	if c == nil {
		return net.ErrClosed
	}
	to := out.to
	if to.addr.Port() == 0 {
		port := s.cfg.ClientPort
		if to.relay {
			port = s.cfg.ServerPort
		}
		to.addr = netip.AddrPortFrom(to.addr.Addr(), port)
	}
	return c.Send(out.reply.ToBytes(), to)
}

// report tells logs and observer of what became of a request.
func (s *Server) report(r *request, out outcome) {
	if out.warn != "" {
		s.cfg.Log.Warn("answering DHCP client", "mac", r.mac, "machine", out.machine.Name, "iface", r.iface, "err", out.warn)
	}
	if out.reply == nil {
		s.cfg.Log.Debug("not answering DHCP client", "mac", r.mac, "machine", out.machine.Name, "iface", r.iface,
			"action", r.kind.String(), "err", string(out.result)+reason(out.detail))
		s.sight(r, out, r.kind.String(), string(out.result)+reason(out.detail), out.result == storeFailed || out.result == exhausted)
		return
	}
	kind := out.reply.MessageType()
	ip := specified(out.reply.YourIPAddr)
	detail := out.file
	if out.detail != "" {
		detail = out.detail
	}
	s.cfg.Log.Info("answering DHCP client", "mac", r.mac, "machine", out.machine.Name, "iface", r.iface, "ip", ip,
		"action", kind.String(), "arch", r.boot.String(), "file", out.file)
	if out.file == "" && r.boot.Method != pxe.None && out.detail != "" {
		s.cfg.Log.Info("offering no boot file", "mac", r.mac, "machine", out.machine.Name, "arch", r.boot.String(), "err", out.detail)
	}
	s.sight(r, out, kind.String(), detail, out.result == sendFailed || kind == dhcpv4.MessageTypeNak)
}

func reason(detail string) string {
	if detail == "" {
		return ""
	}
	return ": " + detail
}

// sight tells the observer.
func (s *Server) sight(r *request, out outcome, event, detail string, failed bool) {
	if s.cfg.Observer == nil {
		return
	}
	seen := machine.Sighting{
		Time: s.cfg.Now(), Source: machine.SourceDHCP, Machine: out.machine.Name, MAC: r.mac,
		Address: r.ciaddr, Event: event, Detail: detail, Err: failed,
	}
	if out.reply != nil {
		if a := specified(out.reply.YourIPAddr); a.IsValid() {
			seen.Address = a
		}
	}
	s.cfg.Observer.Observe(seen)
}
