package job

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// oldestFirst returns the marked machines by the age of the job that is next
// on each, so that the bound on operations is shared fairly.
func (c *Controller) oldestFirst(dirty map[string]bool) []string {
	type entry struct {
		name  string
		since time.Time
	}
	entries := make([]entry, 0, len(dirty))
	for name := range dirty {
		e := entry{name: name}
		if jobs := waiting(c.queues[name]); len(jobs) > 0 {
			e.since = jobs[0].GetMetadata().GetCreateTime().AsTime()
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if n := a.since.Compare(b.since); n != 0 {
			return n
		}
		return strings.Compare(a.name, b.name)
	})
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.name
	}
	return names
}

// reconcile takes one machine's jobs one step further.
func (c *Controller) reconcile(ctx context.Context, g *errgroup.Group, name string, dirty map[string]bool) error {
	m := c.machines[name]
	s := c.admit(decide(c.queues[name], m, c.cfg.Now()), m)
	if !s.until.IsZero() {
		c.later[name] = s.until
	}
	switch s.kind {
	case stepRun:
		c.start(ctx, g, name, s)
		return nil
	case stepEnd, stepSay:
		next, ops := c.apply(s)
		if err := c.commit(ctx, s.job, next, ops...); err != nil {
			return err
		}
		c.keep(next, dirty)
		return nil
	}
	return c.prune(ctx, name)
}

// admit holds back an operation while its turn hasn't come.
func (c *Controller) admit(s step, m *pb.Machine) step {
	if s.kind != stepRun {
		return s
	}
	if len(c.busy) >= c.cfg.Concurrency {
		// Marked again as soon as an operation ends; the clock is for safety.
		return step{until: c.cfg.Now().Add(retryDelay)}
	}
	if !powersOn(s.job.Spec.Operations[s.op], m) {
		return s
	}
	ok, again := c.turns.take(m, s.job, c.cfg.Now())
	if ok {
		return s
	}
	hold := step{until: again}
	if cause := c.turns.cause(m); s.job.GetStatus().GetCause() != cause {
		hold.kind, hold.job, hold.cause = stepSay, s.job, cause
	}
	return hold
}

// apply returns the job as a decision leaves it, and the events that go with it.
func (c *Controller) apply(s step) (*pb.Job, []store.Op) {
	next := withStatus(s.job)
	next.Status.Cause = s.cause
	if s.kind == stepSay {
		if next.Status.State == pb.JobState_JOB_STATE_UNSPECIFIED {
			next.Status.State = pb.JobState_JOB_PENDING
		}
		if next.Status.State == pb.JobState_JOB_RUNNING {
			// The wait isn't the job's own time: that begins anew with its turn.
			next.Status.Deadline = nil
		}
		return next, nil
	}
	next.Status.State = s.state
	next.Status.EndTime = timestamppb.New(c.cfg.Now())
	rest := s.state
	for _, o := range next.Status.Operations {
		switch o.State {
		case pb.JobState_JOB_SUCCEEDED:
			continue
		case pb.JobState_JOB_FAILED:
			rest = pb.JobState_JOB_CANCELLED
			continue
		}
		o.Interrupted = o.Interrupted || o.State == pb.JobState_JOB_RUNNING
		o.State, o.RetryTime = rest, nil
		rest = pb.JobState_JOB_CANCELLED // what comes after it was never begun
	}
	return next, c.endEvents(next)
}

// endEvents are the lines of the event log about a job that has ended.
func (c *Controller) endEvents(j *pb.Job) []store.Op {
	name, owner := j.Metadata.Name, j.GetSpec().GetMachine()
	switch j.Status.State {
	case pb.JobState_JOB_FAILED:
		return []store.Op{
			c.cfg.Event("Job", name, "JobFailed", j.Status.Cause, true),
			c.cfg.Event("Machine", owner, "JobFailed", "job "+name+": "+j.Status.Cause, true),
		}
	case pb.JobState_JOB_CANCELLED:
		return []store.Op{c.cfg.Event("Job", name, "JobCancelled", j.Status.Cause, false)}
	}
	return []store.Op{c.cfg.Event("Job", name, "JobSucceeded", summary(j), false)}
}

// summary names what a job has done.
func summary(j *pb.Job) string {
	var parts []string
	for i, o := range j.GetSpec().GetOperations() {
		text := Describe(o)
		if r := opStatus(j, i).GetResult(); r != "" {
			text += " (" + r + ")"
		}
		parts = append(parts, text)
	}
	return j.GetSpec().GetMachine() + ": " + strings.Join(parts, ", ")
}

// withStatus returns a copy of j that has a status for each of its operations.
func withStatus(j *pb.Job) *pb.Job {
	next := proto.Clone(j).(*pb.Job)
	if next.Status == nil {
		next.Status = &pb.JobStatus{}
	}
	for len(next.Status.Operations) < len(next.GetSpec().GetOperations()) {
		next.Status.Operations = append(next.Status.Operations, &pb.OperationStatus{State: pb.JobState_JOB_PENDING})
	}
	return next
}

// commit stores next, and ops with it, if the job is still as it was decided on.
func (c *Controller) commit(ctx context.Context, was, next *pb.Job, ops ...store.Op) error {
	resource.Stamp(c.cfg.DB, next)
	revision, err := c.cfg.DB.Store.Txn(ctx, []store.Compare{resource.Unchanged(was)}, append([]store.Op{resource.Put(next)}, ops...))
	if err == nil {
		next.Metadata.ResourceVersion = revision
	}
	return err
}

// keep puts a job that was just stored in place of the one that the watch has
// brought, which brings the same later.
func (c *Controller) keep(j *pb.Job, dirty map[string]bool) {
	if hasEnded(j) {
		c.turns.leave(j.Metadata.Name)
	}
	c.setJob(j, dirty)
}

// prune deletes the oldest of a machine's ended jobs, but never the one that
// its life waits for.
func (c *Controller) prune(ctx context.Context, name string) error {
	var ended []*pb.Job
	for _, j := range c.queues[name] {
		if hasEnded(j) && c.machines[name].GetStatus().GetJob() != j.Metadata.Name {
			ended = append(ended, j)
		}
	}
	if len(ended) <= c.cfg.Keep {
		return nil
	}
	slices.SortFunc(ended, func(a, b *pb.Job) int {
		return a.GetStatus().GetEndTime().AsTime().Compare(b.GetStatus().GetEndTime().AsTime())
	})
	for _, j := range ended[:len(ended)-c.cfg.Keep] {
		_, err := c.cfg.DB.Store.Txn(ctx, []store.Compare{resource.Unchanged(j)}, []store.Op{resource.Remove[*pb.Job](j.Metadata.Name)})
		if err != nil {
			return fmt.Errorf("pruning job %s: %w", j.Metadata.Name, err)
		}
		delete(c.queues[name], j.Metadata.Name)
	}
	return nil
}
