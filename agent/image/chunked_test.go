package image

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bedplate/bedplate/images/chunk"
)

// store serves one image in chunks, as package images/chunk says.
type store struct {
	encoded []byte
	index   chunk.Digest
	chunks  map[string][]byte
	// asked counts requests for chunks.
	asked atomic.Int64
	// hook may answer instead.
	hook func(n int64, w http.ResponseWriter, r *http.Request) bool
}

// inChunks cuts an image.
func inChunks(t testing.TB, img []byte) *store {
	t.Helper()
	enc, err := chunk.NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	s := &store{chunks: map[string][]byte{}}
	x := chunk.Index{Size: int64(len(img))}
	for place := 0; place*chunk.Size < len(img); place++ {
		plain := img[place*chunk.Size : min(len(img), (place+1)*chunk.Size)]
		if chunk.IsZero(plain) {
			continue
		}
		d := chunk.Sum(plain)
		stored := enc.Encode(nil, plain)
		s.chunks[d.String()] = stored
		x.Entries = append(x.Entries, chunk.Entry{Place: uint32(place), Stored: uint32(len(stored)), Digest: d})
	}
	s.encoded = x.Encode()
	s.index = chunk.Sum(s.encoded)
	return s
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if path, ok := strings.CutPrefix(r.URL.Path, "/images/chunks/"); ok {
		n := s.asked.Add(1)
		if s.hook != nil && s.hook(n, w, r) {
			return
		}
		if b, ok := s.chunks[path]; ok {
			_, _ = w.Write(b) // The reader fails if this does.
			return
		}
	} else if r.URL.Path == "/images/indexes/"+s.index.String() {
		_, _ = w.Write(s.encoded)
		return
	}
	http.NotFound(w, r)
}

// write makes a write of the store's image.
func (s *store) write(with map[string]any) *testWrite {
	if with == nil {
		with = map[string]any{}
	}
	with["image"] = "os"
	return &testWrite{with: with, images: map[string]any{"os": map[string]any{
		"name": "os", "url": "http://127.0.0.1:1/never", "index": s.index.String(), "chunks_url": "/images", "root_partition": float64(3),
	}}}
}

// sparse is an image of n MiB and a bit: every third chunk is zeros, each other one another noise.
func sparse(n int) []byte {
	img := sample(9, n*mib+4096)
	for i := 2; i < n; i += 3 {
		clear(img[i*mib : (i+1)*mib])
	}
	return img
}

func TestChunked(t *testing.T) {
	img := sparse(10)
	for _, size := range []int64{int64(len(img)), 12 * mib, 20*mib + 512} {
		for _, compare := range []string{"auto", "always", "never"} {
			t.Run(fmt.Sprintf("%d bytes, compare %s", size, compare), func(t *testing.T) {
				path := blank(t, size)
				w := inChunks(t, img).write(map[string]any{"compare": compare, "verify": true})
				rec := &recorder{noZero: compare != "never"}
				w.open = rec.open
				s := inChunks(t, img)
				out, err := w.run(t, t.Context(), s, path)
				if err != nil {
					t.Fatal(err)
				}
				got := contents(t, path)
				if !bytes.Equal(got[:len(img)], img) {
					t.Fatal("the disk differs from the image")
				}
				if out["bytes"] != int64(len(img)) || out["digest"] != s.index.String() || out["root_partition"] != int64(3) || out["kept"] != int64(0) {
					t.Errorf("outputs = %v", out)
				}
				if end := got[len(got)-headSize:]; len(img) < len(got)-headSize && !allZero(end) {
					t.Error("the end of the disk still has old content")
				}
				if w.rep.done != w.rep.total || w.rep.done == 0 {
					t.Errorf("progress ended at %d of %d", w.rep.done, w.rep.total)
				}
				last := rec.events[len(rec.events)-3:]
				if !strings.HasPrefix(last[1], fmt.Sprintf("write 0+%d", headSize)) || last[0] != "sync" || last[2] != "sync" {
					t.Errorf("the write ended with %v, not with the first MiB after all else was safe", last)
				}
			})
		}
	}
}

func TestChunked_writesWhatDiffers(t *testing.T) {
	img := sparse(20)
	path := blank(t, 24*mib)
	s := inChunks(t, img)
	if _, err := s.write(nil).run(t, t.Context(), s, path); err != nil {
		t.Fatal(err)
	}
	later := bytes.Clone(img)
	later[7*mib+5]++
	copy(later[11*mib:], "no hole any more")
	clear(later[12*mib : 13*mib])
	s = inChunks(t, later)
	rec := &recorder{noZero: true}
	w := s.write(nil)
	w.open = rec.open
	out, err := w.run(t, t.Context(), s, path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(contents(t, path)[:len(later)], later) {
		t.Error("the disk differs from the image")
	}
	// Both ends were cleared, and are written again: the first MiB is the first chunk.
	if got := s.asked.Load(); got != 3 {
		t.Errorf("%d chunks were fetched, want 3: the first, the one that changed and the one that was a hole", got)
	}
	if got, want := out["written"], int64(2*headSize+3*mib); got != want {
		t.Errorf("%d bytes were written, want %d: both ends, the two chunks and the new hole", got, want)
	}
}

func TestChunked_goesOnWhereItWasInterrupted(t *testing.T) {
	img := make([]byte, 20*mib)
	_, _ = rand.NewChaCha8([32]byte{4}).Read(img) // Never fails.
	path := blank(t, 24*mib)
	s := inChunks(t, img)
	rec := &recorder{}
	s.hook = func(n int64, w http.ResponseWriter, r *http.Request) bool {
		if n > 10 {
			rec.waitFor(t, 8)
			http.Error(w, "out of order", http.StatusForbidden)
		}
		return n > 10
	}
	w := s.write(nil)
	w.open = rec.open
	_, err := w.run(t, t.Context(), s, path)
	if err == nil || !strings.Contains(err.Error(), "403") {
		t.Fatalf("error = %v, want the server's 403", err)
	}
	unbootable(t, path, err)
	s.hook = nil
	s.asked.Store(0)
	out, err := s.write(nil).run(t, t.Context(), s, path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(contents(t, path)[:len(img)], img) {
		t.Error("the disk differs from the image")
	}
	if got := s.asked.Load(); got > 20-7 || out["kept"].(int64) < 7*mib {
		t.Errorf("%d of 20 chunks were fetched again, %d bytes kept", got, out["kept"])
	}
}

func TestChunked_survivesAWeakServer(t *testing.T) {
	img := sample(5, 6*mib)
	path := blank(t, 8*mib)
	s := inChunks(t, img)
	var mu sync.Mutex
	seen := map[string]bool{}
	s.hook = func(n int64, w http.ResponseWriter, r *http.Request) bool { // Each chunk's first request fails somehow.
		mu.Lock()
		again := seen[r.URL.Path]
		seen[r.URL.Path] = true
		mu.Unlock()
		b := s.chunks[strings.TrimPrefix(r.URL.Path, "/images/chunks/")]
		switch {
		case again:
			return false
		case n%3 == 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case n%3 == 1:
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b[:len(b)/2]) // Then the connection is cut.
			panic(http.ErrAbortHandler)
		default:
			_, _ = w.Write(flip(b, len(b)/2))
		}
		return true
	}
	w := s.write(nil)
	if _, err := w.run(t, t.Context(), s, path); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(contents(t, path)[:len(img)], img) {
		t.Error("the disk differs from the image")
	}
	for _, want := range []string{"503", "unexpected EOF", "wrong digest"} {
		if !strings.Contains(w.rep.text(), want) {
			t.Errorf("the log has no word of %q:\n%s", want, w.rep.text())
		}
	}
}

func TestChunked_lies(t *testing.T) {
	img := sparse(6)
	for _, c := range []struct {
		name string
		size int64 // Of the disk; 0: large enough.
		hook func(s *store) func(n int64, w http.ResponseWriter, r *http.Request) bool
		edit func(s *store)
		want string
	}{
		{name: "another chunk", want: "wrong digest", hook: func(s *store) func(int64, http.ResponseWriter, *http.Request) bool {
			return func(n int64, w http.ResponseWriter, r *http.Request) bool {
				b := s.chunks[strings.TrimPrefix(r.URL.Path, "/images/chunks/")]
				if n > 2 {
					_, _ = w.Write(flip(b, len(b)-9))
				}
				return n > 2
			}
		}},
		{name: "a chunk that is too short", want: "its index says", hook: func(s *store) func(int64, http.ResponseWriter, *http.Request) bool {
			return func(n int64, w http.ResponseWriter, r *http.Request) bool {
				if n > 2 {
					_, _ = w.Write([]byte("short"))
				}
				return n > 2
			}
		}},
		{name: "a chunk without end", want: "sends more than", hook: func(s *store) func(int64, http.ResponseWriter, *http.Request) bool {
			return func(n int64, w http.ResponseWriter, r *http.Request) bool {
				for n > 2 {
					if _, err := w.Write(make([]byte, 64<<10)); err != nil {
						return true
					}
				}
				return false
			}
		}},
		{name: "a chunk that isn't there", want: "404", edit: func(s *store) { clear(s.chunks) }},
		{name: "another index", want: "wrong digest", edit: func(s *store) { s.encoded = flip(s.encoded, 40) }},
		{name: "an index that isn't there", want: "404", edit: func(s *store) { s.index[0] ^= 1 }},
		{name: "an index cut short", want: "wrong digest", edit: func(s *store) { s.encoded = s.encoded[:50] }},
		{name: "a disk that is too small", size: 4 * mib, want: "select a larger disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := inChunks(t, img)
			w := s.write(nil)
			if c.hook != nil {
				s.hook = c.hook(s)
			}
			if c.edit != nil {
				c.edit(s)
			}
			if c.size == 0 {
				c.size = 8 * mib
			}
			path := blank(t, c.size)
			_, err := w.run(t, t.Context(), s, path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want one with %q", err, c.want)
			}
			unbootable(t, path, err)
		})
	}
}

func TestChunked_givesUp(t *testing.T) {
	img := sample(6, 3*mib)
	s := inChunks(t, img)
	s.hook = func(n int64, w http.ResponseWriter, r *http.Request) bool {
		if n > 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
		return n > 1
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, fmt.Errorf("the step took too long"))
	defer cancel()
	path := blank(t, 4*mib)
	_, err := s.write(nil).run(t, ctx, s, path)
	if err == nil || !strings.Contains(err.Error(), "the step took too long") {
		t.Errorf("error = %v, want the step's", err)
	}
	unbootable(t, path, err)
}

func TestChunked_memoryIsBounded(t *testing.T) {
	plain := sample(8, mib)
	enc, err := chunk.NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	stored := enc.Encode(nil, plain)
	const count = 512
	x := chunk.Index{Size: count * chunk.Size}
	for i := range count {
		x.Entries = append(x.Entries, chunk.Entry{Place: uint32(i), Stored: uint32(len(stored)), Digest: chunk.Sum(plain)})
	}
	s := &store{encoded: x.Encode(), chunks: map[string][]byte{chunk.Sum(plain).String(): stored}}
	s.index = chunk.Sum(s.encoded)
	var peak, m = uint64(0), runtime.MemStats{}
	var mu sync.Mutex
	measure := func() {
		mu.Lock()
		defer mu.Unlock()
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse)
	}
	runtime.GC()
	measure()
	before := peak
	s.hook = func(n int64, _ http.ResponseWriter, _ *http.Request) bool {
		if n%64 == 0 {
			measure()
		}
		return false
	}
	w := s.write(map[string]any{"compare": "never"})
	w.open = func(string) (Device, error) { return nowhere{count * chunk.Size}, nil }
	if _, err := w.run(t, t.Context(), s, "/dev/nowhere"); err != nil {
		t.Fatal(err)
	}
	used := (peak - before) / mib
	t.Logf("writing %d MiB took %d MiB of memory", count, used)
	if used > 128 {
		t.Errorf("writing %d MiB took %d MiB of memory", count, used)
	}
}
