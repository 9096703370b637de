// Package vmdk reads VMware disk images that are one file: monolithicSparse,
// and streamOptimized as in OVA archives (VMware's Virtual Disk Format 1.1;
// QEMU's block/vmdk.c for what is really written).
//
//	header, descriptor (text), grain directory -> grain tables -> grains
//
// A streamOptimized file has its directory at the end, named by a footer, and
// each of its grains has a marker (sector, length) and is a zlib stream.
//
// Refused are disks of several files, deltas of a parent, and ESX's COWD and
// seSparse. A flat disk is two files: its data is a raw image.
//
// Everything read is bounded. Values belong to one goroutine.
package vmdk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"

	"github.com/bedplate/bedplate/images/format/extent"
)

const (
	sector = 512
	// magic is the first four bytes of a sparse extent.
	magic = "KDMV"
	// atEnd in place of the directory's offset: a footer has it.
	atEnd = 1<<64 - 1
	// maxSize of a disk: 64 TiB, as VMware's.
	maxSize = 64 << 40
	// maxTables bounds the grain tables: 2 TiB of disk with grains of 64 KiB.
	maxTables = 1 << 16
	// maxGrain is as much as QEMU takes, in bytes.
	maxGrain      = 64 << 20
	maxDescriptor = 1 << 20
)

// Flags of the header.
const (
	flagZeroGrain  = 1 << 2
	flagCompressed = 1 << 16
	flagMarkers    = 1 << 17
)

// descriptorMagic is how a descriptor that is a file of its own begins.
const descriptorMagic = "# Disk DescriptorFile"

// Is reports whether a file that begins with head is a VMware disk, or part of one.
func Is(head []byte) bool {
	return bytes.HasPrefix(head, []byte(magic)) || bytes.HasPrefix(head, []byte("COWD")) || bytes.HasPrefix(head, []byte(descriptorMagic))
}

// Image is an open disk; an extent.Image.
type Image struct {
	r       io.ReaderAt
	length  int64
	h       header
	extents []extent.Extent
	src     bytes.Reader
	packed  []byte
	zlib    io.ReadCloser
}

var _ extent.Image = (*Image)(nil)

type header struct {
	flags                                   uint32
	capacity, grain, descriptor, descLength uint64
	perTable                                uint32
	directory                               uint64
	compression                             uint16
}

// Open reads the tables of a file of length bytes.
func Open(r io.ReaderAt, length int64) (*Image, error) {
	first, err := extent.ReadAt(r, 0, sector)
	if err != nil {
		return nil, fmt.Errorf("reading VMDK header: %w", err)
	}
	if err := refuse(first); err != nil {
		return nil, err
	}
	i := &Image{r: r, length: length}
	if i.h, err = parse(first); err != nil {
		return nil, fmt.Errorf("reading VMDK header: %w", err)
	}
	if err := i.describe(); err != nil {
		return nil, err
	}
	if i.h.directory == atEnd {
		if err := i.footer(); err != nil {
			return nil, fmt.Errorf("reading VMDK footer: %w", err)
		}
	}
	if err := i.h.check(); err != nil {
		return nil, fmt.Errorf("reading VMDK header: %w", err)
	}
	if err := i.walk(); err != nil {
		return nil, fmt.Errorf("reading VMDK tables: %w", err)
	}
	return i, extent.Check(i.extents, length)
}

func refuse(first []byte) error {
	switch {
	case bytes.HasPrefix(first, []byte("COWD")):
		return errors.New("it is a VMFS sparse disk (COWD), which isn't read: make it whole with `qemu-img convert`")
	case bytes.HasPrefix(first, []byte(descriptorMagic)):
		return errors.New("it is only the description of a VMDK in several files: import the file with the data, if it is one and flat, as raw; else make it one with `qemu-img convert`")
	case !bytes.HasPrefix(first, []byte(magic)):
		return errors.New("not a VMDK image")
	}
	return nil
}

func parse(b []byte) (header, error) {
	le := binary.LittleEndian
	h := header{
		flags: le.Uint32(b[8:]), capacity: le.Uint64(b[12:]), grain: le.Uint64(b[20:]), descriptor: le.Uint64(b[28:]), descLength: le.Uint64(b[36:]),
		perTable: le.Uint32(b[44:]), directory: le.Uint64(b[56:]), compression: le.Uint16(b[77:]),
	}
	if v := le.Uint32(b[4:]); v < 1 || v > 3 {
		return h, fmt.Errorf("version %d is not known", v)
	}
	// §Hosted sparse extent header: these four show whether a transfer as text has broken the file.
	if !bytes.Equal(b[73:77], []byte("\n \r\n")) {
		return h, errors.New("the file was damaged by a transfer as text: transfer it as binary")
	}
	return h, nil
}

func (h header) check() error {
	grain := h.grain * sector
	switch {
	case h.grain < 1 || h.grain&(h.grain-1) != 0 || h.grain > maxGrain/sector:
		return fmt.Errorf("grains of %d sectors", h.grain)
	case h.perTable < 1 || h.perTable > 4096:
		return fmt.Errorf("grain tables of %d entries", h.perTable)
	case h.capacity < 1 || h.capacity > maxSize/sector:
		return fmt.Errorf("a disk of %d sectors", h.capacity)
	case (h.capacity*sector+grain*uint64(h.perTable)-1)/(grain*uint64(h.perTable)) > maxTables:
		return fmt.Errorf("a disk of %d sectors in grains of %d bytes needs too many tables", h.capacity, grain)
	case h.flags&flagCompressed != 0 && h.compression != 1:
		return fmt.Errorf("compression %d is not known", h.compression)
	case h.flags&flagCompressed != 0 && h.flags&flagMarkers == 0:
		return errors.New("compressed grains without markers")
	}
	return nil
}

// describe looks at the descriptor in the file: a delta, or a part of a larger
// disk, must not be taken for the disk.
func (i *Image) describe() error {
	if i.h.descriptor == 0 || i.h.descLength == 0 {
		return errors.New("it is one of several files of a VMDK: make it one with `qemu-img convert`")
	}
	if i.h.descLength > maxDescriptor/sector || i.h.descriptor > uint64(i.length)/sector {
		return fmt.Errorf("reading VMDK header: a descriptor of %d sectors at sector %d", i.h.descLength, i.h.descriptor)
	}
	text, err := extent.ReadAt(i.r, int64(i.h.descriptor)*sector, int64(i.h.descLength)*sector)
	if err != nil {
		return fmt.Errorf("reading VMDK descriptor: %w", err)
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	for line := range bytes.Lines(text) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte("="))
		if string(bytes.TrimSpace(name)) == "parentCID" && !bytes.EqualFold(bytes.TrimSpace(value), []byte("ffffffff")) {
			return errors.New("it holds only what differs from another disk: make it whole with `qemu-img convert`, or export the machine without snapshots")
		}
	}
	return nil
}

// footer takes the header from the end of the file: marker, header, end of stream.
func (i *Image) footer() error {
	if i.length < 4*sector {
		return io.ErrUnexpectedEOF
	}
	b, err := extent.ReadAt(i.r, i.length-3*sector, 3*sector)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	const footerMarker = 3
	if string(b[sector:sector+4]) != magic || le.Uint32(b[12:]) != footerMarker {
		return fmt.Errorf("it is not at the file's end: the file is cut short: %w", io.ErrUnexpectedEOF)
	}
	h, err := parse(b[sector:])
	if err == nil && (h.directory == atEnd || h.capacity != i.h.capacity || h.grain != i.h.grain) {
		err = errors.New("it contradicts the header")
	}
	i.h = h
	return err
}

// walk reads the grain directory and the tables that it names.
func (i *Image) walk() error {
	grain, span := int64(i.h.grain)*sector, int64(i.h.grain)*sector*int64(i.h.perTable)
	size := i.Size()
	dir, err := i.entries(i.h.directory, (size+span-1)/span)
	if err != nil {
		return err
	}
	for n := range int64(len(dir) / 4) {
		at := binary.LittleEndian.Uint32(dir[n*4:])
		if at == 0 {
			continue
		}
		t, err := i.entries(uint64(at), int64(i.h.perTable))
		if err != nil {
			return err
		}
		for k := int64(0); k < int64(len(t)/4) && n*span+k*grain < size; k++ {
			if err := i.add(binary.LittleEndian.Uint32(t[k*4:]), n*span+k*grain); err != nil {
				return err
			}
		}
	}
	return nil
}

func (i *Image) entries(at uint64, n int64) ([]byte, error) {
	if at == 0 || at >= uint64(i.length)/sector {
		return nil, fmt.Errorf("a table at sector %d: the file is cut short or damaged: %w", at, io.ErrUnexpectedEOF)
	}
	return extent.ReadAt(i.r, int64(at)*sector, n*4)
}

func (i *Image) add(entry uint32, guest int64) (err error) {
	if entry == 0 || entry == 1 && i.h.flags&flagZeroGrain != 0 {
		return nil
	}
	e := extent.Extent{Guest: guest, Host: int64(entry) * sector, Length: min(i.Unit(), i.Size()-guest)}
	if i.h.flags&flagCompressed != 0 {
		e.Packed, e.Length = true, 0
	}
	i.extents, err = extent.Add(i.extents, e)
	return err
}

// Size is that of the disk, in bytes.
func (i *Image) Size() int64 { return int64(i.h.capacity) * sector }

// Extents come in the order of the disk.
func (i *Image) Extents() []extent.Extent { return i.extents }

// Unit is the length of a grain.
func (i *Image) Unit() int64 { return int64(i.h.grain) * sector }

// Unpack fills dst with a grain. Its marker has to be for this place.
func (i *Image) Unpack(dst []byte, e extent.Extent) error {
	const markerSize = 12
	var m [markerSize]byte
	if n, err := i.r.ReadAt(m[:], e.Host); n < markerSize {
		return fmt.Errorf("reading grain at offset %d: %w", e.Host, errors.Join(io.ErrUnexpectedEOF, err))
	}
	lba, n := binary.LittleEndian.Uint64(m[:]), int64(binary.LittleEndian.Uint32(m[8:]))
	if lba != uint64(e.Guest)/sector || n == 0 || n > 2*i.Unit()+1024 {
		return fmt.Errorf("reading grain at offset %d: its marker is for sector %d and %d bytes: the file is damaged", e.Host, lba, n)
	}
	if int64(cap(i.packed)) < n {
		i.packed = make([]byte, 2*i.Unit()+1024)
	}
	p := i.packed[:n]
	if got, err := i.r.ReadAt(p, e.Host+markerSize); int64(got) < n {
		return fmt.Errorf("reading grain at offset %d: %w", e.Host, errors.Join(io.ErrUnexpectedEOF, err))
	}
	if err := i.inflate(dst, p); err != nil {
		return fmt.Errorf("decompressing grain at offset %d: %w", e.Host, err)
	}
	return nil
}

// inflate undoes zlib. The stream goes to its end, so that its checksum is compared.
func (i *Image) inflate(dst, src []byte) (err error) {
	i.src.Reset(src)
	if i.zlib == nil {
		i.zlib, err = zlib.NewReader(&i.src)
	} else {
		err = i.zlib.(zlib.Resetter).Reset(&i.src, nil)
	}
	if err != nil {
		return err
	}
	// The last grain of a disk may be shorter than others, or filled up with zeros.
	if _, err := io.ReadFull(i.zlib, dst); err != nil {
		return err
	}
	rest, err := io.Copy(io.Discard, io.LimitReader(i.zlib, i.Unit()+1))
	if err == nil && int64(len(dst))+rest > i.Unit() {
		err = fmt.Errorf("it has more than %d bytes", i.Unit())
	}
	return err
}
