// Package partition reads and writes partition tables: GUID partition tables
// (UEFI 2.10 §5.3) and MBR tables with logical partitions (read only). It is a
// codec: bytes in, values out; it opens nothing and asks the kernel nothing.
//
//	block 0          protective MBR
//	block 1          GPT header  --+
//	block 2..33      entries       | each points to the other
//	...              partitions    |
//	last-32..last-1  entries       |
//	last             GPT header  --+
//
// Everything read is bounded: 1024 entries and 1 MiB of them, 128 logical
// partitions. Values belong to one goroutine.
package partition

import (
	"errors"
	"fmt"
	"io"
)

// Partition is one entry of a table. Start and Blocks are in blocks of the table.
type Partition struct {
	// Number is the entry's place, from 1, which the kernel puts into the name of its node.
	Number int
	// Type is zero in an MBR.
	Type GUID
	// MBRType is zero in a GPT.
	MBRType byte
	// ID is the partition's own GUID; zero in an MBR.
	ID         GUID
	Label      string
	Start      uint64
	Blocks     uint64
	Attributes uint64
	// Bootable is the active flag of an MBR.
	Bootable bool
}

// End returns the partition's last block.
func (p Partition) End() uint64 { return p.Start + p.Blocks - 1 }

// Kind is the kind of a partition table.
type Kind string

// The kinds of tables.
const (
	KindGPT Kind = "gpt"
	KindMBR Kind = "mbr"
)

// Table is what is on a disk, of either kind.
type Table struct {
	Kind      Kind
	BlockSize int
	// Disk identifies the table; zero for an MBR.
	Disk GUID
	// Signature identifies an MBR.
	Signature  uint32
	Partitions []Partition
	// Warning says what is wrong with a table that can still be used.
	Warning string
}

// Read returns the table of a disk of size bytes. A GPT whose primary copy is
// broken is read from its backup. ErrNone means that there is no table.
func Read(r io.ReaderAt, size int64, blockSize int) (*Table, error) {
	if blockSize < 512 || blockSize > 1<<16 || size < int64(blockSize) {
		return nil, fmt.Errorf("disk of %d bytes in blocks of %d: %w", size, blockSize, ErrNone)
	}
	blocks := uint64(size) / uint64(blockSize)
	mbr, mbrErr := ReadMBR(r, blockSize)
	g, err := ReadGPT(r, blockSize, 1, blocks)
	if err == nil {
		return tableOf(g, ""), nil
	}
	if mbrErr == nil && !mbr.Protective() {
		return &Table{Kind: KindMBR, BlockSize: blockSize, Signature: mbr.Signature, Partitions: mbr.Partitions()}, nil
	}
	if backup, berr := ReadGPT(r, blockSize, blocks-1, blocks); berr == nil {
		return tableOf(backup, "primary GPT can't be used, its backup is: "+err.Error()), nil
	}
	if errors.Is(err, ErrNone) && mbrErr != nil {
		return nil, mbrErr
	}
	return nil, err
}

func tableOf(g *GPT, warning string) *Table {
	return &Table{Kind: KindGPT, BlockSize: g.BlockSize, Disk: g.Disk, Partitions: g.Partitions(), Warning: warning}
}

// Span returns where a partition lies on a disk of size bytes, and an error if
// it isn't wholly there.
func (t *Table) Span(p Partition, size int64) (offset, length int64, err error) {
	blocks := uint64(size) / uint64(t.BlockSize)
	if p.Blocks == 0 || p.Start >= blocks || p.Blocks > blocks-p.Start {
		return 0, 0, fmt.Errorf("partition %d: %d blocks from %d reach beyond the disk's %d", p.Number, p.Blocks, p.Start, blocks)
	}
	return int64(p.Start) * int64(t.BlockSize), int64(p.Blocks) * int64(t.BlockSize), nil
}
