// Package lifecycle takes machines through their life: it accepts what the
// agent reports of a new machine, gives machines to instances, has the
// workflow that installs or releases them made, and follows them until the
// installed system reports that it is up.
//
// Every decision is a pure function of the resources as they are; the loop
// applies one at a time, in a transaction that fails if anything it was
// decided on has changed. So a crash at any point loses nothing: the same
// decision is taken again from the same resources.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/bedplate/bedplate/discovery"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// PhoneHomeTimeout is how long an installed system may take to report in.
const PhoneHomeTimeout = 30 * time.Minute

// retryDelay is the wait before a decision that couldn't be applied is taken again.
const retryDelay = 2 * time.Second

// workflowRetry is the wait before a workflow that couldn't be made is tried again.
const workflowRetry = 5 * time.Second

// Workflows is what the controller needs of the workflow service.
type Workflows interface {
	// Create stores a new workflow; resource.ErrExists if its name is taken.
	Create(ctx context.Context, wf *pb.Workflow) (*pb.Workflow, error)
	// Cancel asks a workflow to stop.
	Cancel(ctx context.Context, name, reason string) (*pb.Workflow, error)
}

// Sightings is what Explain reads of the timeline.
type Sightings interface {
	Sightings(machine.Name) []*pb.Sighting
}

// Config is what a Controller needs.
type Config struct {
	DB        *resource.DB
	Workflows Workflows
	Sightings Sightings
	// Hooks calls the programs that pools name; nil: no hook is ever called.
	Hooks Hooks
	// Decide says what the rules make of a discovered machine.
	Decide func(rules []*pb.Rule, m *pb.Machine) (discovery.Decision, error)
	// Record returns what goes on record of a machine's change from before to
	// after, in its transaction; nil: nothing does.
	Record func(ctx context.Context, before, after *pb.Machine) ([]store.Op, error)
	// Erasure makes the signed record of a wipe, however it ended; its error says
	// which disk is not shown to be wiped, and comes with the record of that.
	// Without a name there is no record. nil: none are made.
	Erasure func(m *pb.Machine, wf *pb.Workflow, operator string) (ErasureRecord, error)
	// Registerer takes the metrics; nil: none.
	Registerer prometheus.Registerer
	// Select reports whether a machine has the properties that an instance asks for.
	Select func(selector string, m *pb.Machine) (bool, error)
	// Event returns the op that appends one line to the event log.
	Event  func(kind, name, reason, message string, warning bool) store.Op
	Now    func() time.Time
	Logger *slog.Logger
}

// ErasureRecord is a signed record that is yet to be stored.
type ErasureRecord struct {
	Name string
	Ops  []store.Op
}

// Controller is the lifecycle service.
type Controller struct {
	cfg       Config
	machines  map[string]*pb.Machine
	instances map[string]*pb.Instance
	workflows map[string]*pb.Workflow
	pools     map[string]*pb.Pool
	rules     map[string]*pb.Rule
	jobs      map[string]*pb.Job
	// later says when something is to be looked at again, by its key.
	later   map[string]time.Time
	changes chan change
	metrics metrics
	// calling are the machines that a hook is being called for; calls waits for those.
	calling map[string]bool
	calls   sync.WaitGroup
	// counted is when the pools' machines were last counted.
	counted time.Time
}

// change is one resource that was seen, changed or deleted. It is applied by
// the loop, which owns the maps. A nil change says that one kind has been
// listed completely.
type change func(dirty map[string]bool)

// kinds is how many kinds of resources must have been listed before the first decision.
const kinds = 6

// New returns a Controller.
func New(cfg Config) *Controller {
	return &Controller{
		cfg:       cfg,
		machines:  map[string]*pb.Machine{},
		instances: map[string]*pb.Instance{},
		workflows: map[string]*pb.Workflow{},
		pools:     map[string]*pb.Pool{},
		rules:     map[string]*pb.Rule{},
		jobs:      map[string]*pb.Job{},
		later:     map[string]time.Time{},
		changes:   make(chan change, 256),
		metrics:   newMetrics(cfg.Registerer),
		calling:   map[string]bool{},
	}
}

// Run reconciles until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	defer c.calls.Wait()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return follow(ctx, c, c.setMachine, c.removeMachine) })
	g.Go(func() error { return follow(ctx, c, c.setInstanceSeen, c.removeInstance) })
	g.Go(func() error { return follow(ctx, c, c.setWorkflow, c.removeWorkflow) })
	g.Go(func() error { return follow(ctx, c, c.setPool, c.removePool) })
	g.Go(func() error { return follow(ctx, c, c.setRule, c.removeRule) })
	g.Go(func() error { return follow(ctx, c, c.setJob, c.removeJob) })
	g.Go(func() error { return c.loop(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("running the lifecycle: %w", err)
	}
	return nil
}

// follow sends every change of one kind to the loop.
func follow[T resource.Object](ctx context.Context, c *Controller, set func(T, map[string]bool), remove func(string, map[string]bool)) error {
	return resource.Follow(ctx, c.cfg.DB,
		func(obj T) { c.send(ctx, func(dirty map[string]bool) { set(obj, dirty) }) },
		func(name string) { c.send(ctx, func(dirty map[string]bool) { remove(name, dirty) }) },
		func() { c.send(ctx, nil) })
}

// send gives a change to the loop.
func (c *Controller) send(ctx context.Context, ch change) {
	select {
	case c.changes <- ch:
	case <-ctx.Done():
	}
}

// loop is the only goroutine that reads and writes the maps. It works through
// what has changed, then sleeps until the next change or deadline.
func (c *Controller) loop(ctx context.Context) error {
	dirty := map[string]bool{}
	listed := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case ch := <-c.changes:
			listed += c.take(ch, dirty)
			listed += c.drain(dirty)
		case <-timer.C:
			c.expired(dirty)
		case <-ctx.Done():
			return ctx.Err()
		}
		if listed < kinds {
			continue
		}
		failed := c.reconcileAll(ctx, dirty)
		c.countPools(ctx)
		timer.Reset(c.untilNext(failed))
	}
}

// drain takes every change that is already waiting, so that one pass answers all.
func (c *Controller) drain(dirty map[string]bool) int {
	listed := 0
	for {
		select {
		case ch := <-c.changes:
			listed += c.take(ch, dirty)
		default:
			return listed
		}
	}
}

// take applies one change; it returns 1 if that completed a kind's first list.
func (c *Controller) take(ch change, dirty map[string]bool) int {
	if ch == nil {
		return 1
	}
	ch(dirty)
	return 0
}

func (c *Controller) setMachine(m *pb.Machine, dirty map[string]bool) {
	if have := c.machines[m.Metadata.Name]; have.GetMetadata().GetUid() == m.Metadata.Uid && have.GetMetadata().GetResourceVersion() > m.Metadata.ResourceVersion {
		return // this controller has written a newer one
	}
	c.machines[m.Metadata.Name] = m
	dirty["m "+m.Metadata.Name] = true
	if i := m.GetStatus().GetInstance(); i != "" {
		dirty["i "+i] = true
	} else {
		c.markPending(m, dirty)
	}
}

func (c *Controller) removeMachine(name string, dirty map[string]bool) {
	if i := c.machines[name].GetStatus().GetInstance(); i != "" {
		dirty["i "+i] = true
	}
	delete(c.machines, name)
	c.markDiscovered(dirty) // one of them may have waited for what this one had
}

func (c *Controller) setInstanceSeen(i *pb.Instance, dirty map[string]bool) {
	c.instances[i.Metadata.Name] = i
	dirty["i "+i.Metadata.Name] = true
	if m := i.GetStatus().GetMachine(); m != "" {
		dirty["m "+m] = true
	}
}

func (c *Controller) setPool(p *pb.Pool, dirty map[string]bool) {
	c.pools[p.Metadata.Name] = p
	c.markPool(p.Metadata.Name, dirty)
}

func (c *Controller) removePool(name string, dirty map[string]bool) {
	delete(c.pools, name)
	c.markPool(name, dirty)
}

// markPool marks the machines of a pool whose policy has changed.
func (c *Controller) markPool(name string, dirty map[string]bool) {
	for _, m := range c.machines {
		if orText(m.GetSpec().GetPool(), DefaultPool) == name {
			dirty["m "+m.Metadata.Name] = true
		}
	}
}

func (c *Controller) setRule(r *pb.Rule, dirty map[string]bool) {
	c.rules[r.Metadata.Name] = r
	c.markDiscovered(dirty)
}

func (c *Controller) removeRule(name string, dirty map[string]bool) {
	delete(c.rules, name)
	c.markDiscovered(dirty)
}

// markDiscovered marks the machines that rules decide on.
func (c *Controller) markDiscovered(dirty map[string]bool) {
	for _, m := range c.machines {
		if m.GetMetadata().GetAnnotations()[AnnotationDiscovered] != "" {
			dirty["m "+m.Metadata.Name] = true
		}
	}
}

func (c *Controller) ruleList() []*pb.Rule {
	out := make([]*pb.Rule, 0, len(c.rules))
	for _, r := range c.rules {
		out = append(out, r)
	}
	return out
}

func (c *Controller) setJob(j *pb.Job, dirty map[string]bool) {
	c.jobs[j.Metadata.Name] = j
	dirty["m "+j.GetSpec().GetMachine()] = true
}

func (c *Controller) removeJob(name string, dirty map[string]bool) {
	dirty["m "+c.jobs[name].GetSpec().GetMachine()] = true
	delete(c.jobs, name)
}

// lookAgain has something decided anew at a time.
func (c *Controller) lookAgain(key string, at time.Time) {
	if was, ok := c.later[key]; !ok || at.Before(was) {
		c.later[key] = at
	}
}

func (c *Controller) removeInstance(name string, dirty map[string]bool) {
	if m := c.instances[name].GetStatus().GetMachine(); m != "" {
		dirty["m "+m] = true
	}
	delete(c.instances, name)
}

func (c *Controller) setWorkflow(w *pb.Workflow, dirty map[string]bool) {
	c.workflows[w.Metadata.Name] = w
	if i := w.GetSpec().GetInstance(); i != "" {
		dirty["i "+i] = true
	}
	dirty["m "+w.GetSpec().GetMachine()] = true
}

func (c *Controller) removeWorkflow(name string, dirty map[string]bool) {
	if i := c.workflows[name].GetSpec().GetInstance(); i != "" {
		dirty["i "+i] = true
	}
	delete(c.workflows, name)
}

// markPending marks the instances that wait for m, or for any machine if m is free.
func (c *Controller) markPending(m *pb.Machine, dirty map[string]bool) {
	for name, i := range c.instances {
		if i.GetStatus().GetMachine() != "" {
			continue
		}
		if want := i.GetSpec().GetMachine(); want == m.Metadata.Name || want == "" && free(m) {
			dirty["i "+name] = true
		}
	}
}

// free reports whether an instance that asks for properties can have m.
func free(m *pb.Machine) bool {
	s := m.GetStatus()
	return s.GetState() == pb.MachineState_AVAILABLE && s.GetInstance() == "" && s.GetWorkflow() == ""
}

// expired marks the instances whose deadline has passed, and those to be looked at again.
func (c *Controller) expired(dirty map[string]bool) {
	now := c.cfg.Now()
	for name, i := range c.instances {
		if d := i.GetStatus().GetDeadline(); d != nil && !d.AsTime().After(now) {
			dirty["i "+name] = true
		}
	}
	for name, m := range c.machines {
		if d := m.GetStatus().GetDeadline(); d != nil && !d.AsTime().After(now) {
			dirty["m "+name] = true
		}
	}
	for key, at := range c.later {
		if !at.After(now) {
			delete(c.later, key)
			dirty[key] = true
		}
	}
}

// untilNext returns how long the loop may sleep.
func (c *Controller) untilNext(failed bool) time.Duration {
	if failed {
		return retryDelay
	}
	next := time.Hour
	now := c.cfg.Now()
	for _, i := range c.instances {
		if d := i.GetStatus().GetDeadline(); d != nil {
			next = min(next, max(d.AsTime().Sub(now), time.Millisecond))
		}
	}
	for _, m := range c.machines {
		// One that has passed was decided on already.
		if left := m.GetStatus().GetDeadline().AsTime().Sub(now); m.GetStatus().GetDeadline() != nil && left > 0 {
			next = min(next, left)
		}
	}
	for _, at := range c.later {
		next = min(next, max(at.Sub(now), time.Millisecond))
	}
	return next
}

// reconcileAll works through dirty. What couldn't be done stays marked.
func (c *Controller) reconcileAll(ctx context.Context, dirty map[string]bool) (failed bool) {
	for key := range dirty {
		var err error
		switch name := key[2:]; key[0] {
		case 'i':
			err = c.reconcileInstance(ctx, name)
		case 'm':
			err = c.reconcileMachine(ctx, name)
		}
		switch {
		case err == nil, errors.Is(err, store.ErrNotFound):
			delete(dirty, key)
		case errors.Is(err, store.ErrConflict):
			// A newer change is on its way through the watch; decide again then.
		case ctx.Err() != nil:
			return true
		default:
			c.cfg.Logger.Error("reconciling", "key", key, "err", err)
			failed = true
		}
	}
	return failed
}

// commit applies ops if the resources that the decision was taken on are still the same.
func (c *Controller) commit(ctx context.Context, compares []store.Compare, ops ...store.Op) error {
	_, err := c.cfg.DB.Store.Txn(ctx, compares, ops)
	return err
}

// keep takes up a machine that was just written at that revision. The watch
// brings the same; until then nothing is decided on the old one.
func (c *Controller) keep(m *pb.Machine, revision int64) {
	m.Metadata.ResourceVersion = revision
	c.machines[m.Metadata.Name] = m
}
