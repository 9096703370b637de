package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/bedplate/bedplate/store"
)

// Bounds of one bbolt transaction.
const (
	maxBatch      = 256
	maxBatchBytes = 16 << 20
)

// request is one Txn on its way to the writer.
type request struct {
	// gone is the caller's ctx.Err: not nil when nobody waits any more.
	gone     func() error
	compares []store.Compare
	ops      []store.Op
	// answer has room for the one answer, so that the writer never waits.
	answer chan answer

	// Filled in by the writer.
	revision int64
	changes  []store.Change
	err      error
}

type answer struct {
	revision int64
	err      error
}

// Txn implements store.Store. When ctx ends while the transaction waits, its
// error is returned, and the transaction may or may not have been carried out.
func (s *Store) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	if err := validate(compares, ops); err != nil {
		return 0, err
	}
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	r := &request{gone: ctx.Err, compares: compares, ops: copyOps(ops), answer: make(chan answer, 1)}
	select {
	case s.requests <- r:
	case <-s.closing:
		return 0, store.ErrClosed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case a := <-r.answer:
		return a.revision, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.stopped:
	}
	// The writer may have answered before it stopped.
	select {
	case a := <-r.answer:
		return a.revision, a.err
	default:
		return 0, store.ErrClosed
	}
}

// copyOps keeps the values from the caller, who may go away, and alter them,
// before the writer has come to them.
func copyOps(ops []store.Op) []store.Op {
	out := make([]store.Op, len(ops))
	for i, op := range ops {
		out[i] = op
		out[i].Value = append([]byte{}, op.Value...)
	}
	return out
}

// validate looks at what needs no look at the store.
func validate(compares []store.Compare, ops []store.Op) error {
	if len(ops) > store.MaxTxnOps || len(compares) > store.MaxTxnOps {
		return fmt.Errorf("%d compares and %d operations, of at most %d each: %w", len(compares), len(ops), store.MaxTxnOps, store.ErrTooLarge)
	}
	for _, c := range compares {
		if err := validateKey(c.Key); err != nil {
			return err
		}
	}
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		if err := validateKey(op.Key); err != nil {
			return err
		}
		if len(op.Value) > store.MaxValueBytes {
			return fmt.Errorf("%s has %d bytes, of at most %d: %w", op.Key, len(op.Value), store.MaxValueBytes, store.ErrTooLarge)
		}
		if seen[op.Key] {
			return fmt.Errorf("%s is changed twice in one transaction", op.Key)
		}
		seen[op.Key] = true
	}
	return nil
}

func validateKey(key string) error {
	if len(key) > store.MaxKeyBytes {
		return fmt.Errorf("a key has %d bytes, of at most %d: %w", len(key), store.MaxKeyBytes, store.ErrTooLarge)
	}
	if !validKey(key) {
		return fmt.Errorf("%q is no key: /plural/name is expected", key)
	}
	return nil
}

func validKey(key string) bool {
	return len(key) > 1 && key[0] == '/' && !strings.HasSuffix(key, "/") && len(key) <= store.MaxKeyBytes
}

// write is the one goroutine that changes the file. It ends after Close, when
// everything that waited then has been answered.
func (s *Store) write() {
	defer close(s.stopped)
	for {
		select {
		case r := <-s.requests:
			s.commit(s.gather(r))
		case <-s.closing:
			s.drain()
			return
		}
	}
}

func (s *Store) drain() {
	for {
		select {
		case r := <-s.requests:
			s.commit(s.gather(r))
		default:
			return
		}
	}
}

// gather adds to the first request those that wait by now.
func (s *Store) gather(first *request) []*request {
	batch, size := []*request{first}, first.size()
	for len(batch) < maxBatch && size < maxBatchBytes {
		select {
		case r := <-s.requests:
			batch = append(batch, r)
			size += r.size()
		default:
			return batch
		}
	}
	return batch
}

func (r *request) size() int {
	n := 0
	for _, op := range r.ops {
		n += len(op.Key) + len(op.Value)
	}
	return n
}

// commit carries a batch out, makes it durable, tells the watchers and answers.
func (s *Store) commit(batch []*request) {
	done := s.metrics.begin()
	err := s.update(batch)
	if err != nil && len(batch) > 1 {
		// One of them may be what fails: let each stand alone.
		for _, r := range batch {
			s.commit([]*request{r})
		}
		return
	}
	done(len(batch), err)
	if err == nil {
		for _, r := range batch {
			if len(r.changes) > 0 {
				s.hub.publish(store.Batch{Revision: r.revision, Changes: r.changes})
			}
		}
	}
	for _, r := range batch {
		if err != nil && r.err == nil {
			r.err = fmt.Errorf("writing to the store: %w", err)
		}
		s.metrics.txn(r.err)
		r.answer <- answer{r.revision, r.err}
	}
}

// update applies the batch in one bbolt transaction.
func (s *Store) update(batch []*request) error {
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	revision, err := readRevision(tx)
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	// A commit that failed in its last flush may hold all the same.
	s.hub.skipTo(revision)
	before := revision
	for _, r := range batch {
		r.err, r.changes = nil, nil
		if revision, err = s.apply(tx, r, revision); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	if revision == before {
		return tx.Rollback()
	}
	err = tx.Bucket(bucketMeta).Put(keyRevision, binary.BigEndian.AppendUint64(nil, uint64(revision)))
	if err == nil {
		err = s.opts.fault("commit")
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// apply carries out one request and returns the newest revision after it. An
// error is one of the disk; that of the request itself goes to r.err.
func (s *Store) apply(tx *bbolt.Tx, r *request, revision int64) (int64, error) {
	r.revision = 0
	if r.err = r.gone(); r.err != nil {
		return revision, nil
	}
	if err := s.opts.fault("apply"); err != nil {
		return revision, err
	}
	kvs := tx.Bucket(bucketKV)
	for _, c := range r.compares {
		held, err := modRevision(kvs, c.Key)
		if err != nil {
			return revision, err
		}
		if held != c.ModRevision {
			r.err = fmt.Errorf("%s: %w", c.Key, store.ErrConflict)
			return revision, nil
		}
	}
	for _, op := range r.ops {
		change, changed, err := applyOp(kvs, op, revision+1)
		if err != nil {
			return revision, err
		}
		if changed {
			r.changes = append(r.changes, change)
		}
	}
	if len(r.changes) > 0 {
		revision++
	}
	r.revision = revision
	return revision, nil
}

func modRevision(kvs *bbolt.Bucket, key string) (int64, error) {
	record := kvs.Get([]byte(key))
	if record == nil {
		return 0, nil
	}
	if len(record) < recordHeader {
		return 0, fmt.Errorf("the record of %s is cut short", key)
	}
	return int64(binary.BigEndian.Uint64(record[8:])), nil
}

// applyOp changes one key at a revision, and reports whether there was
// anything to change.
func applyOp(kvs *bbolt.Bucket, op store.Op, revision int64) (store.Change, bool, error) {
	key := []byte(op.Key)
	change := store.Change{KV: store.KV{Key: op.Key, ModRevision: revision}, Deleted: op.Delete}
	created := revision
	if record := kvs.Get(key); record != nil {
		old, err := parseRecord(key, record)
		if err != nil {
			return change, false, err
		}
		change.Prev, created = old.Value, old.CreateRevision
	}
	if op.Delete {
		if change.Prev == nil {
			return change, false, nil
		}
		change.KV.CreateRevision = created
		return change, true, kvs.Delete(key)
	}
	change.KV.Value, change.KV.CreateRevision = op.Value, created
	return change, true, kvs.Put(key, appendRecord(nil, created, revision, op.Value))
}
