// Package convert turns a disk image of any format that is known, alone or
// compressed, into the pieces that package chunk keeps, zeros left out.
//
//	upload -> (decompression) -> raw: cut as it comes
//	                          -> qcow2, VMDK, VHDX, VHD: a file, read in the order of the disk
//
// Formats that keep a disk in pieces have their tables anywhere, and so have to
// be on disk before they can be read. Everything else is one pass.
//
// A table's loop, a size that no disk has, a stream without end are errors, and
// so is a file that ends early; the caller keeps nothing then.
package convert

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/bedplate/bedplate/images/chunk"
	"github.com/bedplate/bedplate/images/format/compression"
	"github.com/bedplate/bedplate/images/format/extent"
	"github.com/bedplate/bedplate/images/format/qcow2"
	"github.com/bedplate/bedplate/images/format/vhd"
	"github.com/bedplate/bedplate/images/format/vhdx"
	"github.com/bedplate/bedplate/images/format/vmdk"
)

// Format is how a file holds a disk, by the name it has in an Image.
type Format string

// The formats that are told from a file's first bytes.
const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
	VMDK  Format = "vmdk"
	VHDX  Format = "vhdx"
	VHD   Format = "vhd"
	// Tar is no disk; it is recognised to be refused.
	Tar Format = "tar"
)

// HeadSize is how many bytes Detect wants to see.
const HeadSize = 512

// ErrUnknown means that the content is no disk image.
var ErrUnknown = errors.New("not a disk image")

// Detect tells a format from a file's first bytes. What isn't known is raw.
func Detect(head []byte) Format {
	switch {
	case qcow2.Is(head):
		return Qcow2
	case vmdk.Is(head):
		return VMDK
	case vhdx.Is(head):
		return VHDX
	case vhd.Is(head):
		return VHD
	case len(head) >= 262 && string(head[257:262]) == "ustar":
		return Tar
	}
	return Raw
}

// Sink takes the pieces of a disk.
type Sink interface {
	// Buffer returns chunk.Size bytes to fill.
	Buffer() ([]byte, error)
	// Put takes a piece that isn't all zeros. b is from Buffer, and the Sink's again.
	Put(place uint32, b []byte) error
	// Release takes a buffer back unused.
	Release(b []byte)
}

// Result is what was found.
type Result struct {
	Format      Format
	Compression compression.Kind
	// Size of the disk in bytes.
	Size int64
}

// Config says what is expected and allowed.
type Config struct {
	// Format and Compression, unless empty, must be what is found.
	Format, Compression string
	// MaxDisk bounds the disk's size in bytes; 0: chunk.MaxImage.
	MaxDisk int64
	// Spool makes a file for a format that can't be streamed, and the caller removes
	// it. Writes to it fail when there is no room.
	Spool func() (Spool, error)
}

// Spool is a file that is written from its beginning and then read at any place.
type Spool interface {
	io.Writer
	io.ReaderAt
}

// Run reads r to its end and gives sink the disk that is in it.
func Run(ctx context.Context, c Config, r io.Reader, sink Sink) (Result, error) {
	if c.MaxDisk == 0 {
		c.MaxDisk = chunk.MaxImage
	}
	outer := newPeeker(r)
	head, err := outer.Peek(HeadSize)
	if err != nil {
		return Result{}, err
	}
	if len(head) == 0 {
		return Result{}, fmt.Errorf("the file is empty: %w", ErrUnknown)
	}
	res := Result{Compression: compression.Detect(head)}
	if c.Compression != "" && c.Compression != string(res.Compression) {
		return res, fmt.Errorf("expected compression %s, but the file begins like %s: correct the Image's compression", c.Compression, res.Compression)
	}
	content, err := compression.NewReader(res.Compression, outer)
	if err != nil {
		return res, err
	}
	defer content.Close() // Always nil.
	inner := newPeeker(content)
	if head, err = inner.Peek(HeadSize); err != nil {
		return res, err
	}
	res.Format = Detect(head)
	if err := c.expect(res.Format, head); err != nil {
		return res, err
	}
	if res.Format == Raw {
		var fixed bool
		res.Size, fixed, err = raw(ctx, inner, c.MaxDisk, sink)
		if fixed {
			res.Format = VHD
		}
	} else {
		res.Size, err = c.spooled(ctx, res.Format, inner, sink)
	}
	if err != nil {
		return res, err
	}
	// A decompressor may stop before the file does; all of it belongs to its digest.
	if n, err := io.Copy(io.Discard, outer); err != nil || n > 0 && res.Compression != compression.None {
		return res, errors.Join(err, fmt.Errorf("%d bytes follow after the compressed data", n))
	}
	return res, nil
}

// expect fails if the file has another format than was said, or one that is no disk.
func (c Config) expect(found Format, head []byte) error {
	switch {
	case len(head) == 0:
		return fmt.Errorf("the file has no content: %w", ErrUnknown)
	case compression.Detect(head) != compression.None:
		return fmt.Errorf("the file is compressed twice, with %s inside: unpack it once", compression.Detect(head))
	case found == Tar:
		return fmt.Errorf("the file is a tar archive and not a disk: for an OVA, unpack it and import the .vmdk in it: %w", ErrUnknown)
	case c.Format != "" && c.Format != string(found) && !(c.Format == string(VHD) && found == Raw):
		return fmt.Errorf("expected format %s, but the file is %s: correct the Image's format", c.Format, found)
	}
	return nil
}

// raw cuts a stream. It reads one piece ahead, as the end of the file may be a
// fixed VHD's footer and no part of the disk.
func raw(ctx context.Context, r io.Reader, most int64, sink Sink) (size int64, fixed bool, err error) {
	var held []byte
	defer func() {
		if held != nil {
			sink.Release(held[:chunk.Size])
		}
	}()
	place := uint32(0)
	for eof := false; !eof; {
		if err := context.Cause(ctx); err != nil {
			return size, false, err
		}
		b, err := sink.Buffer()
		if err != nil {
			return size, false, err
		}
		var n int
		if n, eof, err = fill(r, b); err != nil {
			sink.Release(b)
			return size, false, err
		}
		if size += int64(n); size > most {
			sink.Release(b)
			return size, false, tooLarge(size, most)
		}
		if held != nil && n > 0 || held != nil && eof {
			if n == 0 {
				held, fixed = trim(held, size)
			}
			if err := cut(sink, place-1, held); err != nil {
				held = nil
				sink.Release(b)
				return size, fixed, err
			}
			held = nil
		}
		if n == 0 {
			sink.Release(b)
			break
		}
		held, place = b[:n], place+1
		if eof {
			held, fixed = trim(held, size)
			err, held = cut(sink, place-1, held), nil
			if err != nil {
				return size, fixed, err
			}
		}
	}
	if fixed {
		size -= vhd.FooterSize
	}
	return size, fixed, nil
}

// fill reads until b is full or the content ends. Only io.EOF itself is an end:
// a reader's io.ErrUnexpectedEOF is a failure.
func fill(r io.Reader, b []byte) (n int, eof bool, err error) {
	for idle := 0; n < len(b) && idle < 100; idle++ {
		m, err := r.Read(b[n:])
		if n += m; m > 0 {
			idle = 0
		}
		if err == io.EOF { //nolint:errorlint // Wrapped in another failure it is not the end.
			return n, true, nil
		}
		if err != nil {
			return n, false, err
		}
	}
	if n < len(b) {
		return n, false, io.ErrNoProgress
	}
	return n, false, nil
}

// trim cuts a fixed VHD's footer off the last piece of a file of size bytes.
func trim(b []byte, size int64) ([]byte, bool) {
	at := len(b) - vhd.FooterSize
	if at < 0 || !vhd.Fixed(b[at:], size-vhd.FooterSize) {
		return b, false
	}
	return b[:at], true
}

// cut hands a piece on unless it is all zeros.
func cut(sink Sink, place uint32, b []byte) error {
	if chunk.IsZero(b) {
		sink.Release(b[:chunk.Size])
		return nil
	}
	return sink.Put(place, b)
}

func tooLarge(size, most int64) error {
	return fmt.Errorf("the disk has %d bytes or more, %d are allowed: the file is damaged or doesn't end", size, most)
}

// spooled puts the file on disk, and reads it in the order of the disk.
func (c Config) spooled(ctx context.Context, f Format, r io.Reader, sink Sink) (int64, error) {
	spool, err := c.Spool()
	if err != nil {
		return 0, err
	}
	length, err := io.Copy(spool, io.LimitReader(r, c.MaxDisk+1))
	if err == nil && length > c.MaxDisk {
		err = tooLarge(length, c.MaxDisk)
	}
	if err != nil {
		return 0, err
	}
	img, err := Open(f, spool, length)
	if err != nil {
		return 0, err
	}
	if c, ok := img.(io.Closer); ok {
		defer c.Close() // Always nil.
	}
	if img.Size() > c.MaxDisk {
		return 0, fmt.Errorf("the image is of a disk of %d bytes, %d are allowed", img.Size(), c.MaxDisk)
	}
	return img.Size(), walk(ctx, spool, img, sink)
}

// Open reads the tables of a file of length bytes, in a format that has some.
func Open(f Format, r io.ReaderAt, length int64) (extent.Image, error) {
	switch f {
	case Qcow2:
		return qcow2.Open(r, length)
	case VMDK:
		return vmdk.Open(r, length)
	case VHDX:
		return vhdx.Open(r, length)
	case VHD:
		return vhd.Open(r, length)
	}
	return nil, fmt.Errorf("%s has no tables", f)
}

// walk copies the extents of an image into pieces.
func walk(ctx context.Context, r io.ReaderAt, img extent.Image, sink Sink) error {
	w := walker{ctx: ctx, sink: sink, size: img.Size()}
	defer w.drop()
	var unpacked []byte
	for _, e := range img.Extents() {
		if !e.Packed {
			if err := w.copy(e.Guest, e.Length, func(dst []byte, at int64) error { return readAt(r, dst, e.Host+at) }); err != nil {
				return err
			}
			continue
		}
		if unpacked == nil {
			unpacked = make([]byte, img.Unit())
		}
		dst := unpacked[:min(img.Unit(), img.Size()-e.Guest)]
		if err := img.Unpack(dst, e); err != nil {
			return err
		}
		if err := w.copy(e.Guest, int64(len(dst)), func(to []byte, at int64) error { copy(to, dst[at:]); return nil }); err != nil {
			return err
		}
	}
	return w.flush()
}

func readAt(r io.ReaderAt, dst []byte, off int64) error {
	if n, err := r.ReadAt(dst, off); n < len(dst) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading %d bytes at offset %d of the file: %w", len(dst), off, err)
	}
	return nil
}

// walker puts pieces together.
type walker struct {
	ctx   context.Context
	sink  Sink
	size  int64
	buf   []byte
	place uint32
}

// copy fills n bytes of the disk at guest, by pieces.
func (w *walker) copy(guest, n int64, fill func(dst []byte, at int64) error) error {
	for at := int64(0); at < n; {
		place, in := uint32((guest+at)/chunk.Size), (guest+at)%chunk.Size
		if err := w.enter(place); err != nil {
			return err
		}
		part := w.buf[in:min(int64(len(w.buf)), in+n-at)]
		if err := fill(part, at); err != nil {
			return err
		}
		at += int64(len(part))
	}
	return nil
}

// enter makes buf the piece at place.
func (w *walker) enter(place uint32) error {
	if w.buf != nil && w.place == place {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	b, err := w.sink.Buffer()
	if err != nil {
		return err
	}
	w.place, w.buf = place, b[:min(chunk.Size, w.size-int64(place)*chunk.Size)]
	clear(w.buf)
	return nil
}

func (w *walker) flush() error {
	if w.buf == nil {
		return nil
	}
	b := w.buf
	w.buf = nil
	return cut(w.sink, w.place, b)
}

func (w *walker) drop() {
	if w.buf != nil {
		w.sink.Release(w.buf[:chunk.Size])
	}
}

// Whole fails if the first bytes of a disk have a GUID partition table that says
// that the disk is larger: a raw image that was cut short has no other mark.
func Whole(first []byte, size int64) error {
	for _, block := range []int64{512, 4096} {
		if int64(len(first)) < block+40 || !bytes.HasPrefix(first[block:], []byte("EFI PART")) {
			continue
		}
		// UEFI 2.10 §5.3.2: AlternateLBA at offset 32.
		if last := binary.LittleEndian.Uint64(first[block+32:]); last >= 1 && last < 1<<52 && int64(last+1)*block > size {
			return fmt.Errorf("the image is cut short: it has %d bytes, and a partition table for %d: %w", size, int64(last+1)*block, io.ErrUnexpectedEOF)
		}
		return nil
	}
	return nil
}

var _ Spool = (*os.File)(nil)
