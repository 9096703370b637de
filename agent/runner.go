package agent

import (
	"context"
	"errors"
	"sync"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// order is one thing that the server wants: a plan, a cancellation or an
// approval.
type order struct {
	plan     *pb.Plan
	cancel   *pb.Cancel
	approval *pb.Approval
}

// run returns which run of which workflow the order is about.
func (o order) run() (uid string, run uint32) {
	switch {
	case o.plan != nil:
		return o.plan.GetWorkflowUid(), o.plan.GetRun()
	case o.cancel != nil:
		return o.cancel.GetWorkflowUid(), o.cancel.GetRun()
	default:
		return o.approval.GetWorkflowUid(), o.approval.GetRun()
	}
}

var errReplaced = errors.New("the server has sent another plan")

// runner carries out one plan at a time.
type runner struct {
	cfg     Config
	outbox  *outbox
	orders  chan order
	stopped chan struct{}

	mu     sync.Mutex
	name   string        // workflow of the job that runs or ran last
	atRest chan struct{} // closed while no job runs
}

func newRunner(cfg Config, o *outbox) *runner {
	r := &runner{cfg: cfg, outbox: o, orders: make(chan order), stopped: make(chan struct{}), atRest: make(chan struct{})}
	close(r.atRest)
	return r
}

// give hands an order over; it doesn't wait for it to be carried out.
func (r *runner) give(o order) {
	select {
	case r.orders <- o:
	case <-r.stopped:
	}
}

// idle returns a channel that is closed when no plan is being carried out.
func (r *runner) idle() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.atRest
}

// workflow returns the name of the present workflow.
func (r *runner) workflow() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.name
}

// run carries out orders until ctx is done and everything has stopped. It is
// the one goroutine that starts jobs; it never waits but in its select.
func (r *runner) run(ctx context.Context) {
	defer close(r.stopped)
	var current *job        // the newest job, running or over
	var next *pb.Plan       // what to run when current has ended
	var ended chan struct{} // of current while it runs; nil, never ready, else
	for {
		select {
		case <-ctx.Done():
			if current != nil {
				<-current.done
			}
			return
		case <-ended:
			ended = nil
			r.rest()
			if next != nil {
				current, next = r.start(ctx, next), nil
				ended = current.done
			}
		case o := <-r.orders:
			switch uid, run := o.run(); {
			case current != nil && current.is(uid, run):
				// The plan that the server had before comes back; a plan that
				// waited behind it is no longer wanted.
				if o.plan != nil {
					next = nil
				}
				current.give(o)
			case o.plan == nil:
				// about a workflow that this boot knows nothing of
			case ended != nil:
				next = o.plan
				current.stop(errReplaced)
			default:
				current = r.start(ctx, o.plan)
				ended = current.done
			}
		}
	}
}

func (r *runner) rest() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.atRest)
}

func (r *runner) start(ctx context.Context, p *pb.Plan) *job {
	r.mu.Lock()
	r.name = p.GetWorkflow()
	r.atRest = make(chan struct{})
	r.mu.Unlock()
	r.outbox.reset(p.GetWorkflowUid(), p.GetRun())
	j := newJob(ctx, r.cfg, r.outbox, p)
	go j.run() // run waits for j.done
	return j
}
