package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// MaxImage bounds an image's size on the disk: 1 TiB.
const MaxImage = 1 << 40

// The encoding: magic, size of the image (8 bytes), number of chunks (4 bytes),
// and for each chunk its place, its stored length (4 bytes each) and its digest.
// Integers are big-endian. There is one encoding of an index.
const (
	magic      = "bedplate chunks 1\n"
	headerSize = len(magic) + 8 + 4
	entrySize  = 4 + 4 + len(Digest{})
	// MaxEncoded bounds an encoded index: 40 MiB.
	MaxEncoded = headerSize + MaxImage/Size*entrySize
)

// Entry is one chunk of an image.
type Entry struct {
	// Place in the image, in units of Size.
	Place uint32
	// Stored is the length of the chunk as it is stored, in bytes.
	Stored uint32
	Digest Digest
}

// Offset is where in the image the chunk's content begins, in bytes.
func (e Entry) Offset() int64 { return int64(e.Place) * Size }

// Index lists the chunks of an image.
type Index struct {
	// Size of the image in bytes.
	Size int64
	// Entries are in the order of their places. Where none is, the image is zero.
	Entries []Entry
}

// Length is that of an entry's plain content, in bytes.
func (x *Index) Length(e Entry) int { return int(min(Size, x.Size-e.Offset())) }

// DataSize is the length of everything that isn't left out, in bytes.
func (x *Index) DataSize() int64 {
	var n int64
	for _, e := range x.Entries {
		n += int64(x.Length(e))
	}
	return n
}

// StoredSize is what all chunks take as they are stored, those that the image has twice counted twice, in bytes.
func (x *Index) StoredSize() int64 {
	var n int64
	for _, e := range x.Entries {
		n += int64(e.Stored)
	}
	return n
}

// Check fails with ErrIndex if the index can't be that of an image.
func (x *Index) Check() error {
	if x.Size <= 0 || x.Size > MaxImage {
		return fmt.Errorf("an image of %d bytes: %w", x.Size, ErrIndex)
	}
	next := int64(0)
	for i, e := range x.Entries {
		switch {
		case int64(e.Place) < next:
			return fmt.Errorf("chunk %d is at place %d, before the end of the one before it: %w", i, e.Place, ErrIndex)
		case e.Offset() >= x.Size:
			return fmt.Errorf("chunk %d is at place %d, behind the image's end: %w", i, e.Place, ErrIndex)
		case e.Stored == 0 || int64(e.Stored) > int64(x.Length(e)):
			return fmt.Errorf("chunk %d has %d bytes stored: %w", i, e.Stored, ErrIndex)
		}
		next = int64(e.Place) + 1
	}
	return nil
}

// Encode returns the index as it is stored and sent.
func (x *Index) Encode() []byte {
	b := make([]byte, 0, headerSize+len(x.Entries)*entrySize)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint64(b, uint64(x.Size))
	b = binary.BigEndian.AppendUint32(b, uint32(len(x.Entries)))
	for _, e := range x.Entries {
		b = binary.BigEndian.AppendUint32(b, e.Place)
		b = binary.BigEndian.AppendUint32(b, e.Stored)
		b = append(b, e.Digest[:]...)
	}
	return b
}

// Decode reads what Encode writes, and nothing else. ErrIndex.
func Decode(b []byte) (*Index, error) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("it does not begin like one: %w", ErrIndex)
	}
	b = b[len(magic):]
	size, count := binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])
	if size > MaxImage {
		return nil, fmt.Errorf("an image of %d bytes: %w", size, ErrIndex)
	}
	b = b[12:]
	if uint64(len(b)) != uint64(count)*uint64(entrySize) {
		return nil, fmt.Errorf("%d bytes for %d chunks: %w", len(b), count, ErrIndex)
	}
	x := &Index{Size: int64(size), Entries: make([]Entry, count)}
	for i := range x.Entries {
		e := &x.Entries[i]
		e.Place, e.Stored = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		copy(e.Digest[:], b[8:])
		b = b[entrySize:]
	}
	if err := x.Check(); err != nil {
		return nil, err
	}
	return x, nil
}

// ReadIndex reads an encoded index to its end and verifies it. ErrDigest, ErrIndex, and what r says.
func ReadIndex(r io.Reader, want Digest) (*Index, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(MaxEncoded)+1))
	if err != nil {
		return nil, fmt.Errorf("reading the chunk index: %w", err)
	}
	if len(b) > MaxEncoded {
		return nil, fmt.Errorf("more than %d bytes: %w", MaxEncoded, ErrIndex)
	}
	if got := Sum(b); got != want {
		return nil, fmt.Errorf("chunk index %s: it has %s: %w", want, got, ErrDigest)
	}
	x, err := Decode(b)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("chunk index %s", want), err)
	}
	return x, nil
}
