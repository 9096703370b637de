package dhcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/machine"
)

// fakeSystem is a host without a network.
type fakeSystem struct {
	mu      sync.Mutex
	ifaces  []link
	sockets map[string]*fakeSocket // by iface:port
	taken   map[string]error       // by iface:port
}

func newFakeSystem() *fakeSystem {
	return &fakeSystem{ifaces: labLinks, sockets: map[string]*fakeSocket{}, taken: map[string]error{}}
}

func (f *fakeSystem) links() ([]link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ifaces), nil
}

func (f *fakeSystem) open(l link, port uint16) (socket, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := fmt.Sprintf("%s:%d", l.name, port)
	if err := f.taken[name]; err != nil {
		return nil, err
	}
	s := &fakeSocket{link: l, in: make(chan fakePacket, 100), out: make(chan fakeReply, 100), closed: make(chan struct{})}
	f.sockets[name] = s
	return s, nil
}

// open returns the names of the sockets that are open, in order.
func (f *fakeSystem) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	open := maps.Clone(f.sockets)
	maps.DeleteFunc(open, func(_ string, s *fakeSocket) bool {
		select {
		case <-s.closed:
			return true
		default:
			return false
		}
	})
	return slices.Sorted(maps.Keys(open))
}

func (f *fakeSystem) socket(name string) *fakeSocket {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sockets[name]
}

type fakePacket struct {
	b      []byte
	source netip.AddrPort
	local  netip.Addr
}

type fakeReply struct {
	packet *dhcpv4.DHCPv4
	to     destination
}

type fakeSocket struct {
	link   link
	in     chan fakePacket
	out    chan fakeReply
	once   sync.Once
	closed chan struct{}
}

func (s *fakeSocket) Read(b []byte) (int, netip.AddrPort, netip.Addr, error) {
	select {
	case p := <-s.in:
		return copy(b, p.b), p.source, p.local, nil
	case <-s.closed:
		return 0, netip.AddrPort{}, netip.Addr{}, net.ErrClosed
	}
}

func (s *fakeSocket) Send(b []byte, to destination) error {
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		return err
	}
	s.out <- fakeReply{p, to}
	return nil
}

func (s *fakeSocket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *fakeSocket) index() int { return s.link.index }

// broadcast sends a message as a client on the link does.
func (s *fakeSocket) broadcast(m message) {
	s.in <- fakePacket{b: m.bytes(), source: netip.MustParseAddrPort("0.0.0.0:68")}
}

// reply returns the next reply, if it comes within a time.
func (s *fakeSocket) reply(within time.Duration) (fakeReply, bool) {
	select {
	case r := <-s.out:
		return r, true
	case <-time.After(within):
		return fakeReply{}, false
	}
}

// fakeStore is a store with faults and delays.
type fakeStore struct {
	mu     sync.Mutex
	leases map[netip.Addr]lease.Lease
	delay  map[machine.MAC]time.Duration
	fault  error
	puts   int
}

func newFakeStore() *fakeStore {
	return &fakeStore{leases: map[netip.Addr]lease.Lease{}, delay: map[machine.MAC]time.Duration{}}
}

func (f *fakeStore) Load(context.Context) ([]lease.Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.leases)), nil
}

func (f *fakeStore) wait(ctx context.Context, mac machine.MAC) error {
	f.mu.Lock()
	d, fault := f.delay[mac], f.fault
	f.mu.Unlock()
	select {
	case <-time.After(d):
		return fault
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fakeStore) Put(ctx context.Context, l lease.Lease) error {
	if err := f.wait(ctx, l.MAC); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leases[l.Address] = l
	f.puts++
	return nil
}

func (f *fakeStore) Delete(ctx context.Context, l lease.Lease) error {
	if err := f.wait(ctx, l.MAC); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.leases, l.Address)
	return nil
}

func (f *fakeStore) at(a string) lease.Lease {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leases[ip(a)]
}

// fakeProber answers after a time, for the addresses that are in use at once.
type fakeProber struct {
	timeout time.Duration
	used    map[netip.Addr]bool
	refuses bool // it is asked too much
	mu      sync.Mutex
	asked   []netip.Addr
	running sync.WaitGroup
}

func (f *fakeProber) probe(a netip.Addr, done func(bool)) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuses {
		return false
	}
	f.asked = append(f.asked, a)
	wait, used := f.timeout, f.used[a]
	if used {
		wait = time.Millisecond
	}
	f.running.Go(func() {
		time.Sleep(wait) // virtual: the test runs in a synctest bubble
		done(used)
	})
	return true
}

func (f *fakeProber) run(stop <-chan struct{}) {
	<-stop
	f.running.Wait()
}

// fleet is a running server with everything around it fake.
type fleet struct {
	*Server
	t       *testing.T
	sys     *fakeSystem
	store   *fakeStore
	reg     *prometheus.Registry
	mu      sync.Mutex
	changes []string
	seen    []machine.Sighting
	cancel  context.CancelFunc
	done    chan error
}

func (f *fleet) Observe(s machine.Sighting) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, s)
}

func (f *fleet) leaseChanged(l lease.Lease, released bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what := "has"
	if released {
		what = "had"
	}
	f.changes = append(f.changes, fmt.Sprintf("%v %s %v", l.MAC, what, l.Address))
}

func (f *fleet) changed() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.changes)
}

// newFleet starts a server inside a synctest bubble. Its clock is the bubble's.
func newFleet(t *testing.T, store *fakeStore, change func(*Config, *Server), networks ...Network) *fleet {
	t.Helper()
	f := &fleet{t: t, sys: newFakeSystem(), store: store, reg: prometheus.NewRegistry(), done: make(chan error, 1)}
	cfg := Config{
		Machines: fakeMachines{}, Leases: store, BootFiles: bootFiles, HTTPBase: httpBase, Observer: f,
		LeaseChanged: f.leaseChanged, Now: time.Now, Metrics: f.reg, Workers: 4,
	}
	if change != nil {
		change(&cfg, nil)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.sys, s.prober = f.sys, &fakeProber{}
	if change != nil {
		change(&cfg, s)
	}
	f.Server = s
	if err := s.SetNetworks(networks); err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	go func() { f.done <- s.Run(ctx) }()
	synctest.Wait()
	return f
}

// stop ends the server and looks for contradictions.
func (f *fleet) stop() {
	f.t.Helper()
	f.cancel()
	if err := <-f.done; err != nil {
		f.t.Errorf("Run: %v", err)
	}
	for name, st := range f.states {
		if err := st.pool.Check(); err != nil {
			f.t.Errorf("%s: Check: %v", name, err)
		}
	}
	if open := f.sys.names(); len(open) > 0 {
		f.t.Errorf("still open: %v", open)
	}
}

// link is the client side of eth1 port 67.
func (f *fleet) link() *fakeSocket { return f.sys.socket("eth1:67") }

// lease takes a client through DISCOVER and REQUEST.
func (f *fleet) lease(mac machine.MAC) netip.Addr {
	f.t.Helper()
	f.link().broadcast(dhclient(msgDiscover, mac))
	o, ok := f.link().reply(time.Second)
	if !ok {
		f.t.Fatal("no offer")
	}
	a := specified(o.packet.YourIPAddr)
	f.link().broadcast(dhclient(msgRequest, mac).with(opt(54, server.AsSlice()...), opt(50, a.AsSlice()...)))
	r, ok := f.link().reply(10 * time.Second)
	if !ok || r.packet.MessageType() != dhcpv4.MessageTypeAck {
		f.t.Fatalf("no ACK: %v", r.packet)
	}
	return a
}

// elsewhere returns clients that another worker serves than the one of mac.
func (f *fleet) elsewhere(mac machine.MAC, n int) []machine.MAC {
	queueOf := func(m machine.MAC) queue { return f.queueOf(lease.ClientOf(m, 1, nil, nil)) }
	var others []machine.MAC
	for i := byte(0); len(others) < n; i++ {
		if m := (machine.MAC{2, 0, 0, 0, 9, i}); queueOf(m).requests != queueOf(mac).requests {
			others = append(others, m)
		}
	}
	return others
}

// counter reads one value of bedplate_dhcp_requests_total.
func (f *fleet) counter(kind, why string) float64 {
	f.t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "bedplate_dhcp_requests_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetLabel()[0].GetValue() == why && m.GetLabel()[1].GetValue() == kind {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

var errFault = errors.New("disk full")
