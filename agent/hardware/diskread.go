package hardware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/disk"
)

const (
	// chunk is one read of a sequential test.
	chunk = 1 << 20
	// depth is how many of them are under way.
	depth = 4
	// regions is how many places of a disk are sampled: the speed of a
	// rotating one falls by half from its first to its last track.
	regions = 16
	// randomBytes is one read of a random test, randomDepth how many are under way.
	randomBytes = 4096
	randomDepth = 16
	// maxBad is how many bad blocks are looked for: each can take a disk half a minute.
	maxBad = 16
	// maxSamples bounds how many latencies are kept.
	maxSamples = 1 << 17
)

// reader reads a disk around the page cache and notes what it can't read. It
// may be used by several goroutines.
type reader struct {
	f     *os.File
	size  int64
	block int64
	mu    sync.Mutex
	bad   []int64 // numbers of logical blocks
	errs  int
	why   error
}

// openReader opens a disk for reading only.
func openReader(path string) (*reader, error) {
	d, err := disk.OpenRead(path)
	if err != nil {
		return nil, err
	}
	size, block := d.Size(), int64(d.BlockSize())
	if err := d.Close(); err != nil {
		return nil, err
	}
	if size < chunk {
		return nil, fmt.Errorf("%s has %d bytes, too few to test", path, size)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		f, err = os.Open(path) // a file system without O_DIRECT holds a file that stands for a disk
	}
	if err != nil {
		return nil, fmt.Errorf("opening disk: %w", err)
	}
	return &reader{f: f, size: size, block: block}, nil
}

func (r *reader) Close() error { return r.f.Close() }

// read reads a piece and reports whether that went well. A piece that can't be
// read is read again block by block, to find which.
func (r *reader) read(b []byte, off int64) bool {
	_, err := r.f.ReadAt(b, off)
	if err == nil || errors.Is(err, io.EOF) {
		return true
	}
	r.mu.Lock()
	r.errs++
	if r.why == nil {
		r.why = err
	}
	full := len(r.bad) >= maxBad
	r.mu.Unlock()
	for i := int64(0); !full && i+r.block <= int64(len(b)); i += r.block {
		if _, err := r.f.ReadAt(b[i:i+r.block], off+i); err != nil && !errors.Is(err, io.EOF) {
			full = r.note((off + i) / r.block)
		}
	}
	return false
}

// note keeps a bad block's number and reports whether there are enough.
func (r *reader) note(lba int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) < maxBad && !slices.Contains(r.bad, lba) {
		r.bad = append(r.bad, lba)
	}
	return len(r.bad) >= maxBad
}

// sequential reads from off with several reads under way until the time or the
// piece is over, and returns how many bytes came.
func (r *reader) sequential(ctx context.Context, off, n int64, limit time.Duration, seen func(int64)) int64 {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var next, got atomic.Int64
	var wg sync.WaitGroup
	for range depth {
		wg.Go(func() {
			b := disk.Aligned(chunk)
			for ctx.Err() == nil {
				at := next.Add(chunk) - chunk
				if at+chunk > n {
					return
				}
				if r.read(b, off+at) {
					got.Add(chunk)
				}
				if seen != nil {
					seen(chunk)
				}
			}
		})
	}
	wg.Wait()
	return got.Load()
}

// random reads blocks from all over the disk and returns how long each read took.
func (r *reader) random(ctx context.Context, seed uint64, workers int, limit time.Duration) []time.Duration {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	all := make([][]time.Duration, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			g := splitmix(seed + uint64(i))
			b := disk.Aligned(randomBytes)
			for ctx.Err() == nil && len(all[i]) < maxSamples/workers {
				off := int64(g.next()%uint64(r.size/randomBytes)) * randomBytes
				began := time.Now()
				if r.read(b, off) {
					all[i] = append(all[i], time.Since(began))
				}
			}
		})
	}
	wg.Wait()
	return slices.Concat(all...)
}

// readSamples reads from places all over the disk, each for the same time.
func (t diskTest) readSamples(ctx context.Context, r *reader) {
	each := t.duration / 2 / regions
	length := r.size / regions / chunk * chunk
	length = max(length, chunk)
	var total int64
	var took time.Duration
	speeds := make([]float64, 0, regions)
	for i := range int64(regions) {
		off := r.size / regions * i / chunk * chunk
		if off+length > r.size || ctx.Err() != nil {
			break
		}
		began := t.s.Now()
		n := r.sequential(ctx, off, length, each, nil)
		d := t.s.Now().Sub(began)
		total, took = total+n, took+d
		speeds = append(speeds, perSecond(n, d))
		t.rep.Progress(i+1, regions, "regions", t.disk.GetName()+": sequential reads")
	}
	t.add(result{measure: "sequential_read", value: perSecond(total, took), unit: unitBytesPerSecond, took: took})
	if len(speeds) > 0 {
		t.add(result{measure: "sequential_read_slowest", value: slices.Min(speeds), unit: unitBytesPerSecond, message: fmt.Sprintf("the slowest of %d regions", len(speeds))})
	}
}

// readAll reads every block.
func (t diskTest) readAll(ctx context.Context, r *reader) {
	began := t.s.Now()
	var seen atomic.Int64
	n := r.sequential(ctx, 0, r.size, maxDuration, func(n int64) {
		t.rep.Progress(seen.Add(n), r.size, "bytes", t.disk.GetName()+": reading everything")
	})
	if tail := r.size % chunk; tail > 0 && ctx.Err() == nil {
		b := disk.Aligned(int(tail / r.block * r.block))
		if len(b) > 0 && r.read(b, r.size-tail) {
			n += int64(len(b))
		}
	}
	took := t.s.Now().Sub(began)
	t.add(result{measure: "surface_read", value: float64(n), unit: unitBytes, took: took})
	t.add(result{measure: "sequential_read", value: perSecond(n, took), unit: unitBytesPerSecond, took: took})
}

// readRandom measures latency with one read at a time, and how many a second
// there are when the disk has many to choose from.
func (t diskTest) readRandom(ctx context.Context, r *reader) {
	each := t.duration / 4
	t.rep.Progress(0, 2, "rounds", t.disk.GetName()+": random reads")
	one := r.random(ctx, t.seed, 1, each)
	if len(one) > 0 {
		slices.Sort(one)
		var sum time.Duration
		for _, d := range one {
			sum += d
		}
		for _, l := range []struct {
			measure string
			value   time.Duration
		}{
			{"read_latency_mean", sum / time.Duration(len(one))}, {"read_latency_p50", percentile(one, 50)},
			{"read_latency_p99", percentile(one, 99)}, {"read_latency_max", one[len(one)-1]},
		} {
			t.add(result{measure: l.measure, value: l.value.Seconds(), unit: unitSeconds, took: sum})
		}
	}
	t.rep.Progress(1, 2, "rounds", t.disk.GetName()+": random reads")
	began := t.s.Now()
	many := r.random(ctx, t.seed+randomDepth, randomDepth, each)
	took := t.s.Now().Sub(began)
	t.add(result{measure: "random_read", value: perSecond(int64(len(many)), took), unit: unitPerSecond, took: took})
}

// percentile is of a sorted list that has at least one element.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}

// reportBad reports what could not be read.
func (t diskTest) reportBad(r *reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	row := result{measure: "read_errors", value: float64(r.errs), unit: unitCount, bad: r.errs > 0}
	if row.bad {
		var list []string
		slices.Sort(r.bad)
		for _, lba := range r.bad {
			list = append(list, fmt.Sprint(lba))
		}
		row.message = fmt.Sprintf("%v; bad blocks of %d bytes, by LBA: %s", r.why, r.block, strings.Join(list, ", "))
		if len(list) == 0 {
			row.message = fmt.Sprintf("%v; every block could be read by itself", r.why)
		}
	}
	t.add(row)
}
