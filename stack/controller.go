// Package stack puts Stack resources on their clusters, layer by layer, and
// keeps them there. What is wanted is planned before it is done; every layer
// waits at its gate; one that doesn't become healthy goes back to what it was,
// and the layers below stay untouched. What has been applied is on record
// before it is applied, so that a server that is killed in the middle goes on,
// and so that an uninstallation leaves nothing.
//
// The parts do the work and know nothing of the store: catalog and layer say
// what is wanted, content and source where it comes from, render what objects
// it has, apply puts them on the cluster, gate says whether they are healthy.
package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack/apply"
	"github.com/bedplate/bedplate/stack/catalog"
	"github.com/bedplate/bedplate/stack/content"
	"github.com/bedplate/bedplate/stack/layer"
	"github.com/bedplate/bedplate/stack/source"
	"github.com/bedplate/bedplate/store"
)

const (
	// retryWait is how long an unreachable cluster is left alone.
	retryWait = 15 * time.Second
	// driftInterval is how often a stack is compared with its cluster, unless said otherwise.
	driftInterval = 5 * time.Minute
	// maxStacks bounds how many stacks are worked on at once.
	maxStacks = 8
)

// Secrets opens secrets; Sealer encrypts what is rendered, which holds them.
type Secrets interface {
	Secret(ctx context.Context, name string) (map[string]string, error)
}

// Sealer encrypts what is kept on disk.
type Sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
}

// Config is what a Controller needs.
type Config struct {
	DB *resource.DB
	// Dir holds charts, manifests and what was rendered.
	Dir     string
	Secrets Secrets
	Sealer  Sealer
	// Machines describes the machines for expressions.
	Machines func(ctx context.Context) ([]any, error)
	// Event makes the op that records an event about a stack.
	Event func(name, reason, message string, warning bool) store.Op
	// DriftInterval is how often a stack is compared with its cluster. 0: every 5 minutes.
	DriftInterval time.Duration
	Now           func() time.Time
	Logger        *slog.Logger
}

// Controller carries stacks out. Use New and Run, each once.
type Controller struct {
	cfg     Config
	catalog *catalog.Catalog
	content *content.Store
	fetch   *source.Fetcher

	mu     sync.Mutex
	busy   map[string]context.CancelFunc
	again  map[string]bool
	limit  chan struct{}
	active sync.WaitGroup
}

// New opens the content store.
func New(cfg Config) (*Controller, error) {
	if cfg.DriftInterval == 0 {
		cfg.DriftInterval = driftInterval
	}
	c, err := catalog.Builtin()
	if err != nil {
		return nil, err
	}
	st, err := content.Open(filepath.Join(cfg.Dir, "content"))
	if err != nil {
		return nil, err
	}
	f, err := source.New(st, filepath.Join(cfg.Dir, "fetched"))
	if err != nil {
		return nil, err
	}
	return &Controller{cfg: cfg, catalog: c, content: st, fetch: f, busy: map[string]context.CancelFunc{}, again: map[string]bool{}, limit: make(chan struct{}, maxStacks)}, nil
}

// CheckStack implements api.Stacks.
func (c *Controller) CheckStack(spec *pb.StackSpec) error {
	_, err := layer.Resolve(spec, c.catalog)
	return err
}

// PutContent implements api.Stacks.
func (c *Controller) PutContent(ctx context.Context, next func() ([]byte, error)) (string, int64, error) {
	return c.content.Put(ctx, next)
}

// Run works on stacks until ctx is done, and returns when all work has stopped.
func (c *Controller) Run(ctx context.Context) error {
	defer c.active.Wait()
	tick := time.NewTicker(min(retryWait, c.cfg.DriftInterval))
	defer tick.Stop()
	changed := make(chan string, 64)
	var follow sync.WaitGroup
	defer follow.Wait()
	failed := make(chan error, 1)
	follow.Go(func() {
		failed <- resource.Follow(ctx, c.cfg.DB, func(s *pb.Stack) {
			select {
			case changed <- s.GetMetadata().GetName():
			case <-ctx.Done():
			}
		}, func(string) {}, func() {})
	})
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case name := <-changed:
			c.wake(ctx, name)
		case <-tick.C:
			all, _, err := resource.All[*pb.Stack](ctx, c.cfg.DB)
			if err != nil {
				c.cfg.Logger.Warn("listing stacks", "err", err)
			}
			for _, s := range all {
				c.wake(ctx, s.GetMetadata().GetName())
			}
		}
	}
}

// wake works on a stack, unless it is being worked on: then a change of what
// is wanted ends that, and it is looked at again.
func (c *Controller) wake(ctx context.Context, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stop, busy := c.busy[name]; busy {
		if c.superseded(ctx, name) {
			c.again[name] = true
			stop()
		}
		return
	}
	work, stop := context.WithCancel(ctx)
	c.busy[name] = stop
	c.active.Go(func() {
		defer stop()
		for again := true; again; {
			c.work(work, name)
			c.mu.Lock()
			again = c.again[name] && ctx.Err() == nil
			delete(c.again, name)
			if again {
				work, stop = context.WithCancel(ctx)
				c.busy[name] = stop
			} else {
				delete(c.busy, name)
			}
			c.mu.Unlock()
		}
		stop()
	})
}

// superseded reports whether the stack's spec is another one than is being carried out.
func (c *Controller) superseded(ctx context.Context, name string) bool {
	s, err := resource.Get[*pb.Stack](ctx, c.cfg.DB, name)
	if err != nil {
		return errors.Is(err, store.ErrNotFound)
	}
	st := s.GetStatus()
	if st.GetDeleting() {
		return st.GetState() != pb.StackState_STACK_REMOVING
	}
	return s.GetSpec().GetSuspend() || (st.GetAppliedDigest() != "" && st.GetAppliedDigest() != wanted(s))
}

// work does one round on one stack.
func (c *Controller) work(ctx context.Context, name string) {
	select {
	case c.limit <- struct{}{}:
		defer func() { <-c.limit }()
	case <-ctx.Done():
		return
	}
	s, err := resource.Get[*pb.Stack](ctx, c.cfg.DB, name)
	if err != nil {
		return // It is gone, or the store is closing.
	}
	if s.GetSpec().GetSuspend() {
		return
	}
	if err := c.round(ctx, s); err != nil && ctx.Err() == nil {
		c.cfg.Logger.Warn("working on a stack", "block", name, "err", err)
	}
}

// round decides what is to be done with a stack, and does it.
func (c *Controller) round(ctx context.Context, s *pb.Stack) error {
	st := s.GetStatus()
	if st.GetDeleting() {
		return c.uninstall(ctx, s)
	}
	settled := st.GetAppliedDigest() == wanted(s)
	switch st.GetState() {
	case pb.StackState_STACK_READY, pb.StackState_STACK_DRIFTED:
		if settled {
			return c.lookForDrift(ctx, s)
		}
	case pb.StackState_STACK_FAILED:
		if settled {
			return nil
		}
	}
	return c.install(ctx, s)
}

// wanted is the digest of what a stack wants: its spec and its retries.
func wanted(s *pb.Stack) string {
	spec := proto.CloneOf(s.GetSpec())
	spec.Suspend, spec.Description = false, ""
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		return "" // A message that came from the store can be marshalled.
	}
	return content.Digest(fmt.Appendf(text, "retry %d", s.GetStatus().GetRetries()))
}

// connect opens the stack's cluster.
func (c *Controller) connect(ctx context.Context, s *pb.Stack) (*apply.Cluster, string, error) {
	cl := s.GetSpec().GetCluster()
	data, err := c.cfg.Secrets.Secret(ctx, cl.GetKubeconfigSecret())
	if err != nil {
		return nil, "", fmt.Errorf("opening secret %s: %w", cl.GetKubeconfigSecret(), err)
	}
	if data["kubeconfig"] == "" {
		return nil, "", fmt.Errorf("secret %s has no key kubeconfig", cl.GetKubeconfigSecret())
	}
	cluster, err := apply.Connect([]byte(data["kubeconfig"]), cl.GetContext())
	if err != nil {
		return nil, "", err
	}
	version, err := cluster.Version(ctx)
	return cluster, version, err
}

// update changes the stack's status on record. An event may go with it.
func (c *Controller) update(ctx context.Context, name string, change func(*pb.StackStatus), reason, message string, warning bool) error {
	for {
		s, err := resource.Get[*pb.Stack](ctx, c.cfg.DB, name)
		if err != nil {
			return err
		}
		before := proto.CloneOf(s)
		if s.Status == nil {
			s.Status = &pb.StackStatus{}
		}
		change(s.Status)
		if proto.Equal(before, s) && reason == "" {
			return nil
		}
		resource.Stamp(c.cfg.DB, s)
		ops := []store.Op{resource.Put(s)}
		if reason != "" {
			ops = append(ops, c.cfg.Event(name, reason, message, warning))
		}
		_, err = c.cfg.DB.Store.Txn(ctx, []store.Compare{resource.Unchanged(before)}, ops)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

func (c *Controller) now() *timestamppb.Timestamp { return timestamppb.New(c.cfg.Now()) }
