package images

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Type is what an image's first bytes say of it.
type Type struct {
	// Format is raw or qcow2.
	Format string
	// Compression is none, gzip, bzip2, xz or zstd.
	Compression string
	// VirtualSize is the size of the disk in bytes where the format says it (qcow2), else 0.
	VirtualSize int64
}

// headSize is as much as Detect looks at.
const headSize = 4096

var magics = []struct {
	compression string
	magic       []byte
}{
	{"gzip", []byte{0x1f, 0x8b}},                // RFC 1952 §2.3.1
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}},    // RFC 8878 §3.1.1
	{"xz", []byte{0xfd, '7', 'z', 'X', 'Z', 0}}, // xz file format 1.1.0 §2.1.1.1
	{"bzip2", []byte{'B', 'Z', 'h'}},            // followed by a digit 1-9
}

var qcow2Magic = []byte{'Q', 'F', 'I', 0xfb}

// Detect says what an image is by its first bytes. What it doesn't know is raw.
func Detect(r io.Reader) (Type, error) {
	head := bufio.NewReaderSize(r, headSize)
	first, err := head.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return Type{}, err
	}
	t := Type{Format: "raw", Compression: compressionOf(first)}
	inner, err := open(head, t.Compression)
	if err != nil {
		return t, nil // no more than the magic is right; writing it will say so
	}
	start := make([]byte, 32)
	n, _ := io.ReadFull(inner, start)
	if start = start[:n]; bytes.HasPrefix(start, qcow2Magic) {
		t.Format = "qcow2"
		if len(start) >= 32 {
			// QEMU docs/interop/qcow2.txt: header bytes 24-31, big-endian.
			if size := binary.BigEndian.Uint64(start[24:32]); size <= 1<<50 {
				t.VirtualSize = int64(size)
			}
		}
	}
	return t, nil
}

func compressionOf(first []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(first, m.magic) {
			return m.compression
		}
	}
	return "none"
}

// open returns a reader of what is inside the compression.
func open(r io.Reader, compression string) (io.Reader, error) {
	switch compression {
	case "gzip":
		return gzip.NewReader(r)
	case "zstd":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case "xz":
		return xz.NewReader(r)
	case "bzip2":
		return bzip2.NewReader(r), nil
	}
	return r, nil
}

func detectFile(f io.ReadSeeker) (Type, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Type{}, err
	}
	return Detect(f)
}
