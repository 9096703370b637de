// Package extent says which part of an image's file holds which part of the
// disk. It is what the readers of all formats that keep a disk in pieces give.
package extent

import (
	"cmp"
	"fmt"
	"io"
	"slices"
)

// Extent is a run of the disk that a run of the file holds. All else is zeros.
type Extent struct {
	// Guest and Host are offsets in the disk and in the file.
	Guest, Host int64
	// Length is in the file; on the disk as well, unless Packed. A Length of 0
	// of a packed extent means that the file tells it at Host.
	Length int64
	// Packed is one compressed cluster.
	Packed bool
}

// Image is a disk that a file holds in pieces. It belongs to one goroutine.
type Image interface {
	// Size is that of the disk, in bytes.
	Size() int64
	// Extents come in the order of the disk, and don't overlap there.
	Extents() []Extent
	// Unit is how much of the disk a packed extent holds, the last one of a disk apart.
	Unit() int64
	// Unpack fills dst with the content of a packed extent.
	Unpack(dst []byte, e Extent) error
}

// Max bounds the extents of one image, and so the memory for them to 64 MiB.
const Max = 2 << 20

// Add appends e to list, or lengthens the last one by it.
func Add(list []Extent, e Extent) ([]Extent, error) {
	if n := len(list); n > 0 && !e.Packed {
		last := &list[n-1]
		if !last.Packed && last.Guest+last.Length == e.Guest && last.Host+last.Length == e.Host {
			last.Length += e.Length
			return list, nil
		}
	}
	if len(list) >= Max {
		return nil, fmt.Errorf("the image is in more than %d pieces: convert it to raw, compressed with zstd", Max)
	}
	return append(list, e), nil
}

// Check fails if an extent lies outside of the file, or if two share a part of
// it: one piece of a file that stands for several of the disk is a loop in the
// tables, by which a small file becomes a disk without end. Packed extents share
// sectors, and their end is checked when they are unpacked.
func Check(list []Extent, size int64) error {
	byFile := slices.Clone(list)
	slices.SortFunc(byFile, func(a, b Extent) int { return cmp.Compare(a.Host, b.Host) })
	end := int64(0)
	for _, e := range byFile {
		if e.Host >= size || !e.Packed && e.Length > size-e.Host {
			return fmt.Errorf("its tables point to offset %d, the file has %d bytes: %w", e.Host+e.Length, size, io.ErrUnexpectedEOF)
		}
		if e.Host < end {
			return fmt.Errorf("two parts of the disk share the file at offset %d: it is damaged; export it anew", e.Host)
		}
		end = e.Host + max(e.Length, 1)
		if e.Packed {
			end = e.Host + 1
		}
	}
	return nil
}

// ReadAt reads n bytes at off: what is missing is io.ErrUnexpectedEOF.
func ReadAt(r io.ReaderAt, off, n int64) ([]byte, error) {
	b := make([]byte, n)
	if m, err := r.ReadAt(b, off); int64(m) < n {
		if err == nil || err == io.EOF { //nolint:errorlint // io.ReaderAt's own words.
			err = fmt.Errorf("the file ends at offset %d, before %d: %w", off+int64(m), off+n, io.ErrUnexpectedEOF)
		}
		return nil, err
	}
	return b, nil
}
