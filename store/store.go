// Package store is the contract of the key-value store under every resource.
// It maps one to one on etcd: revisions are global and increasing, a Txn is
// all or nothing, a Watch sees every change in order. Package bolt is the
// embedded store; storetest is the conformance suite that every store passes.
//
// Keys are slash-separated paths without a trailing slash, such as
// /machines/web-1. Values are opaque. All methods may be called by any number
// of goroutines; the byte slices they return belong to the caller.
package store

import (
	"context"
	"errors"
)

// Limits of every store; larger ones are refused with ErrTooLarge.
const (
	MaxKeyBytes   = 1 << 10
	MaxValueBytes = 1 << 20
	MaxTxnOps     = 128
)

var (
	// ErrNotFound means that there is no such key.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that a compare of a Txn didn't hold: somebody else
	// changed the key first. Read again and decide again.
	ErrConflict = errors.New("changed by someone else")
	// ErrCompacted means that the history before the asked revision is gone:
	// list again and watch from the list's revision.
	ErrCompacted = errors.New("history is gone")
	// ErrTooLarge means that a key, value or transaction is over its limit.
	ErrTooLarge = errors.New("too large")
	// ErrClosed means that the store has been closed.
	ErrClosed = errors.New("store is closed")
)

// KV is one key and its value.
type KV struct {
	Key   string
	Value []byte
	// CreateRevision is the revision at which the key came to be.
	CreateRevision int64
	// ModRevision is the revision at which it last changed.
	ModRevision int64
}

// Compare is a condition of a Txn: the key's ModRevision is this one. 0: the
// key does not exist.
type Compare struct {
	Key         string
	ModRevision int64
}

// Op is one change of a Txn.
type Op struct {
	Key string
	// Value is put, unless Delete is set. Deleting what isn't there is no error.
	Value  []byte
	Delete bool
}

// Put returns the op that sets key to value.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// Delete returns the op that removes key.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// Page is one page of a List.
type Page struct {
	KVs []KV
	// Revision of the store when the page was read; a Watch from it misses nothing.
	Revision int64
	// More says that there are keys after the last one here.
	More bool
}

// Change is one key that a Txn changed.
type Change struct {
	// KV is the new state; for a delete the key and the revision of the delete.
	KV KV
	// Prev is the value before; nil when the key was new.
	Prev    []byte
	Deleted bool
}

// Batch is what one Txn changed below the watched prefix.
type Batch struct {
	Revision int64
	Changes  []Change
	// Err ends the watch: ErrCompacted when the watcher was too slow, ErrClosed.
	Err error
}

// Store is the contract.
type Store interface {
	// Get returns one key, or ErrNotFound.
	Get(ctx context.Context, key string) (KV, error)
	// List returns keys that begin with prefix, in order, after the key
	// `after` (empty: from the first), at most limit (0: all).
	List(ctx context.Context, prefix, after string, limit int) (Page, error)
	// Txn applies ops if all compares hold, else returns ErrConflict. When it
	// returns nil the change is durable. It returns the new revision.
	Txn(ctx context.Context, compares []Compare, ops []Op) (int64, error)
	// Watch sends every batch after revision `from` that touches prefix, until
	// ctx is done; then it closes the channel. Past an Err nothing follows.
	Watch(ctx context.Context, prefix string, from int64) (<-chan Batch, error)
	// Revision returns the newest revision.
	Revision(ctx context.Context) (int64, error)
	// Close waits for transactions under way and releases the store.
	Close() error
}
