package hardware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/partition"
)

const (
	// writeRegions is how many places are written to, of writeBytes each or less.
	writeRegions = 3
	writeBytes   = 64 << 20
	// zeroSamples is how many other places must hold nothing but zeros.
	zeroSamples = 64
)

// errNotEmpty begins every reason for which a disk is not written to.
var errNotEmpty = errors.New("the disk is not empty")

// writeTest writes to a disk that holds nothing, reads that back, and leaves
// zeros, as they were. Nothing is written unless every byte of the places
// written to is zero beforehand.
func (t diskTest) writeTest(ctx context.Context, r *reader) {
	d, err := disk.Open(t.disk.GetPath()) // exclusively: refused while anything uses it
	if err != nil {
		t.skipWrite(err)
		return
	}
	defer d.Close()
	places := writePlaces(d.Size())
	if err := empty(d, r, places, t.seed); err != nil {
		t.skipWrite(err)
		return
	}
	w := writer{t: t, d: d, r: r}
	for i, p := range places {
		if ctx.Err() != nil {
			break
		}
		t.rep.Progress(int64(i), int64(len(places)), "regions", t.disk.GetName()+": writing where it is empty")
		w.region(ctx, p, t.seed+uint64(i))
	}
	w.report()
}

func (t diskTest) skipWrite(why error) {
	t.add(result{measure: "write_test", value: 0, unit: unitBool, message: "not written to: " + why.Error()})
}

// span is a part of a disk.
type span struct{ off, n int64 }

// writePlaces are at a quarter, the half and three quarters: far from the ends,
// where signatures and partition tables are.
func writePlaces(size int64) []span {
	n := min(writeBytes, size/16) / chunk * chunk
	if n == 0 {
		return nil
	}
	var out []span
	for i := range int64(writeRegions) {
		out = append(out, span{size / 4 * (i + 1) / chunk * chunk, n})
	}
	return out
}

// empty returns nil if there is nothing on a disk: no signature, no partition
// table, zeros at both ends, at many places between them, and in every byte of
// the places that are to be written.
func empty(d *disk.Device, r *reader, places []span, seed uint64) error {
	if len(places) == 0 {
		return errors.New("the disk is too small")
	}
	found, err := disk.Signatures(d, d.Size())
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("%w: it holds %s", errNotEmpty, found[0].Type)
	}
	if _, err := partition.Read(d, d.Size(), d.BlockSize()); !errors.Is(err, partition.ErrNone) {
		return fmt.Errorf("%w: it has a partition table", errNotEmpty)
	}
	samples := []span{{0, chunk}, {(d.Size() - chunk) / chunk * chunk, chunk}}
	g := splitmix(seed)
	for range zeroSamples {
		samples = append(samples, span{int64(g.next()%uint64(d.Size()/chunk)) * chunk, chunk})
	}
	for _, s := range append(samples, places...) {
		if err := r.wantZeros(s); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) wantZeros(s span) error {
	b, zeros := disk.Aligned(chunk), make([]byte, chunk)
	for off := s.off; off < s.off+s.n; off += chunk {
		if _, err := r.f.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading at offset %d: %w", off, err)
		}
		if i := differs(b, zeros); i >= 0 {
			return fmt.Errorf("%w: there is something at offset %d", errNotEmpty, off+int64(i))
		}
	}
	return nil
}

// writer writes to one disk.
type writer struct {
	t       diskTest
	d       *disk.Device
	r       *reader
	written int64
	took    time.Duration
	faults  int64
	first   string
	err     error
	left    error // what could not be cleared
}

// region writes one place, reads it back and clears it. It is cleared whatever
// happens: also when ctx is done in the middle.
func (w *writer) region(ctx context.Context, s span, seed uint64) {
	defer w.clear(s)
	data, got := disk.Aligned(chunk), disk.Aligned(chunk)
	began := time.Now()
	end := s.off
	for ; end < s.off+s.n && ctx.Err() == nil; end += chunk {
		fillRandom(data, seed^uint64(end))
		at := time.Now()
		_, err := w.d.WriteAt(data, end)
		w.took += time.Since(at)
		if err != nil {
			w.fail(err)
			break
		}
		w.written += chunk
	}
	at := time.Now()
	w.fail(w.d.Sync())
	w.took += time.Since(at)
	w.fail(w.d.DropCache())
	for off := s.off; off < end && ctx.Err() == nil && time.Since(began) < maxDuration; off += chunk {
		fillRandom(data, seed^uint64(off))
		if !w.r.read(got, off) {
			w.wrong(off, "it could not be read back")
			continue
		}
		if i := differs(data, got); i >= 0 {
			w.wrong(off+int64(i), fmt.Sprintf("wrote %02x, read %02x", data[i], got[i]))
		}
	}
}

// differs returns the place of the first difference, or -1.
func differs(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func (w *writer) wrong(off int64, what string) {
	w.faults++
	if w.first == "" {
		w.first = fmt.Sprintf("LBA %d: %s", off/w.r.block, what)
	}
}

func (w *writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// clear writes zeros, as there were, and makes sure of them.
func (w *writer) clear(s span) {
	zeros := disk.Aligned(chunk)
	for off := s.off; off < s.off+s.n; off += chunk {
		if _, err := w.d.WriteAt(zeros, off); err != nil {
			w.left = err
			return
		}
	}
	if w.left = errors.Join(w.left, w.d.Sync(), w.d.DropCache()); w.left == nil {
		w.left = w.r.wantZeros(s)
	}
}

func (w *writer) report() {
	w.t.add(result{measure: "write_test", value: 1, unit: unitBool})
	w.t.add(result{measure: "sequential_write", value: perSecond(w.written, w.took), unit: unitBytesPerSecond, took: w.took})
	row := result{measure: "write_faults", value: float64(w.faults), unit: unitCount, bad: w.faults > 0, message: w.first}
	if w.err != nil {
		row.value, row.bad, row.message = row.value+1, true, w.err.Error()
	}
	w.t.add(row)
	if w.left != nil {
		w.t.add(result{measure: "cleared", value: 0, unit: unitBool, bad: true, message: "what was written could not be cleared: " + w.left.Error()})
	}
}
