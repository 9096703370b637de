// Package network brings up the machine's network: every link at once, a DHCP
// lease on each that has a carrier (RFC 2131, RFC 3442 routes, option 26 MTU),
// kept by renewal for as long as the agent runs, or addresses that are given
// beforehand, on the link itself or on a VLAN.
//
// Every lease is kept; which one carries the default route and the name
// servers is decided by who reaches the Bedplate server: the first link whose
// probe succeeds wins and stays until its lease or its link is lost. The link
// that the firmware booted over gets a head start.
//
// Requests carry no client identifier: servers know the machine by its
// hardware address, as they did when the firmware asked. The user class
// (option 77) is bedplate-agent.
//
// It does no DHCPv6; router advertisements are answered by the kernel. The
// state machine (client.go) knows nothing of sockets and takes its clock; the
// kernel is behind the Kernel interface. Manager.Run owns every goroutine.
package network

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/bedplate/bedplate/machine"
)

// Link is one network interface that a cable can be put into.
type Link struct {
	Name    string
	Index   int
	MAC     machine.MAC
	Carrier bool
}

// Kernel is what Manager needs of the operating system.
type Kernel interface {
	// Links lists the Ethernet interfaces, virtual ones left out.
	Links() ([]Link, error)
	// Up brings a link up; on one that is up it does nothing.
	Up(link Link) error
	// VLAN returns the link for an 802.1Q VLAN on parent, and makes it if it isn't there.
	VLAN(parent Link, id int) (Link, error)
	// Configure gives the link this address, these routes and this MTU and
	// takes away what it was given before. A nil lease takes away everything.
	Configure(link Link, lease *Lease, metric int) error
}

// Config is what a Manager is made of.
type Config struct {
	Kernel Kernel
	// Conns opens sockets for DHCP.
	Conns Conns
	// Prefer is the interface that the firmware booted over; zero when unknown.
	Prefer machine.MAC
	// Static is used instead of DHCP if its address is valid.
	Static Lease
	// Interfaces are what is known of links beforehand. If any of them has an
	// address, links that are not among them are left alone; else they ask DHCP.
	Interfaces []Interface
	// Advice is added when DHCP doesn't answer.
	Advice string
	// Probe reports whether the server is reached over this interface, within
	// the time that ctx gives it.
	Probe func(ctx context.Context, iface string) error
	// Holder returns another host on the link that has an address already; nil:
	// nobody is asked before an address that was given beforehand is used.
	Holder func(ctx context.Context, link Link, addr netip.Addr) (machine.MAC, bool, error)
	// Resolver takes the name servers of the link in use.
	Resolver func(nameservers []netip.Addr, search []string) error
	// Say tells people at the console.
	Say func(format string, args ...any)
	Log *slog.Logger
	Now func() time.Time
	// Rand returns transaction ids and jitter.
	Rand func() uint32
}

// Interface is what is known of one link beforehand.
type Interface struct {
	MAC machine.MAC
	// Lease is its address and what comes with it; with an invalid address it asks DHCP.
	Lease Lease
	// VLAN is the 802.1Q VLAN that it is used on; 0: none.
	VLAN int
}

// Manager keeps the network up. Make it with New.
type Manager struct {
	cfg   Config
	ready chan struct{} // closed when the server was first reached

	mu     sync.Mutex
	links  map[string]*linkState
	winner string
}

type linkState struct {
	link Link
	// on is the link that is configured: link itself, or a VLAN on it.
	on     Link
	cancel context.CancelFunc
	lease  *Lease
}

// New returns a Manager; nothing happens before Run.
func New(cfg Config) (*Manager, error) {
	if cfg.Kernel == nil || cfg.Probe == nil || cfg.Now == nil || cfg.Rand == nil || cfg.Log == nil || cfg.Say == nil || cfg.Resolver == nil {
		return nil, fmt.Errorf("making the network manager: a field of its configuration is missing")
	}
	if cfg.Conns == nil && !cfg.Static.Address.IsValid() {
		return nil, fmt.Errorf("making the network manager: neither DHCP nor a static address")
	}
	return &Manager{cfg: cfg, ready: make(chan struct{}), links: map[string]*linkState{}}, nil
}

// Ready is closed once the server has been reached over some link.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Address returns the address of the link in use; invalid when there is none.
func (m *Manager) Address() netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.links[m.winner]; s != nil && s.lease != nil {
		return s.lease.Address.Addr()
	}
	for _, name := range slices.Sorted(maps.Keys(m.links)) {
		if l := m.links[name].lease; l != nil {
			return l.Address.Addr()
		}
	}
	return netip.Addr{}
}

// scanInterval is how often new and lost links are looked for. Reading a few
// files of sysfs a second is nothing; a missed netlink message would be a
// machine that never comes up.
const scanInterval = 200 * time.Millisecond

// Run keeps the network up until ctx is done. Its error is ctx's.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tick := time.NewTicker(scanInterval)
	defer tick.Stop()
	started, warned := m.cfg.Now(), false
	strangers := sync.OnceFunc(func() { m.sayStrangers() })
	for {
		links, err := m.cfg.Kernel.Links()
		if err != nil {
			m.cfg.Log.Error("listing network interfaces", "err", err)
		} else {
			m.follow(ctx, &wg, links)
		}
		if len(links) == 0 && !warned && m.cfg.Now().Sub(started) > 5*time.Second {
			warned = true
			m.cfg.Say("no network interface found: is its driver in the agent's system? (bedplate.modules=NAME loads one by name)")
		}
		if len(links) > 0 && m.cfg.Now().Sub(started) > strangerWait {
			strangers()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// follow starts a goroutine for each new link and ends those of lost ones.
func (m *Manager) follow(ctx context.Context, wg *sync.WaitGroup, links []Link) {
	present := map[string]bool{}
	for _, l := range links {
		present[l.Name] = true
		m.mu.Lock()
		s, known := m.links[l.Name]
		if known && s.link.Index == l.Index {
			s.link.Carrier = l.Carrier
			m.mu.Unlock()
			continue
		}
		if known {
			s.cancel() // the same name for another device
		}
		lctx, cancel := context.WithCancel(ctx)
		m.links[l.Name] = &linkState{link: l, on: l, cancel: cancel}
		m.mu.Unlock()
		wg.Go(func() { m.runLink(lctx, l) })
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, s := range m.links {
		if !present[name] {
			s.cancel()
			delete(m.links, name)
			if m.winner == name {
				m.winner = ""
			}
			m.cfg.Log.Info("network interface gone", "iface", name)
		}
	}
}

// runLink takes one link from down to a kept lease, for ever.
func (m *Manager) runLink(ctx context.Context, link Link) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := m.cfg.Kernel.Up(link); err != nil {
		m.cfg.Say("%s (%s): %v", link.Name, link.MAC, err)
	}
	known, use := m.known(link)
	if !use {
		return
	}
	on, ok := m.device(ctx, link, known.VLAN)
	if !ok {
		return
	}
	wg.Go(func() { m.probeLink(ctx, link, on) })
	if !known.Lease.Address.IsValid() {
		c := &client{link: on, cfg: m.cfg, carrier: func() bool { return m.carrier(link.Name) }, changed: func(l *Lease) { m.leased(link, l) }}
		c.run(ctx)
		return
	}
	if waitCarrier(ctx, func() bool { return m.carrier(link.Name) }) {
		static := known.Lease
		m.cfg.Say("%s (%s): address %s, given beforehand", on.Name, link.MAC, static.Address)
		m.leased(link, &static)
		m.sayTaken(ctx, on, static.Address.Addr())
		<-ctx.Done()
	}
}

func (m *Manager) carrier(name string) bool {
	links, err := m.cfg.Kernel.Links()
	if err != nil {
		return false
	}
	for _, l := range links {
		if l.Name == name {
			return l.Carrier
		}
	}
	return false
}

// leased records a new, changed or lost lease and gives it to the kernel.
func (m *Manager) leased(link Link, lease *Lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.links[link.Name]
	if s == nil || s.link.Index != link.Index {
		return
	}
	s.lease = lease
	if lease == nil && m.winner == link.Name {
		m.winner = ""
	}
	m.configureLocked(s)
}

// Route metrics: the link that reaches the server, the one that the firmware
// booted over, and the rest in order of their index.
const (
	metricWinner = 100
	metricBoot   = 200
	metricOther  = 300
)

func (m *Manager) configureLocked(s *linkState) {
	metric := metricOther + s.link.Index
	switch {
	case m.winner == s.link.Name:
		metric = metricWinner
	case s.link.MAC == m.cfg.Prefer && !m.cfg.Prefer.IsZero():
		metric = metricBoot
	}
	if err := m.cfg.Kernel.Configure(s.on, s.lease, metric); err != nil {
		m.cfg.Log.Error("configuring network interface", "iface", s.on.Name, "err", err)
		m.cfg.Say("%s: %v", s.on.Name, err)
	}
	if s.lease == nil || (m.winner != "" && m.winner != s.link.Name) {
		return
	}
	if err := m.cfg.Resolver(s.lease.Nameservers, s.lease.Search); err != nil {
		m.cfg.Log.Error("writing name servers", "err", err)
	}
}

// Times of probing: how often while the server isn't reached, how long one
// probe may take, and the head start of the link that the firmware booted over.
const (
	probeInterval  = 2 * time.Second
	probeTimeout   = 5 * time.Second
	probeHeadStart = time.Second
	probePoll      = 50 * time.Millisecond
)

// probeLink finds out whether the server is reached over the link's device on,
// until some link has won; and again whenever the winner is lost.
func (m *Manager) probeLink(ctx context.Context, link, on Link) {
	var since, next time.Time
	for sleep(ctx, probePoll) {
		lease, winner := m.state(link)
		now := m.cfg.Now()
		switch {
		case lease == nil:
			since = time.Time{}
			continue
		case since.IsZero():
			since, next = now, now
			if link.MAC != m.cfg.Prefer && !m.cfg.Prefer.IsZero() {
				next = now.Add(probeHeadStart)
			}
		}
		if winner != "" || now.Before(next) {
			continue
		}
		pctx, cancel := context.WithTimeout(ctx, probeTimeout)
		err := m.cfg.Probe(pctx, on.Name)
		cancel()
		if err == nil {
			m.won(link)
			continue
		}
		if ctx.Err() == nil {
			m.cfg.Say("%s: the server does not answer yet: %v", on.Name, err)
		}
		next = m.cfg.Now().Add(probeInterval + m.cfg.Now().Sub(since)/4)
	}
}

func (m *Manager) state(link Link) (*Lease, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.links[link.Name]
	if s == nil || s.link.Index != link.Index {
		return nil, m.winner
	}
	return s.lease, m.winner
}

func (m *Manager) won(link Link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.links[link.Name]
	if m.winner != "" || s == nil || s.lease == nil {
		return
	}
	m.winner = link.Name
	m.configureLocked(s)
	select {
	case <-m.ready:
	default:
		close(m.ready)
	}
}

// sleep waits and reports whether ctx is still good.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// waitCarrier waits until the link has a carrier and reports whether ctx is
// still good.
func waitCarrier(ctx context.Context, carrier func() bool) bool {
	for !carrier() {
		if !sleep(ctx, carrierPoll) {
			return false
		}
	}
	return ctx.Err() == nil
}
