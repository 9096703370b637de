package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"
)

// Bounds on what is read from a disk. UEFI wants at least 128 entries of 128
// bytes, which is what partitioning tools make.
const (
	minHeader    = 92
	minEntry     = 128
	maxEntries   = 1024
	maxEntrySize = 4096
	maxArray     = 1 << 20
)

var signature = []byte("EFI PART")

// ErrNone says that there is no table of the kind that was looked for.
var ErrNone = errors.New("no partition table")

// GPT is a GUID partition table as one of its two copies has it. Fields are in
// units of blocks.
type GPT struct {
	BlockSize    int
	Revision     uint32
	MyLBA        uint64
	AlternateLBA uint64
	FirstUsable  uint64
	LastUsable   uint64
	Disk         GUID
	EntriesLBA   uint64
	EntrySize    uint32
	// Entries is the whole array, so that what this package doesn't know survives.
	Entries []byte
}

// NewGPT returns an empty table for a disk of that many blocks.
func NewGPT(disk GUID, blockSize int, blocks uint64) (*GPT, error) {
	g := &GPT{
		BlockSize: blockSize, Revision: 0x00010000, Disk: disk,
		EntriesLBA: 2, EntrySize: minEntry, Entries: make([]byte, 128*minEntry),
	}
	g.FirstUsable = 2 + g.arrayBlocks()
	return g, g.Place(blocks)
}

// ReadGPT reads the copy whose header is at lba of a disk of that many blocks,
// and checks both checksums. ErrNone means that there is no header at all.
func ReadGPT(r io.ReaderAt, blockSize int, lba, blocks uint64) (*GPT, error) {
	if blockSize < 512 || lba >= blocks {
		return nil, fmt.Errorf("block %d of %d: %w", lba, blocks, ErrNone)
	}
	h := make([]byte, blockSize)
	if _, err := r.ReadAt(h, int64(lba)*int64(blockSize)); err != nil {
		return nil, fmt.Errorf("reading GPT header at block %d: %w", lba, err)
	}
	g, count, sum, err := parseHeader(h, lba, blocks)
	if err != nil {
		return nil, err
	}
	g.Entries = make([]byte, int(count)*int(g.EntrySize))
	if _, err := r.ReadAt(g.Entries, int64(g.EntriesLBA)*int64(blockSize)); err != nil {
		return nil, fmt.Errorf("reading GPT entries at block %d: %w", g.EntriesLBA, err)
	}
	if got := crc32.ChecksumIEEE(g.Entries); got != sum {
		return nil, fmt.Errorf("GPT entries have checksum %08x, the header wants %08x", got, sum)
	}
	return g, nil
}

func parseHeader(h []byte, lba, blocks uint64) (g *GPT, count, sum uint32, err error) {
	if string(h[:8]) != string(signature) {
		return nil, 0, 0, ErrNone
	}
	le := binary.LittleEndian
	size := le.Uint32(h[12:])
	if size < minHeader || int64(size) > int64(len(h)) {
		return nil, 0, 0, fmt.Errorf("GPT header says it is %d bytes long", size)
	}
	c := slices.Clone(h[:size])
	clear(c[16:20])
	if got, want := crc32.ChecksumIEEE(c), le.Uint32(h[16:]); got != want {
		return nil, 0, 0, fmt.Errorf("GPT header has checksum %08x, not %08x", got, want)
	}
	g = &GPT{
		BlockSize: len(h), Revision: le.Uint32(h[8:]),
		MyLBA: le.Uint64(h[24:]), AlternateLBA: le.Uint64(h[32:]),
		FirstUsable: le.Uint64(h[40:]), LastUsable: le.Uint64(h[48:]),
		Disk: GUID(h[56:72]), EntriesLBA: le.Uint64(h[72:]), EntrySize: le.Uint32(h[84:]),
	}
	count, sum = le.Uint32(h[80:]), le.Uint32(h[88:])
	switch {
	case g.MyLBA != lba:
		err = fmt.Errorf("GPT header at block %d says it is at block %d", lba, g.MyLBA)
	case g.EntrySize < minEntry || g.EntrySize > maxEntrySize || g.EntrySize%8 != 0:
		err = fmt.Errorf("GPT entries of %d bytes", g.EntrySize)
	case count > maxEntries || uint64(count)*uint64(g.EntrySize) > maxArray:
		err = fmt.Errorf("GPT with %d entries", count)
	case g.EntriesLBA < 2 || g.EntriesLBA >= blocks:
		err = fmt.Errorf("GPT entries at block %d of %d", g.EntriesLBA, blocks)
	}
	return g, count, sum, err
}

func (g *GPT) arrayBlocks() uint64 {
	return (uint64(len(g.Entries)) + uint64(g.BlockSize) - 1) / uint64(g.BlockSize)
}

// Place fits the table to a disk of that many blocks: the backup copy goes to
// the very end and the usable space reaches up to it.
func (g *GPT) Place(blocks uint64) error {
	array := g.arrayBlocks()
	if blocks < g.FirstUsable+array+2 || blocks < g.EntriesLBA+array {
		return fmt.Errorf("a disk of %d blocks is too small for a GPT", blocks)
	}
	g.MyLBA, g.AlternateLBA = 1, blocks-1
	g.LastUsable = blocks - 2 - array
	for _, p := range g.Partitions() {
		if p.End() > g.LastUsable {
			return fmt.Errorf("partition %d ends at block %d, but the disk's last usable block is %d", p.Number, p.End(), g.LastUsable)
		}
	}
	return nil
}

// Primary returns the blocks of the primary copy: the header for block 1, and
// the entries for block EntriesLBA.
func (g *GPT) Primary() (header, entries []byte) {
	return g.header(1, g.AlternateLBA, g.EntriesLBA), g.padded()
}

// Backup returns the backup copy as it stands at the end of the disk, entries
// first, and the block it starts at.
func (g *GPT) Backup() (data []byte, lba uint64) {
	lba = g.AlternateLBA - g.arrayBlocks()
	return append(g.padded(), g.header(g.AlternateLBA, 1, lba)...), lba
}

func (g *GPT) padded() []byte {
	b := make([]byte, g.arrayBlocks()*uint64(g.BlockSize))
	copy(b, g.Entries)
	return b
}

func (g *GPT) header(my, alternate, entries uint64) []byte {
	h := make([]byte, g.BlockSize)
	le := binary.LittleEndian
	copy(h, signature)
	le.PutUint32(h[8:], g.Revision)
	le.PutUint32(h[12:], minHeader)
	le.PutUint64(h[24:], my)
	le.PutUint64(h[32:], alternate)
	le.PutUint64(h[40:], g.FirstUsable)
	le.PutUint64(h[48:], g.LastUsable)
	copy(h[56:], g.Disk[:])
	le.PutUint64(h[72:], entries)
	le.PutUint32(h[80:], uint32(len(g.Entries))/g.EntrySize)
	le.PutUint32(h[84:], g.EntrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(g.Entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:minHeader]))
	return h
}

// Partitions returns the entries in use, in the order of the table.
func (g *GPT) Partitions() []Partition {
	var out []Partition
	le := binary.LittleEndian
	for i := 0; (i+1)*int(g.EntrySize) <= len(g.Entries); i++ {
		e := g.Entries[i*int(g.EntrySize):][:minEntry]
		p := Partition{
			Number: i + 1, Type: GUID(e[:16]), ID: GUID(e[16:32]),
			Start: le.Uint64(e[32:]), Attributes: le.Uint64(e[48:]), Label: labelOf(e[56:128]),
		}
		end := le.Uint64(e[40:])
		if p.Type.IsZero() || p.Start > end || end-p.Start == ^uint64(0) {
			continue
		}
		p.Blocks = end - p.Start + 1
		out = append(out, p)
	}
	return out
}

// Set writes one entry. The partition's Number says which.
func (g *GPT) Set(p Partition) error {
	if p.Number < 1 || p.Number*int(g.EntrySize) > len(g.Entries) {
		return fmt.Errorf("a GPT has no place for partition %d", p.Number)
	}
	if p.Blocks == 0 || p.Start < g.FirstUsable || p.End() > g.LastUsable || p.End() < p.Start {
		return fmt.Errorf("partition %d: blocks %d to %d are not within the usable %d to %d",
			p.Number, p.Start, p.End(), g.FirstUsable, g.LastUsable)
	}
	e := g.Entries[(p.Number-1)*int(g.EntrySize):][:minEntry]
	le := binary.LittleEndian
	copy(e, p.Type[:])
	copy(e[16:], p.ID[:])
	le.PutUint64(e[32:], p.Start)
	le.PutUint64(e[40:], p.End())
	le.PutUint64(e[48:], p.Attributes)
	clear(e[56:128])
	for i, c := range utf16.Encode([]rune(p.Label)) {
		if i == 36 {
			return fmt.Errorf("partition %d: label %q is longer than 36 characters", p.Number, p.Label)
		}
		le.PutUint16(e[56+2*i:], c)
	}
	return nil
}

func labelOf(b []byte) string {
	var u []uint16
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}
