// Package compression recognises and undoes the compression of images and
// archives: gzip, bzip2, xz and zstd, each also as several streams in a row.
//
// Decoders come from libraries, measured on a 100 MB file on 2 cores:
// klauspost gzip 320 MB/s (compress/gzip 220), klauspost zstd 1600 MB/s,
// dsnet bzip2 30 MB/s (compress/bzip2 14), mikelolasagasti xz 24 MB/s
// (ulikunitz 17). What they are fed comes from the network: a decoder that
// panics is an error, and windows are bounded to 128 MiB. A Reader belongs to
// one goroutine.
package compression

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// Kind is a compression, by the name it has in an Image.
type Kind string

// The kinds of compression.
const (
	None  Kind = "none"
	Gzip  Kind = "gzip"
	Bzip2 Kind = "bzip2"
	XZ    Kind = "xz"
	Zstd  Kind = "zstd"
)

// MaxWindow bounds what a decoder may keep of what it has put out. It is what
// `zstd --ultra -22` and `xz -9` need; `zstd --long=31` needs more.
const MaxWindow = 128 << 20

// PeekSize is how many bytes Detect wants to see.
const PeekSize = 18

// Detect tells the compression from a file's first bytes.
func Detect(head []byte) Kind {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return Gzip
	case len(head) >= 10 && bytes.HasPrefix(head, []byte("BZh")) && head[3] >= '1' && head[3] <= '9' &&
		(string(head[4:10]) == "\x31\x41\x59\x26\x53\x59" || string(head[4:10]) == "\x17\x72\x45\x38\x50\x90"):
		return Bzip2
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return XZ
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18":
		return Zstd // A skippable frame first, as pzstd writes it.
	}
	return None
}

// Reader undoes one compression.
type Reader struct {
	kind  Kind
	src   *source
	r     io.Reader
	close func()
	err   error
}

// source notes what a decoder has seen of its input. zstd reads it in a
// goroutine of its own.
type source struct {
	r     io.Reader
	any   atomic.Bool
	ended atomic.Bool
	// failure is the input's own error, whatever the decoder makes of it.
	failure atomic.Pointer[error]
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if n > 0 {
		s.any.Store(true)
	}
	if err == io.EOF { //nolint:errorlint // An io.EOF wrapped in another failure is not the end.
		s.ended.Store(true)
	} else if err != nil {
		s.failure.Store(&err)
	}
	return n, err
}

// NewReader returns the content of r, which is compressed as kind says.
func NewReader(kind Kind, r io.Reader) (d *Reader, err error) {
	d = &Reader{kind: kind, close: func() {}, src: &source{r: r}}
	defer d.contain(&err)
	r = d.src
	switch kind {
	case None:
		d.r = r
	case Gzip:
		d.r, err = gzip.NewReader(r)
	case Bzip2:
		d.r, err = bzip2.NewReader(r, nil)
	case XZ:
		d.r, err = xz.NewReader(r, MaxWindow)
	case Zstd:
		var z *zstd.Decoder
		z, err = zstd.NewReader(r, zstd.WithDecoderMaxWindow(MaxWindow))
		if err == nil {
			d.r, d.close = z, z.Close
		}
	default:
		err = fmt.Errorf("%q is none of none, gzip, bzip2, xz, zstd", kind)
	}
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, d.explain(err)
	}
	return d, nil
}

// Read returns io.EOF after the last byte of the last stream, its checksum
// having been found right. Any other error is for good.
func (d *Reader) Read(p []byte) (n int, err error) {
	if d.err != nil {
		return 0, d.err
	}
	defer func() { d.err = err }()
	defer d.contain(&err)
	n, err = d.r.Read(p)
	return n, d.explain(err)
}

// Close ends the decoder's goroutines. The source is left open.
func (d *Reader) Close() error {
	d.close()
	return nil
}

// contain turns a panic in a decoder into an error.
func (d *Reader) contain(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("decompressing %s: corrupt data: %v", d.kind, p)
	}
}

// explain says what was being read when a decoder failed. An early end is
// always io.ErrUnexpectedEOF inside.
func (d *Reader) explain(err error) error {
	switch {
	case err == nil || d.kind == None:
		return err
	case d.src.failure.Load() != nil:
		return *d.src.failure.Load()
	case errors.Is(err, io.EOF) && d.src.any.Load():
		return io.EOF
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, xz.ErrBuf) && d.src.ended.Load():
		return fmt.Errorf("decompressing %s: the file ends too early: %w", d.kind, io.ErrUnexpectedEOF)
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, xz.ErrMemlimit):
		return fmt.Errorf("decompressing %s: needs a window of more than %d MiB: compress it without --long: %w", d.kind, MaxWindow>>20, err)
	}
	return fmt.Errorf("decompressing %s: %w", d.kind, err)
}
