package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/bedplate/bedplate/images/chunk"
)

// noise is a disk of n MiB that doesn't compress, each third of it zeros.
func noise(seed byte, n int) []byte {
	b := make([]byte, n<<20)
	r := rand.NewChaCha8([32]byte{seed})
	for i := range n {
		if i%3 != 2 {
			_, _ = r.Read(b[i<<20 : (i+1)<<20]) // Never fails.
		}
	}
	return b
}

func importOf(t *testing.T, s *Store, b []byte) Imported {
	t.Helper()
	got, err := s.Import(t.Context(), bytes.NewReader(b), Expect{Size: int64(len(b)), Digest: digestOf(b)})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func nothing(string) bool { return false }

func files(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStore_Import(t *testing.T) {
	s := newStore(t)
	disk := noise(1, 7)
	disk = disk[:len(disk)-1000] // The last chunk is a short one.
	got := importOf(t, s, disk)
	if got.DiskSize != int64(len(disk)) || got.Chunks != 5 || got.Format != "raw" || got.Compression != "none" || got.New != got.Stored {
		t.Errorf("imported %+v", got)
	}
	d, err := s.Disk(got.Index)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := iotest.TestReader(d, disk); err != nil {
		t.Errorf("the disk, read again: %v", err)
	}

	t.Run("the same disk compressed takes no room", func(t *testing.T) {
		var packed bytes.Buffer
		z, err := zstd.NewWriter(&packed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = z.Write(disk); err == nil {
			err = z.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		again := importOf(t, s, packed.Bytes())
		if again.Index != got.Index || again.New != 0 || again.Compression != "zstd" {
			t.Errorf("imported %+v, want the index %s and nothing new", again, got.Index)
		}
	})
	t.Run("what two images have in common is kept once, and stays while one has it", func(t *testing.T) {
		other := append(bytes.Clone(disk[:3<<20]), noise(2, 1)...)
		o := importOf(t, s, other)
		if o.New >= o.Stored {
			t.Errorf("imported %+v: nothing was shared", o)
		}
		if _, err := s.Prune(func(d string) bool { return d == o.Index }, true); err != nil {
			t.Fatal(err)
		}
		if n := files(t, filepath.Join(s.dir, chunkDir)); n != int(o.Chunks) {
			t.Errorf("%d chunks are left, want %d", n, o.Chunks)
		}
		if v, err := s.Verify(t.Context(), o.Digest, o.Index, func(int, int) {}); err != nil || v.Err() != nil || v.Chunks != int(o.Chunks) {
			t.Errorf("verified %+v, %v, %v", v, v.Err(), err)
		}
	})
}

func TestStore_ImportFails(t *testing.T) {
	disk := noise(3, 6)
	table := bytes.Clone(disk)
	copy(table[512:], "EFI PART")
	copy(table[512+32:], []byte{0, 0, 1, 0, 0, 0, 0, 0}) // The backup is at block 65536.
	for name, c := range map[string]struct {
		r    io.Reader
		want Expect
		err  error
	}{
		"a wrong digest":           {bytes.NewReader(disk), Expect{Digest: digestOf(nil)}, ErrDigest},
		"a short file":             {bytes.NewReader(disk[:4<<20]), Expect{Size: int64(len(disk))}, ErrSize},
		"a long file":              {bytes.NewReader(disk), Expect{Size: 4 << 20}, ErrSize},
		"an empty file":            {bytes.NewReader(nil), Expect{}, ErrSize},
		"a cut connection":         {io.MultiReader(bytes.NewReader(disk), iotest.ErrReader(io.ErrUnexpectedEOF)), Expect{}, io.ErrUnexpectedEOF},
		"a disk without end":       {endless{}, Expect{}, nil},
		"a table for a whole disk": {bytes.NewReader(table), Expect{}, io.ErrUnexpectedEOF},
		"another format":           {bytes.NewReader(disk), Expect{Format: "qcow2"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(Config{Dir: t.TempDir(), MaxDisk: 64 << 20})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Import(t.Context(), c.r, c.want)
			if err == nil || c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("got %v, want %v", err, c.err)
			}
			if n := files(t, s.dir); n != 0 {
				t.Errorf("%d files are left", n)
			}
			if n, used := s.chunks.usage(); n != 0 || used != 0 {
				t.Errorf("%d chunks and %d bytes are still counted", n, used)
			}
		})
	}
}

// endless is a file without end that isn't zeros.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i)
	}
	return len(p), nil
}

func TestStore_ImportFull(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir(), Limit: 3 << 20})
	if err != nil {
		t.Fatal(err)
	}
	small := importOf(t, s, noise(4, 2))
	if _, err := s.Import(t.Context(), bytes.NewReader(noise(5, 5)), Expect{}); !errors.Is(err, ErrFull) {
		t.Errorf("a disk that has no room: %v", err)
	}
	if n := files(t, s.dir); n != int(small.Chunks)+1 {
		t.Errorf("%d files, want those of the image that was there", n)
	}
}

func TestOpen_AfterACrash(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	whole := importOf(t, s, noise(6, 3))
	_, used := s.chunks.usage()
	// An import was cut off: some chunks are there, and no index lists them.
	ctx, cancel := context.WithCancelCause(t.Context())
	im, err := s.newImport(ctx, cancel)
	if err != nil {
		t.Fatal(err)
	}
	b, err := im.Buffer()
	if err != nil {
		t.Fatal(err)
	}
	copy(b, noise(7, 1))
	if err := im.Put(0, b); err != nil {
		t.Fatal(err)
	}
	im.stop()
	again, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if n, now := again.chunks.usage(); now != used || n != int(whole.Chunks) {
		t.Errorf("%d chunks, %d bytes after the start, want %d, %d", n, now, whole.Chunks, used)
	}
	if n := files(t, dir); n != int(whole.Chunks)+1 {
		t.Errorf("%d files are left, want %d", n, whole.Chunks+1)
	}
	if v, err := again.Verify(t.Context(), whole.Digest, whole.Index, func(int, int) {}); err != nil || v.Bad != 0 {
		t.Errorf("verified %+v, %v", v, err)
	}
}

func TestStore_Verify(t *testing.T) {
	s := newStore(t)
	disk := noise(8, 5)
	got := importOf(t, s, disk)
	x, err := s.chunks.index(mustDigest(t, got.Index))
	if err != nil {
		t.Fatal(err)
	}
	spoiled := x.Entries[2]
	path := s.chunks.chunkPath(spoiled.Digest)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.chunks.chunkPath(x.Entries[3].Digest)); err != nil {
		t.Fatal(err)
	}
	v, err := s.Verify(t.Context(), got.Digest, got.Index, func(int, int) {})
	if err != nil || v.Bad != 2 || v.Damaged[0] != spoiled.Offset() || v.Err() == nil {
		t.Errorf("verified %+v, %v", v, err)
	}
	if code, _ := fetch(t, s, "/images/chunks/"+spoiled.Digest.String()); code != http.StatusNotFound {
		t.Errorf("a damaged chunk was answered with %d", code)
	}
	if again := importOf(t, s, disk); again.Index != got.Index {
		t.Errorf("imported again it has the index %s", again.Index)
	}
	if v, err := s.Verify(t.Context(), got.Digest, got.Index, func(int, int) {}); err != nil || v.Bad != 0 {
		t.Errorf("imported again: %+v, %v", v, err)
	}
}

func mustDigest(t *testing.T, s string) chunk.Digest {
	t.Helper()
	d, err := chunk.ParseDigest(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func fetch(t *testing.T, s *Store, path string) (int, []byte) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler(func(string) (string, bool) { return "", false }, nil).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.Bytes()
}

func TestStore_Chunks_OverHTTP(t *testing.T) {
	s := newStore(t)
	disk := noise(9, 4)
	got := importOf(t, s, disk)
	code, b := fetch(t, s, "/images/indexes/"+got.Index)
	x, err := chunk.ReadIndex(bytes.NewReader(b), mustDigest(t, got.Index))
	if code != http.StatusOK || err != nil {
		t.Fatalf("the index: %d, %v", code, err)
	}
	decoder, err := chunk.NewDecoder(1)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	back := make([]byte, x.Size)
	for _, e := range x.Entries {
		code, b := fetch(t, s, "/images/chunks/"+e.Digest.String())
		if code != http.StatusOK || len(b) != int(e.Stored) {
			t.Fatalf("a chunk of %d bytes: %d, %d bytes", e.Stored, code, len(b))
		}
		if err := decoder.Decode(back[e.Offset():][:x.Length(e)], b, e.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(back, disk) {
		t.Error("the chunks are not the disk")
	}
	if code, b := fetch(t, s, "/images/"+got.Index); code != http.StatusOK || !bytes.Equal(b, disk) {
		t.Errorf("the disk as a file: %d, %d bytes", code, len(b))
	}
	for path, want := range map[string]int{
		"/images/chunks/" + digestOf(nil): http.StatusNotFound, "/images/indexes/" + digestOf(nil): http.StatusNotFound,
		"/images/chunks/sha256:12": http.StatusBadRequest, "/images/indexes/..": http.StatusBadRequest,
	} {
		if code, _ := fetch(t, s, path); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
}

func TestStore_Prune_BesideAWrite(t *testing.T) {
	now := time.Unix(1e9, 0)
	s, err := Open(Config{Dir: t.TempDir(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	got := importOf(t, s, noise(10, 3))
	now = now.Add(3 * time.Hour)
	fetch(t, s, "/images/indexes/"+got.Index)
	now = now.Add(time.Hour)
	p, err := s.Prune(nothing, false)
	if err != nil || p.Freed != 0 || p.Kept != got.Stored {
		t.Errorf("an hour after a machine asked for it: %+v, %v", p, err)
	}
	now = now.Add(2 * time.Hour)
	if p, err = s.Prune(nothing, false); err != nil || p.Freed != got.Stored || p.Used != 0 {
		t.Errorf("three hours after: %+v, %v", p, err)
	}
	if n := files(t, s.dir); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

// TestStore_Prune_BesideImports has the same content come and go at once.
func TestStore_Prune_BesideImports(t *testing.T) {
	s := newStore(t)
	disk := noise(11, 6)
	done := make(chan error, 3)
	for range cap(done) {
		go func() {
			for range 5 {
				got, err := s.Import(context.Background(), bytes.NewReader(disk), Expect{})
				if err == nil {
					var v Verified
					// Pruned meanwhile it is gone as a whole, index first.
					if v, err = s.Verify(context.Background(), got.Digest, got.Index, func(int, int) {}); err == nil && v.Bad > 0 {
						if _, gone := s.chunks.index(mustDigest(t, got.Index)); gone == nil && s.chunks.knows(mustDigest(t, got.Index)) {
							err = fmt.Errorf("%d chunks are missing of an image that is there", v.Bad)
						}
					}
				}
				if err != nil && !errors.Is(err, ErrNotFound) {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for running := cap(done); running > 0; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			running--
		default:
			if _, err := s.Prune(nothing, true); err != nil && !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.Prune(nothing, true); err != nil {
		t.Error(err)
	}
	if n, used := s.chunks.usage(); n != 0 || used != 0 {
		t.Errorf("%d chunks, %d bytes are still counted", n, used)
	}
}
