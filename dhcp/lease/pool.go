package lease

import (
	"container/heap"
	"net/netip"
	"slices"
	"time"
)

// Config is what a Pool gives out. Zero durations mean the defaults.
type Config struct {
	// Prefix is the subnet. Its first and last address are never given out.
	Prefix netip.Prefix
	// Ranges are the dynamic ranges; what lies outside Prefix is ignored.
	Ranges []Range
	// Hold is how long an offer waits for its request; 30 s. Firmware asks
	// again after 4, 8, 16 and 32 s (PXE 2.1 §2.2.2).
	Hold time.Duration
	// Quarantine is how long an address that a stranger uses isn't given out; 10 min.
	Quarantine time.Duration
	// Recheck is how long a probe's answer counts; 1 min.
	Recheck time.Duration
}

func (c Config) withDefaults() Config {
	if c.Hold <= 0 {
		c.Hold = 30 * time.Second
	}
	if c.Quarantine <= 0 {
		c.Quarantine = 10 * time.Minute
	}
	if c.Recheck <= 0 {
		c.Recheck = time.Minute
	}
	return c
}

// skipFor is how long an address that wasn't usable is passed over.
const skipFor = 10 * time.Minute

// Pool is the addresses of one network and who has them. Use New. It isn't
// safe for concurrent use.
type Pool struct {
	cfg    Config
	byAddr map[netip.Addr]*entry
	// bound and held say which entries a client owns. A client that is being
	// moved from one address to another owns one of each.
	bound, held map[Client]*entry
	// idle has every entry, the one that has been free the longest first.
	idle queue
	// cursor is the next address that was never used.
	cursorRange int
	cursor      netip.Addr
	// lost has leases that ran out and were displaced before Sweep saw them.
	lost []Lease
}

// entry is one address that is or was used.
type entry struct {
	addr   netip.Addr
	client Client // who owns it, or would get it back
	lease  Lease  // valid Address: durable
	// until is when it stops being the client's (or nobody's, in quarantine).
	until time.Time
	// next orders idle; not before until.
	next        time.Time
	checked     time.Time // when a probe last found nobody there
	quarantined bool
	swept       bool // Sweep has told of the lease's end
	index       int
}

// New returns an empty pool.
func New(cfg Config) *Pool {
	p := &Pool{
		byAddr: map[netip.Addr]*entry{},
		bound:  map[Client]*entry{},
		held:   map[Client]*entry{},
	}
	p.Configure(cfg)
	return p
}

// Configure changes what the pool gives out. Leases stay; one outside the new
// ranges isn't offered again.
func (p *Pool) Configure(cfg Config) {
	same := p.cfg.Prefix == cfg.Prefix && slices.Equal(p.cfg.Ranges, cfg.Ranges)
	p.cfg = cfg.withDefaults()
	if same {
		return // the cursor has passed what was used
	}
	p.cursorRange, p.cursor = 0, netip.Addr{}
}

// Offer chooses an address for client and holds it: the one it has or had, else
// want if that is free, else one that was never used, else the one that has
// been free the longest. usable says which addresses this client may have (not
// the gateway's, not one reserved for another). probe is set when somebody
// ought to make sure that the address is unused (RFC 2131 §2.2) and report with
// Checked or Quarantine. The error is ErrExhausted.
func (p *Pool) Offer(client Client, want netip.Addr, usable func(netip.Addr) bool, now time.Time) (addr netip.Addr, probe bool, err error) {
	ok := func(a netip.Addr) bool { return p.InRange(a) && usable(a) }
	e := p.own(client, now, ok)
	if e == nil && want.IsValid() && ok(want) && p.free(want, now) {
		e = p.entry(want)
	}
	if e == nil {
		e = p.unused(now, usable)
	}
	if e == nil {
		e = p.longestFree(now, ok)
	}
	if e == nil {
		return netip.Addr{}, false, ErrExhausted
	}
	inForce := e.client == client && e.lease.Address.IsValid() && !e.lease.Expired(now)
	probe = !inForce && now.Sub(e.checked) >= p.cfg.Recheck
	p.take(e, client, now.Add(p.cfg.Hold), now)
	return e.addr, probe, nil
}

// OfferReserved holds addr for the client that it is reserved for. The error
// is ErrTaken while another client has it in force or it is quarantined.
func (p *Pool) OfferReserved(client Client, addr netip.Addr, now time.Time) error {
	e := p.byAddr[addr]
	if e == nil {
		e = p.entry(addr)
	} else if e.client != client && now.Before(e.until) {
		return ErrTaken
	}
	p.take(e, client, now.Add(p.cfg.Hold), now)
	return nil
}

// Hold keeps addr for client until a time, if nobody else has it. It is to be
// called before a lease is made durable, and reports whether it may be.
func (p *Pool) Hold(client Client, addr netip.Addr, until, now time.Time) bool {
	e := p.byAddr[addr]
	if e != nil && e.client != client && now.Before(e.until) {
		return false
	}
	p.take(p.entry(addr), client, until, now)
	return true
}

// Bind records a durable lease. It returns the client's former lease when that
// was for another address, which is free from now on.
func (p *Pool) Bind(l Lease, now time.Time) (former Lease, moved bool) {
	e := p.entry(l.Address)
	if old := p.bound[l.Client]; old != nil && old != e {
		former, moved = old.lease, true
		p.abandon(old, now)
	}
	p.take(e, l.Client, l.Expires, now)
	e.lease, e.swept = l, false
	p.bound[l.Client] = e
	delete(p.held, l.Client)
	p.setUntil(e, l.Expires)
	return former, moved
}

// ByClient returns the client's lease, expired or not.
func (p *Pool) ByClient(client Client) (Lease, bool) {
	if e := p.bound[client]; e != nil {
		return e.lease, true
	}
	return Lease{}, false
}

// ByAddress returns the lease of addr, expired or not.
func (p *Pool) ByAddress(addr netip.Addr) (Lease, bool) {
	if e := p.byAddr[addr]; e != nil && e.lease.Address.IsValid() {
		return e.lease, true
	}
	return Lease{}, false
}

// Held returns the address that is held for the client, or that it had and
// would get back.
func (p *Pool) Held(client Client) (netip.Addr, bool) {
	if e := p.held[client]; e != nil {
		return e.addr, true
	}
	return netip.Addr{}, false
}

// Available reports whether client could have addr at now, as far as other
// clients and quarantine go.
func (p *Pool) Available(client Client, addr netip.Addr, now time.Time) bool {
	e := p.byAddr[addr]
	return e == nil || e.client == client || !now.Before(e.until)
}

// Cancel ends a hold: the client has chosen another server.
func (p *Pool) Cancel(client Client, now time.Time) {
	if e := p.held[client]; e != nil {
		p.setUntil(e, now)
	}
}

// Release ends the client's lease of addr. The address is free, and the client
// gets it back if nobody else does first.
func (p *Pool) Release(client Client, addr netip.Addr, now time.Time) (Lease, bool) {
	e := p.bound[client]
	if e == nil || e.addr != addr {
		return Lease{}, false
	}
	l := e.lease
	e.lease = Lease{}
	delete(p.bound, client)
	p.held[client] = e
	p.setUntil(e, now)
	return l, true
}

// Decline quarantines an address that client owns and found in use. bound has
// the lease, if there was one; ok is false when the address isn't the client's.
func (p *Pool) Decline(client Client, addr netip.Addr, now time.Time) (bound Lease, ok bool) {
	e := p.byAddr[addr]
	if e == nil || e.client != client {
		return Lease{}, false
	}
	return p.quarantine(e, now), true
}

// Quarantine records that a stranger uses addr. It returns the lease that
// somebody had of it, if any.
func (p *Pool) Quarantine(addr netip.Addr, now time.Time) (Lease, bool) {
	l := p.quarantine(p.entry(addr), now)
	return l, l.Address.IsValid()
}

func (p *Pool) quarantine(e *entry, now time.Time) Lease {
	l := e.lease
	e.swept = true // the caller gets it
	p.disown(e)
	e.quarantined = true
	p.setUntil(e, now.Add(p.cfg.Quarantine))
	return l
}

// Checked records that a probe of addr found nobody.
func (p *Pool) Checked(addr netip.Addr, now time.Time) {
	if e := p.byAddr[addr]; e != nil {
		e.checked = now
	}
}

// InRange reports whether addr is in a dynamic range.
func (p *Pool) InRange(addr netip.Addr) bool {
	if !p.cfg.Prefix.Contains(addr) {
		return false
	}
	if p.cfg.Prefix.Bits() < 31 {
		host := number(addr) & (1<<(32-p.cfg.Prefix.Bits()) - 1)
		if host == 0 || host == 1<<(32-p.cfg.Prefix.Bits())-1 {
			return false
		}
	}
	for _, r := range p.cfg.Ranges {
		if r.contains(addr) {
			return true
		}
	}
	return false
}

// own returns the entry that the client has or had, if it may have it again.
func (p *Pool) own(client Client, now time.Time, ok func(netip.Addr) bool) *entry {
	for _, e := range [...]*entry{p.bound[client], p.held[client]} {
		if e != nil && ok(e.addr) {
			return e
		}
	}
	return nil
}

func (p *Pool) free(addr netip.Addr, now time.Time) bool {
	e := p.byAddr[addr]
	return e == nil || !now.Before(e.until)
}

// unused takes the next address that has no entry yet.
func (p *Pool) unused(now time.Time, usable func(netip.Addr) bool) *entry {
	for p.cursorRange < len(p.cfg.Ranges) {
		r := p.cfg.Ranges[p.cursorRange]
		switch {
		case !p.cursor.IsValid():
			p.cursor = r.Start
		case p.cursor.Less(r.End):
			p.cursor = p.cursor.Next()
		default:
			p.cursorRange, p.cursor = p.cursorRange+1, netip.Addr{}
			continue
		}
		if !p.cursor.IsValid() || !r.contains(p.cursor) || !p.cfg.Prefix.Contains(p.cursor) {
			p.cursorRange, p.cursor = p.cursorRange+1, netip.Addr{}
			continue
		}
		if p.byAddr[p.cursor] != nil || !p.InRange(p.cursor) {
			continue
		}
		e := p.entry(p.cursor)
		if usable(e.addr) {
			return e
		}
		p.skip(e, now)
	}
	return nil
}

// longestFree takes the address that has been free the longest.
func (p *Pool) longestFree(now time.Time, ok func(netip.Addr) bool) *entry {
	for len(p.idle) > 0 && !now.Before(p.idle[0].next) {
		e := p.idle[0]
		if ok(e.addr) {
			return e
		}
		p.skip(e, now)
	}
	return nil
}

// skip puts a free entry that isn't usable at the back of the queue for a while.
func (p *Pool) skip(e *entry, now time.Time) {
	e.next = now.Add(skipFor)
	heap.Fix(&p.idle, e.index)
}

// entry returns the entry of addr, made if need be.
func (p *Pool) entry(addr netip.Addr) *entry {
	e := p.byAddr[addr]
	if e == nil {
		e = &entry{addr: addr}
		p.byAddr[addr] = e
		heap.Push(&p.idle, e)
	}
	return e
}

// take gives e to client until at least a time. A former owner loses it.
func (p *Pool) take(e *entry, client Client, until, now time.Time) {
	if e.client != client {
		p.disown(e)
		e.client = client
	}
	if p.bound[client] != e {
		if old := p.held[client]; old != nil && old != e {
			p.abandon(old, now)
		}
		p.held[client] = e
	}
	if until.After(e.until) {
		p.setUntil(e, until)
	}
}

// disown takes e from its owner, without making it free.
func (p *Pool) disown(e *entry) {
	if e.lease.Address.IsValid() && !e.swept {
		p.lost = append(p.lost, e.lease)
	}
	if p.bound[e.client] == e {
		delete(p.bound, e.client)
	}
	if p.held[e.client] == e {
		delete(p.held, e.client)
	}
	e.client, e.lease, e.swept, e.quarantined = "", Lease{}, false, false
}

// abandon makes an entry free that its owner has left for another.
func (p *Pool) abandon(e *entry, now time.Time) {
	e.swept = true // Bind returns it
	p.disown(e)
	p.setUntil(e, now)
}

func (p *Pool) setUntil(e *entry, t time.Time) {
	e.until, e.next = t, t
	heap.Fix(&p.idle, e.index)
}
