package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	incoming  = "incoming-"
	typeFile  = ".type"
	tagPrefix = "tag-"
)

var errNotCached = errors.New("not in the cache")

// cache keeps content by digest in one folder, and forgets what was used
// longest ago when it grows over its limit.
type cache struct {
	dir string
	max int64
	now func() time.Time

	mu      sync.Mutex
	entries map[v1.Hash]*entry
	total   int64
	waiting map[v1.Hash]chan struct{}
}

type entry struct {
	size int64
	used time.Time
}

func openCache(dir string, limit int64, now func() time.Time) (*cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := &cache{dir: dir, max: limit, now: now, entries: map[v1.Hash]*entry{}, waiting: map[v1.Hash]chan struct{}{}}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), incoming) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		h, err := v1.NewHash("sha256:" + e.Name())
		if err != nil {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		c.entries[h] = &entry{info.Size(), info.ModTime()}
		c.total += info.Size()
	}
	return c, nil
}

func (c *cache) path(h v1.Hash) string { return filepath.Join(c.dir, h.Hex) }

// put stores what r gives under its digest; an error if it is something else.
func (c *cache) put(h v1.Hash, r io.Reader, mediaType string) error {
	if h.Algorithm != "sha256" {
		return fmt.Errorf("digest %s: only sha256 is known", h)
	}
	f, err := os.CreateTemp(c.dir, incoming)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), r)
	if err != nil {
		return fmt.Errorf("receiving %s: %w", h, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != h.Hex {
		return fmt.Errorf("the registry sent content with digest sha256:%s for %s", got, h)
	}
	if err := os.WriteFile(c.path(h)+typeFile, []byte(mediaType), 0o600); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), c.path(h)); err != nil {
		return err
	}
	c.added(h, n)
	return nil
}

func (c *cache) added(h v1.Hash, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.entries[h]; ok {
		c.total -= old.size
	}
	c.entries[h] = &entry{size, c.now()}
	c.total += size
	c.pruneLocked(h)
}

// pruneLocked forgets the least used until the rest fits. keep stays.
func (c *cache) pruneLocked(keep v1.Hash) {
	if c.total <= c.max {
		return
	}
	var all []v1.Hash
	for h := range c.entries {
		if h != keep {
			all = append(all, h)
		}
	}
	sort.Slice(all, func(i, j int) bool { return c.entries[all[i]].used.Before(c.entries[all[j]].used) })
	for _, h := range all {
		if c.total <= c.max {
			return
		}
		c.total -= c.entries[h].size
		delete(c.entries, h)
		os.Remove(c.path(h))
		os.Remove(c.path(h) + typeFile)
	}
}

// open returns content and its media type; errNotCached if it isn't there.
func (c *cache) open(h v1.Hash) (*os.File, string, error) {
	c.mu.Lock()
	e, ok := c.entries[h]
	if ok {
		e.used = c.now()
	}
	c.mu.Unlock()
	if !ok {
		return nil, "", errNotCached
	}
	f, err := os.Open(c.path(h))
	if err != nil {
		return nil, "", err
	}
	mediaType, err := os.ReadFile(c.path(h) + typeFile)
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, string(mediaType), nil
}

// once runs fetch, unless another caller is fetching the same content: then it
// waits for that one, and runs fetch only if it failed.
func (c *cache) once(ctx context.Context, h v1.Hash, fetch func() error) error {
	for {
		c.mu.Lock()
		other, busy := c.waiting[h]
		if !busy {
			c.waiting[h] = make(chan struct{})
			c.mu.Unlock()
			break
		}
		c.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return ctx.Err()
		}
		if f, _, err := c.open(h); err == nil {
			return f.Close()
		}
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		close(c.waiting[h])
		delete(c.waiting, h)
	}()
	return fetch()
}

// tagRecord is the last digest that a tag was seen to have.
type tagRecord struct{ Repository, Tag, Digest string }

func (c *cache) tagPath(repo, tag string) string {
	sum := sha256.Sum256([]byte(repo + "\x00" + tag))
	return filepath.Join(c.dir, tagPrefix+hex.EncodeToString(sum[:16]))
}

func (c *cache) tag(repo, tag string) (v1.Hash, bool) {
	b, err := os.ReadFile(c.tagPath(repo, tag))
	if err != nil {
		return v1.Hash{}, false
	}
	var r tagRecord
	if err := json.Unmarshal(b, &r); err != nil || r.Repository != repo || r.Tag != tag {
		return v1.Hash{}, false
	}
	h, err := v1.NewHash(r.Digest)
	return h, err == nil
}

// setTag remembers a tag for when the registry can't be reached; that it can't
// be written costs only that.
func (c *cache) setTag(repo, tag string, h v1.Hash) {
	b, err := json.Marshal(tagRecord{repo, tag, h.String()})
	if err != nil {
		return
	}
	temp := c.tagPath(repo, tag) + ".new"
	if err := os.WriteFile(temp, b, fs.FileMode(0o600)); err != nil {
		return
	}
	if err := os.Rename(temp, c.tagPath(repo, tag)); err != nil {
		os.Remove(temp)
	}
}
