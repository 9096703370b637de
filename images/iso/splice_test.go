package iso

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// spliced is what a splice should read as.
func spliced(base []byte, patches []Patch) []byte {
	out := bytes.Clone(base)
	for _, p := range patches {
		copy(out[p.Offset:], p.Data)
	}
	return out
}

func mustSplice(t *testing.T, base []byte, patches ...Patch) *Splice {
	t.Helper()
	s, err := NewSplice(bytes.NewReader(base), int64(len(base)), patches...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSplice(t *testing.T) {
	base := []byte("0123456789abcdefghij")
	patches := []Patch{{12, []byte("XYZ")}, {4, []byte("--")}, {6, []byte("++")}}
	want := spliced(base, patches)
	t.Run("reads as one, by every rule of readers", func(t *testing.T) {
		if err := iotest.TestReader(mustSplice(t, base, patches...), want); err != nil {
			t.Error(err)
		}
	})
	t.Run("every range of it is right", func(t *testing.T) {
		s := mustSplice(t, base, patches...)
		for from := range len(want) + 1 {
			for to := from; to <= len(want); to++ {
				got := make([]byte, to-from)
				n, err := s.ReadAt(got, int64(from))
				if n != len(got) || err != nil && !(errors.Is(err, io.EOF) && from == len(want)) || !bytes.Equal(got, want[from:to]) {
					t.Fatalf("%d to %d: %q, %v; want %q", from, to, got, err, want[from:to])
				}
			}
		}
	})
	t.Run("patches at both ends, and of everything", func(t *testing.T) {
		for _, p := range [][]Patch{{{0, []byte("A")}, {19, []byte("Z")}}, {{0, bytes.Repeat([]byte("#"), 20)}}, nil, {{20, nil}}} {
			if err := iotest.TestReader(mustSplice(t, base, p...), spliced(base, p)); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("patches that overlap or lie outside are refused", func(t *testing.T) {
		for _, p := range [][]Patch{{{18, []byte("abc")}}, {{-1, []byte("a")}}, {{2, []byte("abc")}, {4, []byte("d")}}, {{2, []byte("a")}, {2, []byte("b")}}} {
			if _, err := NewSplice(bytes.NewReader(base), int64(len(base)), p...); err == nil {
				t.Errorf("%v was taken", p)
			}
		}
	})
	t.Run("a file that has become shorter is an error, not a short image", func(t *testing.T) {
		s, err := NewSplice(bytes.NewReader(base[:10]), int64(len(base)), patches...)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(s); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// TestSplice_Property compares random reads and seeks of random splices with
// the same of bytes in memory.
func TestSplice_Property(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		base := make([]byte, 1+r.IntN(5000))
		for i := range base {
			base[i] = byte(r.Uint32())
		}
		var patches []Patch
		for at := r.IntN(200); at < len(base); at += r.IntN(900) {
			data := bytes.Repeat([]byte{byte(at)}, min(r.IntN(700), len(base)-at))
			patches = append(patches, Patch{int64(at), data})
			at += len(data)
		}
		r.Shuffle(len(patches), func(i, j int) { patches[i], patches[j] = patches[j], patches[i] })
		s, want := mustSplice(t, base, patches...), bytes.NewReader(spliced(base, patches))
		for range 60 {
			offset, whence := int64(r.IntN(len(base)+50)), []int{io.SeekStart, io.SeekCurrent, io.SeekEnd}[r.IntN(3)]
			if whence == io.SeekEnd {
				offset = -offset
			}
			a, errA := s.Seek(offset, whence)
			b, errB := want.Seek(offset, whence)
			if a != b && errB == nil || (errA == nil) != (errB == nil) {
				t.Fatalf("seed %d: seek %d %d: %d, %v; want %d, %v", seed, offset, whence, a, errA, b, errB)
			}
			n := r.IntN(1500)
			got, expected := make([]byte, n), make([]byte, n)
			g, errG := io.ReadFull(s, got)
			e, errE := io.ReadFull(want, expected)
			if g != e || !errors.Is(errG, errE) || !bytes.Equal(got, expected) {
				t.Fatalf("seed %d: read %d, %v; want %d, %v", seed, g, errG, e, errE)
			}
		}
	}
}

func TestSplice_HTTP(t *testing.T) {
	base := bytes.Repeat([]byte("0123456789"), 1000)
	patches := []Patch{{2048, bytes.Repeat([]byte("M"), 100)}}
	want := spliced(base, patches)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := NewSplice(bytes.NewReader(base), int64(len(base)), patches...)
		if err != nil {
			t.Error(err)
			return
		}
		http.ServeContent(w, r, "agent.iso", time.Unix(0, 0), s)
	}))
	defer srv.Close()
	get := func(t *testing.T, method, ranges string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, body
	}
	t.Run("the whole", func(t *testing.T) {
		if resp, body := get(t, http.MethodGet, ""); resp.StatusCode != 200 || !bytes.Equal(body, want) || resp.Header.Get("Accept-Ranges") != "bytes" {
			t.Errorf("%s, %d bytes", resp.Status, len(body))
		}
	})
	t.Run("its length alone", func(t *testing.T) {
		if resp, body := get(t, http.MethodHead, ""); resp.ContentLength != int64(len(want)) || len(body) != 0 {
			t.Errorf("length %d, %d bytes", resp.ContentLength, len(body))
		}
	})
	for ranges, part := range map[string][]byte{
		"bytes=0-0": want[:1], "bytes=2047-2048": want[2047:2049], "bytes=2048-2147": want[2048:2148],
		"bytes=2147-2148": want[2147:2149], "bytes=2100-": want[2100:], "bytes=-1": want[len(want)-1:], "bytes=2000-2200": want[2000:2201],
	} {
		t.Run(ranges, func(t *testing.T) {
			resp, body := get(t, http.MethodGet, ranges)
			if resp.StatusCode != http.StatusPartialContent || !bytes.Equal(body, part) {
				t.Errorf("%s: %.40q, want %.40q", resp.Status, body, part)
			}
			if !strings.HasSuffix(resp.Header.Get("Content-Range"), "/"+strconv.Itoa(len(want))) {
				t.Errorf("Content-Range %q", resp.Header.Get("Content-Range"))
			}
		})
	}
	t.Run("past the end", func(t *testing.T) {
		if resp, _ := get(t, http.MethodGet, "bytes=10000-"); resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			t.Error(resp.Status)
		}
	})
}
