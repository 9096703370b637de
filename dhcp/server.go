package dhcp

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bedplate/bedplate/dhcp/lease"
)

// Server is the DHCPv4 service. Use New, then Listen, then Run. SetNetworks,
// Leases and Networks may be called at any time, by any goroutine.
type Server struct {
	cfg     Config
	policy  *policy
	metrics *metrics
	sys     system
	prober  prober
	seed    maphash.Seed
	queues  []queue
	// keys order what the store is told of one address: see Server.lockKey.
	keys  [512]chan struct{}
	table atomic.Pointer[table]

	// stopping is closed when Run ends; whatever waits to hand on work stops waiting.
	stopping chan struct{}
	// tidy asks for the leases in refused to be deleted.
	tidy chan struct{}

	mu       sync.Mutex
	networks []Network                // as last set, valid and normal
	states   map[string]*state        // by network name; kept when a network goes
	waiting  map[string][]lease.Lease // loaded, for networks that aren't there
	refused  []lease.Lease            // to be deleted from the store
	sockets  map[socketKey]socket
	failed   map[string]string // interfaces that couldn't be opened, and why
	lookErr  string            // what look last warned of
	links    []link
	loaded   bool // leases were loaded
	listens  bool // Listen was called: sockets follow the networks
	reading  bool // Run is on: new sockets get a reader
	closed   bool
	readers  sync.WaitGroup
}

// socketKey names a socket.
type socketKey struct {
	iface      string
	bootServer bool
}

// New returns a server that has no networks yet. It opens nothing.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s := &Server{
		cfg: cfg,
		policy: &policy{
			machines: cfg.Machines, files: cfg.BootFiles, httpBase: cfg.HTTPBase,
			commit: cfg.PutTimeout + commitSlack,
		},
		sys:      osSystem{now: cfg.Now},
		seed:     maphash.MakeSeed(),
		queues:   make([]queue, cfg.Workers),
		stopping: make(chan struct{}),
		tidy:     make(chan struct{}, 1),
		states:   map[string]*state{},
		waiting:  map[string][]lease.Lease{},
		sockets:  map[socketKey]socket{},
		failed:   map[string]string{},
	}
	for i := range s.queues {
		s.queues[i] = queue{requests: make(chan *request, queueLength), probes: make(chan *probeResult, maxProbes)}
	}
	for i := range s.keys {
		s.keys[i] = make(chan struct{}, 1)
	}
	s.table.Store(newTable(nil, nil, nil))
	var err error
	s.metrics, err = newMetrics(cfg.Metrics, s.Networks)
	return s, err
}

const (
	// queueLength bounds what waits for one worker: 64 workers with it hold
	// some 4,000 messages, a rack's worth of power-ons several times over.
	queueLength = 64
	// commitSlack is added to PutTimeout: the address must stay the client's
	// until the lease is bound.
	commitSlack = 5 * time.Second
	// lookEvery is how often interfaces are looked at for changes.
	lookEvery = 5 * time.Second
	// sweepEvery is how often leases are looked at for their end.
	sweepEvery = 10 * time.Second
	// keepExpired is how long an expired lease is remembered, for a machine
	// that comes back to have its address again.
	keepExpired = 30 * 24 * time.Hour
)

// SetNetworks replaces the networks. While the server listens, it opens and
// closes sockets to match. What is wrong with a network or its sockets is
// returned, and the others are served: the error is for the log, not a reason to stop.
func (s *Server) SetNetworks(networks []Network) error {
	var errs []error
	names := map[string]bool{}
	var valid []Network
	for _, n := range networks {
		err := n.Validate()
		if err == nil && names[n.Name] {
			err = fmt.Errorf("network %q is there twice", n.Name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		names[n.Name] = true
		valid = append(valid, n.normal())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.networks = valid
	errs = append(errs, s.refreshLocked())
	return errors.Join(errs...)
}

// Listen opens the sockets for the networks that were set. Its error says who
// has a port that is taken. Nothing is answered before Run.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listens = true
	if err := s.refreshLocked(); err != nil {
		s.listens = false
		s.closeLocked()
		return err
	}
	return nil
}

// Run serves until ctx is done, and returns after everything that it started
// has stopped. It fails if leases can't be loaded. It can be called once.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	if err := s.load(ctx); err != nil {
		return err
	}
	if s.prober == nil {
		p, err := newEchoProber(s.cfg.Now, s.cfg.ProbeTimeout)
		if err != nil {
			s.cfg.Log.Warn("opening ICMP socket: pool addresses are offered without a probe; run as root or with CAP_NET_RAW", "err", err)
		} else {
			s.prober = p
		}
	}
	var background sync.WaitGroup
	if s.prober != nil {
		background.Go(func() { s.prober.run(s.stopping) })
	}
	for _, q := range s.queues {
		background.Go(func() { s.work(ctx, q) })
	}
	background.Go(func() { s.maintain(ctx) })

	s.mu.Lock()
	s.reading = true
	for k, c := range s.sockets {
		s.startReaderLocked(k, c)
	}
	s.mu.Unlock()

	<-ctx.Done()
	s.close()
	close(s.stopping)
	s.readers.Wait()
	background.Wait()
	return nil
}

// load reads the leases of all networks, once.
func (s *Server) load(ctx context.Context) error {
	leases, err := s.cfg.Leases.Load(ctx)
	if err != nil {
		return fmt.Errorf("loading DHCP leases: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range leases {
		s.waiting[l.Network] = append(s.waiting[l.Network], l)
	}
	s.loaded = true
	for _, n := range s.networks {
		s.restoreLocked(n.Name)
	}
	return nil
}

// restoreLocked puts the leases that wait for a network into its pool, and tells of them.
func (s *Server) restoreLocked(name string) {
	st, leases := s.states[name], s.waiting[name]
	if st == nil || len(leases) == 0 || !s.loaded {
		return
	}
	delete(s.waiting, name)
	now := s.cfg.Now()
	st.mu.Lock()
	s.refuseLocked(st.pool.Restore(leases))
	for _, l := range st.pool.Leases() {
		if !l.Expired(now) {
			s.changed(l, false)
		}
	}
	st.mu.Unlock()
}

// refuseLocked has leases deleted that no network has a place for.
func (s *Server) refuseLocked(leases []lease.Lease) {
	if len(leases) == 0 {
		return
	}
	s.refused = append(s.refused, leases...)
	select {
	case s.tidy <- struct{}{}:
	default:
	}
}

// refreshLocked makes table and sockets match the networks and the host's interfaces.
func (s *Server) refreshLocked() error {
	if s.closed {
		return nil
	}
	links, err := s.sys.links()
	if err != nil {
		return fmt.Errorf("listing network interfaces: %w", err)
	}
	s.links = links
	ready := make([]*network, 0, len(s.networks))
	for _, n := range s.networks {
		ready = append(ready, &network{Network: n, state: s.stateLocked(n), options: networkOptions(n)})
		s.restoreLocked(n.Name)
	}
	t := newTable(ready, links, s.cfg.Interfaces)
	s.table.Store(t)
	if !s.listens {
		return nil
	}
	return s.openLocked(t)
}

// stateLocked returns the pool of a network, reconfigured; a network whose
// subnet has changed gets a new one with the leases that still fit.
func (s *Server) stateLocked(n Network) *state {
	cfg := lease.Config{Prefix: n.CIDR, Ranges: n.Pools}
	st := s.states[n.Name]
	if st != nil {
		st.mu.Lock()
		defer st.mu.Unlock()
		if st.prefix == n.CIDR {
			st.pool.Configure(cfg)
			return st
		}
		s.waiting[n.Name] = append(s.waiting[n.Name], st.pool.Leases()...)
	}
	st = &state{pool: lease.New(cfg), prefix: n.CIDR}
	s.states[n.Name] = st
	return st
}

// openLocked opens the sockets that t wants and closes those that it doesn't.
func (s *Server) openLocked(t *table) error {
	for k, c := range s.sockets {
		if _, wanted := t.wanted[k.iface]; !wanted || c.index() != t.links[k.iface].index {
			s.closeSocketLocked(k, c)
		}
	}
	var errs []error
	for name, needed := range t.wanted {
		err := s.openInterfaceLocked(t, name)
		if err == nil {
			delete(s.failed, name)
			continue
		}
		if needed {
			errs = append(errs, err)
		} else if s.failed[name] != err.Error() {
			s.cfg.Log.Warn("opening DHCP sockets: relay agents aren't answered here", "iface", name, "err", err)
		}
		s.failed[name] = err.Error()
	}
	return errors.Join(errs...)
}

func (s *Server) openInterfaceLocked(t *table, name string) error {
	l, ok := t.links[name]
	if !ok {
		return fmt.Errorf("interface %q doesn't exist: name one that `ip link` shows", name)
	}
	for _, boot := range [...]bool{false, true} {
		k := socketKey{name, boot}
		if s.sockets[k] != nil {
			continue
		}
		port := s.cfg.ServerPort
		if boot {
			port = s.cfg.BootServerPort
		}
		c, err := s.sys.open(l, port)
		if err != nil {
			return err
		}
		s.sockets[k] = c
		if s.reading {
			s.startReaderLocked(k, c)
		}
	}
	return nil
}

func (s *Server) startReaderLocked(k socketKey, c socket) {
	s.readers.Go(func() { s.read(k, c) })
}

func (s *Server) closeSocketLocked(k socketKey, c socket) {
	delete(s.sockets, k)
	if err := c.Close(); err != nil {
		s.cfg.Log.Warn("closing DHCP socket", "iface", k.iface, "err", err)
	}
}

// close closes all sockets for good.
func (s *Server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.closeLocked()
}

func (s *Server) closeLocked() {
	for k, c := range s.sockets {
		s.closeSocketLocked(k, c)
	}
}

// socketOn returns the open socket for port 67 or 4011 on an interface.
func (s *Server) socketOn(k socketKey) socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sockets[k]
}

// Leases returns all leases of all networks, expired ones too.
func (s *Server) Leases() []lease.Lease {
	var all []lease.Lease
	for _, n := range s.table.Load().networks {
		n.mu.Lock()
		all = append(all, n.pool.Leases()...)
		n.mu.Unlock()
	}
	return all
}

// NetworkStatus is what is in use of a network.
type NetworkStatus struct {
	Name string
	// Leases is the number of leases in force, reservations included.
	Leases int
	// PoolSize is the number of addresses in the dynamic ranges.
	PoolSize uint64
}

// Networks returns the status of each network, in the order of their names.
func (s *Server) Networks() []NetworkStatus {
	now := s.cfg.Now()
	var all []NetworkStatus
	for _, n := range s.table.Load().networks {
		n.mu.Lock()
		all = append(all, NetworkStatus{Name: n.Name, Leases: n.pool.Active(now), PoolSize: n.pool.Size()})
		n.mu.Unlock()
	}
	return all
}
