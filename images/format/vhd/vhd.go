// Package vhd reads Virtual Hard Disks of Connectix, Microsoft and Xen that are
// one file (Virtual Hard Disk Image Format Specification 1.0): dynamic ones, and
// the footer by which a fixed one differs from a raw image. Differencing disks
// are refused, as they need another file.
//
//	footer's copy, dynamic header, table of blocks -> bitmap of sectors, data
//
// All numbers are big-endian. Everything read is bounded.
package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/bedplate/bedplate/images/format/extent"
)

const (
	sector = 512
	// FooterSize is the length of the footer at the end of the file.
	FooterSize = 512
	cookie     = "conectix"
	// maxSize of a disk is the specification's own: 2040 GiB.
	maxSize   = 2040 << 30
	maxBlocks = 1 << 20
	unused    = 1<<32 - 1
)

// Kinds of disk.
const (
	kindFixed        = 2
	kindDynamic      = 3
	kindDifferencing = 4
)

// Is reports whether a file that begins with head is a dynamic VHD.
func Is(head []byte) bool { return bytes.HasPrefix(head, []byte(cookie)) }

// Fixed reports whether b is the footer of a fixed disk of that many bytes,
// which come before it in the file.
func Fixed(b []byte, size int64) bool {
	f, err := parse(b)
	return err == nil && f.kind == kindFixed && f.size == size
}

type footer struct {
	data, size int64
	kind       uint32
}

// parse reads a footer. Its checksum tells it from a disk that holds one.
func parse(b []byte) (footer, error) {
	if len(b) < FooterSize || !Is(b) {
		return footer{}, errors.New("not a VHD image")
	}
	be := binary.BigEndian
	f := footer{data: int64(be.Uint64(b[16:])), size: int64(be.Uint64(b[48:])), kind: be.Uint32(b[60:])}
	if sum(b[:FooterSize], 64) != be.Uint32(b[64:]) {
		return f, errors.New("the footer's checksum is wrong: the file is damaged")
	}
	if f.size <= 0 || f.size > maxSize || f.size%sector != 0 {
		return f, fmt.Errorf("a disk of %d bytes", f.size)
	}
	return f, nil
}

// sum is the complement of the sum of all bytes but the four at skip.
func sum(b []byte, skip int) uint32 {
	var n uint32
	for i, c := range b {
		if i < skip || i >= skip+4 {
			n += uint32(c)
		}
	}
	return ^n
}

// Image is an open dynamic disk; an extent.Image.
type Image struct {
	r             io.ReaderAt
	length        int64
	size, block   int64
	table, blocks int64
	extents       []extent.Extent
}

var _ extent.Image = (*Image)(nil)

// Open reads the tables of a dynamic disk's file of length bytes.
func Open(r io.ReaderAt, length int64) (*Image, error) {
	b, err := extent.ReadAt(r, 0, FooterSize)
	if err != nil {
		return nil, fmt.Errorf("reading VHD footer: %w", err)
	}
	f, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading VHD footer: %w", err)
	}
	switch f.kind {
	case kindDynamic:
	case kindDifferencing:
		return nil, errors.New("it holds only what differs from another disk: merge it, or make it whole with `qemu-img convert`")
	default:
		return nil, fmt.Errorf("a VHD of kind %d that begins with a footer", f.kind)
	}
	if err := sameAtEnd(r, length, b); err != nil {
		return nil, err
	}
	i := &Image{r: r, length: length, size: f.size}
	if err := i.header(f.data); err != nil {
		return nil, fmt.Errorf("reading VHD header: %w", err)
	}
	if err := i.walk(); err != nil {
		return nil, fmt.Errorf("reading VHD table: %w", err)
	}
	return i, extent.Check(i.extents, length)
}

// sameAtEnd compares the footer with its copy: without it the file is cut short.
func sameAtEnd(r io.ReaderAt, length int64, first []byte) error {
	b, err := extent.ReadAt(r, max(0, length-FooterSize), FooterSize)
	if err != nil {
		return fmt.Errorf("reading VHD footer: %w", err)
	}
	if !bytes.Equal(b, first) {
		return fmt.Errorf("the VHD doesn't end with its footer: the file is cut short: %w", io.ErrUnexpectedEOF)
	}
	return nil
}

func (i *Image) header(at int64) error {
	const size, name = 1024, "cxsparse"
	if at < FooterSize || at > i.length {
		return fmt.Errorf("it is at offset %d", at)
	}
	b, err := extent.ReadAt(i.r, at, size)
	if err != nil {
		return err
	}
	be := binary.BigEndian
	i.table, i.blocks, i.block = int64(be.Uint64(b[16:])), int64(be.Uint32(b[28:])), int64(be.Uint32(b[32:]))
	switch {
	case !bytes.HasPrefix(b, []byte(name)) || sum(b, 36) != be.Uint32(b[36:]):
		return errors.New("its checksum is wrong: the file is damaged")
	case i.block < 8*sector || i.block > 256<<20 || i.block&(i.block-1) != 0:
		return fmt.Errorf("blocks of %d bytes", i.block)
	case i.blocks > maxBlocks || i.blocks < (i.size+i.block-1)/i.block:
		return fmt.Errorf("%d blocks of %d bytes for a disk of %d", i.blocks, i.block, i.size)
	case i.table < FooterSize || i.table >= i.length:
		return fmt.Errorf("a table at offset %d: the file is cut short or damaged: %w", i.table, io.ErrUnexpectedEOF)
	}
	i.blocks = (i.size + i.block - 1) / i.block
	return nil
}

func (i *Image) walk() error {
	t, err := extent.ReadAt(i.r, i.table, i.blocks*4)
	if err != nil {
		return err
	}
	for n := range i.blocks {
		if at := binary.BigEndian.Uint32(t[n*4:]); at != unused {
			if err := i.data(n*i.block, int64(at)*sector); err != nil {
				return fmt.Errorf("block %d: %w", n, err)
			}
		}
	}
	return nil
}

// data adds a block, of which the bitmap before it says which sectors it holds.
func (i *Image) data(guest, host int64) error {
	bits := (i.block/sector/8 + sector - 1) / sector * sector
	if host >= i.length {
		return fmt.Errorf("it is at offset %d, the file has %d bytes: %w", host, i.length, io.ErrUnexpectedEOF)
	}
	bitmap, err := extent.ReadAt(i.r, host, bits)
	if err != nil {
		return err
	}
	sectors := (min(i.block, i.size-guest) + sector - 1) / sector
	has := func(s int64) bool { return bitmap[s/8]>>(7-s%8)&1 != 0 }
	for s := int64(0); s < sectors; {
		run := s
		for run < sectors && has(run) == has(s) {
			run++
		}
		if has(s) {
			i.extents, err = extent.Add(i.extents, extent.Extent{Guest: guest + s*sector, Host: host + bits + s*sector, Length: (run - s) * sector})
			if err != nil {
				return err
			}
		}
		s = run
	}
	return nil
}

// Size is that of the disk, in bytes.
func (i *Image) Size() int64 { return i.size }

// Extents come in the order of the disk.
func (i *Image) Extents() []extent.Extent { return i.extents }

// Unit is the length of a block.
func (i *Image) Unit() int64 { return i.block }

// Unpack is never called: no VHD has packed extents.
func (i *Image) Unpack([]byte, extent.Extent) error {
	return errors.New("a VHD has nothing compressed")
}
