package workflow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow/plan"
)

// attempts bounds how often a change is decided again because somebody else
// was faster.
const attempts = 64

// flow is what is in memory of one workflow.
type flow struct {
	name string

	// turn lets one change at a time through; the fields below it are its.
	turn  sync.Mutex
	graph *plan.Graph
	uid   string // of the workflow that graph and logs are of
	logs  *logbook
	mask  *masker

	// The rest belongs to Controller.mu. wf is the newest version known and is
	// never altered; nil until it is read. stale: the store may have a newer one.
	wf       *pb.Workflow
	stale    bool
	deadline entry
	progress map[string]*pb.Progress
	running  map[string]time.Time // when steps were first seen to run
	watchers map[*watcher]struct{}
}

// station is what is in memory of one machine.
type station struct {
	session *Session
	// flows are the workflows for it that have not ended.
	flows map[string]*flow
	// last is the workflow that ended last while the agent was connected: it
	// may have something to add.
	last *flow
	// away is since when no agent is connected.
	away time.Time
}

// errNothing ends a change that has nothing to change.
var errNothing = errors.New("nothing to change")

// flowLocked returns the flow of that name, and makes it if it isn't there.
func (c *Controller) flowLocked(name string) *flow {
	f := c.flows[name]
	if f == nil {
		f = &flow{name: name, progress: map[string]*pb.Progress{}, running: map[string]time.Time{}, watchers: map[*watcher]struct{}{}}
		f.deadline.flow = f
		c.flows[name] = f
	}
	return f
}

func (c *Controller) stationLocked(name string) *station {
	s := c.stations[name]
	if s == nil {
		s = &station{flows: map[string]*flow{}, away: c.cfg.Now()}
		c.stations[name] = s
	}
	return s
}

func (c *Controller) flow(name string) *flow {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flowLocked(name)
}

// connected reports whether the machine's agent has a stream to this server,
// and with which boot.
func (c *Controller) connected(name string) (bootID string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.stations[name]; s != nil && s.session != nil {
		return s.session.bootID, true
	}
	return "", false
}

// owner returns the flow that has the machine, or nil.
func (c *Controller) owner(name string) *flow {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ownerLocked(name)
}

func (c *Controller) ownerLocked(name string) *flow {
	s := c.stations[name]
	if s == nil {
		return nil
	}
	for _, f := range s.flows {
		if f.wf.GetStatus().GetState() != pb.WorkflowState_QUEUED {
			return f
		}
	}
	return nil
}

// ended reports whether a workflow is over.
func ended(s pb.WorkflowState) bool {
	switch s {
	case pb.WorkflowState_SUCCEEDED, pb.WorkflowState_WORKFLOW_FAILED, pb.WorkflowState_CANCELLED:
		return true
	default:
		return false
	}
}

// tx is one change of one workflow under way.
type tx struct {
	c      *Controller
	f      *flow
	before *pb.Workflow
	// wf is the new state, the tx's to alter.
	wf  *pb.Workflow
	run *plan.Run
	now time.Time

	compares  []store.Compare
	ops       []store.Op
	lines     []*pb.LogLine
	sightings []machine.Sighting
	noted     map[string]bool // steps whose end the timeline has been told
	logs      *logbook
	then      []func()
}

// change decides about a workflow by fn and puts it on record. When somebody
// else was faster fn is called again with the newer state. errNothing from fn
// leaves everything as it is.
func (c *Controller) change(ctx context.Context, name string, fn func(*tx) error) (*pb.Workflow, error) {
	f := c.flow(name)
	defer c.drop(f)
	f.turn.Lock()
	defer f.turn.Unlock()
	for range attempts {
		before, err := c.newest(ctx, f)
		if err != nil {
			return nil, err
		}
		t := &tx{c: c, f: f, before: before, wf: proto.Clone(before).(*pb.Workflow), now: c.cfg.Now(), logs: f.logs, noted: map[string]bool{}}
		if t.wf.Status == nil {
			t.wf.Status = &pb.WorkflowStatus{}
		}
		if err := fn(t); errors.Is(err, errNothing) {
			return before, nil
		} else if err != nil {
			return nil, asFields("Workflow", name, err)
		}
		if err := t.conclude(ctx); err != nil {
			return nil, err
		}
		err = t.commit(ctx)
		if err == nil {
			return t.wf, nil
		}
		c.forget(f)
		if !errors.Is(err, store.ErrConflict) {
			return nil, fmt.Errorf("recording workflow %s: %w", name, err)
		}
	}
	return nil, fmt.Errorf("recording workflow %s: %w", name, store.ErrConflict)
}

// newest returns the newest version known, from the store if there is none.
func (c *Controller) newest(ctx context.Context, f *flow) (*pb.Workflow, error) {
	c.mu.Lock()
	wf, stale := f.wf, f.stale
	c.mu.Unlock()
	if wf != nil && !stale {
		return wf, nil
	}
	wf, err := resource.Get[*pb.Workflow](ctx, c.cfg.DB, f.name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.wf.GetMetadata().GetResourceVersion() < wf.GetMetadata().GetResourceVersion() {
		c.placeLocked(f, wf)
	}
	f.stale = false
	return f.wf, nil
}

// forget makes the next change read the workflow and its log again.
func (c *Controller) forget(f *flow) {
	f.logs = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	f.stale = true
}

// drop lets go of a flow that nobody needs any more.
func (c *Controller) drop(f *flow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flows[f.name] != f || len(f.watchers) > 0 {
		return
	}
	if f.wf != nil && !ended(f.wf.GetStatus().GetState()) {
		return
	}
	if s := c.stations[f.wf.GetSpec().GetMachine()]; s != nil && s.last == f {
		return
	}
	delete(c.flows, f.name)
}

// plan returns the workflow's run, to be altered.
func (t *tx) plan() (*plan.Run, error) {
	if t.run != nil {
		return t.run, nil
	}
	s := t.wf.Status
	if uid := t.wf.GetMetadata().GetUid(); t.f.graph == nil || t.f.uid != uid {
		g, err := plan.NewGraph(s.GetTemplate())
		if err != nil {
			return nil, fmt.Errorf("reading the template of workflow %s: %w", t.f.name, err)
		}
		t.f.graph, t.f.uid = g, uid
	}
	run, err := plan.Resume(t.f.graph, s.GetRun(), s.GetSteps(), s.GetCancelRequested(), t.now)
	if err != nil {
		return nil, fmt.Errorf("reading the record of workflow %s: %w", t.f.name, err)
	}
	t.run = run
	return run, nil
}

// conclude draws the workflow's state from its run, and makes the log's ops.
func (t *tx) conclude(ctx context.Context) error {
	if t.run != nil {
		if attemptsOf(t.run) > maxAttempts {
			t.run.Abort(fmt.Sprintf("more than %d attempts in all: the record can't hold more", maxAttempts), t.now)
		}
		t.wf.Status.Steps = t.run.Steps()
		t.noteStopped()
		state, cause := t.run.State()
		switch {
		case ended(state):
			if err := t.end(ctx, state, cause); err != nil {
				return err
			}
		case !ended(t.wf.Status.State):
			t.wf.Status.State = state
			if !t.wf.Status.CancelRequested {
				t.wf.Status.Cause = t.f.mask.text(cause)
			}
		}
	}
	if !t.wf.Status.CancelRequested && (t.wf.Status.State == pb.WorkflowState_RUNNING || t.wf.Status.State == pb.WorkflowState_WAITING_FOR_APPROVAL) {
		t.wf.Status.Deadline = timestamppb.New(t.runDeadline())
	}
	if len(t.lines) == 0 {
		return nil
	}
	if uid := t.wf.GetMetadata().GetUid(); t.logs == nil || t.logs.uid != uid {
		logs, err := t.c.openLogs(ctx, uid)
		if err != nil {
			return err
		}
		t.logs = logs
	}
	next, ops, err := t.logs.append(t.lines)
	if err != nil {
		return err
	}
	t.logs = next
	t.ops = append(t.ops, ops...)
	return nil
}

// runDeadline is when what the workflow does now must be over: its run, or
// before that somebody's approval.
func (t *tx) runDeadline() time.Time {
	at := t.wf.Status.GetRunTime().AsTime().Add(timeoutOf(t.wf))
	if approval, ok := approvalDue(t.wf); ok && approval.Before(at) {
		at = approval
	}
	return at
}

// commit puts the change on record and then lets everybody know.
func (t *tx) commit(ctx context.Context) error {
	trim(t.wf)
	resource.Stamp(t.c.cfg.DB, t.wf)
	compares := append([]store.Compare{resource.Unchanged(t.before)}, t.compares...)
	ops := append([]store.Op{resource.Put(t.wf)}, t.ops...)
	rev, err := t.c.cfg.DB.Store.Txn(ctx, compares, ops)
	if err != nil {
		return err
	}
	t.wf.Metadata.ResourceVersion = rev
	t.f.logs = t.logs
	t.c.publish(t.wf)
	for _, s := range t.sightings {
		t.c.observe(s)
	}
	for _, then := range t.then {
		then()
	}
	return nil
}

// maxEventOps leaves room for the log in a transaction that has many events.
const maxEventOps = 32

// event adds a line to the event log.
func (t *tx) event(reason, message, actor string, warning bool) {
	if t.c.cfg.Event != nil && len(t.ops) < maxEventOps {
		t.ops = append(t.ops, t.c.cfg.Event("Workflow", t.f.name, reason, message, actor, warning))
	}
}

// see takes up a workflow that the store has in a new version.
func (c *Controller) see(wf *pb.Workflow) { c.publish(wf) }

// publish makes a version known within this server, if it is the newest.
func (c *Controller) publish(wf *pb.Workflow) {
	name, m := wf.GetMetadata().GetName(), wf.GetSpec().GetMachine()
	c.mu.Lock()
	f := c.flowLocked(name)
	if f.wf.GetMetadata().GetResourceVersion() >= wf.GetMetadata().GetResourceVersion() {
		c.mu.Unlock()
		return
	}
	c.placeLocked(f, wf)
	s := c.stations[m]
	if s != nil && s.session != nil {
		s.session.poke()
	}
	waiting := s != nil && c.ownerLocked(m) == nil && len(s.flows) > 0
	c.mu.Unlock()
	if waiting {
		c.dispatchSoon(m)
	}
	c.drop(f)
}

// placeLocked makes wf the newest version of f and brings all that hangs on
// it in line.
func (c *Controller) placeLocked(f *flow, wf *pb.Workflow) {
	was := f.wf.GetStatus().GetState()
	f.wf = wf
	m := wf.GetSpec().GetMachine()
	if !ended(wf.GetStatus().GetState()) {
		c.stationLocked(m).flows[f.name] = f
	} else if s := c.stations[m]; s != nil {
		delete(s.flows, f.name)
		if s.session != nil && !ended(was) && was != pb.WorkflowState_WORKFLOW_STATE_UNSPECIFIED {
			c.retireLocked(s, f)
		}
	}
	c.noteRunningLocked(f)
	c.armLocked(f)
	for w := range f.watchers {
		w.poke()
	}
}

// retireLocked keeps f, which has just ended, in place of the one that ended
// before it.
func (c *Controller) retireLocked(s *station, f *flow) {
	last := s.last
	s.last = f
	if last != nil && last != f && len(last.watchers) == 0 && c.flows[last.name] == last && ended(last.wf.GetStatus().GetState()) {
		delete(c.flows, last.name)
	}
}

// noteRunningLocked keeps since when each step is seen to run, by this
// server's clock: the agent's may be off.
func (c *Controller) noteRunningLocked(f *flow) {
	if ended(f.wf.GetStatus().GetState()) {
		clear(f.running)
		clear(f.progress)
		return
	}
	now := c.cfg.Now()
	for _, s := range f.wf.GetStatus().GetSteps() {
		if s.GetState() != pb.StepState_STEP_RUNNING {
			delete(f.running, s.GetId())
			delete(f.progress, s.GetId())
		} else if _, ok := f.running[s.GetId()]; !ok {
			f.running[s.GetId()] = now
		}
	}
}

// gone deals with a workflow that was deleted.
func (c *Controller) gone(name string) {
	c.mu.Lock()
	f := c.flows[name]
	if f == nil {
		c.mu.Unlock()
		return
	}
	wf := f.wf
	m := wf.GetSpec().GetMachine()
	delete(c.flows, name)
	c.due.remove(&f.deadline)
	if s := c.stations[m]; s != nil {
		delete(s.flows, name)
		if s.last == f {
			s.last = nil
		}
		if s.session != nil {
			s.session.poke()
		}
	}
	for w := range f.watchers {
		w.poke()
	}
	c.mu.Unlock()
	uid := wf.GetMetadata().GetUid()
	c.work.add("logs/"+uid, func(ctx context.Context) error { return c.deleteLogs(ctx, uid) })
	if m != "" {
		c.work.add("free/"+m, func(ctx context.Context) error { return c.free(ctx, m, name) })
	}
}

// Progress returns the newest progress of the steps that run, by step.
func (c *Controller) Progress(name string) map[string]*pb.Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.flows[name]
	if f == nil || len(f.progress) == 0 {
		return nil
	}
	return maps.Clone(f.progress)
}

// WithProgress returns wf with the progress of its running steps filled in;
// wf itself isn't altered.
func (c *Controller) WithProgress(wf *pb.Workflow) *pb.Workflow {
	progress := c.Progress(wf.GetMetadata().GetName())
	if len(progress) == 0 {
		return wf
	}
	wf = proto.Clone(wf).(*pb.Workflow)
	for _, s := range wf.GetStatus().GetSteps() {
		s.Progress = progress[s.GetId()]
	}
	return wf
}

// Sizes of what a workflow's record may hold.
const (
	maxRecordBytes   = 768 << 10
	maxAttempts      = 3000
	maxAttemptError  = 4 << 10
	maxAttemptOutput = 8 << 10
	maxStepOutputs   = 192 << 10 // the results of disk.erase on 128 disks
	maxOutputs       = 256 << 10
	shortStdout      = 1 << 10
)

func attemptsOf(run *plan.Run) int {
	n := 0
	for _, s := range run.Steps() {
		n += len(s.GetAttempts())
	}
	return n
}

// trim makes a record that has grown too large fit: the output of attempts
// that aren't the last of their step goes, and the end of their errors.
func trim(wf *pb.Workflow) {
	if proto.Size(wf) <= maxRecordBytes {
		return
	}
	for _, s := range wf.GetStatus().GetSteps() {
		for i, a := range s.GetAttempts() {
			if i < len(s.Attempts)-1 {
				a.LastOutput = nil
				a.Error = cut(a.Error, 64)
			}
		}
	}
	for _, s := range wf.GetStatus().GetSteps() {
		if last := len(s.GetAttempts()) - 1; last >= 0 && proto.Size(wf) > maxRecordBytes {
			s.Attempts[last].LastOutput = nil
		}
	}
}
