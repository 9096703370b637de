package partition

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	mbrTable   = 446
	protective = 0xee
	// maxLogical bounds the walk along extended boot records, which may be a loop.
	maxLogical = 128
)

// MBR is the partition table in a disk's first 512 bytes, with the logical
// partitions that hang on it.
type MBR struct {
	Signature  uint32
	partitions []Partition
}

// Partitions returns primary partitions (1 to 4), then logical ones (from 5).
func (m *MBR) Partitions() []Partition { return m.partitions }

// Protective reports whether the table only says that there is a GPT.
func (m *MBR) Protective() bool {
	for _, p := range m.partitions {
		if p.MBRType == protective {
			return true
		}
	}
	return false
}

// ReadMBR reads a table and its logical partitions. ErrNone means that the
// first block has no table; a file system's boot sector counts as none.
func ReadMBR(r io.ReaderAt, blockSize int) (*MBR, error) {
	var s [512]byte
	if _, err := r.ReadAt(s[:], 0); err != nil {
		return nil, fmt.Errorf("reading first block: %w", err)
	}
	if s[510] != 0x55 || s[511] != 0xaa {
		return nil, ErrNone
	}
	m := &MBR{Signature: binary.LittleEndian.Uint32(s[440:])}
	for i := range 4 {
		p, active := mbrEntry(s[mbrTable+16*i:], 0)
		if active&0x7f != 0 { // Boot code or text where a table would be: FAT and NTFS boot sectors end in 55aa too.
			return nil, ErrNone
		}
		if p.Number = i + 1; p.MBRType != 0 && p.Blocks != 0 {
			m.partitions = append(m.partitions, p)
		}
	}
	if len(m.partitions) == 0 && bootSector(s[:]) {
		return nil, ErrNone
	}
	for _, p := range m.partitions {
		if p.extended() {
			return m, m.readLogical(r, blockSize, p)
		}
	}
	return m, nil
}

// bootSector reports whether a block that ends in 55aa belongs to a FAT or NTFS
// file system without any table around it.
func bootSector(s []byte) bool {
	return string(s[0x36:0x39]) == "FAT" || string(s[0x52:0x57]) == "FAT32" || string(s[3:7]) == "NTFS"
}

func (m *MBR) readLogical(r io.ReaderAt, blockSize int, ext Partition) error {
	at := ext.Start
	for n := 5; n < 5+maxLogical; n++ {
		var s [512]byte
		if _, err := r.ReadAt(s[:], int64(at)*int64(blockSize)); err != nil {
			return fmt.Errorf("reading extended boot record at block %d: %w", at, err)
		}
		if s[510] != 0x55 || s[511] != 0xaa {
			return nil
		}
		p, _ := mbrEntry(s[mbrTable:], at)
		if p.MBRType != 0 && p.Blocks != 0 {
			p.Number = n
			m.partitions = append(m.partitions, p)
		}
		next, _ := mbrEntry(s[mbrTable+16:], ext.Start)
		if next.MBRType == 0 || next.Start <= at {
			return nil
		}
		at = next.Start
	}
	return nil
}

func (p Partition) extended() bool {
	return p.Type.IsZero() && (p.MBRType == 0x05 || p.MBRType == 0x0f || p.MBRType == 0x85)
}

func mbrEntry(e []byte, base uint64) (p Partition, active byte) {
	le := binary.LittleEndian
	p.MBRType = e[4]
	p.Start = base + uint64(le.Uint32(e[8:]))
	p.Blocks = uint64(le.Uint32(e[12:]))
	p.Bootable = e[0] == 0x80
	return p, e[0]
}

// AppendMBR writes up to four primary partitions into block, the first 512
// bytes of a disk, keeping the boot code that is there.
func AppendMBR(block []byte, sig uint32, partitions []Partition) error {
	le := binary.LittleEndian
	clear(block[mbrTable:510])
	le.PutUint32(block[440:], sig)
	for _, p := range partitions {
		if p.Number < 1 || p.Number > 4 {
			return fmt.Errorf("an MBR has no place for partition %d: use a GPT", p.Number)
		}
		if p.Start>>32 != 0 || p.Blocks>>32 != 0 || p.Blocks == 0 {
			return fmt.Errorf("partition %d: an MBR can't say %d blocks from %d: use a GPT", p.Number, p.Blocks, p.Start)
		}
		e := block[mbrTable+16*(p.Number-1):]
		if p.Bootable {
			e[0] = 0x80
		}
		// Beyond the reach of cylinders and heads; what everyone writes.
		e[1], e[2], e[3] = 0xfe, 0xff, 0xff
		e[5], e[6], e[7] = 0xfe, 0xff, 0xff
		e[4] = p.MBRType
		le.PutUint32(e[8:], uint32(p.Start))
		le.PutUint32(e[12:], uint32(p.Blocks))
	}
	block[510], block[511] = 0x55, 0xaa
	return nil
}

// PutProtective writes the MBR that guards a GPT on a disk of that many blocks
// (UEFI §5.2.3) into block.
func PutProtective(block []byte, blocks uint64) {
	clear(block[mbrTable:510])
	e := block[mbrTable:]
	e[2], e[4] = 0x02, protective
	e[5], e[6], e[7] = 0xff, 0xff, 0xff
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(blocks-1, 0xffffffff)))
	block[510], block[511] = 0x55, 0xaa
}

// ResizeProtective makes a protective entry that starts at block 1 and is the
// only one reach the end of a disk of that many blocks. A hybrid MBR is left
// alone.
func ResizeProtective(block []byte, blocks uint64) {
	only := block[mbrTable+4] == protective
	for i := 1; i < 4; i++ {
		only = only && block[mbrTable+16*i+4] == 0
	}
	if only && binary.LittleEndian.Uint32(block[mbrTable+8:]) == 1 {
		binary.LittleEndian.PutUint32(block[mbrTable+12:], uint32(min(blocks-1, 0xffffffff)))
	}
}

// ResizeMBR sets the length of one primary partition in block.
func ResizeMBR(block []byte, p Partition) error {
	if p.Number < 1 || p.Number > 4 || p.Blocks>>32 != 0 {
		return fmt.Errorf("partition %d: an MBR can't say %d blocks", p.Number, p.Blocks)
	}
	binary.LittleEndian.PutUint32(block[mbrTable+16*(p.Number-1)+12:], uint32(p.Blocks))
	return nil
}
