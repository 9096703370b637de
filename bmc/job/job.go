package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// The defaults of Config.
const (
	DefaultConcurrency   = 64
	DefaultPowerBudget   = 4
	DefaultPowerInterval = 10 * time.Second
	// DefaultKeep is how many jobs of a machine are kept after their end.
	DefaultKeep = 20
	// DefaultTaskPause is the time between two questions about a BMC's task.
	DefaultTaskPause = 10 * time.Second
)

// The default of a job's timeout, and that of one that updates firmware.
const (
	DefaultTimeout         = 15 * time.Minute
	DefaultFirmwareTimeout = 2 * time.Hour
)

// retryDelay is the wait before a decision that couldn't be stored is taken again.
const retryDelay = 2 * time.Second

// BMCs is how machines' BMCs are reached; package fleet has it.
type BMCs interface {
	// Do calls f with an open session of the machine's BMC.
	Do(ctx context.Context, m *pb.Machine, f func(context.Context, *bmc.Client) error) error
	// RotatePassword gives the account that is logged in with a generated
	// password. It is kept before the BMC is told; called again after a crash it
	// finds out which one works.
	RotatePassword(ctx context.Context, m *pb.Machine) error
	// Record brings machine.status.bmc up to date with what an operation has found.
	Record(ctx context.Context, machine string, change func(*pb.BMCStatus)) error
}

// Config is what a Controller needs.
type Config struct {
	DB   *resource.DB
	BMCs BMCs
	// MediaURL returns where a machine's BMC loads the agent's system from.
	MediaURL func(ctx context.Context, m *pb.Machine) (string, error)
	// MediaEjected is told when the BMC has let go of what it had inserted, so
	// that its URL and what is in it are good no more; may be nil.
	MediaEjected func(ctx context.Context, m *pb.Machine) error
	// Booted reports whether a service has seen the machine's firmware start
	// since then. It settles whether a reset was done that a crash cut short.
	Booted func(name machine.Name, since time.Time) bool
	// Event returns the op that appends one line to the event log.
	Event func(kind, name, reason, message string, warning bool) store.Op
	// Concurrency is how many operations may be under way. 0: DefaultConcurrency.
	Concurrency int
	// PowerBudget is how many machines of a power group may be powered on within
	// PowerInterval. 0: the defaults.
	PowerBudget   int
	PowerInterval time.Duration
	// Keep is how many ended jobs of a machine are kept. 0: DefaultKeep.
	Keep int
	// TaskPause is the time between two questions about a BMC's task. 0: DefaultTaskPause.
	TaskPause time.Duration
	// HTTP fetches the images of firmware that is pushed.
	HTTP     *http.Client
	Now      func() time.Time
	Logger   *slog.Logger
	Registry prometheus.Registerer
}

// Controller is the job service.
type Controller struct {
	cfg     Config
	metrics metrics

	// What follows belongs to the loop.
	machines map[string]*pb.Machine
	queues   map[string]map[string]*pb.Job // by machine and name
	busy     map[string]bool               // machines with an operation under way
	later    map[string]time.Time          // when a machine is to be looked at again
	turns    turns

	changes chan change
	ended   chan attempt
}

// change is one resource that was seen, changed or deleted, which the loop
// applies. A nil change says that one kind has been listed completely.
type change func(dirty map[string]bool)

// kinds is how many kinds of resources must have been listed before the first decision.
const kinds = 2

// New returns a Controller.
func New(cfg Config) (*Controller, error) {
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	if cfg.PowerBudget <= 0 {
		cfg.PowerBudget = DefaultPowerBudget
	}
	if cfg.PowerInterval <= 0 {
		cfg.PowerInterval = DefaultPowerInterval
	}
	if cfg.TaskPause <= 0 {
		cfg.TaskPause = DefaultTaskPause
	}
	if cfg.Keep <= 0 {
		cfg.Keep = DefaultKeep
	}
	c := &Controller{
		cfg: cfg, machines: map[string]*pb.Machine{}, queues: map[string]map[string]*pb.Job{},
		busy: map[string]bool{}, later: map[string]time.Time{},
		turns:   newTurns(cfg.PowerBudget, cfg.PowerInterval),
		changes: make(chan change, 256), ended: make(chan attempt),
	}
	var err error
	c.metrics, err = newMetrics(cfg.Registry)
	return c, err
}

// Run carries out jobs until ctx is done. What is under way then is cut short,
// and gone on with by the next Run.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return follow(ctx, c, c.setMachine, c.removeMachine) })
	g.Go(func() error { return follow(ctx, c, c.setJob, c.removeJob) })
	g.Go(func() error { return c.loop(ctx, g) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("running jobs: %w", err)
	}
	return nil
}

// follow sends every change of one kind to the loop.
func follow[T resource.Object](ctx context.Context, c *Controller, set func(T, map[string]bool), remove func(string, map[string]bool)) error {
	send := func(ch change) {
		select {
		case c.changes <- ch:
		case <-ctx.Done():
		}
	}
	return resource.Follow(ctx, c.cfg.DB,
		func(obj T) { send(func(dirty map[string]bool) { set(obj, dirty) }) },
		func(name string) { send(func(dirty map[string]bool) { remove(name, dirty) }) },
		func() { send(nil) })
}

// loop is the only goroutine that reads and writes the maps.
func (c *Controller) loop(ctx context.Context, g *errgroup.Group) error {
	dirty := map[string]bool{}
	listed := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case ch := <-c.changes:
			listed += take(ch, dirty)
			listed += c.drain(dirty)
		case a := <-c.ended:
			c.settle(a, dirty)
		case <-timer.C:
			c.due(dirty)
		case <-ctx.Done():
			return ctx.Err()
		}
		if listed < kinds {
			continue
		}
		if listed == kinds {
			listed++ // once
			c.remember()
		}
		c.reconcileAll(ctx, g, dirty)
		timer.Reset(c.untilNext())
	}
}

// remember counts the turns that were given before the server was restarted.
func (c *Controller) remember() {
	for owner, queue := range c.queues {
		for _, j := range queue {
			c.turns.remember(c.machines[owner], j)
		}
	}
}

// drain takes every change that is already waiting.
func (c *Controller) drain(dirty map[string]bool) int {
	listed := 0
	for {
		select {
		case ch := <-c.changes:
			listed += take(ch, dirty)
		default:
			return listed
		}
	}
}

// take applies one change; it returns 1 if that completed a kind's first list.
func take(ch change, dirty map[string]bool) int {
	if ch == nil {
		return 1
	}
	ch(dirty)
	return 0
}

func (c *Controller) setMachine(m *pb.Machine, dirty map[string]bool) {
	name := m.Metadata.Name
	was := c.machines[name]
	c.machines[name] = m
	// Most changes of a machine are its status's, and no matter here.
	if was == nil || was.GetSpec().GetBmc().GetAddress() != m.GetSpec().GetBmc().GetAddress() || powerGroup(was) != powerGroup(m) {
		dirty[name] = true
	}
}

func (c *Controller) removeMachine(name string, dirty map[string]bool) {
	delete(c.machines, name)
	dirty[name] = true
}

func (c *Controller) setJob(j *pb.Job, dirty map[string]bool) {
	owner := j.GetSpec().GetMachine()
	if c.queues[owner] == nil {
		c.queues[owner] = map[string]*pb.Job{}
	}
	had := c.queues[owner][j.Metadata.Name]
	if had.GetMetadata().GetUid() == j.Metadata.Uid && had.GetMetadata().GetResourceVersion() > j.Metadata.ResourceVersion {
		return // the loop knows better than the watch
	}
	if had != nil && !hasEnded(had) && hasEnded(j) {
		c.metrics.jobs.WithLabelValues(resource.EnumName(j.Status.State)).Inc()
	}
	c.queues[owner][j.Metadata.Name] = j
	dirty[owner] = true
}

func (c *Controller) removeJob(name string, dirty map[string]bool) {
	for owner, queue := range c.queues {
		if _, ok := queue[name]; !ok {
			continue
		}
		delete(queue, name)
		if len(queue) == 0 {
			delete(c.queues, owner)
		}
		dirty[owner] = true
	}
	c.turns.leave(name)
}

// due marks the machines whose time to be looked at has come.
func (c *Controller) due(dirty map[string]bool) {
	now := c.cfg.Now()
	for name, at := range c.later {
		if !at.After(now) {
			delete(c.later, name)
			dirty[name] = true
		}
	}
}

// untilNext returns how long the loop may sleep.
func (c *Controller) untilNext() time.Duration {
	next := time.Hour
	now := c.cfg.Now()
	for _, at := range c.later {
		next = min(next, max(at.Sub(now), time.Millisecond))
	}
	return next
}

// reconcileAll takes one step for every machine that is marked. What couldn't
// be stored is tried again later.
func (c *Controller) reconcileAll(ctx context.Context, g *errgroup.Group, dirty map[string]bool) {
	for _, name := range c.oldestFirst(dirty) {
		if c.busy[name] {
			continue // it comes back when its operation has ended
		}
		delete(dirty, name)
		delete(c.later, name)
		err := c.reconcile(ctx, g, name, dirty)
		switch {
		case err == nil, errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrConflict):
			// A newer state is on its way through the watch; it is decided again then.
		case ctx.Err() != nil:
			return
		default:
			c.cfg.Logger.Error("carrying out jobs", "machine", name, "err", err)
			c.later[name] = c.cfg.Now().Add(retryDelay)
		}
	}
}
