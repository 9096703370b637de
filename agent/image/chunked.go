package image

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/image/fetch"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/images/chunk"
)

const (
	// fetches is how many chunks are fetched, decompressed and verified side by side.
	fetches = 8
	// chunkBuffers is how many plain chunks are in memory, being filled or written.
	chunkBuffers = 32
)

// chunks writes an image that comes in chunks. Whatever the image's size, it
// holds fetches stored chunks, chunkBuffers plain ones, and the index: 44 bytes a
// MiB of data.
type chunks struct {
	*attempt
	server  *fetch.Server
	index   *chunk.Index
	decoder *chunk.Decoder
	known   known
	next    atomic.Int64
	// fetched is what came, as stored; done is what is dealt with, plain. In bytes.
	fetched, done atomic.Int64
}

// chunked makes one attempt at an image in chunks. Whatever becomes of it,
// nothing runs on when it returns.
func (a *attempt) chunked(req step.Request) error {
	a.ctx, a.cancel = context.WithCancelCause(a.ctx)
	defer a.cancel(nil)
	c := &chunks{attempt: a, known: newKnown(a.src.compare)}
	c.server = fetch.New(fetch.Config{
		Client: req.HTTP, URL: a.src.chunks, Stall: a.Stall, GiveUp: a.GiveUp, Backoff: a.Backoff,
		Report: func(m string) { a.rep.Log(step.Agent, m) },
	})
	var err error
	if c.decoder, err = chunk.NewDecoder(runtime.GOMAXPROCS(0)); err != nil {
		return err
	}
	defer c.decoder.Close()
	if c.index, err = c.server.Index(a.ctx, *a.src.index); err != nil {
		return err
	}
	a.digest, a.size = a.src.index.String(), c.index.Size
	if a.size > a.dev.Size() {
		return tooLarge(a.size, a.dev.Size())
	}
	a.sink = newSink(a.ctx, a.cancel, a.dev, chunk.Size, chunkBuffers, a.src.verify)
	a.sink.compare = a.src.compare != compareNever
	defer a.sink.abort()
	stop := progress(c.report)
	defer stop()
	if err := c.body(); err != nil {
		return err
	}
	if err := a.sink.finish(); err != nil {
		return err
	}
	return a.seal()
}

func (c *chunks) report() {
	c.rep.Progress(c.done.Load(), c.index.DataSize(), "bytes", fmt.Sprintf("%d MiB fetched, %d MiB written, %d MiB of zeros, %d MiB were there",
		c.fetched.Load()>>20, c.sink.written.Load()>>20, c.sink.skipped.Load()>>20, c.kept.Load()>>20))
}

// body writes all but the ends of the disk.
func (c *chunks) body() error {
	if err := c.first(); err != nil {
		return err
	}
	var workers sync.WaitGroup
	for range fetches {
		workers.Go(func() {
			if err := c.work(); err != nil {
				c.cancel(err)
			}
		})
	}
	err := c.holes()
	if err != nil {
		c.cancel(err)
	}
	workers.Wait()
	return context.Cause(c.ctx)
}

// first looks at the image's first bytes, and makes the disk ready for it.
func (c *chunks) first() error {
	b, err := c.sink.buffer()
	if err != nil {
		return err
	}
	b = b[:min(int64(len(b)), c.size)]
	clear(b)
	if len(c.index.Entries) > 0 && c.index.Entries[0].Place == 0 {
		if err = c.get(b, c.index.Entries[0], make([]byte, chunk.Size)); err == nil {
			c.next.Store(1)
			c.done.Add(int64(len(b)))
		}
	}
	if err == nil {
		err = fits(b[:min(len(b), headSize)], c.dev)
	}
	if err == nil {
		err = c.unseal()
	}
	if err != nil {
		c.sink.release(b)
		return err
	}
	return c.sink.put(0, b)
}

// work takes one chunk after the other to the disk.
func (c *chunks) work() error {
	stored := make([]byte, chunk.Size)
	for {
		i := c.next.Add(1) - 1
		if i >= int64(len(c.index.Entries)) || c.ctx.Err() != nil {
			return nil
		}
		if err := c.one(c.index.Entries[i], stored); err != nil {
			return err
		}
	}
}

// one takes a chunk to the disk, unless it is there.
func (c *chunks) one(e chunk.Entry, stored []byte) error {
	b, err := c.sink.buffer()
	if err != nil {
		return err
	}
	b = b[:c.index.Length(e)]
	defer c.done.Add(int64(len(b)))
	if c.known.has(c.sink, e, b) {
		c.sink.release(b)
		c.kept.Add(int64(len(b)))
		return nil
	}
	if err := c.get(b, e, stored); err != nil {
		c.sink.release(b)
		return err
	}
	return c.sink.put(e.Offset(), b)
}

// wrongTries is how often a chunk is fetched that comes with the wrong content:
// once more, since memory and networks fail, and no more, since stores do too.
const wrongTries = 2

// get fetches a chunk and leaves its verified content in plain.
func (c *chunks) get(plain []byte, e chunk.Entry, stored []byte) error {
	var err error
	for range wrongTries {
		got, ferr := c.server.Chunk(c.ctx, stored, e)
		if ferr != nil {
			return ferr
		}
		c.fetched.Add(int64(len(got)))
		if err = c.decoder.Decode(plain, got, e.Digest); err == nil {
			return nil
		}
		c.rep.Log(step.Agent, fmt.Sprintf("at offset %d of the image: %v", e.Offset(), err))
	}
	return fmt.Errorf("at offset %d of the image: %w: the server's copy is damaged; check it with `bedplate image verify`", e.Offset(), err)
}

// holes makes zeros what is between the chunks.
func (c *chunks) holes() error {
	var at int64
	zero := func(end int64) error {
		for at < end {
			n := min(end-at, mostHole)
			if err := c.sink.clear(at, n); err != nil {
				return err
			}
			at += n
		}
		return nil
	}
	for _, e := range c.index.Entries {
		if err := zero(e.Offset()); err != nil {
			return err
		}
		at = e.Offset() + int64(c.index.Length(e))
	}
	return zero(c.size)
}

// What `compare` may be.
const (
	compareAuto   = "auto"
	compareAlways = "always"
	compareNever  = "never"
)

const (
	// patienceForMisses is after how many chunks in a row that the disk hasn't got
	// `auto` looks at one in probeEvery only, until one is found again.
	patienceForMisses = 16
	probeEvery        = 16
)

// known tells whether the disk holds a chunk already: from an earlier write that
// was cut short, or from the system that was there before. Reading costs less than fetching and
// writing where it finds something, and is lost where it doesn't.
type known struct {
	mode string
	mu   *sync.Mutex
	// misses is how many in a row were not there.
	misses int
	turn   int
}

func newKnown(mode string) known { return known{mode: mode, mu: new(sync.Mutex)} }

// look decides whether to read the disk for the next chunk.
func (k *known) look() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.turn++
	return k.mode == compareAlways || k.mode == compareAuto && (k.misses < patienceForMisses || k.turn%probeEvery == 0)
}

func (k *known) found(yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.misses++
	if yes {
		k.misses = 0
	}
}

// has reads a chunk's place into b, aligned and of the chunk's length, and
// reports whether the chunk is there. The ends of the disk are always written.
func (k *known) has(s *sink, e chunk.Entry, b []byte) bool {
	if off := e.Offset(); off < int64(len(s.head)) || off+int64(len(b)) > s.tailAt || len(b)%s.dev.BlockSize() != 0 || !k.look() {
		return false
	}
	_, err := readAt(s.dev, b, e.Offset())
	same := err == nil && chunk.Sum(b) == e.Digest // What can't be read may yet be written.
	k.found(same)
	return same
}

// directReader reads around the page cache; *disk.Device is one.
type directReader interface {
	ReadDirect(p []byte, off int64) (int, error)
}

func readAt(dev Device, b []byte, off int64) (int, error) {
	if d, ok := dev.(directReader); ok {
		return d.ReadDirect(b, off)
	}
	return dev.ReadAt(b, off)
}

var _ directReader = (*disk.Device)(nil)
