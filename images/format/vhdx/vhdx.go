// Package vhdx reads Hyper-V's disk images (MS-VHDX): dynamic and fixed ones.
// Refused are differencing disks, which need another file, and files that were
// not closed cleanly, whose log would have to be written into them first.
//
//	identifier, 2 headers, 2 region tables -> metadata, block table -> blocks
//
// Of each pair the valid one is taken (of headers the newer one), by CRC-32C as
// §2.2.2 and §2.2.3 say. Everything read is bounded.
package vhdx

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/google/uuid"

	"github.com/bedplate/bedplate/images/format/extent"
)

const (
	magic = "vhdxfile"
	// Places of §2.2.
	headerAt, headerSize = 64 << 10, 4 << 10
	regionAt, regionSize = 192 << 10, 64 << 10
	// maxSize of a disk is §2.6.2.2's: 64 TiB.
	maxSize    = 64 << 40
	maxEntries = 2047
	// tableSize is the length of the metadata table.
	tableSize = 64 << 10
)

// Identifiers of §2.2.3.2 and §2.6.2.
var (
	regionBAT      = uuid.MustParse("2dc27766-f623-4200-9d64-115e9bfd4a08")
	regionMetadata = uuid.MustParse("8b7ca206-4790-4b9a-b8fe-575f050f886e")
	itemParameters = uuid.MustParse("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
	itemSize       = uuid.MustParse("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
	itemDiskID     = uuid.MustParse("beca12ab-b2e6-4523-93ef-c309e000c746")
	itemLogical    = uuid.MustParse("8141bf1d-a96f-4709-ba47-f233a8faab5f")
	itemPhysical   = uuid.MustParse("cda348c7-445d-4471-9cc9-e9885251c556")
	itemParent     = uuid.MustParse("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
)

// States of a block, §2.5.1.1.
const (
	stateFull    = 6
	statePartial = 7
)

// Is reports whether a file that begins with head is a VHDX image.
func Is(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }

// Image is an open disk; an extent.Image.
type Image struct {
	r             io.ReaderAt
	length        int64
	size, block   int64
	logical       int64
	extents       []extent.Extent
	bat, metadata region
}

var _ extent.Image = (*Image)(nil)

type region struct{ at, n int64 }

// Open reads the tables of a file of length bytes.
func Open(r io.ReaderAt, length int64) (*Image, error) {
	b, err := extent.ReadAt(r, 0, int64(len(magic)))
	if err != nil {
		return nil, fmt.Errorf("reading VHDX identifier: %w", err)
	}
	if !Is(b) {
		return nil, errors.New("not a VHDX image")
	}
	i := &Image{r: r, length: length}
	for _, step := range []struct {
		what string
		do   func() error
	}{{"headers", i.headers}, {"region table", i.regions}, {"metadata", i.items}, {"block table", i.walk}} {
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("reading VHDX %s: %w", step.what, err)
		}
	}
	return i, extent.Check(i.extents, length)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// valid checks signature and checksum; the checksum counts as zero in itself.
func valid(b []byte, signature string) bool {
	if string(b[:4]) != signature {
		return false
	}
	c := bytes.Clone(b)
	clear(c[4:8])
	return crc32.Checksum(c, castagnoli) == binary.LittleEndian.Uint32(b[4:])
}

// headers finds the current header. All it is needed for is the log.
func (i *Image) headers() error {
	var best []byte
	for n := range int64(2) {
		b, err := extent.ReadAt(i.r, headerAt+n*headerAt, headerSize)
		if err != nil {
			return err
		}
		if valid(b, "head") && (best == nil || binary.LittleEndian.Uint64(b[8:]) > binary.LittleEndian.Uint64(best[8:])) {
			best = b
		}
	}
	if best == nil {
		return errors.New("neither of the two is valid: the file is damaged")
	}
	if v := binary.LittleEndian.Uint16(best[66:]); v != 1 {
		return fmt.Errorf("version %d is not known", v)
	}
	if !bytes.Equal(best[48:64], make([]byte, 16)) {
		return errors.New("the file was not closed cleanly: attach and detach it in Hyper-V, or repair it with `qemu-img check -r all`")
	}
	return nil
}

// regions finds metadata and block table.
func (i *Image) regions() error {
	for n := range int64(2) {
		b, err := extent.ReadAt(i.r, regionAt+n*regionSize, regionSize)
		if err != nil {
			return err
		}
		if valid(b, "regi") {
			return i.regionTable(b)
		}
	}
	return errors.New("neither of the two is valid: the file is damaged")
}

func (i *Image) regionTable(b []byte) error {
	le := binary.LittleEndian
	count := le.Uint32(b[8:])
	if count > maxEntries {
		return fmt.Errorf("%d entries", count)
	}
	for e := b[16:]; count > 0; e, count = e[32:], count-1 {
		r := region{int64(le.Uint64(e[16:])), int64(le.Uint32(e[24:]))}
		var to *region
		switch id := guid(e); {
		case id == regionBAT:
			to = &i.bat
		case id == regionMetadata:
			to = &i.metadata
		case le.Uint32(e[28:])&1 != 0:
			return fmt.Errorf("region %s, which is needed, is not known", id)
		default:
			continue
		}
		if r.at < 1<<20 || r.n <= 0 || r.at > i.length || r.n > i.length-r.at {
			return fmt.Errorf("a region of %d bytes at offset %d, the file has %d: %w", r.n, r.at, i.length, io.ErrUnexpectedEOF)
		}
		if to.n != 0 {
			return errors.New("a region is listed twice")
		}
		*to = r
	}
	if i.bat.n == 0 || i.metadata.n < tableSize {
		return errors.New("block table or metadata are not listed")
	}
	return nil
}

// guid reads an identifier as Windows stores it: the first three parts little-endian.
func guid(b []byte) (id uuid.UUID) {
	copy(id[:], b[:16])
	id[0], id[1], id[2], id[3] = b[3], b[2], b[1], b[0]
	id[4], id[5], id[6], id[7] = b[5], b[4], b[7], b[6]
	return id
}

// items reads the metadata.
func (i *Image) items() error {
	t, err := extent.ReadAt(i.r, i.metadata.at, tableSize)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	count := int(le.Uint16(t[10:]))
	if string(t[:8]) != "metadata" || count > maxEntries {
		return errors.New("the table is damaged")
	}
	for e := t[32:]; count > 0; e, count = e[32:], count-1 {
		id, at, n := guid(e), int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:]))
		if at < tableSize || n > 1<<20 || at+n > i.metadata.n {
			return fmt.Errorf("item %s has %d bytes at %d", id, n, at)
		}
		v, err := extent.ReadAt(i.r, i.metadata.at+at, n)
		if err != nil {
			return err
		}
		if err := i.item(id, v, le.Uint32(e[24:])); err != nil {
			return err
		}
	}
	return i.check()
}

func (i *Image) item(id uuid.UUID, v []byte, flags uint32) error {
	le := binary.LittleEndian
	const isUser, isRequired, hasParent = 1 << 0, 1 << 2, 1 << 1
	short := func(n int) bool { return len(v) < n }
	switch {
	case flags&isUser != 0:
		return nil
	case id == itemParent:
		return errors.New("it holds only what differs from another disk: merge it, or make it whole with `qemu-img convert`")
	case id == itemParameters && !short(8):
		i.block = int64(le.Uint32(v))
		if le.Uint32(v[4:])&hasParent != 0 {
			return errors.New("it holds only what differs from another disk: merge it, or make it whole with `qemu-img convert`")
		}
	case id == itemSize && !short(8):
		i.size = int64(le.Uint64(v))
	case id == itemLogical && !short(4):
		i.logical = int64(le.Uint32(v))
	case id == itemDiskID, id == itemPhysical:
	case flags&isRequired != 0:
		return fmt.Errorf("item %s, which is needed, is not known", id)
	}
	return nil
}

func (i *Image) check() error {
	switch {
	case i.block < 1<<20 || i.block > 256<<20 || i.block&(i.block-1) != 0:
		return fmt.Errorf("blocks of %d bytes", i.block)
	case i.logical != 512 && i.logical != 4096:
		return fmt.Errorf("sectors of %d bytes", i.logical)
	case i.size <= 0 || i.size > maxSize || i.size%i.logical != 0:
		return fmt.Errorf("a disk of %d bytes", i.size)
	}
	return nil
}

// walk reads the block table. After each ratio of blocks comes an entry for a
// bitmap, which only differencing disks use (§2.5).
func (i *Image) walk() error {
	ratio := (1 << 23) * i.logical / i.block
	blocks := (i.size + i.block - 1) / i.block
	need := (blocks + (blocks-1)/ratio) * 8
	if need > i.bat.n {
		return fmt.Errorf("%d bytes, a disk of %d needs %d: the file is damaged", i.bat.n, i.size, need)
	}
	t, err := extent.ReadAt(i.r, i.bat.at, need)
	if err != nil {
		return err
	}
	for n := range blocks {
		entry := binary.LittleEndian.Uint64(t[(n+n/ratio)*8:])
		switch state := entry & 7; {
		case state == statePartial || state == 4 || state == 5:
			return fmt.Errorf("block %d is in state %d", n, state)
		case state == stateFull:
			at := int64(entry &^ (1<<20 - 1))
			if at < 1<<20 {
				return fmt.Errorf("block %d is at offset %d", n, at)
			}
			guest := n * i.block
			i.extents, err = extent.Add(i.extents, extent.Extent{Guest: guest, Host: at, Length: min(i.block, i.size-guest)})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Size is that of the disk, in bytes.
func (i *Image) Size() int64 { return i.size }

// Extents come in the order of the disk.
func (i *Image) Extents() []extent.Extent { return i.extents }

// Unit is the length of a block.
func (i *Image) Unit() int64 { return i.block }

// Unpack is never called: no VHDX has packed extents.
func (i *Image) Unpack([]byte, extent.Extent) error {
	return errors.New("a VHDX has nothing compressed")
}
