package api

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// watchPage is how many resources are read at a time at the beginning of a watch.
const watchPage = 200

// watchRequest is what all Watch requests have.
type watchRequest interface {
	GetName() string
	GetLabelSelector() string
	GetResourceVersion() int64
}

// sendFunc sends one message of a watch. obj is nil for SYNCED.
type sendFunc[T resource.Object] func(t pb.ChangeType, obj T, revision int64) error

// watcher is one watch under way.
type watcher[T resource.Object] struct {
	api      *crud[T]
	name     string
	selector resource.Selector
	send     sendFunc[T]
	// sent has the versions of resources that were read later than the first
	// page of the beginning: the watch brings these again.
	sent map[string]int64
}

// watch sends what is there (unless the client has it already), SYNCED, and
// then every change until ctx is done.
func (a *crud[T]) watch(ctx context.Context, r watchRequest, send sendFunc[T]) error {
	sel, err := parseSelector(r.GetLabelSelector())
	if err != nil {
		return err
	}
	if r.GetName() != "" {
		if err := named(r.GetName()); err != nil {
			return err
		}
	}
	from := r.GetResourceVersion()
	if from < 0 {
		return fieldError("resource_version", "%d: not a revision", from)
	}
	w := &watcher[T]{api: a, name: r.GetName(), selector: sel, send: send, sent: map[string]int64{}}
	if from == 0 {
		if from, err = w.begin(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches, err := a.s.cfg.DB.Store.Watch(ctx, a.kind.Prefix()+w.name, from)
	if err != nil {
		return fmt.Errorf("watching %s: %w", a.kind.Plural, err)
	}
	var none T
	if err := send(pb.ChangeType_SYNCED, none, from); err != nil {
		return err
	}
	for batch := range batches {
		if batch.Err != nil {
			return fmt.Errorf("watching %s: %w", a.kind.Plural, batch.Err)
		}
		for _, c := range batch.Changes {
			if err := w.forward(c, batch.Revision); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

// begin sends what is there, and returns the revision to go on from.
func (w *watcher[T]) begin(ctx context.Context) (int64, error) {
	db := w.api.s.cfg.DB
	opts := resource.ListOptions{Selector: w.selector, Limit: watchPage}
	if w.name != "" {
		return w.beginNamed(ctx, db)
	}
	var first int64
	for {
		found, err := resource.List[T](ctx, db, opts)
		if err != nil {
			return 0, err
		}
		if first == 0 {
			first = found.Revision
		}
		for _, obj := range found.Items {
			md := obj.GetMetadata()
			if md.GetResourceVersion() > first {
				w.sent[md.GetName()] = md.GetResourceVersion()
			}
			if err := w.send(pb.ChangeType_ADDED, w.api.visible(obj), md.GetResourceVersion()); err != nil {
				return 0, err
			}
		}
		if found.Next == "" {
			return first, nil
		}
		opts.After = found.Next
	}
}

// beginNamed is begin for a watch of one resource.
func (w *watcher[T]) beginNamed(ctx context.Context, db *resource.DB) (int64, error) {
	page, err := db.Store.List(ctx, w.api.kind.Prefix()+w.name, "", 1)
	if err != nil {
		return 0, err
	}
	for _, kv := range page.KVs {
		obj, err := w.api.decode(kv.Key, kv.Value, kv.ModRevision)
		if err != nil {
			return 0, err
		}
		if w.matches(obj) {
			if err := w.send(pb.ChangeType_ADDED, w.api.visible(obj), kv.ModRevision); err != nil {
				return 0, err
			}
		}
	}
	return page.Revision, nil
}

func (w *watcher[T]) matches(obj T) bool {
	md := obj.GetMetadata()
	return (w.name == "" || md.GetName() == w.name) && w.selector.Matches(md.GetLabels())
}

// forward sends one change as this watch sees it: a resource whose labels no
// longer match is gone for it.
func (w *watcher[T]) forward(c store.Change, revision int64) error {
	var was, is T
	var matched, matches bool
	var err error
	if c.Prev != nil {
		if was, err = w.api.decode(c.KV.Key, c.Prev, revision); err != nil {
			return err
		}
		matched = w.matches(was)
	}
	if !c.Deleted {
		if is, err = w.api.decode(c.KV.Key, c.KV.Value, c.KV.ModRevision); err != nil {
			return err
		}
		matches = w.matches(is)
		if v, ok := w.sent[is.GetMetadata().GetName()]; ok && v >= c.KV.ModRevision {
			return nil
		}
	}
	switch {
	case matched && matches:
		return w.send(pb.ChangeType_MODIFIED, w.api.visible(is), revision)
	case matches:
		return w.send(pb.ChangeType_ADDED, w.api.visible(is), revision)
	case matched && c.Deleted:
		return w.send(pb.ChangeType_DELETED, w.api.visible(was), revision)
	case matched:
		return w.send(pb.ChangeType_DELETED, w.api.visible(is), revision)
	}
	return nil
}

func (a *crud[T]) decode(key string, value []byte, revision int64) (T, error) {
	obj := a.newObject()
	if err := proto.Unmarshal(value, obj); err != nil || obj.GetMetadata() == nil {
		return obj, status.Errorf(codes.DataLoss, "%s in the store can't be read (%v): restore the store from a backup", key, err)
	}
	obj.GetMetadata().ResourceVersion = revision
	return obj, nil
}
