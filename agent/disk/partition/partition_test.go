package partition

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const diskSize = 64 << 20

func guid(b byte) GUID { return RandomGUID([16]byte{b}) }

// sample makes a disk with two partitions and both copies of the table.
func sample(t testing.TB, blockSize int) (disk []byte, want []Partition) {
	t.Helper()
	blocks := uint64(diskSize / blockSize)
	g, err := NewGPT(guid(1), blockSize, blocks)
	if err != nil {
		t.Fatal(err)
	}
	want = []Partition{
		{Number: 1, Type: TypeEFI, ID: guid(2), Label: "EFI System ☃", Start: 2048, Blocks: 4096},
		{Number: 3, Type: TypeLinux, ID: guid(3), Label: "root", Start: 8192, Blocks: g.LastUsable - 8191, Attributes: 4},
	}
	for _, p := range want {
		if err := g.Set(p); err != nil {
			t.Fatal(err)
		}
	}
	disk = make([]byte, diskSize)
	PutProtective(disk, blocks)
	h, e := g.Primary()
	copy(disk[blockSize:], h)
	copy(disk[2*blockSize:], e)
	b, at := g.Backup()
	copy(disk[int(at)*blockSize:], b)
	return disk, want
}

func TestRead_GPT(t *testing.T) {
	for _, bs := range []int{512, 4096} {
		disk, want := sample(t, bs)
		tab, err := Read(bytes.NewReader(disk), diskSize, bs)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, tab.Partitions); diff != "" {
			t.Errorf("block size %d (-want +got):\n%s", bs, diff)
		}
		disk[bs+60] ^= 1
		tab, err = Read(bytes.NewReader(disk), diskSize, bs)
		if err != nil || tab.Warning == "" || len(tab.Partitions) != 2 {
			t.Errorf("broken primary: %+v, %v; want the backup and a warning", tab, err)
		}
		disk[diskSize-bs+60] ^= 1
		if tab, err := Read(bytes.NewReader(disk), diskSize, bs); err == nil {
			t.Errorf("both copies broken: %+v, want an error", tab)
		}
	}
}

func TestGPT_Place(t *testing.T) {
	disk, _ := sample(t, 512)
	g, err := ReadGPT(bytes.NewReader(disk), 512, 1, diskSize/512)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Place(diskSize / 256); err != nil {
		t.Fatal(err)
	}
	if g.AlternateLBA != diskSize/256-1 || g.LastUsable != diskSize/256-34 {
		t.Errorf("backup at %d, last usable %d", g.AlternateLBA, g.LastUsable)
	}
	if err := g.Place(diskSize / 1024); err == nil || !strings.Contains(err.Error(), "partition 3 ends at block") {
		t.Errorf("placing on a disk half as large: %v", err)
	}
}

func TestGPT_AcceptedBySgdisk(t *testing.T) {
	sgdisk, err := exec.LookPath("sgdisk")
	if err != nil {
		t.Skip("SKIPPED: no sgdisk (package gdisk): the foreign witness for GPTs is missing")
	}
	disk, _ := sample(t, 512)
	f := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(f, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(sgdisk, "-v", "-p", f).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk: %v\n%s", err, out)
	}
}

func TestRead_None(t *testing.T) {
	blank := make([]byte, 1<<20)
	if _, err := Read(bytes.NewReader(blank), 1<<20, 512); !errors.Is(err, ErrNone) {
		t.Errorf("blank disk: %v", err)
	}
	copy(blank[0x52:], "FAT32   ")
	blank[510], blank[511] = 0x55, 0xaa
	if _, err := Read(bytes.NewReader(blank), 1<<20, 512); !errors.Is(err, ErrNone) {
		t.Errorf("FAT without a table: %v", err)
	}
}

func TestMBR(t *testing.T) {
	disk := make([]byte, 1<<20)
	want := []Partition{
		{Number: 1, MBRType: 0x83, Start: 64, Blocks: 100, Bootable: true},
		{Number: 2, MBRType: 0x05, Start: 256, Blocks: 1024},
	}
	if err := AppendMBR(disk, 0xdeadbeef, want); err != nil {
		t.Fatal(err)
	}
	// Two logical partitions; the second record points back, which must not loop.
	ebr := func(at int, start, blocks, next uint32) {
		s := disk[at*512:]
		s[510], s[511] = 0x55, 0xaa
		s[mbrTable+4], s[mbrTable+8], s[mbrTable+12] = 0x83, byte(start), byte(blocks)
		if next != 0 {
			s[mbrTable+16+4], s[mbrTable+16+8], s[mbrTable+16+12] = 0x05, byte(next), 10
		}
	}
	ebr(256, 8, 10, 64)
	ebr(320, 8, 20, 1)
	want = append(want,
		Partition{Number: 5, MBRType: 0x83, Start: 264, Blocks: 10},
		Partition{Number: 6, MBRType: 0x83, Start: 328, Blocks: 20})
	tab, err := Read(bytes.NewReader(disk), 1<<20, 512)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, tab.Partitions); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if tab.Signature != 0xdeadbeef || tab.Kind != KindMBR {
		t.Errorf("table = %+v", tab)
	}
}

func TestTypeNamed(t *testing.T) {
	for in, want := range map[string]string{
		"": "linux", "EFI": "esp", "0x83": "0x83", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F": "swap",
	} {
		if got, err := TypeNamed(in); err != nil || got.Name != want {
			t.Errorf("TypeNamed(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
	if _, err := TypeNamed("ext4"); err == nil || !strings.Contains(err.Error(), "bios-boot") {
		t.Errorf("error for an unknown type = %v", err)
	}
}

func FuzzRead(f *testing.F) {
	disk, _ := sample(f, 512)
	f.Add(disk[:34*512:34*512], uint8(0))                   // protective MBR and primary copy
	f.Add(disk[diskSize-33*512:], uint8(0))                 // backup copy alone
	f.Add(append(disk[:512:512], disk[:4096]...), uint8(3)) // header where 4096-byte blocks don't have it
	f.Fuzz(func(t *testing.T, data []byte, shift uint8) {
		bs := 512 << (shift % 4)
		fixSums(data, bs)
		tab, err := Read(bytes.NewReader(data), int64(len(data)), bs)
		if err != nil {
			return
		}
		if len(tab.Partitions) > maxEntries {
			t.Fatalf("%d partitions", len(tab.Partitions))
		}
		for _, p := range tab.Partitions {
			off, n, err := tab.Span(p, int64(len(data)))
			if err == nil && (off < 0 || n <= 0 || off+n > int64(len(data))) {
				t.Fatalf("partition at %d, %d bytes, of %d", off, n, len(data))
			}
		}
	})
}

// fixSums makes the checksums of a primary copy right, so that the fuzzer gets past them.
func fixSums(d []byte, bs int) {
	le := binary.LittleEndian
	if len(d) < 2*bs || string(d[bs:bs+8]) != string(signature) {
		return
	}
	h := d[bs : 2*bs]
	at, n := le.Uint64(h[72:])*uint64(bs), uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:]))
	if at < uint64(len(d)) && n <= uint64(len(d))-at {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(d[at:at+n]))
	}
	if size := le.Uint32(h[12:]); size >= minHeader && int(size) <= bs {
		clear(h[16:20])
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:size]))
	}
}

func FuzzGPT(f *testing.F) {
	f.Add(guid(5).String(), "root", uint64(2048), uint64(8))
	f.Fuzz(func(t *testing.T, id, label string, start, blocks uint64) {
		g, err := NewGPT(guid(1), 512, diskSize/512)
		if err != nil {
			t.Fatal(err)
		}
		gid, err := ParseGUID(id)
		if err != nil {
			return
		}
		p := Partition{Number: 2, Type: TypeLinux, ID: gid, Label: strings.ToValidUTF8(label, ""), Start: start, Blocks: blocks}
		if strings.ContainsRune(p.Label, 0) || g.Set(p) != nil {
			return
		}
		h, e := g.Primary()
		disk := append(append(make([]byte, 512), h...), e...)
		back, err := ReadGPT(bytes.NewReader(disk), 512, 1, diskSize/512)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Partition{p}, back.Partitions()); diff != "" {
			t.Fatal(diff)
		}
	})
}
