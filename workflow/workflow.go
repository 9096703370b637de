// Package workflow takes machines through templates. It keeps one Workflow
// resource per run, gives its plan to the machine's agent, judges what the
// agent reports by the rules of package plan, and puts it on record before the
// agent hears of it.
//
// The store is the truth: every change is one transaction that fails if the
// workflow has changed since it was read, so that any number of servers may
// share a store and one that is killed at any instant loses nothing. What is
// in memory (progress, who is connected, timers) is made again from the store
// and from the agents that come back.
//
// No wait is without an end. A workflow fails by itself when its machine
// doesn't show up, stays away, or hangs in a step, when nobody approves, and
// when its own time is over. One that is queued waits for those before it, or
// for a person to take its machine out of maintenance.
//
// Log lines are kept with the workflow, 16 MiB of them; values of secrets are
// masked in lines, errors and outputs.
//
// Package workflow/rpc is the service that agents connect to. All methods of
// Controller may be called by any number of goroutines.
package workflow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// Observer is told of what happens to machines. It must not block.
type Observer interface {
	Observe(machine.Sighting)
}

// Secrets opens secrets by name; the error wraps store.ErrNotFound when there
// is none.
type Secrets interface {
	Secret(ctx context.Context, name string) (map[string]string, error)
}

// Images describes images by name: url, digest, format, compression,
// size_bytes, root_partition and so on, as JSON-like values. The error wraps
// store.ErrNotFound when there is none.
type Images interface {
	ImageFacts(ctx context.Context, name string, m *pb.Machine) (map[string]any, error)
}

// Config is what a Controller needs. Only DB, Now and Logger must be set.
type Config struct {
	DB       *resource.DB
	Observer Observer
	Secrets  Secrets
	Images   Images
	// Server returns what expressions see as server: http_url, registry, metadata_url.
	Server func(ctx context.Context, m *pb.Machine, i *pb.Instance) map[string]string
	// Event returns the op that appends one line to the event log.
	Event func(kind, name, reason, message, actor string, warning bool) store.Op
	// Builtin are the templates that are there without anybody having applied
	// them; one of the same name in the store comes first.
	Builtin map[string]*pb.Template
	// Exclusive says that no other server uses the store: agents that the
	// record has as connected when Run begins are not.
	Exclusive bool
	Now       func() time.Time
	Logger    *slog.Logger
	Registry  prometheus.Registerer
}

var (
	// ErrEnded means that a workflow is over; to go on with it, retry it.
	ErrEnded = errors.New("the workflow has ended: retry it to run it again")
	// ErrNotEnded means that a workflow that is to be retried still runs.
	ErrNotEnded = errors.New("the workflow has not ended: cancel it first")
	// ErrMaintenance means that the machine is kept out of workflows.
	ErrMaintenance = errors.New("the machine is in maintenance: clear spec.maintenance first")
	// ErrFenced means that a newer boot of the machine has taken over.
	ErrFenced = errors.New("a newer boot of this machine has taken over")
	// ErrBusy means that too many follow the same workflow.
	ErrBusy = errors.New("too many follow this workflow: try again later")
	// ErrProtocol means that an agent said what can't be.
	ErrProtocol = errors.New("the agent breaks the protocol")
)

// Times that aren't the template's to say.
const (
	// cancelGrace is how long an agent may take to stop what runs.
	cancelGrace = time.Minute
	// stepGrace is how long after a step's own timeout the agent may take to
	// say so before the step counts as hung. The agent gives an action that
	// doesn't stop two minutes, and then says so itself.
	stepGrace = 5 * time.Minute
	// retryDelay is the wait after the store has failed.
	retryDelay = 2 * time.Second
	// workers carry out what nobody waits for: deadlines and queues.
	workers = 8
)

// Controller is the workflow service.
type Controller struct {
	cfg     Config
	metrics metrics
	ready   chan struct{} // closed when everything in the store has been seen
	work    *work

	mu       sync.Mutex
	flows    map[string]*flow
	stations map[string]*station
	due      deadlines
	rewind   chan struct{} // has one element when the first deadline changed
}

// New returns a Controller. It does nothing before Run.
func New(cfg Config) (*Controller, error) {
	if cfg.DB == nil || cfg.Now == nil || cfg.Logger == nil {
		return nil, errors.New("making the workflow controller: DB, Now and Logger must be set")
	}
	m, err := newMetrics(cfg.Registry)
	if err != nil {
		return nil, fmt.Errorf("making the workflow controller: %w", err)
	}
	c := &Controller{
		cfg: cfg, metrics: m, ready: make(chan struct{}), work: newWork(),
		flows: map[string]*flow{}, stations: map[string]*station{}, rewind: make(chan struct{}, 1),
	}
	return c, nil
}

// Ready is closed when everything in the store has been seen: before that no
// agent is let in.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// Run follows the store, deals with deadlines and queues, until ctx is done
// (nil) or the store fails.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.recover(ctx); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return fmt.Errorf("running workflows: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return resource.Follow(ctx, c.cfg.DB, c.see, c.gone, sync.OnceFunc(func() { close(c.ready) }))
	})
	g.Go(func() error {
		return resource.Follow(ctx, c.cfg.DB, c.seeMachine, c.machineGone, func() {})
	})
	g.Go(func() error { return c.watchDeadlines(ctx) })
	for range workers {
		g.Go(func() error { return c.work.run(ctx, c.cfg.Logger) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("running workflows: %w", err)
	}
	return nil
}

// recover puts right what a server that was killed couldn't.
func (c *Controller) recover(ctx context.Context) error {
	if err := c.sweepLogs(ctx); err != nil {
		return err
	}
	if !c.cfg.Exclusive {
		return nil
	}
	machines, _, err := resource.All[*pb.Machine](ctx, c.cfg.DB)
	if err != nil {
		return err
	}
	for _, m := range machines {
		if !m.GetStatus().GetAgent().GetConnected() {
			continue
		}
		if err := c.disconnected(ctx, m.GetMetadata().GetName(), m.GetStatus().GetAgent().GetConnectTime().AsTime()); err != nil {
			return err
		}
	}
	return nil
}

// disconnected records that the agent which connected at that time has no
// stream any more. One that has connected since, to whichever server, stays.
func (c *Controller) disconnected(ctx context.Context, name string, since time.Time) error {
	_, err := resource.Update(ctx, c.cfg.DB, name, func(m *pb.Machine) error {
		a := m.GetStatus().GetAgent()
		if !a.GetConnected() || !a.GetConnectTime().AsTime().Equal(since) {
			return resource.ErrUnchanged
		}
		a.Connected = false
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

func (c *Controller) observe(s machine.Sighting) {
	if c.cfg.Observer != nil {
		c.cfg.Observer.Observe(s)
	}
}
