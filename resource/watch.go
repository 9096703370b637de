package resource

import (
	"context"
	"errors"
	"fmt"
	"maps"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
)

// Change is one change of one resource.
type Change[T Object] struct {
	// Type is ADDED, MODIFIED or DELETED.
	Type pb.ChangeType
	// Object is the new state; for DELETED the last one, with the
	// resource_version of the delete.
	Object T
	// Revision is the store's. A Txn over several resources makes several
	// changes of one revision; watch again only from one that is complete.
	Revision int64
	// Err ends the watch. store.ErrCompacted: list again, and watch from there.
	Err error
}

// Watch sends every change of the kind after revision `from`, in order, until
// ctx is done; then it closes the channel. After a change with an Err nothing
// follows. Where the history from `from` on is gone, either Watch itself
// returns store.ErrCompacted or the first change carries it, as the store
// finds out.
func Watch[T Object](ctx context.Context, db *DB, from int64) (<-chan Change[T], error) {
	ctx, cancel := context.WithCancel(ctx)
	batches, err := db.Store.Watch(ctx, prefixOf[T](), from)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("watching %s: %w", kindOf[T]().Plural, err)
	}
	out := make(chan Change[T])
	go func() {
		// The store's channel is owned by ctx, which ends with this goroutine.
		defer cancel()
		defer close(out)
		for batch := range batches {
			if !forward(ctx, batch, out) {
				return
			}
		}
	}()
	return out, nil
}

// forward sends one batch and reports whether the watch goes on.
func forward[T Object](ctx context.Context, batch store.Batch, out chan<- Change[T]) bool {
	for _, c := range decodeBatch[T](batch) {
		select {
		case out <- c:
		case <-ctx.Done():
			return false
		}
		if c.Err != nil {
			return false
		}
	}
	return true
}

func decodeBatch[T Object](batch store.Batch) []Change[T] {
	if batch.Err != nil {
		return []Change[T]{{Revision: batch.Revision, Err: fmt.Errorf("watching %s: %w", kindOf[T]().Plural, batch.Err)}}
	}
	out := make([]Change[T], 0, len(batch.Changes))
	for _, raw := range batch.Changes {
		c := Change[T]{Type: pb.ChangeType_MODIFIED, Revision: batch.Revision}
		kv := raw.KV
		switch {
		case raw.Deleted:
			c.Type = pb.ChangeType_DELETED
			kv.Value = raw.Prev
		case raw.Prev == nil:
			c.Type = pb.ChangeType_ADDED
		}
		c.Object, c.Err = decodeKV[T](kv)
		out = append(out, c)
	}
	return out
}

// Follow calls set for every resource that is there and for every one that is
// created or changed from then on, remove with the name of every one that is
// deleted, and synced once when all that was there at first has been seen. It
// lists and watches again when it was too slow for the store's history, and
// calls remove for what has gone meanwhile. It returns when ctx is done (nil)
// or the store fails. The functions are called from one goroutine, the
// caller's; the objects are theirs to keep.
func Follow[T Object](ctx context.Context, db *DB, set func(T), remove func(name string), synced func()) error {
	known := map[string]int64{}
	for {
		err := follow(ctx, db, known, set, remove, synced)
		synced = func() {}
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, store.ErrCompacted) {
			return err
		}
	}
}

func follow[T Object](ctx context.Context, db *DB, known map[string]int64, set func(T), remove func(string), synced func()) error {
	revision, err := relist(ctx, db, known, set, remove)
	if err != nil {
		return err
	}
	synced()
	changes, err := Watch[T](ctx, db, revision)
	if err != nil {
		return err
	}
	for c := range changes {
		if c.Err != nil {
			return c.Err
		}
		md := c.Object.GetMetadata()
		if c.Type == pb.ChangeType_DELETED {
			delete(known, md.GetName())
			remove(md.GetName())
			continue
		}
		known[md.GetName()] = md.GetResourceVersion()
		set(c.Object)
	}
	return ctx.Err()
}

// relist brings known (versions by name) up to what is in the store.
func relist[T Object](ctx context.Context, db *DB, known map[string]int64, set func(T), remove func(string)) (int64, error) {
	items, revision, err := All[T](ctx, db)
	if err != nil {
		return 0, err
	}
	gone := maps.Clone(known)
	for _, obj := range items {
		md := obj.GetMetadata()
		delete(gone, md.GetName())
		if known[md.GetName()] != md.GetResourceVersion() {
			known[md.GetName()] = md.GetResourceVersion()
			set(obj)
		}
	}
	for name := range gone {
		delete(known, name)
		remove(name)
	}
	return revision, nil
}
