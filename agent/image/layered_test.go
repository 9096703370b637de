package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// layers says how a qcow2 file is made by hand.
type layers struct {
	bits    int
	packed  bool // Every other cluster is compressed.
	zstd    bool
	last    bool // Tables come after all data.
	version uint32
}

// build makes a qcow2 file of an image, its clusters in random order. Clusters
// of zeros are left out, or have the zero flag.
func (l layers) build(t testing.TB, img []byte) []byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(9, uint64(l.bits)))
	size := 1 << l.bits
	be := binary.BigEndian
	clusters := (len(img) + size - 1) / size
	perTable := size / 8
	tables := (clusters + perTable - 1) / perTable
	entries := make([]uint64, tables*perTable)
	f := make([]byte, size)
	l1At, tableSpace := 0, (tables*8+size-1)/size*size+tables*size
	if !l.last {
		l1At = len(f)
		f = append(f, make([]byte, tableSpace)...)
	}
	align := func() { f = append(f, make([]byte, (size-len(f)%size)%size)...) }
	for _, i := range rng.Perm(clusters) {
		c := make([]byte, size)
		copy(c, img[i*size:min(len(img), (i+1)*size)])
		switch {
		case allZero(c):
			if l.version == 3 && i%3 == 0 {
				entries[i] = 1
			}
		case l.packed && i%2 == 0:
			if p := l.pack(t, c); len(p) < size {
				at := len(f)
				f = append(f, p...)
				sectors := (at+len(p)-1)/512 - at/512
				entries[i] = 1<<62 | uint64(sectors)<<(62-(l.bits-8)) | uint64(at)
				continue
			}
			fallthrough
		default:
			align()
			entries[i] = 1<<63 | uint64(len(f))
			f = append(f, c...)
		}
	}
	if l.last {
		align()
		l1At = len(f)
		f = append(f, make([]byte, tableSpace)...)
	}
	l2At := l1At + (tables*8+size-1)/size*size
	for i := range tables {
		be.PutUint64(f[l1At+8*i:], 1<<63|uint64(l2At+i*size))
		for j, e := range entries[i*perTable:][:perTable] {
			be.PutUint64(f[l2At+i*size+8*j:], e)
		}
	}
	copy(f, "QFI\xfb")
	be.PutUint32(f[4:], l.version)
	be.PutUint32(f[20:], uint32(l.bits))
	be.PutUint64(f[24:], uint64(len(img)))
	be.PutUint32(f[36:], uint32(tables))
	be.PutUint64(f[40:], uint64(l1At))
	if l.zstd {
		be.PutUint64(f[72:], 1<<3)
		f[104] = 1
	}
	be.PutUint32(f[100:], 112)
	return f
}

func (l layers) pack(t testing.TB, c []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	if l.zstd {
		w, err = zstd.NewWriter(&b)
	} else {
		w, err = flate.NewWriter(&b, 6)
	}
	if err == nil {
		_, err = w.Write(c)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWrite_Qcow2(t *testing.T) {
	img := sample(20, 3*mib+512*7)
	for _, l := range []layers{
		{bits: 16, version: 3}, {bits: 16, version: 2, last: true}, {bits: 9, version: 3, last: true},
		{bits: 16, packed: true, version: 3}, {bits: 12, packed: true, version: 2}, {bits: 21, packed: true, zstd: true, version: 3, last: true},
	} {
		t.Run(fmt.Sprintf("%+v", l), func(t *testing.T) {
			f := l.build(t, img)
			path := blank(t, 5*mib)
			w := testWrite{buffer: 1 << l.bits, with: map[string]any{"digest": digest(f), "verify": true}}
			out, err := w.run(t, t.Context(), &file{data: f, cuts: []int{300_000, 70_000, 5000}}, path)
			if err != nil {
				t.Fatal(err)
			}
			if got := contents(t, path)[:len(img)]; !bytes.Equal(got, img) {
				t.Error("the disk differs from the image")
			}
			if out["bytes"] != int64(len(img)) {
				t.Errorf("outputs = %v", out)
			}
		})
	}
}

func TestWrite_Qcow2Failures(t *testing.T) {
	img := sample(21, 3*mib)
	good := layers{bits: 16, version: 3, packed: true}.build(t, img)
	patched := func(at int, b ...byte) []byte {
		f := bytes.Clone(good)
		copy(f[at:], b)
		return f
	}
	l1 := int(binary.BigEndian.Uint64(good[40:]))
	l2 := l1 + 1<<16
	for _, c := range []struct {
		name string
		data []byte
		with map[string]any
		want string
	}{
		{"a backing file", patched(8, 0, 0, 0, 0, 0, 0, 1, 0), nil, "has a backing file: make it whole with `qemu-img convert`"},
		{"encryption", patched(32, 0, 0, 0, 2), nil, "is encrypted"},
		{"data in another file", patched(72, 0, 0, 0, 0, 0, 0, 0, 4), nil, "keeps its data in another file"},
		{"an unknown feature", patched(72, 0, 0, 0, 0, 0, 0, 1, 0), nil, "features 0x100"},
		{"a corrupt mark", patched(72, 0, 0, 0, 0, 0, 0, 0, 2), nil, "marked as corrupt"},
		{"said to be raw", good, map[string]any{"format": "raw"}, "expected format raw, but the file is qcow2"},
		{"larger than the disk", patched(28, 1, 0, 0, 0), nil, "the disk has 5242880: select a larger disk"},
		{"cut short", good[:len(good)-70_000], nil, "cut short"},
		{"a wrong digest", flip(good, len(good)/2), map[string]any{"digest": digest(good)}, "expected digest " + digest(good)},
		{"two clusters in one place", patched(l2+8, good[l2:l2+8]...), nil, "share the file at offset"},
		{"a table beyond the end", patched(l1, 0, 0, 0, 0x7f), nil, "beyond the end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := blank(t, 5*mib)
			w := testWrite{with: c.with}
			_, err := w.run(t, t.Context(), &file{data: c.data}, path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v\nwant one with %q", err, c.want)
			}
			unbootable(t, path, err)
		})
	}
	t.Run("a server without ranges", func(t *testing.T) {
		w := testWrite{}
		_, err := w.run(t, t.Context(), &file{data: good, hook: func(_ int, _ http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false }}, blank(t, 5*mib))
		if err == nil || !strings.Contains(err.Error(), "serve it from the server's image store, or convert it to raw") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("tables that differ between the two readings", func(t *testing.T) {
		// Whoever can answer range requests must not be able to rearrange the disk.
		f := &file{data: good}
		f.hook = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.Header.Get("Range"), fmt.Sprintf("bytes=%d-", l2)) {
				lie := patched(l2, make([]byte, 16)...)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", l2, l2+1<<16-1, len(lie)))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(lie[l2 : l2+1<<16])
				return true
			}
			return false
		}
		path := blank(t, 5*mib)
		w := testWrite{with: map[string]any{"digest": digest(good)}}
		_, err := w.run(t, t.Context(), f, path)
		if err == nil || !strings.Contains(err.Error(), "were others when they were fetched ahead") {
			t.Errorf("error = %v", err)
		}
		unbootable(t, path, err)
	})
}

func TestWrite_Qcow2OfQemu(t *testing.T) {
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("SKIPPED: no qemu-img (package qemu-utils): the foreign witness for qcow2 is missing")
	}
	img := sample(22, 3*mib)
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	if err := os.WriteFile(raw, img, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{}, {"-c"}, {"-o", "compat=0.10"}, {"-c", "-o", "compression_type=zstd"}, {"-o", "extended_l2=on"},
		{"-o", "cluster_size=2M"}, {"-c", "-o", "cluster_size=4k"}, {"-o", "preallocation=metadata"},
		{"-o", "lazy_refcounts=on"}, {"-c", "-o", "extended_l2=on,cluster_size=128k"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			out := filepath.Join(dir, "qcow2")
			if b, err := exec.Command(tool, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, out)...).CombinedOutput(); err != nil {
				t.Skipf("SKIPPED: this qemu-img can't: %s", b)
			}
			f := contents(t, out)
			path := blank(t, 5*mib)
			w := testWrite{buffer: 2 * mib, with: map[string]any{"digest": digest(f)}}
			if _, err := w.run(t, t.Context(), &file{data: f}, path); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(contents(t, path)[:len(img)], img) {
				t.Error("the disk differs from the image")
			}
		})
	}
}

func TestWindow(t *testing.T) {
	data := sample(1, 3*mib)
	w := window{r: bytes.NewReader(data)}
	for _, p := range [][2]int64{{0, 10}, {5, 10}, {5, 600_000}, {600_000, 3}, {600_002, 1_500_000}, {2_900_000, 100}} {
		b, err := w.at(p[0], p[1])
		if err != nil || !bytes.Equal(b, data[p[0]:p[0]+p[1]]) {
			t.Errorf("at%v: %d bytes, %v", p, len(b), err)
		}
	}
	if b, err := w.at(3*mib-5, 10); !errors.Is(err, io.ErrUnexpectedEOF) || len(b) != 5 {
		t.Errorf("at the end: %d bytes, %v", len(b), err)
	}
	if _, err := w.at(4*mib, 10); !errors.Is(err, io.EOF) {
		t.Errorf("beyond the end: %v", err)
	}
}
