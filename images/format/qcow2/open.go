package qcow2

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/bedplate/bedplate/images/format/extent"
)

// Image is a whole qcow2 file that can be read at any place; an extent.Image.
type Image struct {
	*Header
	r        io.ReaderAt
	extents  []Extent
	unpacker *Unpacker
	packed   []byte
}

var _ extent.Image = (*Image)(nil)

// Open reads the tables of a file of length bytes. Close frees what it holds.
func Open(r io.ReaderAt, length int64) (*Image, error) {
	head, err := extent.ReadAt(r, 0, HeaderSize)
	if err != nil {
		return nil, fmt.Errorf("reading qcow2 header: %w", err)
	}
	h, err := ParseHeader(head)
	if err != nil {
		return nil, fmt.Errorf("reading qcow2 header: %w", err)
	}
	extents, regions, err := h.Map(func(off, n int64) ([]byte, error) {
		if off >= length || n > length-off {
			return nil, fmt.Errorf("they point to offset %d, the file has %d bytes: %w", off+n, length, io.ErrUnexpectedEOF)
		}
		return extent.ReadAt(r, off, n)
	})
	if err != nil {
		return nil, fmt.Errorf("reading qcow2 tables: %w", err)
	}
	if err := SortByFile(slices.Clone(extents), regions); err != nil {
		return nil, err
	}
	for _, e := range extents {
		// The file need not be filled up to a whole sector after its last cluster.
		if over := e.Host + e.Length - length; over > 0 && (!e.Packed || over >= 512) {
			return nil, fmt.Errorf("the qcow2 file is cut short: its tables point to offset %d, it has %d bytes: %w", e.Host+e.Length, length, io.ErrUnexpectedEOF)
		}
	}
	u, err := h.NewUnpacker()
	if err != nil {
		return nil, err
	}
	return &Image{Header: h, r: r, extents: extents, unpacker: u}, nil
}

// Size is that of the disk, in bytes.
func (i *Image) Size() int64 { return i.Header.Size }

// Extents come in the order of the disk.
func (i *Image) Extents() []Extent { return i.extents }

// Unit is the length of a cluster.
func (i *Image) Unit() int64 { return i.ClusterSize }

// Unpack fills dst with a compressed cluster.
func (i *Image) Unpack(dst []byte, e Extent) error {
	if int64(cap(i.packed)) < e.Length {
		i.packed = make([]byte, max(e.Length, 2*i.ClusterSize))
	}
	p := i.packed[:e.Length]
	n, err := i.r.ReadAt(p, e.Host)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading cluster at offset %d: %w", e.Host, err)
	}
	if err := i.unpacker.Unpack(dst, p[:n]); err != nil {
		return fmt.Errorf("cluster at offset %d of the file: %w", e.Host, err)
	}
	return nil
}

// Close frees the decoder.
func (i *Image) Close() error {
	i.unpacker.Close()
	return nil
}
