// Package qcow2 reads the metadata of QEMU disk images, versions 2 and 3
// (docs/interop/qcow2.txt in QEMU's source): the header, and the two levels of
// tables that say which part of the file holds which part of the disk.
//
//	guest offset -> L1 table -> L2 table -> cluster in the file, or zeros
//
// It is a codec: it asks its caller for ranges of the file and returns Extents;
// it opens nothing. Compressed clusters (deflate and zstd) and subclusters are
// understood. What needs another file or a key is refused: backing files,
// external data files, encryption. Internal snapshots are passed over.
//
// Everything read is bounded (see the constants). Values belong to one goroutine.
package qcow2

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/bedplate/bedplate/images/format/extent"
)

const (
	// HeaderSize is how much of the file ParseHeader wants to see.
	HeaderSize = 112
	// maxL1 is QEMU's own bound on the bytes of an L1 table.
	maxL1 = 32 << 20
	// maxTables bounds the L2 tables in use: 32 TiB of disk with clusters of 64 KiB.
	maxTables = 1 << 16
	// maxExtents bounds the memory for extents to 32 MiB: 64 GiB of compressed
	// data, and far more uncompressed, where neighbours are one extent.
	maxExtents = 1 << 20
	// maxRead bounds one request for tables that lie side by side.
	maxRead = 4 << 20
)

// Incompatible features of version 3.
const (
	featureDirty       = 1 << 0
	featureCorrupt     = 1 << 1
	featureDataFile    = 1 << 2
	featureCompression = 1 << 3
	featureExtendedL2  = 1 << 4
)

// Magic is what the file begins with.
const Magic = "QFI\xfb"

// Is reports whether a file that begins with head is a qcow2 image.
func Is(head []byte) bool { return len(head) >= 4 && string(head[:4]) == Magic }

// Header is what the image says about itself.
type Header struct {
	Version int
	// ClusterSize is a power of two from 512 to 2 MiB.
	ClusterSize int64
	// Size is that of the disk, in bytes.
	Size int64
	// Zstd tells that compressed clusters are zstd and not deflate.
	Zstd bool
	// Extended tells that L2 entries have a map of 32 subclusters.
	Extended bool
	l1Offset int64
	l1Count  int64
}

// ParseHeader reads the header, and refuses what can't be read from one file.
func ParseHeader(b []byte) (*Header, error) {
	if !Is(b) || len(b) < HeaderSize {
		return nil, errors.New("not a qcow2 image")
	}
	be := binary.BigEndian
	h := &Header{Version: int(be.Uint32(b[4:])), l1Count: int64(be.Uint32(b[36:])), l1Offset: int64(be.Uint64(b[40:])), Size: int64(be.Uint64(b[24:]))}
	bits := be.Uint32(b[20:])
	if bits < 9 || bits > 21 {
		return nil, fmt.Errorf("clusters of 2^%d bytes", bits)
	}
	h.ClusterSize = 1 << bits
	if h.Version != 2 && h.Version != 3 {
		return nil, fmt.Errorf("qcow2 version %d is not known", h.Version)
	}
	if be.Uint64(b[8:]) != 0 {
		return nil, errors.New("the image has a backing file: make it whole with `qemu-img convert`")
	}
	if be.Uint32(b[32:]) != 0 {
		return nil, errors.New("the image is encrypted: convert it with `qemu-img convert`")
	}
	if h.Version == 3 {
		if err := h.features(be.Uint64(b[72:]), b[104]); err != nil {
			return nil, err
		}
	}
	return h, h.check()
}

func (h *Header) features(bits uint64, compression byte) error {
	const known = featureDirty | featureCorrupt | featureDataFile | featureCompression | featureExtendedL2
	switch {
	case bits&featureCorrupt != 0:
		return errors.New("the image is marked as corrupt: see `qemu-img check`")
	case bits&featureDataFile != 0:
		return errors.New("the image keeps its data in another file: convert it with `qemu-img convert`")
	case bits&^uint64(known) != 0:
		return fmt.Errorf("the image uses features %#x that are not known: convert it with `qemu-img convert`", bits&^uint64(known))
	}
	h.Extended = bits&featureExtendedL2 != 0
	if bits&featureCompression != 0 {
		if compression > 1 {
			return fmt.Errorf("compression type %d is not known", compression)
		}
		h.Zstd = compression == 1
	}
	return nil
}

func (h *Header) check() error {
	span := h.ClusterSize * h.perTable()
	switch {
	case h.Size <= 0 || h.Size > 1<<56:
		return fmt.Errorf("a disk of %d bytes", h.Size)
	case h.Extended && h.ClusterSize < 16<<10:
		return fmt.Errorf("subclusters in clusters of %d bytes", h.ClusterSize)
	case h.l1Count*8 > maxL1:
		return fmt.Errorf("an L1 table of %d entries is too large", h.l1Count)
	case h.l1Count < (h.Size+span-1)/span:
		return fmt.Errorf("an L1 table of %d entries is too small for a disk of %d bytes", h.l1Count, h.Size)
	case h.l1Offset < HeaderSize-8 || h.l1Offset%h.ClusterSize != 0:
		return fmt.Errorf("an L1 table at offset %d", h.l1Offset)
	}
	h.l1Count = (h.Size + span - 1) / span
	return nil
}

func (h *Header) entrySize() int64 {
	if h.Extended {
		return 16
	}
	return 8
}

// perTable is the number of clusters that one L2 table describes.
func (h *Header) perTable() int64 { return h.ClusterSize / h.entrySize() }

// Extent is a run of the disk that a run of the file holds. The Length of a
// packed one is rounded up to a sector of the file, and may reach 511 bytes
// beyond the file's end.
type Extent = extent.Extent

// Region is a part of the file that was read for its metadata, with what it
// held, so that it can be found again in the file as a whole.
type Region struct {
	Offset, Length int64
	Sum            [sha256.Size]byte
}

// ReadFunc returns n bytes of the file at off.
type ReadFunc func(off, n int64) ([]byte, error)

// Map reads all tables. The extents come in the order of the disk.
func (h *Header) Map(read ReadFunc) ([]Extent, []Region, error) {
	l1, err := read(h.l1Offset, h.l1Count*8)
	if err != nil {
		return nil, nil, fmt.Errorf("reading L1 table: %w", err)
	}
	m := mapper{h: h, read: read, regions: []Region{{h.l1Offset, int64(len(l1)), sha256.Sum256(l1)}}}
	for i := range h.l1Count {
		off := int64(binary.BigEndian.Uint64(l1[i*8:]) & offsetMask)
		if off == 0 {
			continue
		}
		if off%h.ClusterSize != 0 {
			return nil, nil, fmt.Errorf("L2 table %d is at offset %d", i, off)
		}
		if len(m.tables) == maxTables {
			return nil, nil, fmt.Errorf("more than %d L2 tables: convert the image to raw", maxTables)
		}
		m.tables = append(m.tables, table{index: i, off: off})
	}
	err = m.run()
	return m.extents, m.regions, err
}

// offsetMask is bits 9 to 55, in L1 and L2 entries alike.
const offsetMask = 0x00fffffffffffe00

type table struct{ index, off int64 }

type mapper struct {
	h       *Header
	read    ReadFunc
	tables  []table
	extents []Extent
	regions []Region
}

// run reads tables in the order of the disk; those that are also neighbours in
// the file, as `qemu-img create` with preallocation puts them, in one go.
func (m *mapper) run() error {
	size := m.h.ClusterSize
	for len(m.tables) > 0 {
		n := 1
		for n < len(m.tables) && m.tables[n].off == m.tables[n-1].off+size && int64(n+1)*size <= maxRead {
			n++
		}
		b, err := m.read(m.tables[0].off, int64(n)*size)
		if err != nil {
			return fmt.Errorf("reading L2 tables at %d: %w", m.tables[0].off, err)
		}
		for i := range n {
			t := b[int64(i)*size:][:size]
			m.regions = append(m.regions, Region{m.tables[i].off, size, sha256.Sum256(t)})
			if err := m.table(t, m.tables[i].index*m.h.perTable()*size); err != nil {
				return fmt.Errorf("L2 table %d: %w", m.tables[i].index, err)
			}
		}
		m.tables = m.tables[n:]
	}
	return nil
}

func (m *mapper) table(b []byte, guest int64) error {
	step := m.h.entrySize()
	for i := int64(0); i < int64(len(b)) && guest < m.h.Size; i, guest = i+step, guest+m.h.ClusterSize {
		entry := binary.BigEndian.Uint64(b[i:])
		var err error
		switch {
		case entry&(1<<62) != 0:
			err = m.packed(entry, guest)
		case m.h.Extended:
			err = m.subclusters(entry, binary.BigEndian.Uint64(b[i+8:]), guest)
		case entry&1 != 0 && m.h.Version == 3:
			// Reads as zeros, whatever the cluster holds.
		case entry&offsetMask != 0:
			err = m.data(guest, int64(entry&offsetMask), m.h.ClusterSize)
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", i/step, err)
		}
	}
	return nil
}

func (m *mapper) subclusters(entry, bitmap uint64, guest int64) error {
	host, sub := int64(entry&offsetMask), m.h.ClusterSize/32
	if host == 0 {
		return nil
	}
	for i := range int64(32) {
		allocated, zero := bitmap>>i&1 != 0, bitmap>>(32+i)&1 != 0
		if allocated && zero {
			return errors.New("a subcluster is both allocated and zero")
		}
		if allocated && guest+i*sub < m.h.Size {
			if err := m.data(guest+i*sub, host+i*sub, sub); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *mapper) data(guest, host, n int64) error {
	if host%n != 0 {
		return fmt.Errorf("a cluster at offset %d", host)
	}
	n = min(n, m.h.Size-guest)
	if len(m.extents) > 0 {
		last := &m.extents[len(m.extents)-1]
		if !last.Packed && last.Guest+last.Length == guest && last.Host+last.Length == host {
			last.Length += n
			return nil
		}
	}
	return m.add(Extent{Guest: guest, Host: host, Length: n})
}

func (m *mapper) packed(entry uint64, guest int64) error {
	bits := 62 - (log2(m.h.ClusterSize) - 8)
	host := int64(entry & (1<<bits - 1))
	sectors := int64(entry & (1<<62 - 1) >> bits)
	n := (sectors+1)*512 - host%512
	if host == 0 || n > 2*m.h.ClusterSize {
		return fmt.Errorf("a compressed cluster of %d bytes at offset %d", n, host)
	}
	return m.add(Extent{Guest: guest, Host: host, Length: n, Packed: true})
}

func (m *mapper) add(e Extent) error {
	if len(m.extents) == maxExtents {
		return fmt.Errorf("the image is in more than %d pieces: convert it to raw, compressed with zstd", maxExtents)
	}
	m.extents = append(m.extents, e)
	return nil
}

func log2(n int64) (bits int) {
	for n > 1 {
		n, bits = n>>1, bits+1
	}
	return bits
}

// guestLength is the length of an extent on the disk.
func (h *Header) guestLength(e Extent) int64 {
	if e.Packed {
		return min(h.ClusterSize, h.Size-e.Guest)
	}
	return e.Length
}

// Gaps calls f for each run of the disk that no extent covers: they are zeros.
// It puts the extents into the order of the disk.
func (h *Header) Gaps(extents []Extent, f func(off, n int64) error) error {
	slices.SortFunc(extents, func(a, b Extent) int { return cmp.Compare(a.Guest, b.Guest) })
	at := int64(0)
	for _, e := range extents {
		if e.Guest > at {
			if err := f(at, e.Guest-at); err != nil {
				return err
			}
		}
		at = e.Guest + h.guestLength(e)
	}
	if at < h.Size {
		return f(at, h.Size-at)
	}
	return nil
}

// SortByFile orders extents and regions as they come in the file, and fails if
// any overlap: a cluster that stands for two places of the disk, which QEMU
// doesn't make without snapshots, or tables inside data. Compressed clusters
// share sectors.
func SortByFile(extents []Extent, regions []Region) error {
	slices.SortFunc(extents, func(a, b Extent) int { return cmp.Compare(a.Host, b.Host) })
	slices.SortFunc(regions, func(a, b Region) int { return cmp.Compare(a.Offset, b.Offset) })
	end, packed, r := int64(0), false, 0
	for _, e := range extents {
		for ; r < len(regions) && regions[r].Offset <= e.Host; r++ {
			if regions[r].Offset < end {
				return overlap(regions[r].Offset)
			}
			end, packed = regions[r].Offset+regions[r].Length, false
		}
		if e.Host < end && (!packed || !e.Packed || end-e.Host >= 512) {
			return overlap(e.Host)
		}
		end, packed = e.Host+e.Length, e.Packed
	}
	for ; r < len(regions); r++ {
		if regions[r].Offset < end {
			return overlap(regions[r].Offset)
		}
		end = regions[r].Offset + regions[r].Length
	}
	return nil
}

func overlap(off int64) error {
	return fmt.Errorf("two parts of the image share the file at offset %d: make it whole with `qemu-img convert`", off)
}

// Piece is the least length of an extent, the last of a disk apart.
func (h *Header) Piece() int64 {
	if h.Extended {
		return h.ClusterSize / 32
	}
	return h.ClusterSize
}
