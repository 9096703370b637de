package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/bedplate/bedplate/agent/image/transfer"
	"github.com/bedplate/bedplate/images/format/qcow2"
)

// qcow2 writes an image whose file holds the disk's content in pieces, in any
// order: tables first, by range requests; then every piece as the file brings it.
func (a *attempt) qcow2(head []byte) error {
	h, err := qcow2.ParseHeader(head)
	if err != nil {
		return fmt.Errorf("reading qcow2 header: %w", err)
	}
	a.size = h.Size
	if h.Size > a.dev.Size() {
		return fmt.Errorf("the image has %d bytes, the disk has %d: select a larger disk", h.Size, a.dev.Size())
	}
	if unit := h.Piece(); unit < int64(a.dev.BlockSize()) {
		return fmt.Errorf("the image is in pieces of %d bytes, less than the disk's blocks of %d: convert it to raw", unit, a.dev.BlockSize())
	}
	extents, regions, err := h.Map(a.stream.Range)
	if errors.Is(err, transfer.ErrNoRanges) {
		return fmt.Errorf("%w, which a qcow2 image needs: serve it from the server's image store, or convert it to raw", err)
	}
	if err != nil {
		return fmt.Errorf("reading qcow2 tables: %w", err)
	}
	if err := qcow2.SortByFile(extents, regions); err != nil {
		return err
	}
	if size := a.stream.Size(); size >= 0 && len(extents) > 0 {
		if last := extents[len(extents)-1]; last.Host+last.Length > size && (!last.Packed || last.Host+last.Length-size >= 512) {
			return fmt.Errorf("the qcow2 file is cut short: its tables point to offset %d, it has %d bytes: %w", last.Host+last.Length, size, io.ErrUnexpectedEOF)
		}
	}
	if err := a.unseal(); err != nil {
		return err
	}
	if err := h.Gaps(extents, a.sink.clear); err != nil {
		return err
	}
	if err := qcow2.SortByFile(extents, regions); err != nil {
		return err
	}
	unpacker, err := h.NewUnpacker()
	if err != nil {
		return err
	}
	defer unpacker.Close()
	w := &walk{attempt: a, h: h, unpacker: unpacker, win: window{r: a.file}}
	if err := w.run(extents, regions); err != nil {
		w.drop()
		return err
	}
	return w.flush()
}

// walk goes through a qcow2 file from its beginning to its end.
type walk struct {
	*attempt
	h        *qcow2.Header
	unpacker *qcow2.Unpacker
	win      window
	// buf is what is being put together, for the disk's offset at.
	buf []byte
	at  int64
}

func (w *walk) run(extents []qcow2.Extent, regions []qcow2.Region) error {
	for len(extents) > 0 || len(regions) > 0 {
		if len(extents) == 0 || len(regions) > 0 && regions[0].Offset < extents[0].Host {
			if err := w.compare(regions[0]); err != nil {
				return err
			}
			regions = regions[1:]
			continue
		}
		e := extents[0]
		extents = extents[1:]
		var err error
		if e.Packed {
			err = w.packed(e)
		} else {
			err = w.data(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// compare finds a table that was fetched ahead again in the stream.
func (w *walk) compare(r qcow2.Region) error {
	b, err := w.win.at(r.Offset, r.Length)
	if err != nil {
		return w.short(err, r.Offset)
	}
	if sha256.Sum256(b) != r.Sum {
		return fmt.Errorf("%s: %d bytes at %d were others when they were fetched ahead: %w", w.src.url, r.Length, r.Offset, transfer.ErrChanged)
	}
	return nil
}

func (w *walk) short(err error, off int64) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("the qcow2 file ends too early: its tables point to offset %d: %w", off, io.ErrUnexpectedEOF)
	}
	return err
}

func (w *walk) data(e qcow2.Extent) error {
	for e.Length > 0 {
		dst, err := w.space(e.Guest, min(e.Length, windowPiece))
		if err != nil {
			return err
		}
		src, err := w.win.at(e.Host, int64(len(dst)))
		if err != nil {
			return w.short(err, e.Host+e.Length)
		}
		n := int64(copy(dst, src))
		e.Guest, e.Host, e.Length = e.Guest+n, e.Host+n, e.Length-n
	}
	return nil
}

func (w *walk) packed(e qcow2.Extent) error {
	n := min(w.h.ClusterSize, w.h.Size-e.Guest)
	dst, err := w.space(e.Guest, n)
	if err != nil {
		return err
	}
	if int64(len(dst)) < n { // The rest of this buffer is too small for a cluster; an empty one never is.
		w.buf = w.buf[:int64(len(w.buf))-int64(len(dst))]
		if err := w.flush(); err != nil {
			return err
		}
		if dst, err = w.space(e.Guest, n); err != nil {
			return err
		}
	}
	src, err := w.win.at(e.Host, e.Length)
	// The file need not be filled up to a whole sector after its last cluster.
	if errors.Is(err, io.ErrUnexpectedEOF) && int64(len(src)) > e.Length-512 {
		err = nil
	}
	if err != nil {
		return w.short(err, e.Host+e.Length)
	}
	if err := w.unpacker.Unpack(dst, src); err != nil {
		return fmt.Errorf("cluster at offset %d of the file: %w", e.Host, err)
	}
	return nil
}

// space returns up to n bytes of buffer for the disk's offset guest, which has
// to be filled by the caller.
func (w *walk) space(guest, n int64) ([]byte, error) {
	have := int64(len(w.buf))
	if w.buf != nil && (guest != w.at+have || have == int64(w.buffer)) {
		if err := w.flush(); err != nil {
			return nil, err
		}
		have = 0
	}
	if w.buf == nil {
		b, err := w.sink.buffer()
		if err != nil {
			return nil, err
		}
		w.buf, w.at = b[:0], guest
	}
	n = min(n, int64(w.buffer)-have)
	w.buf = w.buf[:have+n]
	return w.buf[have:], nil
}

func (w *walk) flush() error {
	if w.buf == nil {
		return nil
	}
	b := w.buf
	w.buf = nil
	return w.sink.put(w.at, b)
}

// drop gives up what is being put together.
func (w *walk) drop() {
	if w.buf != nil {
		w.sink.release(w.buf)
		w.buf = nil
	}
}

// windowPiece bounds what is asked of a window at once, tables and clusters apart.
const windowPiece = 1 << 20

// window is a place in a stream that only moves forward.
type window struct {
	r     io.Reader
	start int64 // Offset of buf in the stream.
	buf   []byte
}

// at returns n bytes at off, valid until the next call. off must not be less
// than in the call before. At the end of the stream it returns what there is,
// with io.ErrUnexpectedEOF.
func (w *window) at(off, n int64) ([]byte, error) {
	if skip := off - w.start; skip <= int64(len(w.buf)) {
		w.buf = w.buf[:copy(w.buf, w.buf[skip:])]
	} else {
		if _, err := io.CopyN(io.Discard, w.r, skip-int64(len(w.buf))); err != nil {
			return nil, err
		}
		w.buf = w.buf[:0]
	}
	w.start = off
	have := int64(len(w.buf))
	if have >= n {
		return w.buf[:n], nil
	}
	if int64(cap(w.buf)) < n {
		w.buf = append(make([]byte, 0, max(n, windowPiece)), w.buf...)
	}
	m, err := io.ReadFull(w.r, w.buf[have:n])
	w.buf = w.buf[:have+int64(m)]
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return w.buf, err
}
