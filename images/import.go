package images

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/bedplate/bedplate/images/chunk"
	"github.com/bedplate/bedplate/images/convert"
)

// Progress is how far an import has come, all in bytes.
type Progress struct {
	// Received is of the file as it comes.
	Received int64
	// Data is of the disk and isn't zeros; Stored is what it takes, New what the store hadn't yet.
	Data, Stored, New int64
	Chunks            int64
}

// Imported is what an import found.
type Imported struct {
	Content
	// Index is the digest of the chunk index; the zero value for content that is kept as it is.
	Index string
	// DiskSize is that of the disk in bytes.
	DiskSize int64
	Progress
}

// Import reads a disk image of any format that convert knows to its end, and
// keeps it as chunks. When it returns nil they are durable. On an error nothing
// is kept. Errors: ErrDigest, ErrSize, ErrFull, convert.ErrUnknown, what r says.
func (s *Store) Import(ctx context.Context, r io.Reader, want Expect) (Imported, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	im, err := s.newImport(ctx, cancel)
	if err != nil {
		return Imported{}, err
	}
	defer im.end()
	limit := int64(MaxSize)
	if want.Size > 0 {
		limit = min(limit, want.Size)
	}
	in := &counted{r: io.LimitReader(contextReader{ctx, r}, limit+1), hash: newHasher(), n: &im.received}
	res, err := convert.Run(ctx, convert.Config{Format: want.Format, Compression: want.Compression, MaxDisk: s.maxDisk, Spool: im.spool}, in, im)
	sum := in.hash.sum()
	im.wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if in.ended.Load() {
		if serr := judge(in.read(), limit, want.Size); serr != nil {
			err = serr // The better explanation of whatever else is wrong.
		}
	}
	if err != nil {
		return Imported{}, fmt.Errorf("importing the image, %d bytes in: %w", in.read(), err)
	}
	if err := convert.Whole(im.first, res.Size); err != nil {
		return Imported{}, err
	}
	digest := "sha256:" + hex.EncodeToString(sum)
	if want.Digest != "" && digest != want.Digest {
		return Imported{}, fmt.Errorf("want %s, got %s: %w", want.Digest, digest, ErrDigest)
	}
	index, err := im.commit(res.Size)
	if err != nil {
		return Imported{}, err
	}
	s.metrics.imported.Add(float64(in.read()))
	return Imported{
		Content: Content{Digest: digest, Size: in.read(), Type: Type{Format: string(res.Format), Compression: string(res.Compression), VirtualSize: res.Size}},
		Index:   index.String(), DiskSize: res.Size, Progress: im.progress(),
	}, nil
}

// judge compares the length of what came with what was announced.
func judge(n, limit, want int64) error {
	switch {
	case n > limit:
		return fmt.Errorf("it goes on after %d bytes: %w", limit, ErrSize)
	case n == 0:
		return fmt.Errorf("it is empty: %w", ErrSize)
	case want > 0 && n != want:
		return fmt.Errorf("it ends after %d of %d bytes: %w", n, want, ErrSize)
	}
	return nil
}

// session is one import under way. It is a convert.Sink: what it is given is
// hashed, compressed and stored by as many goroutines as there are cores.
type session struct {
	s       *Store
	ctx     context.Context // Ends with the first failure.
	cancel  context.CancelCauseFunc
	encoder *chunk.Encoder
	free    chan []byte
	jobs    chan piece
	workers sync.WaitGroup
	stop    func()

	received, data, stored, fresh, chunks atomic.Int64

	mu      sync.Mutex
	entries []chunk.Entry
	// first is the beginning of the disk.
	first     []byte
	committed bool
	spooled   *spool
}

type piece struct {
	place uint32
	b     []byte
}

func (s *Store) newImport(ctx context.Context, cancel context.CancelCauseFunc) (*session, error) {
	n := runtime.GOMAXPROCS(0)
	encoder, err := chunk.NewEncoder(n)
	if err != nil {
		return nil, err
	}
	im := &session{s: s, ctx: ctx, cancel: cancel, encoder: encoder, free: make(chan []byte, 2*n+3), jobs: make(chan piece, n)}
	for range cap(im.free) {
		im.free <- nil // Memory is taken when it is needed.
	}
	for range n {
		im.workers.Go(im.work)
	}
	im.stop = sync.OnceFunc(func() { close(im.jobs); im.workers.Wait() })
	return im, nil
}

// Buffer implements convert.Sink.
func (im *session) Buffer() ([]byte, error) {
	select {
	case b := <-im.free:
		if b == nil {
			b = make([]byte, chunk.Size)
		}
		return b[:chunk.Size], nil
	case <-im.ctx.Done():
		return nil, context.Cause(im.ctx)
	}
}

// Release implements convert.Sink.
func (im *session) Release(b []byte) { im.free <- b[:chunk.Size] }

// Put implements convert.Sink.
func (im *session) Put(place uint32, b []byte) error {
	select {
	case im.jobs <- piece{place, b}:
		return nil
	case <-im.ctx.Done():
		im.Release(b)
		return context.Cause(im.ctx)
	}
}

func (im *session) work() {
	var out []byte
	for j := range im.jobs {
		if im.ctx.Err() == nil {
			var err error
			if out, err = im.store(j, out[:0]); err != nil {
				im.cancel(err)
			}
		}
		im.Release(j.b)
	}
}

// store keeps one piece, unless the store has its content already.
func (im *session) store(j piece, out []byte) ([]byte, error) {
	d := chunk.Sum(j.b)
	n, ok := im.s.chunks.take(d)
	if !ok {
		out = im.encoder.Encode(out, j.b)
		var fresh bool
		var err error
		if n, fresh, err = im.s.chunks.put(d, out); err != nil {
			return out, err
		}
		if fresh {
			im.fresh.Add(int64(n))
		}
	}
	im.data.Add(int64(len(j.b)))
	im.stored.Add(int64(n))
	im.chunks.Add(1)
	im.mu.Lock()
	defer im.mu.Unlock()
	im.entries = append(im.entries, chunk.Entry{Place: j.place, Stored: n, Digest: d})
	if j.place == 0 {
		im.first = append([]byte{}, j.b[:min(len(j.b), 8192)]...)
	}
	return out, nil
}

func (im *session) wait() { im.stop() }

func (im *session) progress() Progress {
	return Progress{Received: im.received.Load(), Data: im.data.Load(), Stored: im.stored.Load(), New: im.fresh.Load(), Chunks: im.chunks.Load()}
}

func (im *session) commit(size int64) (chunk.Digest, error) {
	slices.SortFunc(im.entries, func(a, b chunk.Entry) int { return cmp.Compare(a.Place, b.Place) })
	d, err := im.s.chunks.commit(&chunk.Index{Size: size, Entries: im.entries})
	if err != nil {
		return d, fmt.Errorf("storing the image: %w", err)
	}
	im.committed = true
	return d, nil
}

// end gives back what an import that failed has stored.
func (im *session) end() {
	im.cancel(errors.New("the import was given up"))
	im.stop()
	if !im.committed {
		im.s.chunks.drop(im.entries)
	}
	if im.spooled != nil {
		im.spooled.remove()
	}
}

// spool makes the file for formats that can't be streamed; convert.Config.Spool.
func (im *session) spool() (convert.Spool, error) {
	f, err := os.CreateTemp(im.s.dir, tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("storing the upload: %w", err)
	}
	im.spooled = &spool{File: f, chunks: im.s.chunks}
	return im.spooled, nil
}

// spool is an upload on disk. What it takes counts as the store's.
type spool struct {
	*os.File
	chunks *chunks
	size   int64
}

// Write implements io.Writer. ErrFull.
func (f *spool) Write(b []byte) (int, error) {
	if err := f.chunks.grow(int64(len(b))); err != nil {
		return 0, err
	}
	f.size += int64(len(b))
	return f.File.Write(b)
}

// ReadFrom is not os.File's, which would go past Write.
func (f *spool) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{f}, r, make([]byte, bufSize))
}

func (f *spool) remove() {
	_ = f.Close()           // Nothing is kept of it.
	_ = os.Remove(f.Name()) // It is tried again at the next start.
	f.chunks.shrink(f.size)
}

// counted hashes and counts what is read.
type counted struct {
	r    io.Reader
	hash *hasher
	n    *atomic.Int64
	// ended: there is no more.
	ended atomic.Bool
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.n.Add(int64(n))
		c.hash.write(p[:n])
	}
	if err == io.EOF { //nolint:errorlint // Wrapped in another failure it is not the end.
		c.ended.Store(true)
	}
	return n, err
}

func (c *counted) read() int64 { return c.n.Load() }

// hasher is SHA-256 beside the reading.
type hasher struct {
	in   chan []byte
	free chan []byte
	done chan []byte
	cur  []byte
}

func newHasher() *hasher {
	const buffers, size = 4, 256 << 10
	h := &hasher{in: make(chan []byte, buffers), free: make(chan []byte, buffers), done: make(chan []byte, 1)}
	for range buffers {
		h.free <- make([]byte, 0, size)
	}
	go func() { // Ends with sum.
		hash := sha256.New()
		for b := range h.in {
			hash.Write(b)
			h.free <- b[:0]
		}
		h.done <- hash.Sum(nil)
	}()
	return h
}

func (h *hasher) write(p []byte) {
	for len(p) > 0 {
		if h.cur == nil {
			h.cur = <-h.free
		}
		n := min(len(p), cap(h.cur)-len(h.cur))
		h.cur = append(h.cur, p[:n]...)
		if p = p[n:]; len(h.cur) == cap(h.cur) {
			h.in <- h.cur
			h.cur = nil
		}
	}
}

// sum ends the hasher and returns the digest. It is called once.
func (h *hasher) sum() []byte {
	if h.cur != nil {
		h.in <- h.cur
	}
	close(h.in)
	return <-h.done
}
