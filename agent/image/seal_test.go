package image

import (
	"bytes"
	"strings"
	"testing"

	"github.com/bedplate/bedplate/agent/disk/partition"
)

// gptImage makes an image with a GPT and one partition that fills it.
func gptImage(t testing.TB, blockSize, size int) []byte {
	t.Helper()
	img := sample(12, size)
	clear(img[:headSize])
	clear(img[size-headSize:])
	g, err := partition.NewGPT(partition.RandomGUID([16]byte{1}), blockSize, uint64(size/blockSize))
	if err != nil {
		t.Fatal(err)
	}
	unit := uint64(mib / blockSize)
	if err := g.Set(partition.Partition{Number: 2, Type: partition.TypeLinux, ID: partition.RandomGUID([16]byte{2}), Start: unit, Blocks: uint64(size/blockSize) - 2*unit}); err != nil {
		t.Fatal(err)
	}
	partition.PutProtective(img, uint64(size/blockSize))
	h, e := g.Primary()
	copy(img[blockSize:], h)
	copy(img[2*blockSize:], e)
	b, lba := g.Backup()
	copy(img[int(lba)*blockSize:], b)
	return img
}

func TestWrite_GPT(t *testing.T) {
	img := gptImage(t, 512, 6*mib)
	read := func(path string) *partition.GPT {
		t.Helper()
		b := contents(t, path)
		blocks := uint64(len(b) / 512)
		primary, err := partition.ReadGPT(bytes.NewReader(b), 512, 1, blocks)
		if err != nil {
			t.Fatal(err)
		}
		backup, err := partition.ReadGPT(bytes.NewReader(b), 512, blocks-1, blocks)
		if err != nil {
			t.Fatalf("the backup copy isn't at the end of the disk: %v", err)
		}
		if !bytes.Equal(primary.Entries, backup.Entries) || primary.AlternateLBA != blocks-1 || primary.LastUsable != blocks-34 {
			t.Errorf("primary = %+v\nbackup = %+v", primary, backup)
		}
		return primary
	}
	t.Run("the backup copy moves to the end of a larger disk", func(t *testing.T) {
		path := blank(t, 20*mib)
		w := testWrite{}
		if _, err := w.run(t, t.Context(), &file{data: img}, path); err != nil {
			t.Fatal(err)
		}
		if p := read(path).Partitions(); len(p) != 1 || p[0].Blocks != 4*mib/512 {
			t.Errorf("partitions = %+v", p)
		}
		if got := contents(t, path); !bytes.Equal(got[mib:6*mib], img[mib:]) {
			t.Error("the rest of the image differs")
		}
	})
	t.Run("the last partition grows when that is asked for", func(t *testing.T) {
		path := blank(t, 20*mib)
		w := testWrite{with: map[string]any{"grow": true}}
		if _, err := w.run(t, t.Context(), &file{data: img}, path); err != nil {
			t.Fatal(err)
		}
		if p := read(path).Partitions(); len(p) != 1 || p[0].Blocks != 18*mib/512 {
			t.Errorf("partitions = %+v", p)
		}
	})
	t.Run("a disk of the same size gets the image byte for byte", func(t *testing.T) {
		path := blank(t, 6*mib)
		w := testWrite{}
		if _, err := w.run(t, t.Context(), &file{data: img}, path); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(contents(t, path), img) {
			t.Error("the disk differs")
		}
	})
	t.Run("partitions beyond the disk are found before anything is written", func(t *testing.T) {
		path := blank(t, 4*mib)
		w := testWrite{}
		_, err := w.run(t, t.Context(), &file{data: compress(t, "zstd", img)}, path)
		if err == nil || !strings.Contains(err.Error(), "partition 2 ends at block") || !strings.Contains(err.Error(), "has not been touched") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("blocks of another size are found before anything is written", func(t *testing.T) {
		w := testWrite{}
		_, err := w.run(t, t.Context(), &file{data: gptImage(t, 4096, 6*mib)}, blank(t, 20*mib))
		if err == nil || !strings.Contains(err.Error(), "blocks of 4096 bytes, this disk has blocks of 512") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("an MBR's last partition grows", func(t *testing.T) {
		mbr := bytes.Clone(img)
		clear(mbr[:mib])
		parts := []partition.Partition{{Number: 1, MBRType: 0x83, Start: 2048, Blocks: 4096, Bootable: true}}
		if err := partition.AppendMBR(mbr, 7, parts); err != nil {
			t.Fatal(err)
		}
		path := blank(t, 20*mib)
		w := testWrite{with: map[string]any{"grow": true}}
		if _, err := w.run(t, t.Context(), &file{data: mbr}, path); err != nil {
			t.Fatal(err)
		}
		m, err := partition.ReadMBR(bytes.NewReader(contents(t, path)), 512)
		if err != nil || len(m.Partitions()) != 1 || m.Partitions()[0].Blocks != 19*2048 || !m.Partitions()[0].Bootable {
			t.Errorf("table = %+v, %v", m, err)
		}
	})
}
