package convert

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/bedplate/bedplate/images/chunk"
)

// sumOf is a VHD's checksum, with the four bytes at skip as zeros.
func sumOf(b []byte, skip int) uint32 {
	var n uint32
	for i, c := range b {
		if i < skip || i >= skip+4 {
			n += uint32(c)
		}
	}
	return ^n
}

// dynamicVHD is a disk of 4 MiB of which the second block of 2 MiB is data.
func dynamicVHD(block []byte) []byte {
	be := binary.BigEndian
	foot := make([]byte, 512)
	copy(foot, "conectix")
	be.PutUint64(foot[16:], 512)
	be.PutUint64(foot[48:], 4<<20)
	be.PutUint32(foot[60:], 3)
	be.PutUint32(foot[64:], sumOf(foot, 64))
	head := make([]byte, 1024)
	copy(head, "cxsparse")
	be.PutUint64(head[16:], 1536)
	be.PutUint32(head[28:], 2)
	be.PutUint32(head[32:], 2<<20)
	be.PutUint32(head[36:], sumOf(head, 36))
	table := bytes.Repeat([]byte{0xff}, 512)
	be.PutUint32(table[4:], 4) // Its bitmap begins at sector 4.
	bitmap := bytes.Repeat([]byte{0xff}, 512)
	return bytes.Join([][]byte{foot, head, table, bitmap, block, foot}, nil)
}

func TestRun_VHD(t *testing.T) {
	block := bytes.Repeat([]byte("0123456789abcdef"), 128<<10)
	file := dynamicVHD(block)
	got, res, err := read(t, file, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if want := append(make([]byte, 2<<20), block...); !bytes.Equal(got.b, want) || res.Format != VHD || got.puts != 2 {
		t.Errorf("%d bytes of %s in %d pieces, want %d in 2", len(got.b), res.Format, got.puts, len(want))
	}
	t.Run("a block that stands for two", func(t *testing.T) {
		b := bytes.Clone(file)
		copy(b[1536:], b[1540:1544])
		if _, _, err := read(t, b, Config{}); err == nil {
			t.Error("it was taken")
		}
	})
	t.Run("cut short anywhere", func(t *testing.T) {
		for _, n := range []int{100, 600, 1600, 2100, len(file) / 2, len(file) - 512, len(file) - 1} {
			if _, _, err := read(t, file[:n], Config{}); err == nil {
				t.Errorf("cut to %d bytes it was taken", n)
			}
		}
	})
}

// null is a Sink that counts.
type null struct{ t *testing.T }

func (null) Buffer() ([]byte, error) { return make([]byte, chunk.Size), nil }
func (null) Release([]byte)          {}

func (n null) Put(place uint32, b []byte) error {
	if int64(place)*chunk.Size+int64(len(b)) > 8<<20 {
		n.t.Errorf("piece %d of a disk that may have 8 MiB", place)
	}
	return nil
}

// FuzzRun: whatever comes, it ends, within the bounds of the disk, without a panic.
func FuzzRun(f *testing.F) {
	f.Add([]byte("plain"))
	f.Add([]byte("\x1f\x8b\x08\x00"))                                      // gzip
	f.Add(append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 200)...)) // qcow2, version 3
	f.Add(append([]byte("KDMV\x01\x00\x00\x00"), make([]byte, 600)...))    // VMDK
	f.Add(append([]byte("vhdxfile"), make([]byte, 600)...))                // VHDX
	f.Add(dynamicVHD(make([]byte, 4096)))                                  // Too short a block.
	f.Fuzz(func(t *testing.T, b []byte) {
		c := Config{MaxDisk: 8 << 20, Spool: func() (Spool, error) { return &memory{}, nil }}
		if res, err := Run(t.Context(), c, io.Reader(bytes.NewReader(b)), null{t}); err == nil && (res.Size <= 0 || res.Size > 8<<20) {
			t.Errorf("a disk of %d bytes", res.Size)
		}
	})
}
