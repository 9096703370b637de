package iso

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// Patch is bytes that take the place of others.
type Patch struct {
	Offset int64
	Data   []byte
}

func (p Patch) end() int64 { return p.Offset + int64(len(p.Data)) }

// Splice reads a file in which patches have taken the place of what was there.
// It holds nothing but the patches. It is for one goroutine; the file below
// can be shared, as it is only read at offsets.
type Splice struct {
	base    io.ReaderAt
	size    int64
	patches []Patch // in order, apart
	at      int64
}

// NewSplice returns a reader of base's first size bytes. Patches must lie inside
// of them and apart.
func NewSplice(base io.ReaderAt, size int64, patches ...Patch) (*Splice, error) {
	patches = slices.Clone(patches)
	slices.SortFunc(patches, func(a, b Patch) int { return int(min(max(a.Offset-b.Offset, -1), 1)) })
	var last int64
	for _, p := range patches {
		if p.Offset < last || p.end() > size {
			return nil, fmt.Errorf("splicing: a patch of %d bytes at %d overlaps another or the end", len(p.Data), p.Offset)
		}
		last = p.end()
	}
	return &Splice{base: base, size: size, patches: patches}, nil
}

// Size is the length of the whole.
func (s *Splice) Size() int64 { return s.size }

// Read implements io.Reader.
func (s *Splice) Read(b []byte) (int, error) {
	n, err := s.ReadAt(b, s.at)
	s.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ReadAt implements io.ReaderAt.
func (s *Splice) ReadAt(b []byte, at int64) (int, error) {
	if at < 0 {
		return 0, errors.New("reading: negative offset")
	}
	if at >= s.size {
		return 0, io.EOF
	}
	var short error
	if left := s.size - at; int64(len(b)) > left {
		b, short = b[:left], io.EOF
	}
	read := 0
	for read < len(b) {
		n, err := s.piece(b[read:], at+int64(read))
		read += n
		if err != nil {
			return read, err
		}
	}
	return read, short
}

// piece reads up to the next boundary of a patch.
func (s *Splice) piece(b []byte, at int64) (int, error) {
	for _, p := range s.patches {
		if at >= p.end() {
			continue
		}
		if at >= p.Offset {
			return copy(b, p.Data[at-p.Offset:]), nil
		}
		b = b[:min(int64(len(b)), p.Offset-at)]
		break
	}
	n, err := s.base.ReadAt(b, at)
	if n == len(b) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the file has become shorter
	}
	return n, err
}

// Seek implements io.Seeker.
func (s *Splice) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.at
	case io.SeekEnd:
		offset += s.size
	}
	if offset < 0 {
		return 0, errors.New("seeking: before the beginning")
	}
	s.at = offset
	return offset, nil
}
