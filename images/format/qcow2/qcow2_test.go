package qcow2

import (
	"encoding/binary"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tiny is a version 3 image: clusters of 512 bytes, a disk of 64 KiB whose
// first L2 table is at 1024.
func tiny() []byte {
	f := make([]byte, 4096)
	be := binary.BigEndian
	copy(f, Magic)
	be.PutUint32(f[4:], 3)
	be.PutUint32(f[20:], 9)           // cluster_bits
	be.PutUint64(f[24:], 64<<10)      // size
	be.PutUint32(f[36:], 2)           // l1_size
	be.PutUint64(f[40:], 512)         // l1_table_offset
	be.PutUint32(f[100:], 112)        // header_length
	be.PutUint64(f[512:], 1<<63|1024) // L1[0]
	be.PutUint64(f[1024:], 1<<63|1536)
	be.PutUint64(f[1032:], 1<<63|2048)       // A neighbour: one extent.
	be.PutUint64(f[1048:], 1)                // Zeros.
	be.PutUint64(f[1056:], 1<<62|1<<61|2570) // Compressed, two sectors.
	return f
}

func reader(f []byte) ReadFunc {
	return func(off, n int64) ([]byte, error) {
		if off < 0 || n < 0 || off > int64(len(f)) || n > int64(len(f))-off {
			return nil, io.ErrUnexpectedEOF
		}
		return f[off : off+n], nil
	}
}

func TestMap(t *testing.T) {
	f := tiny()
	h, err := ParseHeader(f[:HeaderSize])
	if err != nil {
		t.Fatal(err)
	}
	extents, regions, err := h.Map(reader(f))
	if err != nil {
		t.Fatal(err)
	}
	want := []Extent{
		{Guest: 0, Host: 1536, Length: 1024},
		{Guest: 2048, Host: 2570, Length: 1024 - 2570%512, Packed: true},
	}
	if diff := cmp.Diff(want, extents); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(regions) != 2 || regions[0].Length != 16 || regions[1].Offset != 1024 {
		t.Errorf("regions = %+v", regions)
	}
	if err := SortByFile(extents, regions); err != nil {
		t.Error(err)
	}
	type gap struct{ Off, Len int64 }
	var gaps []gap
	if err := h.Gaps(extents, func(off, n int64) error { gaps = append(gaps, gap{off, n}); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]gap{{1024, 1024}, {2560, 64<<10 - 2560}}, gaps); diff != "" {
		t.Errorf("gaps (-want +got):\n%s", diff)
	}
}

func FuzzMap(f *testing.F) {
	f.Add(tiny())
	ext := tiny()
	ext[79] = featureExtendedL2
	ext[23] = 14
	f.Add(ext)
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHeader(data)
		if err != nil {
			return
		}
		extents, regions, err := h.Map(reader(data))
		if err != nil {
			return
		}
		at := int64(0)
		for _, e := range extents {
			n := h.guestLength(e)
			if e.Guest < at || n <= 0 || e.Guest+n > h.Size || e.Host <= 0 || e.Length <= 0 {
				t.Fatalf("extent %+v after %d, of a disk of %d", e, at, h.Size)
			}
			at = e.Guest + n
		}
		total := at
		if err := h.Gaps(extents, func(off, n int64) error {
			if off < 0 || n <= 0 || off+n > h.Size {
				t.Fatalf("gap %d+%d", off, n)
			}
			total += n
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if SortByFile(extents, regions) == nil {
			for i := 1; i < len(extents); i++ {
				if a, b := extents[i-1], extents[i]; a.Host > b.Host || a.Host+a.Length > b.Host+511 {
					t.Fatalf("%+v overlaps %+v", a, b)
				}
			}
		}
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{0x03, 0x00}, false)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x00, 0x01, 0x00, 0x00}, true)
	f.Fuzz(func(t *testing.T, data []byte, zstd bool) {
		u, err := (&Header{Zstd: zstd}).NewUnpacker()
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		_ = u.Unpack(make([]byte, 4096), data)
	})
}
