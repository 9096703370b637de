// Package images keeps the content of disk images: files named by the SHA-256
// of their bytes, written once, checked as they arrive, and served to machines
// over HTTP with ranges. What an image is called and what it is for is the
// Image resource's business; this package knows digests only.
//
// A file is complete or absent: it is written under a temporary name, synced,
// and renamed before anybody hears of it.
package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	tempPrefix = "incoming-"
	// MaxSize bounds one image: 1 TiB.
	MaxSize = 1 << 40
	bufSize = 1 << 20
)

var (
	// ErrDigest means that the content isn't what its digest says.
	ErrDigest = errors.New("wrong digest")
	// ErrSize means that the content is shorter or longer than announced.
	ErrSize = errors.New("wrong size")
	// ErrNotFound means that the store has no content with that digest.
	ErrNotFound = errors.New("no such image content")
)

// Config is what a Store needs.
type Config struct {
	// Dir holds the files; it is made if it isn't there.
	Dir string
	// Log may be nil.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// Limit bounds what the store takes, in bytes; 0: the file system, less 1 GiB.
	Limit int64
	// MaxDisk bounds the size of an imported disk; 0: 1 TiB.
	MaxDisk int64
	// Now is the clock by which left over images are kept; nil: time.Now.
	Now func() time.Time
}

// Store is the image store. All methods may be called by any number of goroutines.
type Store struct {
	dir     string
	log     *slog.Logger
	metrics metrics
	maxDisk int64
	chunks  *chunks
}

// Content is what the store knows of one file.
type Content struct {
	// Digest is `sha256:` and 64 hexadecimal digits.
	Digest string
	// Size in bytes.
	Size int64
	Type
}

// Expect is what the sender says of content; zero fields are not checked.
type Expect struct {
	Size   int64
	Digest string
	// Format and Compression are only for Import.
	Format, Compression string
}

// Open returns the store in cfg.Dir and removes what an interrupted upload left there.
func Open(cfg Config) (*Store, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the image store: %w", err)
	}
	s := &Store{dir: cfg.Dir, log: cfg.Log, metrics: newMetrics(cfg.Metrics)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	left, err := filepath.Glob(filepath.Join(cfg.Dir, tempPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("looking for unfinished uploads: %w", err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing an unfinished upload: %w", err)
		}
		s.log.Info("removed an unfinished upload", "file", path)
	}
	return s, s.openChunks(cfg)
}

// openChunks takes in what is there.
func (s *Store) openChunks(cfg Config) error {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c, bad, err := openChunks(cfg.Dir, cfg.Limit, cfg.Now)
	if err != nil {
		return err
	}
	for _, err := range bad {
		s.log.Error("an image is damaged: import it again", "err", err)
	}
	s.chunks, s.maxDisk = c, cfg.MaxDisk
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("listing the image store: %w", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			c.used += info.Size()
		}
	}
	return nil
}

// Put stores what r gives and returns what it is. When it returns nil the
// content is durable. Errors: ErrDigest, ErrSize, what r and the file system say.
func (s *Store) Put(ctx context.Context, r io.Reader, want Expect) (Content, error) {
	f, err := os.CreateTemp(s.dir, tempPrefix)
	if err != nil {
		return Content{}, fmt.Errorf("storing an image: %w", err)
	}
	defer os.Remove(f.Name()) // fails, rightly, once renamed
	defer f.Close()
	room := &spool{File: f, chunks: s.chunks}
	c, err := copyContent(ctx, room, r, want)
	if err != nil {
		s.chunks.shrink(room.size)
		return Content{}, err
	}
	if c.Type, err = detectFile(f); err != nil {
		s.chunks.shrink(room.size)
		return Content{}, fmt.Errorf("reading the image back: %w", err)
	}
	if f, _, err := s.Get(c.Digest); err == nil { // It is there already.
		s.chunks.shrink(room.size)
		_ = f.Close() // Only looked for.
	}
	if err := s.commit(f, c.Digest); err != nil {
		return Content{}, fmt.Errorf("storing an image: %w", err)
	}
	s.metrics.imported.Add(float64(c.Size))
	return c, nil
}

// copyContent writes r to f, hashing, and compares with want.
func copyContent(ctx context.Context, f io.Writer, r io.Reader, want Expect) (Content, error) {
	limit := int64(MaxSize)
	if want.Size > 0 {
		limit = min(limit, want.Size)
	}
	hash := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(f, hash), io.LimitReader(contextReader{ctx, r}, limit+1), make([]byte, bufSize))
	if err != nil {
		return Content{}, fmt.Errorf("receiving the image after %d bytes: %w", n, err)
	}
	switch {
	case n > limit:
		return Content{}, fmt.Errorf("it goes on after %d bytes: %w", limit, ErrSize)
	case want.Size > 0 && n != want.Size:
		return Content{}, fmt.Errorf("it ends after %d of %d bytes: %w", n, want.Size, ErrSize)
	case n == 0:
		return Content{}, fmt.Errorf("it is empty: %w", ErrSize)
	}
	got := "sha256:" + hex.EncodeToString(hash.Sum(nil))
	if want.Digest != "" && got != want.Digest {
		return Content{}, fmt.Errorf("want %s, got %s: %w", want.Digest, got, ErrDigest)
	}
	return Content{Digest: got, Size: n}, nil
}

// commit makes f durable under its digest.
func (s *Store) commit(f *os.File, digest string) error {
	path, err := s.path(digest)
	if err != nil {
		return err
	}
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Get opens the content with that digest; the caller closes it.
func (s *Store) Get(digest string) (*os.File, Content, error) {
	path, err := s.path(digest)
	if err != nil {
		return nil, Content{}, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Content{}, fmt.Errorf("%s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return nil, Content{}, fmt.Errorf("opening image content: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, Content{}, fmt.Errorf("opening image content: %w", err)
	}
	return f, Content{Digest: digest, Size: info.Size()}, nil
}

// Pruned is what Prune did, and what there is now, in bytes.
type Pruned struct {
	// Freed is what was removed.
	Freed int64
	// Kept is of no image any more, but a machine has asked for it within Retention.
	Kept int64
	// Used is what is left, Limit what may be (0: no bound), Chunks how many of them there are.
	Used, Limit int64
	Chunks      int
}

// Prune removes every content whose digest keep refuses: that of a whole file,
// or of an index. Indexes that machines asked for within Retention stay, unless
// all is set. A transfer of a whole file under way goes on to its end.
func (s *Store) Prune(keep func(digest string) bool, all bool) (Pruned, error) {
	p := Pruned{Limit: s.chunks.limit}
	freed, err := s.pruneFiles(keep)
	s.chunks.shrink(freed)
	more, kept, cerr := s.chunks.prune(keep, all)
	p.Freed, p.Kept = freed+more, kept
	p.Chunks, p.Used = s.chunks.usage()
	s.metrics.used.Set(float64(p.Used))
	return p, errors.Join(err, cerr)
}

func (s *Store) pruneFiles(keep func(digest string) bool) (int64, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, fmt.Errorf("listing the image store: %w", err)
	}
	var freed int64
	for _, e := range entries {
		digest := "sha256:" + e.Name()
		if _, err := s.path(digest); err != nil || keep(digest) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // gone meanwhile
		}
		if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return freed, fmt.Errorf("removing image content: %w", err)
		}
		freed += info.Size()
	}
	return freed, nil
}

// path returns where the content with that digest is; only a well-formed
// digest has a path, so none leaves the folder.
func (s *Store) path(digest string) (string, error) {
	h, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(h) != 2*sha256.Size || strings.ToLower(h) != h {
		return "", fmt.Errorf("%q: %w", digest, ErrNotFound)
	}
	if _, err := hex.DecodeString(h); err != nil {
		return "", fmt.Errorf("%q: %w", digest, ErrNotFound)
	}
	return filepath.Join(s.dir, h), nil
}

// contextReader stops reading when its context is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
