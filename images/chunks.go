package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/images/chunk"
)

const (
	chunkDir = "chunks"
	indexDir = "indexes"
	// Retention is how long an index that no image has any more is kept after a
	// machine asked for it: longer than any write takes.
	Retention = 2 * time.Hour
	// reserve is what is left free on the file system, where the server's store is as well.
	reserve = 1 << 30
)

// ErrFull means that the store has no room for what is being imported.
var ErrFull = errors.New("the image store is full: delete images (`bedplate image list`), free what is left over with `bedplate image prune --now`, or raise --image-store-size")

// chunks is what is known of the chunks on disk. A chunk's file is named by the
// digest of its plain content. It is on stable storage when an index that lists
// it is; a file that no index lists is left over, and removed at the next start.
type chunks struct {
	dir   string
	limit int64
	now   func() time.Time

	// changing is held while an index comes or goes; before mu.
	changing sync.Mutex

	mu   sync.Mutex
	have map[chunk.Digest]*held
	// indexes are complete images, by the digests of their indexes.
	indexes map[chunk.Digest]time.Time // When a machine, or an import, last asked for it.
	// used is what chunks, originals and uploads take, in bytes.
	used int64
}

// held is one chunk.
type held struct {
	stored uint32
	// refs are the places in indexes and in imports under way that need it.
	refs uint32
	// damaged: the file is not what it should be; an import writes it again.
	damaged bool
}

// openChunks reads the indexes, and removes the chunks that none of them lists.
// It returns digests of damaged indexes.
func openChunks(dir string, limit int64, now func() time.Time) (*chunks, []error, error) {
	c := &chunks{dir: dir, limit: limit, now: now, have: map[chunk.Digest]*held{}, indexes: map[chunk.Digest]time.Time{}}
	entries, err := os.ReadDir(filepath.Join(dir, indexDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("listing the image store: %w", err)
	}
	var bad []error
	for _, e := range entries {
		d, err := chunk.ParseDigest("sha256:" + e.Name())
		if err != nil { // Unfinished.
			_ = os.Remove(filepath.Join(dir, indexDir, e.Name())) // It is tried again at the next start.
			continue
		}
		x, err := c.index(d)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		c.adopt(d, x)
	}
	return c, bad, c.sweepUnknown()
}

// adopt counts an index's chunks.
func (c *chunks) adopt(d chunk.Digest, x *chunk.Index) {
	c.indexes[d] = c.now()
	for _, e := range x.Entries {
		h := c.have[e.Digest]
		if h == nil {
			h = &held{stored: e.Stored, damaged: true} // Until its file is seen.
			c.have[e.Digest] = h
			c.used += int64(e.Stored)
		}
		h.refs++
	}
}

// sweepUnknown removes files that nothing refers to, left by a server that was
// stopped during an import, and notes which ones are there.
func (c *chunks) sweepUnknown() error {
	folders, err := os.ReadDir(filepath.Join(c.dir, chunkDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listing the image store: %w", err)
	}
	for _, f := range folders {
		folder := filepath.Join(c.dir, chunkDir, f.Name())
		files, err := os.ReadDir(folder)
		if err != nil {
			return fmt.Errorf("listing the image store: %w", err)
		}
		for _, file := range files {
			d, err := chunk.ParseDigest("sha256:" + file.Name())
			if h := c.have[d]; err == nil && h != nil {
				h.damaged = false
				continue
			}
			if err := os.Remove(filepath.Join(folder, file.Name())); err != nil {
				return fmt.Errorf("removing an unfinished import: %w", err)
			}
		}
	}
	return nil
}

func (c *chunks) chunkPath(d chunk.Digest) string {
	h := d.String()[len("sha256:"):]
	return filepath.Join(c.dir, chunkDir, h[:2], h)
}

func (c *chunks) indexPath(d chunk.Digest) string {
	return filepath.Join(c.dir, indexDir, d.String()[len("sha256:"):])
}

// index reads an index and verifies it.
func (c *chunks) index(d chunk.Digest) (*chunk.Index, error) {
	f, err := os.Open(c.indexPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("index %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("opening a chunk index: %w", err)
	}
	defer f.Close()
	return chunk.ReadIndex(f, d)
}

// asked notes that somebody wants the image whose index that is.
func (c *chunks) asked(d chunk.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.indexes[d]; ok {
		c.indexes[d] = c.now()
	}
}

// take pins a chunk that is there, and returns its stored length.
func (c *chunks) take(d chunk.Digest) (uint32, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.have[d]
	if h == nil || h.damaged {
		return 0, false
	}
	h.refs++
	return h.stored, true
}

// put stores a chunk and pins it. It returns the stored length, and whether it is new.
func (c *chunks) put(d chunk.Digest, stored []byte) (uint32, bool, error) {
	if err := c.grow(int64(len(stored))); err != nil {
		return 0, false, err
	}
	path := c.chunkPath(d)
	temp, err := writeTemp(filepath.Dir(path), stored)
	if err != nil {
		c.shrink(int64(len(stored)))
		return 0, false, fmt.Errorf("storing a chunk: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.have[d]
	if h != nil && !h.damaged { // Another import was faster.
		c.used -= int64(len(stored))
		h.refs++
		return h.stored, false, os.Remove(temp)
	}
	if err := os.Rename(temp, path); err != nil {
		c.used -= int64(len(stored))
		return 0, false, errors.Join(fmt.Errorf("storing a chunk: %w", err), os.Remove(temp))
	}
	if h == nil {
		h = &held{}
		c.have[d] = h
	} else {
		c.used -= int64(h.stored) // It was counted when it was whole.
	}
	h.stored, h.damaged = uint32(len(stored)), false
	h.refs++
	return h.stored, true, nil
}

func writeTemp(dir string, b []byte) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return "", err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// grow takes room for n bytes more. ErrFull.
func (c *chunks) grow(n int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(c.dir, &st); err != nil {
		return fmt.Errorf("looking for room: %w", err)
	}
	free := int64(st.Bavail) * st.Bsize
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit > 0 && c.used+n > c.limit {
		return fmt.Errorf("%d of %d bytes are taken: %w", c.used, c.limit, ErrFull)
	}
	if free-n < reserve {
		return fmt.Errorf("%d bytes are free on its file system, of which %d are kept so: %w", free, int64(reserve), ErrFull)
	}
	c.used += n
	return nil
}

func (c *chunks) shrink(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used -= n
}

// commit makes an index, and all it lists, durable. The pins become the index's.
func (c *chunks) commit(x *chunk.Index) (chunk.Digest, error) {
	if err := x.Check(); err != nil {
		return chunk.Digest{}, err
	}
	if err := os.MkdirAll(filepath.Join(c.dir, indexDir), 0o700); err != nil {
		return chunk.Digest{}, err
	}
	dir, err := os.Open(filepath.Join(c.dir, indexDir))
	if err != nil {
		return chunk.Digest{}, err
	}
	defer dir.Close()
	// Thousands of files are synced by one call: syncfs(2), which reports errors since Linux 5.8.
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return chunk.Digest{}, fmt.Errorf("syncing chunks: %w", err)
	}
	b := x.Encode()
	d := chunk.Sum(b)
	c.changing.Lock()
	defer c.changing.Unlock()
	c.mu.Lock()
	_, known := c.indexes[d]
	c.mu.Unlock()
	if !known {
		if err := writeSynced(dir, c.indexPath(d), b); err != nil {
			return chunk.Digest{}, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.indexes[d]; again {
		c.dropLocked(x.Entries)
	}
	c.indexes[d] = c.now()
	return d, nil
}

func writeSynced(dir *os.File, path string, b []byte) error {
	f, err := os.CreateTemp(dir.Name(), tempPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // Fails, rightly, once renamed.
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return dir.Sync()
}

// drop gives up pins, and removes the chunks that nothing needs any more.
func (c *chunks) drop(entries []chunk.Entry) (freed int64) {
	const batch = 64 // The lock isn't kept for long.
	for len(entries) > 0 {
		n := min(batch, len(entries))
		c.mu.Lock()
		freed += c.dropLocked(entries[:n])
		c.mu.Unlock()
		entries = entries[n:]
	}
	return freed
}

func (c *chunks) dropLocked(entries []chunk.Entry) (freed int64) {
	for _, e := range entries {
		h := c.have[e.Digest]
		if h == nil {
			continue
		}
		if h.refs--; h.refs > 0 {
			continue
		}
		delete(c.have, e.Digest)
		c.used -= int64(h.stored)
		freed += int64(h.stored)
		_ = os.Remove(c.chunkPath(e.Digest)) // What is left is removed at the next start.
	}
	return freed
}

// prune forgets the indexes that keep refuses, unless one was asked for within
// Retention. It returns what that freed, and what is kept for that reason alone.
func (c *chunks) prune(keep func(digest string) bool, all bool) (freed, kept int64, err error) {
	c.changing.Lock()
	defer c.changing.Unlock()
	c.mu.Lock()
	var gone []chunk.Digest
	var waiting []chunk.Digest
	for d, at := range c.indexes {
		switch {
		case keep(d.String()):
		case !all && c.now().Sub(at) < Retention:
			waiting = append(waiting, d)
		default:
			gone = append(gone, d)
			delete(c.indexes, d)
		}
	}
	c.mu.Unlock()
	for _, d := range gone {
		x, rerr := c.index(d)
		if rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		// The index first: without it the chunks are left over, whatever happens now.
		if rerr := os.Remove(c.indexPath(d)); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		freed += c.drop(x.Entries)
	}
	for _, d := range waiting {
		if x, err := c.index(d); err == nil {
			kept += x.StoredSize()
		}
	}
	return freed, kept, err
}

// usage returns how many chunks there are, and what everything takes.
func (c *chunks) usage() (n int, used int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.have), c.used
}

// spoil marks a chunk as damaged, so that it isn't served, and is written anew by an import.
func (c *chunks) spoil(d chunk.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.have[d]; h != nil {
		h.damaged = true
	}
}

// open opens a chunk's file.
func (c *chunks) open(d chunk.Digest) (*os.File, error) {
	c.mu.Lock()
	h := c.have[d]
	ok := h != nil && !h.damaged
	c.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("chunk %s: %w", d, ErrNotFound)
	}
	f, err := os.Open(c.chunkPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("chunk %s: %w", d, ErrNotFound)
	}
	return f, err
}
