package bmc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/machine"
)

// The defaults of Config.
const (
	DefaultMaxCalls    = 64
	DefaultMaxSlow     = 1024
	DefaultSlowAfter   = 2 * time.Second
	DefaultMaxWaiting  = 16
	DefaultMaxConsoles = 256
	DefaultDialTimeout = 20 * time.Second
	DefaultCallTimeout = 10 * time.Minute
	DefaultIdle        = 2 * time.Minute
	DefaultTries       = 3
	DefaultBackoff     = time.Second
	DefaultOpenAfter   = 3
	DefaultOpenFor     = 30 * time.Second
	DefaultOpenMax     = 15 * time.Minute
)

// closeTimeout bounds one logout, lostTimeout one of a session that is probably
// lost.
const (
	closeTimeout = 5 * time.Second
	lostTimeout  = time.Second
)

// Config is what a Pool is made from. Dial, Now and Rand are required.
type Config struct {
	// Dial opens a session; package dial has the one that knows every driver.
	Dial func(ctx context.Context, t Target) (Driver, error)
	// Now is the clock, Rand returns numbers from 0 up to 1.
	Now  func() time.Time
	Rand func() float64
	// Pinned is told the pin of a BMC that was trusted on first contact, once it
	// has accepted the login. It may be nil, must not block, and the pool holds
	// to the pin itself until the target comes with it.
	Pinned func(t Target, pin Pin)
	// Logger and Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Wait is how long clients wait for what they have asked for.
	Wait Wait

	// MaxCalls bounds the calls under way in all. A call that takes longer than
	// SlowAfter gives its place to another and counts towards MaxSlow instead, so
	// that dead BMCs don't take the places of live ones.
	MaxCalls, MaxSlow int
	SlowAfter         time.Duration
	// MaxWaiting bounds the calls that wait for one BMC; there is one at a time.
	MaxWaiting int
	// MaxConsoles bounds the consoles that are open.
	MaxConsoles int
	// MaxStreams bounds the BMCs that are listened to.
	MaxStreams int
	// DialTimeout bounds one login, CallTimeout a call whose context has no deadline.
	DialTimeout, CallTimeout time.Duration
	// Idle is how long a session that isn't used is kept.
	Idle time.Duration
	// Tries is how often a call that may be repeated is made, Backoff the pause
	// after the first, doubled by each further.
	Tries   int
	Backoff time.Duration
	// OpenAfter is how many failures in a row open a BMC's circuit, OpenFor for
	// how long at first, OpenMax at most.
	OpenAfter        int
	OpenFor, OpenMax time.Duration
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxCalls, DefaultMaxCalls)
	setDefault(&c.MaxSlow, DefaultMaxSlow)
	setDefault(&c.SlowAfter, DefaultSlowAfter)
	setDefault(&c.MaxWaiting, DefaultMaxWaiting)
	setDefault(&c.MaxConsoles, DefaultMaxConsoles)
	setDefault(&c.MaxStreams, DefaultMaxStreams)
	setDefault(&c.DialTimeout, DefaultDialTimeout)
	setDefault(&c.CallTimeout, DefaultCallTimeout)
	setDefault(&c.Idle, DefaultIdle)
	setDefault(&c.Tries, DefaultTries)
	setDefault(&c.Backoff, DefaultBackoff)
	setDefault(&c.OpenAfter, DefaultOpenAfter)
	setDefault(&c.OpenFor, DefaultOpenFor)
	setDefault(&c.OpenMax, DefaultOpenMax)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// errQueue is what the call beyond MaxWaiting gets.
var errQueue = fmt.Errorf("too many calls wait for this BMC already: %w", ErrBusy)

// Pool keeps sessions with BMCs. See the package comment.
type Pool struct {
	cfg      Config
	log      *slog.Logger
	metrics  *metrics
	calls    *places
	consoles chan struct{}
	streams  chan struct{}

	// stop ends when Run does; every call's context ends with it.
	stop    context.Context
	stopped context.CancelCauseFunc
	// users counts calls and consoles under way.
	users sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	entries map[entryKey]*entry
}

// entryKey tells BMCs apart: one BMC has one address, whoever's it is.
type entryKey struct {
	machine machine.Name
	address string
}

// entry is one BMC. turn has one token: who holds it may use the session.
type entry struct {
	key     entryKey
	turn    chan struct{}
	waiting int // guarded by Pool.mu

	// session, target, used and pin are guarded by turn.
	session Driver
	target  Target
	used    time.Time
	pin     Pin

	// circuit and login are guarded by Pool.mu.
	circuit Circuit
	// login is the target that the circuit's failures are about.
	login Target
}

// NewPool returns a pool without sessions. The error says what is missing in
// cfg, or which metric is already registered.
func NewPool(cfg Config) (*Pool, error) {
	if cfg.Dial == nil || cfg.Now == nil || cfg.Rand == nil {
		return nil, errors.New("bmc: Config.Dial, Config.Now and Config.Rand are required")
	}
	p := &Pool{cfg: cfg.withDefaults(), entries: map[entryKey]*entry{}}
	p.log = p.cfg.Logger
	p.calls = newPlaces(p.cfg.MaxCalls, p.cfg.MaxSlow, p.cfg.SlowAfter)
	p.consoles = make(chan struct{}, p.cfg.MaxConsoles)
	p.streams = make(chan struct{}, p.cfg.MaxStreams)
	p.stop, p.stopped = context.WithCancelCause(context.Background())
	var err error
	if p.metrics, err = newMetrics(p.cfg.Registerer, p.counts); err != nil {
		return nil, fmt.Errorf("registering bmc metrics: %w", err)
	}
	return p, nil
}

// Run logs out of idle sessions until ctx ends; then it ends the calls and
// consoles under way, logs out of everything and returns nil.
func (p *Pool) Run(ctx context.Context) error {
	tick := time.NewTicker(max(p.cfg.Idle/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.close()
			return nil
		case <-tick.C:
			p.closeIdle(ctx)
		}
	}
}

// close ends everything under way and logs out of all sessions, side by side.
func (p *Pool) close() {
	p.mu.Lock()
	p.closed = true
	entries := p.snapshotLocked()
	p.mu.Unlock()
	p.stopped(ErrClosed)
	p.users.Wait()
	var g sync.WaitGroup
	slots := make(chan struct{}, p.cfg.MaxCalls)
	for _, e := range entries {
		slots <- struct{}{}
		g.Go(func() {
			defer func() { <-slots }()
			p.drop(context.Background(), e, closeTimeout)
		})
	}
	g.Wait()
}

// closeIdle logs out of sessions that nobody has used for Idle.
func (p *Pool) closeIdle(ctx context.Context) {
	p.mu.Lock()
	entries := p.snapshotLocked()
	p.mu.Unlock()
	for _, e := range entries {
		select {
		case <-e.turn:
		default:
			continue // in use
		}
		if e.session != nil && p.cfg.Now().Sub(e.used) >= p.cfg.Idle {
			p.drop(ctx, e, closeTimeout)
		}
		e.turn <- struct{}{}
	}
}

func (p *Pool) snapshotLocked() []*entry {
	all := make([]*entry, 0, len(p.entries))
	for _, e := range p.entries {
		all = append(all, e)
	}
	return all
}

// drop logs out of e's session; the caller has e's turn, or nobody can have it.
func (p *Pool) drop(ctx context.Context, e *entry, limit time.Duration) {
	if e.session == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	if err := e.session.Close(ctx); err != nil {
		p.log.Debug("logging out of BMC", "machine", e.key.machine, "bmc", e.key.address, "err", err)
	}
	e.session = nil
	p.metrics.sessions.Dec()
}

// Circuit returns the circuit of the machine's BMC. It is closed for a BMC that
// was never asked.
func (p *Pool) Circuit(name machine.Name) Circuit {
	p.mu.Lock()
	defer p.mu.Unlock()
	worst := Circuit{}
	for key, e := range p.entries {
		if key.machine == name && e.circuit.Failures > worst.Failures {
			worst = e.circuit
		}
	}
	return worst.at(p.cfg.Now())
}

// Reset closes the circuit of the machine's BMC: the next call goes through.
func (p *Pool) Reset(name machine.Name) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, e := range p.entries {
		if key.machine == name {
			e.circuit = Circuit{}
		}
	}
}

// Forget logs out of the machine's BMC and forgets its circuit and the pin of
// its first contact: the machine is gone, or its BMC was replaced.
func (p *Pool) Forget(ctx context.Context, name machine.Name) {
	p.mu.Lock()
	var gone []*entry
	for key, e := range p.entries {
		if key.machine == name {
			delete(p.entries, key)
			gone = append(gone, e)
		}
	}
	p.mu.Unlock()
	for _, e := range gone {
		select {
		case <-e.turn:
			p.drop(ctx, e, closeTimeout)
			e.turn <- struct{}{}
		case <-ctx.Done():
		}
	}
}

// counts returns how many circuits are not closed, for the metrics.
func (p *Pool) counts() (open int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.entries {
		if e.circuit.State == CircuitOpen {
			open++
		}
	}
	return open
}
