package event

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

const (
	listPage = 1000
	// trimBatch is how many entries one Txn deletes.
	trimBatch = 100
)

// Run keeps the log at its size until ctx is done. It holds the names of all
// entries (some 4 MB for 100,000), so that it reads the log once only.
func (l *Log) Run(ctx context.Context) error {
	for {
		err := l.trim(ctx)
		if ctx.Err() != nil {
			return nil
		}
		// Too slow for the store's history: read the names again.
		if !errors.Is(err, store.ErrCompacted) {
			return fmt.Errorf("trimming events: %w", err)
		}
	}
}

// trim deletes what is too much at first, then after every batch of new entries.
func (l *Log) trim(ctx context.Context) error {
	names, revision, err := l.names(ctx)
	if err != nil {
		return err
	}
	prefix := resource.KindOf((*pb.Event)(nil)).Prefix()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches, err := l.db.Store.Watch(ctx, prefix, revision)
	if err != nil {
		return err
	}
	for {
		if names, err = l.drop(ctx, names); err != nil {
			return err
		}
		batch, ok := <-batches
		if !ok {
			return context.Cause(ctx)
		}
		if batch.Err != nil {
			return batch.Err
		}
		for _, c := range batch.Changes {
			if !c.Deleted {
				names = append(names, strings.TrimPrefix(c.KV.Key, prefix))
			}
		}
	}
}

// names returns the names of all entries, oldest first, and the revision to
// watch from.
func (l *Log) names(ctx context.Context) ([]string, int64, error) {
	var names []string
	var revision int64
	prefix := resource.KindOf((*pb.Event)(nil)).Prefix()
	for after := ""; ; {
		page, err := l.db.Store.List(ctx, prefix, after, listPage)
		if err != nil {
			return nil, 0, err
		}
		if revision == 0 {
			revision = page.Revision
		}
		for _, kv := range page.KVs {
			names = append(names, strings.TrimPrefix(kv.Key, prefix))
		}
		if !page.More {
			break
		}
		after = page.KVs[len(page.KVs)-1].Key
	}
	slices.Reverse(names)
	return names, revision, nil
}

// drop deletes the oldest entries, a whole batch at a time, while there are
// that many too many, and returns the names that are left.
func (l *Log) drop(ctx context.Context, names []string) ([]string, error) {
	for len(names) >= l.keep+trimBatch {
		ops := make([]store.Op, trimBatch)
		for i := range ops {
			ops[i] = resource.Remove[*pb.Event](names[i])
		}
		if _, err := l.db.Store.Txn(ctx, nil, ops); err != nil {
			return nil, err
		}
		names = names[trimBatch:]
	}
	return names, nil
}
