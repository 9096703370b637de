// Package fleet knows the BMCs of all machines: how to log in to each, which
// certificate it has shown, and what it said last. It polls their power and
// health, and keeps machine.status.bmc current without a write per poll.
//
// A machine's password is the one of its Secret, until the server has given its
// BMC one of its own: that is kept encrypted under /bmc/passwords/, which no
// API reads, and is durable before the BMC is told. Passwords are in no error,
// log line, event or status.
//
// What this package does not do: it makes no decisions about machines (package
// job and the lifecycle do) and keeps no sessions (bmc.Pool does). All methods
// may be called by any number of goroutines.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// The defaults of Config.
const (
	DefaultPollInterval    = time.Minute
	DefaultPollConcurrency = 64
)

// Sealer encrypts what is secret in the store; trust.Sealer is one.
type Sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Config is what a Fleet needs.
type Config struct {
	DB     *resource.DB
	Sealer Sealer
	// Secret returns the values of a Secret resource, and its version.
	Secret func(ctx context.Context, name string) (values map[string]string, version int64, err error)
	// Observe takes what is seen of machines; it never blocks.
	Observe func(machine.Sighting)
	// Event returns the op that appends one line to the event log.
	Event func(kind, name, reason, message string, warning bool) store.Op
	// PollInterval is the time between two polls of one BMC. 0: the default;
	// negative: none is polled.
	PollInterval time.Duration
	// PollConcurrency is how many are polled at a time. 0: the default.
	PollConcurrency int
	Now             func() time.Time
	Rand            io.Reader
	Logger          *slog.Logger
	Registry        prometheus.Registerer
}

// Fleet is the service.
type Fleet struct {
	cfg     Config
	pool    *bmc.Pool
	metrics metrics
	vault   *vault

	mu      sync.Mutex
	members map[string]*member
	synced  bool
	// wake tells the poller that a machine has come.
	wake chan struct{}
	// streams are the goroutines that listen to events: Run's.
	streams *sync.WaitGroup
}

// member is a machine with a BMC.
type member struct {
	machine *pb.Machine
	// pin is the certificate of the first contact, until the machine's status has it.
	pin bmc.Pin
	// hostKey is the SSH host key of the first contact, until the machine's status has it.
	hostKey string
	// seen is what is known beyond the machine's status, and not worth a write.
	seen contact
	// next is when it is polled.
	next    time.Time
	polls   uint64
	polling bool
	// stream is where its BMC tells of changes; empty: it doesn't.
	stream string
	// listening is whether its events are listened to, hush ends that.
	listening bool
	hush      context.CancelFunc
	// listen is when they may be listened to again, silence how long the wait
	// before that was.
	listen  time.Time
	silence time.Duration
	// hinted is when an event last had it polled.
	hinted time.Time
}

// contact is the last that was heard of a BMC.
type contact struct {
	// at is when it last answered.
	at time.Time
	// power is what it said, or is on its way to.
	power pb.PowerState
	// err is the last call's error, and failed when that was.
	err    string
	failed time.Time
	// refusals is how many logins in a row were refused.
	refusals int
}

// New returns a Fleet. The passwords that the server has given are read from the store.
func New(ctx context.Context, cfg Config, newPool func(pinned func(bmc.Target, bmc.Pin)) (*bmc.Pool, error)) (*Fleet, error) {
	if cfg.PollInterval == 0 {
		cfg.PollInterval = DefaultPollInterval
	}
	if cfg.PollConcurrency <= 0 {
		cfg.PollConcurrency = DefaultPollConcurrency
	}
	f := &Fleet{cfg: cfg, members: map[string]*member{}, wake: make(chan struct{}, 1)}
	var err error
	if f.metrics, err = newMetrics(cfg.Registry, f.counts); err != nil {
		return nil, err
	}
	if f.vault, err = openVault(ctx, cfg); err != nil {
		return nil, err
	}
	if f.pool, err = newPool(f.pinned); err != nil {
		return nil, err
	}
	return f, nil
}

// Run follows the machines, polls their BMCs and keeps their sessions until ctx is done.
func (f *Fleet) Run(ctx context.Context) error {
	var g sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var followed, secrets error
	g.Go(func() {
		defer cancel()
		set := func(m *pb.Machine) { f.set(m); f.reconsider(ctx, m) }
		followed = resource.Follow(ctx, f.cfg.DB, set, func(name string) { f.remove(ctx, name) }, f.listed)
	})
	g.Go(func() {
		defer cancel()
		secrets = f.followSecrets(ctx)
	})
	f.streams = &g
	g.Go(func() { f.poll(ctx) })
	// Sessions last: what runs ends before they are logged out of.
	err := f.pool.Run(ctx)
	g.Wait()
	if err = errors.Join(err, followed, secrets); err != nil {
		return fmt.Errorf("keeping in touch with BMCs: %w", err)
	}
	return nil
}

// set takes note of a machine.
func (f *Fleet) set(m *pb.Machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := m.Metadata.Name
	old := f.members[name]
	if old != nil && !proto.Equal(old.machine.GetSpec().GetBmc(), m.GetSpec().GetBmc()) {
		old.hushLocked()
	}
	if m.GetSpec().GetBmc().GetAddress() == "" {
		delete(f.members, name)
		return
	}
	if old == nil || old.machine.GetMetadata().GetUid() != m.Metadata.Uid || old.machine.GetSpec().GetBmc().GetAddress() != m.GetSpec().GetBmc().GetAddress() {
		f.members[name] = &member{machine: m, seen: contact{power: m.GetStatus().GetBmc().GetPower()}, next: f.firstPoll(name)}
		f.wakePoller()
		return
	}
	if old.machine.Metadata.ResourceVersion > m.Metadata.ResourceVersion {
		return
	}
	if !proto.Equal(old.machine.GetSpec().GetBmc(), m.GetSpec().GetBmc()) {
		// A new password or certificate deserves to be tried at once.
		f.pool.Reset(machine.Name(name))
		old.next = f.cfg.Now()
		f.wakePoller()
	}
	if Undecided(old.machine) && !Undecided(m) {
		old.next = f.cfg.Now()
		f.wakePoller()
	}
	f.replaceLocked(old, m)
	if string(old.pin) == m.GetStatus().GetBmc().GetCertificateDigest() {
		old.pin = ""
	}
}

// remove forgets a machine, but not the password that its BMC was given: it
// may come back under another name.
func (f *Fleet) remove(ctx context.Context, name string) {
	f.mu.Lock()
	if old := f.members[name]; old != nil {
		old.hushLocked()
	}
	delete(f.members, name)
	f.mu.Unlock()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	f.pool.Forget(last, machine.Name(name))
	if _, err := f.cfg.DB.Store.Txn(last, nil, []store.Op{store.Delete(logPrefix + name)}); err != nil && ctx.Err() == nil {
		f.cfg.Logger.Warn("forgetting an event log", "machine", name, "err", err)
	}
}

func (f *Fleet) listed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced = true
	f.wakePoller()
}

func (f *Fleet) wakePoller() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// counts returns how many BMCs there are, and how many have answered since
// three polls ago, for the metrics.
func (f *Fleet) counts() (all, answering int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	recent := f.cfg.Now().Add(-3 * max(f.cfg.PollInterval, time.Minute))
	for _, m := range f.members {
		if m.seen.at.After(recent) {
			answering++
		}
	}
	return len(f.members), answering
}

// Do calls fn with an open session of the machine's BMC, alone and once. What
// comes of it is known to Explain, and in the machine's status where it matters.
func (f *Fleet) Do(ctx context.Context, m *pb.Machine, fn func(context.Context, *bmc.Client) error) error {
	return f.call(ctx, m, fn, f.pool.Do)
}

// Read is Do for what only reads: fn may be called again after an error that may pass.
func (f *Fleet) Read(ctx context.Context, m *pb.Machine, fn func(context.Context, *bmc.Client) error) error {
	return f.call(ctx, m, fn, f.pool.Retry)
}

type caller func(context.Context, bmc.Target, func(context.Context, *bmc.Client) error) error

func (f *Fleet) call(ctx context.Context, m *pb.Machine, fn func(context.Context, *bmc.Client) error, call caller) error {
	t, err := f.Target(ctx, m)
	if err != nil {
		return err
	}
	name := m.GetMetadata().GetName()
	answered := false
	protocol := ""
	err = call(ctx, t, func(ctx context.Context, c *bmc.Client) error {
		answered, protocol = true, c.Name()
		watched := *c
		watched.Driver = watching{Driver: c.Driver, fleet: f, machine: machine.Name(name)}
		return fn(ctx, &watched)
	})
	f.note(ctx, name, protocol, answered, err)
	f.noteLogin(ctx, m, answered, err)
	return err
}

// Console opens the serial console of the machine.
func (f *Fleet) Console(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	m, err := f.Machine(name)
	if err != nil {
		return nil, err
	}
	t, err := f.Target(ctx, m)
	if err != nil {
		return nil, err
	}
	c, err := f.pool.Console(ctx, t)
	f.noteLogin(ctx, m, err == nil, err)
	if err == nil && t.SSH != nil {
		err = f.pinHostKey(ctx, name)
	}
	if err != nil && c != nil {
		_ = c.Close()
		return nil, err
	}
	return c, err
}

// pinHostKey keeps the SSH host key of a first contact, if there was one.
func (f *Fleet) pinHostKey(ctx context.Context, name string) error {
	f.mu.Lock()
	key := ""
	if m := f.members[name]; m != nil {
		key = m.hostKey
	}
	f.mu.Unlock()
	if key == "" {
		return nil
	}
	err := f.Record(ctx, name, func(s *pb.BMCStatus) {
		if s.SshHostKey == "" {
			s.SshHostKey = key
		}
	})
	if err != nil {
		return fmt.Errorf("keeping the SSH host key of the BMC of machine/%s: %w", name, err)
	}
	return nil
}

// ErrNoBMC means that there is no such machine, or it has no BMC.
var ErrNoBMC = errors.New("has no BMC: set its spec.bmc.address first")

// Machine returns a machine with a BMC, as the watch has last brought it.
func (f *Fleet) Machine(name string) (*pb.Machine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[name]; m != nil {
		return m.machine, nil
	}
	return nil, fmt.Errorf("machine/%s %w", name, ErrNoBMC)
}

// Owner returns the machine whose BMC has the address, or the MAC address in
// its annotation; empty if there is none.
func (f *Fleet) Owner(address, mac string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := ""
	for name, m := range f.members {
		if mac != "" && m.machine.GetMetadata().GetAnnotations()[AnnotationBMCMAC] == mac {
			return name // an address may be another's by now
		}
		if m.machine.GetSpec().GetBmc().GetAddress() == address {
			found = name
		}
	}
	return found
}

// watching is a driver whose power requests are sightings of the machine.
type watching struct {
	bmc.Driver
	fleet   *Fleet
	machine machine.Name
}

// RequestPower passes the request on. What it leads to is known before the
// machine's firmware asks for its first packet.
func (w watching) RequestPower(ctx context.Context, a bmc.PowerAction) error {
	before := w.fleet.cfg.Now()
	err := w.Driver.RequestPower(ctx, a)
	if err != nil {
		return err
	}
	s := machine.Sighting{Time: before, Source: machine.SourceBMC, Machine: w.machine, Detail: "asked for by the server"}
	power := pb.PowerState_POWER_ON
	switch a {
	case bmc.ActionOn:
		s.Event = "power-on"
	case bmc.ActionOff:
		s.Event, power = "power-off", pb.PowerState_POWER_OFF
	case bmc.ActionCycle, bmc.ActionReset:
		s.Event = "reset"
	default:
		return nil // soft: the machine decides; nmi: it stays as it is
	}
	w.fleet.setPower(string(w.machine), power)
	w.fleet.cfg.Observe(s)
	return nil
}

func (f *Fleet) setPower(name string, power pb.PowerState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.members[name]; m != nil {
		m.seen.power = power
	}
}
