package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// attempt is one try of one operation.
type attempt struct {
	machine *pb.Machine
	job     *pb.Job // as it is in the store, as far as this attempt knows
	op      int
	// cut: the server was restarted while an earlier try was under way.
	cut bool
	err error // of storing
}

// start begins one try in a goroutine of its own, which belongs to g.
func (c *Controller) start(ctx context.Context, g *errgroup.Group, name string, s step) {
	c.busy[name] = true
	c.metrics.running.Set(float64(len(c.busy)))
	a := attempt{
		machine: c.machines[name], job: s.job, op: s.op,
		cut: opStatus(s.job, s.op).GetState() == pb.JobState_JOB_RUNNING,
	}
	g.Go(func() error {
		a.err = c.try(ctx, &a)
		select {
		case c.ended <- a:
		case <-ctx.Done():
		}
		return nil
	})
}

// settle takes note of an attempt that has ended.
func (c *Controller) settle(a attempt, dirty map[string]bool) {
	name := a.machine.Metadata.Name
	delete(c.busy, name)
	c.metrics.running.Set(float64(len(c.busy)))
	c.keep(a.job, dirty)
	dirty[name] = true
	c.wakeStarved(dirty)
	switch {
	case a.err == nil:
		c.turns.used(a.job.Metadata.Name)
	case errors.Is(a.err, store.ErrConflict), errors.Is(a.err, store.ErrNotFound):
	default:
		c.cfg.Logger.Error("carrying out a job", "machine", name, "err", a.err)
		delete(dirty, name)
		c.later[name] = c.cfg.Now().Add(retryDelay)
	}
}

// wakeStarved marks the machines that wait for an operation of another to end.
func (c *Controller) wakeStarved(dirty map[string]bool) {
	if len(c.busy) != c.cfg.Concurrency-1 {
		return
	}
	for name := range c.later {
		dirty[name] = true
	}
}

// try makes one attempt: its start is stored, the BMC is asked, its end is stored.
// The error is the store's.
func (c *Controller) try(ctx context.Context, a *attempt) error {
	if err := c.begin(ctx, a); err != nil {
		return err
	}
	limit, cancel := context.WithDeadline(ctx, a.job.Status.Deadline.AsTime())
	defer cancel()
	started := c.cfg.Now()
	result, err := c.carryOut(limit, a)
	if ctx.Err() != nil {
		// The server stops: the operation stays on record as running.
		return context.Cause(ctx)
	}
	c.metrics.observe(kindName(a.operation()), err, c.cfg.Now().Sub(started))
	return c.finish(ctx, a, result, err)
}

func (a *attempt) operation() *pb.Operation { return a.job.Spec.Operations[a.op] }

func (a *attempt) status() *pb.OperationStatus { return opStatus(a.job, a.op) }

// begin puts the start of the attempt on record.
func (c *Controller) begin(ctx context.Context, a *attempt) error {
	now := timestamppb.New(c.cfg.Now())
	next := withStatus(a.job)
	s := next.Status
	if s.StartTime == nil {
		s.StartTime = now
	}
	if s.Deadline == nil {
		s.Deadline = timestamppb.New(now.AsTime().Add(timeout(next)))
	}
	s.State = pb.JobState_JOB_RUNNING
	s.Cause = fmt.Sprintf("operation %d of %d: %s", a.op+1, len(next.Spec.Operations), Describe(next.Spec.Operations[a.op]))
	o := s.Operations[a.op]
	o.State = pb.JobState_JOB_RUNNING
	o.Interrupted = o.Interrupted || a.cut
	o.Attempts++
	o.RetryTime = nil
	if o.StartTime == nil {
		o.StartTime = now
	}
	if err := c.commit(ctx, a.job, next); err != nil {
		return err
	}
	a.job = next
	return nil
}

// finish puts the end of the attempt on record. The job may have changed
// meanwhile: a person may have asked for its end.
func (c *Controller) finish(ctx context.Context, a *attempt, result string, failure error) error {
	return c.amend(ctx, a, func(j *pb.Job) []store.Op {
		now := timestamppb.New(c.cfg.Now())
		o := j.Status.Operations[a.op]
		if failure == nil {
			o.State, o.Error, o.Result, o.EndTime = pb.JobState_JOB_SUCCEEDED, "", clip(result), now
			if a.op+1 < len(j.Spec.Operations) {
				return nil
			}
			j.Status.State, j.Status.Cause, j.Status.EndTime = pb.JobState_JOB_SUCCEEDED, "all operations are done", now
			return c.endEvents(j)
		}
		o.Error = clip(failure.Error())
		at, again := retryAt(failure, o.Attempts, now.AsTime())
		if again && at.Before(j.Status.Deadline.AsTime()) {
			o.State, o.RetryTime = pb.JobState_JOB_PENDING, timestamppb.New(at)
			j.Status.Cause = fmt.Sprintf("operation %d of %d (%s) is tried again: %s", a.op+1, len(j.Spec.Operations), Describe(a.operation()), o.Error)
			return nil
		}
		o.State, o.EndTime = pb.JobState_JOB_FAILED, now
		return nil // the loop ends the job
	})
}

// amend changes the attempt's job in the store, on top of what others changed.
func (c *Controller) amend(ctx context.Context, a *attempt, change func(*pb.Job) []store.Op) error {
	was := a.job
	for {
		next := withStatus(was)
		ops := change(next)
		err := c.commit(ctx, was, next, ops...)
		if err == nil {
			a.job = next
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("storing job %s: %w", was.Metadata.Name, err)
		}
		if was, err = resource.Get[*pb.Job](ctx, c.cfg.DB, a.job.Metadata.Name); err != nil {
			return err
		}
		if was.Metadata.Uid != a.job.Metadata.Uid {
			return store.ErrNotFound
		}
	}
}

// permanentError is an error that another try would only repeat.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// permanent marks err as one that isn't tried again.
func permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanentError{err}
}

// retryAt returns when an operation that failed so is tried again, if it is.
func retryAt(err error, attempts uint32, now time.Time) (time.Time, bool) {
	var given permanentError
	var circuit *bmc.CircuitError
	switch {
	case errors.As(err, &given), attempts >= maxAttempts:
		return time.Time{}, false
	case errors.As(err, &circuit):
		return circuit.Circuit.NextTry.Add(time.Second), true
	case errors.Is(err, bmc.ErrUnsupported), errors.Is(err, bmc.ErrPermission), errors.Is(err, bmc.ErrCertificate),
		errors.Is(err, bmc.ErrNotFound), errors.Is(err, bmc.ErrAuth):
		// A password that was refused is not tried again: accounts get locked.
		return time.Time{}, false
	case errors.Is(err, bmc.ErrIgnored), errors.Is(err, bmc.ErrPowerState):
		// The BMC had its time; it gets two more chances.
		return now.Add(pause(attempts)), attempts < 3
	}
	return now.Add(pause(attempts)), true
}

// maxText bounds what a BMC's words take of a job.
const maxText = 2 << 10

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for cut > 0 && s[cut]&0xc0 == 0x80 {
		cut--
	}
	return s[:cut] + "…"
}
