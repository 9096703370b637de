package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/bedplate/bedplate/agent/disk"
)

const (
	// grain is the least length of zeros that is looked for: qcow2's usual
	// cluster, so that the holes of converted images are found.
	grain = 64 << 10
	// leastHole is the least run of zeros for which a write is split up.
	leastHole = 128 << 10
)

// sink writes pieces of an image to a disk, in any order, side by side. What
// falls into the disk's first or last MiB it keeps.
//
// buffer, release, put and clear may be called side by side; finish only after them.
type sink struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	dev    Device
	size   int // Of a buffer.
	// head and tail are the image's content of the disk's ends.
	head, tail []byte
	tailAt     int64
	free       chan []byte
	jobs       chan job
	workers    sync.WaitGroup
	stop       func() // Ends the workers once the queue is empty.
	cantZero   atomic.Bool
	zeros      func() []byte
	written    atomic.Int64
	skipped    atomic.Int64
	// checks is what was written, for reading back; nil when that isn't asked for.
	mu     sync.Mutex
	seed   maphash.Seed
	checks []check
	verify bool
	// compare: zeros that are on the disk already are not written.
	compare bool
}

// job is one piece: data, or a run of zeros.
type job struct {
	off  int64
	data []byte // From free; nil for zeros.
	n    int64
}

// check is what a range of the disk must read as.
type check struct {
	off, n int64
	sum    uint64
	zero   bool
}

func newSink(ctx context.Context, cancel context.CancelCauseFunc, dev Device, buffer, buffers int, verify bool) *sink {
	s := &sink{
		ctx: ctx, cancel: cancel, dev: dev, free: make(chan []byte, buffers), jobs: make(chan job, buffers),
		size: buffer, seed: maphash.MakeSeed(), verify: verify,
		zeros: sync.OnceValue(func() []byte { return disk.Aligned(buffer) }),
	}
	s.head = disk.Aligned(int(min(headSize, dev.Size())))
	s.tailAt = max(int64(len(s.head)), (dev.Size()-headSize)/headSize*headSize)
	s.tail = disk.Aligned(int(dev.Size() - s.tailAt))
	for range buffers {
		s.free <- nil // Memory is taken when it is needed.
	}
	for range writers {
		s.workers.Go(s.work)
	}
	s.stop = sync.OnceFunc(func() {
		close(s.jobs)
		s.workers.Wait()
	})
	return s
}

// buffer returns an aligned buffer once one is free.
func (s *sink) buffer() ([]byte, error) {
	select {
	case b := <-s.free:
		if b == nil {
			b = disk.Aligned(s.size)
		}
		return b[:s.size], nil
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	}
}

// release gives a buffer back unused.
func (s *sink) release(b []byte) { s.free <- b }

// put writes a buffer's content at off. The buffer belongs to the sink again.
// off is a multiple of the block size; so is the length, or it is filled up
// with zeros.
func (s *sink) put(off int64, b []byte) error {
	unit := s.dev.BlockSize()
	if rest := len(b) % unit; rest != 0 {
		n := len(b)
		b = b[:n+unit-rest]
		clear(b[n:])
	}
	return s.send(job{off: off, data: b, n: int64(len(b))})
}

// clear makes a range of the image zeros.
func (s *sink) clear(off, n int64) error {
	if unit := int64(s.dev.BlockSize()); n%unit != 0 {
		n += unit - n%unit
	}
	return s.send(job{off: off, n: n})
}

func (s *sink) send(j job) error {
	if j.n > s.dev.Size()-j.off {
		return tooLarge(j.off+j.n, s.dev.Size())
	}
	select {
	case s.jobs <- j:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

func tooLarge(image, size int64) error {
	return fmt.Errorf("the image has %d bytes or more, the disk has %d: select a larger disk", image, size)
}

// finish waits until everything is written.
func (s *sink) finish() error {
	s.stop()
	return context.Cause(s.ctx)
}

// abort ends the workers without finishing. After finish it does nothing.
func (s *sink) abort() {
	s.cancel(errors.New("the write was given up"))
	s.stop()
}

func (s *sink) work() {
	for j := range s.jobs {
		if s.ctx.Err() != nil {
			continue // Empty the queue.
		}
		if err := s.do(j); err != nil {
			s.cancel(fmt.Errorf("writing to %s: %w", s.dev.Path(), err))
		}
		if j.data != nil {
			s.free <- j.data
		}
	}
}

// do keeps what belongs to the ends and writes the rest.
func (s *sink) do(j job) error {
	j = s.keep(j)
	if j.n == 0 {
		return nil
	}
	if j.data == nil {
		return s.zero(j.off, j.n)
	}
	for off := int64(0); off < j.n; {
		n, zero := int64(len(j.data)), false
		if !s.cantZero.Load() {
			n, zero = run(j.data)
		}
		if err := s.one(j.off+off, j.data[:n], zero); err != nil {
			return err
		}
		j.data, off = j.data[n:], off+n
	}
	return nil
}

func (s *sink) one(off int64, data []byte, zero bool) error {
	if zero {
		return s.zero(off, int64(len(data)))
	}
	if _, err := s.dev.WriteAt(data, off); err != nil {
		return err
	}
	s.written.Add(int64(len(data)))
	s.note(check{off: off, n: int64(len(data))}, data)
	return nil
}

// keep copies the parts of a job that fall into the ends, and returns what is
// left of it.
func (s *sink) keep(j job) job {
	if end := int64(len(s.head)); j.off < end {
		n := min(j.n, end-j.off)
		j = s.part(s.head[j.off:][:n], j, 0, n)
	}
	if over := j.off + j.n - s.tailAt; over > 0 && j.n > 0 {
		n := min(j.n, over)
		from := j.off + j.n - n
		j = s.part(s.tail[from-s.tailAt:][:n], j, j.n-n, n)
	}
	return j
}

// part copies n bytes of a job, from its offset at, into dst, and cuts them off.
func (s *sink) part(dst []byte, j job, at, n int64) job {
	if j.data == nil {
		clear(dst)
	} else {
		copy(dst, j.data[at:at+n])
	}
	if at == 0 {
		j.off += n
		if j.data != nil {
			j.data = j.data[n:]
		}
	} else if j.data != nil {
		j.data = j.data[:at]
	}
	j.n -= n
	return j
}

// zero clears a range by the device's own means, or by writing zeros.
func (s *sink) zero(off, n int64) error {
	s.note(check{off: off, n: n, zero: true}, nil)
	for n > 0 && s.ctx.Err() == nil {
		if !s.cantZero.Load() {
			piece := min(n, 256<<20)
			ok, err := s.dev.ZeroRange(off, piece)
			if err != nil {
				return err
			}
			if ok {
				s.skipped.Add(piece)
				off, n = off+piece, n-piece
				continue
			}
			s.cantZero.Store(true)
		}
		piece := min(n, int64(s.size))
		if s.compare && s.isZero(off, piece) {
			s.skipped.Add(piece)
			off, n = off+piece, n-piece
			continue
		}
		if _, err := s.dev.WriteAt(s.zeros()[:piece], off); err != nil {
			return err
		}
		s.written.Add(piece)
		off, n = off+piece, n-piece
	}
	return nil
}

// isZero reports whether a range of the disk reads as zeros already.
func (s *sink) isZero(off, n int64) bool {
	b := disk.Aligned(int(n))
	_, err := readAt(s.dev, b, off)
	return err == nil && allZero(b)
}

func (s *sink) note(c check, data []byte) {
	if !s.verify {
		return
	}
	if data != nil {
		c.sum = maphash.Bytes(s.seed, data)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = append(s.checks, c)
}

var zeroGrain [grain]byte

// run returns the length of what b begins with: zeros, or data up to the next
// run of zeros that is worth leaving out.
func run(b []byte) (n int64, zero bool) {
	at := 0
	for at < len(b) {
		hole := at
		for hole < len(b) {
			g := b[hole:min(hole+grain, len(b))]
			if !bytes.Equal(g, zeroGrain[:len(g)]) {
				break
			}
			hole += len(g)
		}
		if hole-at >= leastHole || hole-at == len(b) {
			if at == 0 {
				return int64(hole), true
			}
			return int64(at), false
		}
		at = min(hole+grain, len(b))
	}
	return int64(len(b)), false
}

// allZero reports whether a whole buffer is zeros.
func allZero(b []byte) bool {
	for len(b) > 0 {
		g := b[:min(grain, len(b))]
		if !bytes.Equal(g, zeroGrain[:len(g)]) {
			return false
		}
		b = b[len(g):]
	}
	return true
}
