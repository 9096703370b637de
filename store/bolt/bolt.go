// Package bolt is the embedded store: the contract of package store on one
// bbolt file that one process holds.
//
// One goroutine owns all writes. It takes whatever transactions wait, applies
// them one after another (the compares of each see the ones before it) in one
// bbolt transaction, and answers when that is on the disk (fdatasync), so that
// many writers share the cost of one flush. Each transaction that changes
// something has a revision of its own.
//
// The history for Watch is kept in memory and bounded in number and bytes;
// after a restart it begins at the newest revision. A watcher that doesn't
// keep up is ended with store.ErrCompacted.
//
// In the file, bucket "kv" maps keys to two big-endian 64-bit revisions
// (created, changed) and the value; bucket "meta" has the newest revision
// under "revision" and the layout's number under "format".
package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/bedplate/bedplate/store"
)

// ErrInUse means that another process has the file open.
var ErrInUse = errors.New("another bedplate serves this data directory: stop it or use --data-dir")

// ErrFormat means that a newer bedplate has written the file.
var ErrFormat = errors.New("written by a newer bedplate: use that version, or restore the data directory that belongs to this one")

// format is the number of the file's layout.
const format = 1

// The names in the file.
var (
	bucketKV    = []byte("kv")
	bucketMeta  = []byte("meta")
	keyRevision = []byte("revision")
	keyFormat   = []byte("format")
)

// Options of a store; the zero value is what a server uses.
type Options struct {
	// HistoryBatches and HistoryBytes bound the history kept for Watch.
	// 0: 16384 batches and 32 MiB.
	HistoryBatches, HistoryBytes int
	// WatchBuffer is how many batches a watcher may lag behind. 0: 1024.
	WatchBuffer int
	// LockTimeout is how long Open waits for another process to let go of
	// the file. 0: one second.
	LockTimeout time.Duration
	// Registerer takes the metrics; without it, or without Now, none are kept.
	Registerer prometheus.Registerer
	// Now is the clock that the metrics need; it decides nothing.
	Now func() time.Time

	// fault, in tests, may fail the named operation: "apply" before a
	// transaction is applied, "commit" before the bbolt transaction is committed.
	fault func(op string) error
}

func (o Options) withDefaults() Options {
	if o.HistoryBatches == 0 {
		o.HistoryBatches = 16384
	}
	if o.HistoryBytes == 0 {
		o.HistoryBytes = 32 << 20
	}
	if o.WatchBuffer == 0 {
		o.WatchBuffer = 1024
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = time.Second
	}
	if o.Now == nil {
		o.Registerer = nil
	}
	if o.fault == nil {
		o.fault = func(string) error { return nil }
	}
	return o
}

// Store is a store.Store on one bbolt file.
type Store struct {
	db      *bbolt.DB
	opts    Options
	metrics metrics
	hub     hub

	// requests carries transactions to the writer; closing ends the writer.
	requests chan *request
	closing  chan struct{}
	stopped  chan struct{}
	close    sync.Once
	closeErr error
}

var _ store.Store = (*Store)(nil)

// Open opens the file, and makes it (mode 0600, with the folders to it, mode
// 0700) if it isn't there. Close it in the end. The error is ErrInUse when
// another process has it open.
func Open(path string, opts Options) (*Store, error) {
	opts = opts.withDefaults()
	if err := create(path, opts); err != nil {
		return nil, err
	}
	db, err := openFile(path, opts)
	if err != nil {
		return nil, err
	}
	revision, err := readHeader(db)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), db.Close())
	}
	s := &Store{
		db:       db,
		opts:     opts,
		requests: make(chan *request, maxBatch),
		closing:  make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	s.hub = newHub(opts, revision)
	s.metrics, err = newMetrics(opts, s)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	go s.write()
	return s, nil
}

func openFile(path string, opts Options) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: opts.LockTimeout,
		// The freelist is rebuilt on open, which is quicker than to write it
		// with every commit.
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		// Growing the map must wait for readers: begin with room to grow.
		InitialMmapSize: 256 << 20,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("opening %s: %w", path, ErrInUse)
	case err != nil:
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return db, nil
}

// create makes the file under another name and renames it when it is whole,
// so that a crash in between leaves no file that can't be opened.
func create(path string, opts Options) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	unfinished := path + ".new"
	db, err := openFile(unfinished, opts)
	if err != nil {
		return err
	}
	if err := errors.Join(db.Update(layOut), db.Close()); err != nil {
		return fmt.Errorf("laying out %s: %w", path, err)
	}
	if err := os.Rename(unfinished, path); err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("flushing %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

func layOut(tx *bbolt.Tx) error {
	if _, err := tx.CreateBucketIfNotExists(bucketKV); err != nil {
		return err
	}
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if err := meta.Put(keyFormat, binary.BigEndian.AppendUint64(nil, format)); err != nil {
		return err
	}
	return meta.Put(keyRevision, binary.BigEndian.AppendUint64(nil, 0))
}

func readHeader(db *bbolt.DB) (int64, error) {
	var revision int64
	err := db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil || tx.Bucket(bucketKV) == nil {
			return errors.New("not a bedplate store")
		}
		if v := meta.Get(keyFormat); len(v) != 8 {
			return errors.New("not a bedplate store")
		} else if binary.BigEndian.Uint64(v) != format {
			return ErrFormat
		}
		var err error
		revision, err = readRevision(tx)
		return err
	})
	return revision, err
}

func readRevision(tx *bbolt.Tx) (int64, error) {
	v := tx.Bucket(bucketMeta).Get(keyRevision)
	if len(v) != 8 {
		return 0, errors.New("the store's revision is unreadable")
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	var kv store.KV
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		record := tx.Bucket(bucketKV).Get([]byte(key))
		if record == nil {
			return store.ErrNotFound
		}
		var err error
		kv, err = parseRecord([]byte(key), record)
		return err
	})
	return kv, err
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) (store.Page, error) {
	var page store.Page
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		var err error
		page, err = list(ctx, tx, []byte(prefix), after, limit)
		return err
	})
	return page, err
}

// Revision implements store.Store.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	return s.hub.revision(), nil
}

// view runs a read. Reads go on while the writer works.
func (s *Store) view(ctx context.Context, read func(*bbolt.Tx) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	err := s.db.View(read)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return store.ErrClosed
	}
	return err
}

func (s *Store) usable(ctx context.Context) error {
	select {
	case <-s.closing:
		return store.ErrClosed
	default:
		return ctx.Err()
	}
}

// Close implements store.Store. Transactions that wait are still carried out;
// watches end with store.ErrClosed.
func (s *Store) Close() error {
	s.close.Do(func() {
		close(s.closing)
		<-s.stopped
		s.hub.end(store.ErrClosed)
		s.metrics.unregister()
		s.closeErr = s.db.Close()
	})
	return s.closeErr
}
