package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore_Put(t *testing.T) {
	body := bytes.Repeat([]byte("disk"), 5000)
	for _, tt := range []struct {
		name   string
		r      io.Reader
		expect Expect
		want   error
	}{
		{"what arrives whole is kept", bytes.NewReader(body), Expect{Size: int64(len(body)), Digest: digestOf(body)}, nil},
		{"size and digest may be unknown", bytes.NewReader(body), Expect{}, nil},
		{"a wrong digest is refused", bytes.NewReader(body), Expect{Digest: digestOf([]byte("other"))}, ErrDigest},
		{"a short file is refused", bytes.NewReader(body[1:]), Expect{Size: int64(len(body))}, ErrSize},
		{"a long file is refused", bytes.NewReader(append(body, 0)), Expect{Size: int64(len(body))}, ErrSize},
		{"an empty file is refused", bytes.NewReader(nil), Expect{}, ErrSize},
		{"a broken connection is an error", io.MultiReader(bytes.NewReader(body), iotest.ErrReader(io.ErrUnexpectedEOF)), Expect{}, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			c, err := s.Put(t.Context(), tt.r, tt.expect)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			entries, _ := os.ReadDir(s.dir)
			if err != nil {
				if len(entries) != 0 {
					t.Errorf("a refused upload left %v behind", entries)
				}
				return
			}
			f, got, err := s.Get(c.Digest)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if back, _ := io.ReadAll(f); !bytes.Equal(back, body) || got.Size != int64(len(body)) {
				t.Error("the content came back changed")
			}
		})
	}
}

func TestOpen_CleansUp(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, tempPrefix+"1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("an unfinished upload is still there: %v", entries)
	}
}

func TestStore_GetConfined(t *testing.T) {
	s := newStore(t)
	for _, digest := range []string{"", "sha256:", "sha256:../../etc/passwd", "sha256:" + string(bytes.Repeat([]byte("G"), 64)), "md5:00"} {
		if _, _, err := s.Get(digest); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: got %v, want ErrNotFound", digest, err)
		}
	}
}

func TestStore_Prune(t *testing.T) {
	s := newStore(t)
	keep, _ := s.Put(t.Context(), bytes.NewReader([]byte("keep")), Expect{})
	drop, _ := s.Put(t.Context(), bytes.NewReader([]byte("drop")), Expect{})
	pruned, err := s.Prune(func(d string) bool { return d == keep.Digest }, false)
	if err != nil || pruned.Freed != 4 || pruned.Used != 4 {
		t.Errorf("%+v, %v; want 4 bytes freed, 4 left", pruned, err)
	}
	if _, _, err := s.Get(drop.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("the dropped content is still there: %v", err)
	}
	if _, _, err := s.Get(keep.Digest); err != nil {
		t.Errorf("the kept content is gone: %v", err)
	}
}

func TestStore_Handler(t *testing.T) {
	s := newStore(t)
	body := bytes.Repeat([]byte("0123456789"), 1000)
	c, err := s.Put(t.Context(), bytes.NewReader(body), Expect{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler(func(name string) (string, bool) { return c.Digest, name == "debian" }, nil))
	defer srv.Close()
	get := func(method, path, ranges, ifRange string) *http.Response {
		req, _ := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		if ifRange != "" {
			req.Header.Set("If-Range", ifRange)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	etag := `"` + c.Digest + `"`
	for _, tt := range []struct {
		name, method, path, ranges, ifRange string
		code                                int
		want                                []byte
	}{
		{"the whole image by name", "GET", "/images/debian", "", "", 200, body},
		{"the whole image by digest", "GET", "/images/" + c.Digest, "", "", 200, body},
		{"a cut transfer goes on where it was", "GET", "/images/debian", "bytes=9990-", etag, 206, body[9990:]},
		{"a range of something else is sent whole", "GET", "/images/debian", "bytes=9990-", `"sha256:other"`, 200, body},
		{"HEAD has a length and no body", "HEAD", "/images/debian", "", "", 200, nil},
		{"a name that has no content", "GET", "/images/other", "", "", 404, []byte("no image \"other\" has content here: import it with `bedplate image import`\n")},
		{"nothing is written here", "PUT", "/images/debian", "", "", 405, []byte("images are only read here\n")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp := get(tt.method, tt.path, tt.ranges, tt.ifRange)
			defer resp.Body.Close()
			got, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.code {
				t.Errorf("got status %d, want %d", resp.StatusCode, tt.code)
			}
			if !bytes.Equal(got, tt.want) {
				t.Errorf("got %d bytes %.80q, want %d", len(got), got, len(tt.want))
			}
			if tt.method == "HEAD" && resp.ContentLength != int64(len(body)) {
				t.Errorf("Content-Length is %d", resp.ContentLength)
			}
		})
	}
}

func TestDetect(t *testing.T) {
	qcow2 := append(append([]byte{}, qcow2Magic...), make([]byte, 100)...)
	qcow2[24+5] = 0x20 // 2 MiB
	gz := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(b)
		w.Close()
		return out.Bytes()
	}
	zst, _ := zstd.NewWriter(nil)
	for _, tt := range []struct {
		name string
		in   []byte
		want Type
	}{
		{"an MBR is raw", append(make([]byte, 510), 0x55, 0xaa), Type{"raw", "none", 0}},
		{"qcow2 says its size", qcow2, Type{"qcow2", "none", 2 << 20}},
		{"raw inside gzip", gz(make([]byte, 600)), Type{"raw", "gzip", 0}},
		{"qcow2 inside zstd", zst.EncodeAll(qcow2, nil), Type{"qcow2", "zstd", 2 << 20}},
		{"bzip2", []byte("BZh91AY&SY"), Type{"raw", "bzip2", 0}},
		{"xz", []byte("\xfd7zXZ\x00\x00\x04"), Type{"raw", "xz", 0}},
		{"nothing at all", nil, Type{"raw", "none", 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Detect(bytes.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzDetect(f *testing.F) {
	f.Add([]byte("QFI\xfb\x00\x00\x00\x03"))              // qcow2 version 3
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x04, 0})        // zstd, frame header only
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0})           // gzip, no body
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46")) // xz stream header
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := Detect(bytes.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		if got.VirtualSize < 0 {
			t.Errorf("negative size %d", got.VirtualSize)
		}
	})
}
