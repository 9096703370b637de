package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/agent/disk/partition"
)

// Signature is something recognised on a disk or partition.
type Signature struct {
	// Type is as blkid has it: ext4, xfs, vfat, swap, LVM2_member, gpt.
	Type string
	// Label and UUID are empty where the type has none.
	Label string
	UUID  string
	// Offset is where the recognised bytes are.
	Offset int64
}

// magic recognises a type by fixed bytes. A negative offset counts from the end.
type magic struct {
	kind   string
	offset int64
	bytes  string
}

var magics = []magic{
	{"xfs", 0, "XFSB"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"f2fs", 0x400, "\x10\x20\xf5\xf2"},
	{"swap", 4086, "SWAPSPACE2"},
	{"swap", 65526, "SWAPSPACE2"}, // Pages of 64 KiB, as on some aarch64 and ppc64 kernels.
	{"crypto_LUKS", 0, "LUKS\xba\xbe"},
	{"crypto_LUKS", 0x4000, "SKUL\xba\xbe"},
	{"ntfs", 3, "NTFS    "},
	{"iso9660", 0x8001, "CD001"},
	{"squashfs", 0, "hsqs"},
	{"erofs", 0x400, "\xe2\xe1\xf5\xe0"},
	{"bcache", 0x1018, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"ceph_bluestore", 0, "bluestore block device"},
	{"VMFS_volume_member", 0x100000, "\x0d\xd0\x01\xc0"},
	{"linux_raid_member", 0, "\xfc\x4e\x2b\xa9"},
	{"linux_raid_member", 4096, "\xfc\x4e\x2b\xa9"},
	{"ddf_raid_member", -512, "\xde\x11\xde\x11"},
	{"isw_raid_member", -1024, "Intel Raid ISM Cfg Sig. "},
	{"gpt_backup", -512, "EFI PART"},
	{"gpt_backup", -4096, "EFI PART"},
	{"gpt", 512, "EFI PART"},
	{"gpt", 4096, "EFI PART"},
}

// Signatures returns everything that is recognised at both ends of a disk or
// partition of size bytes, file systems first.
func Signatures(r io.ReaderAt, size int64) ([]Signature, error) {
	var out []Signature
	for _, probe := range []func(io.ReaderAt, int64) (*Signature, error){probeExt, probeFAT, probeLVM, probeZFS} {
		s, err := probe(r, size)
		if err != nil {
			return nil, err
		}
		if s != nil {
			out = append(out, *s)
		}
	}
	for _, m := range slices.Concat(magics, raidAtEnd(size)) {
		off := m.offset
		if off < 0 {
			off += size
		}
		b, err := peek(r, size, off, len(m.bytes))
		if err != nil {
			return nil, err
		}
		if string(b) == m.bytes {
			s := Signature{Type: m.kind, Offset: off}
			if err := describe(r, size, &s); err != nil {
				return nil, err
			}
			out = append(out, s)
		}
	}
	mbr, err := partition.ReadMBR(io.NewSectionReader(r, 0, size), 512)
	if err == nil && len(mbr.Partitions()) > 0 {
		out = append(out, Signature{Type: "mbr", Offset: 510})
	}
	return out, nil
}

// FileSystem returns the file system, swap space or container on a partition;
// false if nothing is recognised or only a partition table is.
func FileSystem(r io.ReaderAt, size int64) (Signature, bool, error) {
	all, err := Signatures(r, size)
	if err != nil {
		return Signature{}, false, err
	}
	for _, s := range all {
		if s.Type != "mbr" && !strings.HasPrefix(s.Type, "gpt") {
			return s, true, nil
		}
	}
	return Signature{}, false, nil
}

// raidAtEnd returns where Linux RAID keeps its superblock at the end: version
// 1.0 between 8 and 12 KiB before it, 0.90 in the last whole 64 KiB but one.
func raidAtEnd(size int64) []magic {
	const md = "\xfc\x4e\x2b\xa9"
	return []magic{
		{"linux_raid_member", (size-8192)&^4095 - size, md},
		{"linux_raid_member", size&^65535 - 65536 - size, md},
	}
}

// peek reads n bytes; nil if they aren't all within the size.
func peek(r io.ReaderAt, size, off int64, n int) ([]byte, error) {
	if off < 0 || off+int64(n) > size {
		return nil, nil
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading signature at offset %d: %w", off, err)
	}
	return b, nil
}

func describe(r io.ReaderAt, size int64, s *Signature) error {
	var label, uuid [2]int64 // Offset and length.
	switch s.Type {
	case "xfs":
		label, uuid = [2]int64{108, 12}, [2]int64{32, 16}
	case "btrfs":
		label, uuid = [2]int64{0x1012b, 256}, [2]int64{0x10020, 16}
	case "swap":
		label, uuid = [2]int64{1052, 16}, [2]int64{1036, 16}
	default:
		return nil
	}
	b, err := peek(r, size, label[0], int(label[1]))
	if err != nil {
		return err
	}
	s.Label = cString(b)
	if b, err = peek(r, size, uuid[0], int(uuid[1])); err != nil {
		return err
	}
	s.UUID = uuidOf(b)
	return nil
}

func probeExt(r io.ReaderAt, size int64) (*Signature, error) {
	b, err := peek(r, size, 1024, 264)
	if err != nil || b == nil || b[0x38] != 0x53 || b[0x39] != 0xef {
		return nil, err
	}
	s := &Signature{Type: "ext2", Offset: 1024 + 0x38, Label: cString(b[0x78:0x88]), UUID: uuidOf(b[0x68:0x78])}
	compat, incompat := binary.LittleEndian.Uint32(b[0x5c:]), binary.LittleEndian.Uint32(b[0x60:])
	switch {
	case incompat&^uint32(0x16) != 0: // Anything but filetype, recover, meta_bg: extents, 64bit, flex_bg.
		s.Type = "ext4"
	case compat&4 != 0: // has_journal
		s.Type = "ext3"
	}
	return s, nil
}

func probeFAT(r io.ReaderAt, size int64) (*Signature, error) {
	b, err := peek(r, size, 0, 512)
	if err != nil || b == nil || b[510] != 0x55 || b[511] != 0xaa {
		return nil, err
	}
	at := 0
	switch {
	case bytes.HasPrefix(b[0x52:], []byte("FAT32")):
		at = 0x43
	case bytes.HasPrefix(b[0x36:], []byte("FAT")):
		at = 0x27
	default:
		return nil, nil
	}
	id := binary.LittleEndian.Uint32(b[at:])
	label := strings.TrimRight(cString(b[at+4:at+15]), " ")
	if label == "NO NAME" {
		label = ""
	}
	return &Signature{Type: "vfat", Offset: 510, Label: label, UUID: fmt.Sprintf("%04X-%04X", id>>16, id&0xffff)}, nil
}

func probeLVM(r io.ReaderAt, size int64) (*Signature, error) {
	for off := int64(0); off < 2048; off += 512 {
		b, err := peek(r, size, off, 64)
		if err != nil {
			return nil, err
		}
		if b != nil && string(b[:8]) == "LABELONE" && string(b[24:32]) == "LVM2 001" {
			return &Signature{Type: "LVM2_member", Offset: off}, nil
		}
	}
	return nil, nil
}

// probeZFS looks for an uberblock in each of the four labels of 256 KiB, two
// at each end.
func probeZFS(r io.ReaderAt, size int64) (*Signature, error) {
	const label = 256 << 10
	end := size &^ (label - 1)
	for _, base := range []int64{0, label, end - 2*label, end - label} {
		b, err := peek(r, size, base+128<<10, 128<<10)
		if err != nil {
			return nil, err
		}
		for i := 0; i+8 <= len(b); i += 1024 {
			if v := binary.LittleEndian.Uint64(b[i:]); v == 0x00bab10c || v == 0x0cb1ba0000000000 {
				return &Signature{Type: "zfs_member", Offset: base + 128<<10 + int64(i)}, nil
			}
		}
	}
	return nil, nil
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return strings.ToValidUTF8(string(b), "?")
}

func uuidOf(b []byte) string {
	if len(b) != 16 {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
