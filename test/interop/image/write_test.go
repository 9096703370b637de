package image

import (
	"bytes"
	"context"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bedplate/bedplate/agent/image"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/images"
)

const mib = 1 << 20

// system is a disk of n MiB and 512 bytes; each third MiB is zeros, the others
// are noise of which half repeats, so that they are stored compressed.
func system(n int) []byte {
	b := make([]byte, n*mib+512)
	noise := rand.NewChaCha8([32]byte{7})
	for i := range n {
		if i%3 != 2 {
			_, _ = noise.Read(b[i*mib : i*mib+mib/2]) // Never fails.
		}
	}
	_, _ = noise.Read(b[n*mib:])
	return b
}

// server is an image store as machines reach it.
type server struct {
	t   *testing.T
	dir string
	*images.Store
	http *httptest.Server
	// chunks counts those that were asked for.
	chunks atomic.Int64
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir()}
	var err error
	if s.Store, err = images.Open(images.Config{Dir: s.dir}); err != nil {
		t.Fatal(err)
	}
	handler := s.Handler(func(string) (string, bool) { return "", false }, nil)
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/chunks/") {
			s.chunks.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(s.http.Close)
	return s
}

func (s *server) add(disk []byte) images.Imported {
	s.t.Helper()
	got, err := s.Import(s.t.Context(), bytes.NewReader(disk), images.Expect{})
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// log is a step.Reporter that keeps what it is told.
type log struct {
	mu sync.Mutex
	strings.Builder
}

func (l *log) Log(_, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.WriteString(line + "\n")
}
func (*log) Progress(int64, int64, string, string) {}

// write has an agent write an image, with the facts that the server puts in a plan.
func (s *server) write(ctx context.Context, index, disk string) (map[string]any, error) {
	s.t.Helper()
	w, err := image.New(image.Config{Now: time.Now, Backoff: time.Millisecond})
	if err != nil {
		s.t.Fatal(err)
	}
	s.chunks.Store(0)
	res, err := w.Steps()["image.write"].Execute(ctx, step.Request{
		Workflow: "install", Step: "write", Attempt: 1, HTTP: s.http.Client(),
		With: map[string]any{"image": "os", "disk": disk, "verify": true},
		Images: map[string]any{"os": map[string]any{
			"name": "os", "url": s.http.URL + "/images/" + index, "index": index, "chunks_url": s.http.URL + "/images", "root_partition": float64(0),
		}},
	}, &log{})
	return res.Outputs, err
}

func blank(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xa5}, int(size)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWrite_whatWasImported(t *testing.T) {
	s := newServer(t)
	disk := system(9)
	first := s.add(disk)
	path := blank(t, 12*mib)
	out, err := s.write(t.Context(), first.Index, path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(contents(t, path)[:len(disk)], disk) {
		t.Fatal("the disk differs from what was imported")
	}
	if got := s.chunks.Load(); got != first.Chunks || out["kept"] != int64(0) {
		t.Errorf("%d of %d chunks were fetched, %v bytes kept", got, first.Chunks, out["kept"])
	}

	t.Run("a later version fetches what differs", func(t *testing.T) {
		disk[4*mib+9]++
		clear(disk[6*mib : 7*mib])
		later := s.add(disk)
		if later.New >= 2*mib {
			t.Errorf("the store took %d bytes for one changed chunk", later.New)
		}
		if _, err := s.write(t.Context(), later.Index, path); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(contents(t, path)[:len(disk)], disk) {
			t.Fatal("the disk differs from what was imported")
		}
		// The first is always written, and so is the last, which is no whole number of 4096 byte blocks.
		if got := s.chunks.Load(); got > 3 {
			t.Errorf("%d chunks were fetched, want the first, the one that changed and at most the last", got)
		}
	})

	t.Run("what somebody has changed on the disk since is put right", func(t *testing.T) {
		b := contents(t, path)
		for i := mib; i < 11*mib; i += 2*mib - 4096 {
			b[i] ^= 0x80
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.write(t.Context(), s.add(disk).Index, path); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(contents(t, path)[:len(disk)], disk) {
			t.Error("the disk differs from what was imported")
		}
	})
}

// bootable reports whether either end of the disk, where partition tables are, has anything.
func bootable(b []byte) bool {
	zeros := make([]byte, mib)
	return !bytes.Equal(b[:mib], zeros) || !bytes.Equal(b[len(b)-mib:], zeros)
}

func TestWrite_fromADamagedStore(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"a bit": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(path, b, 0o600)
		},
		"half a chunk": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.Truncate(path, info.Size()/2)
		},
		"gone": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			got := s.add(system(6))
			chunks := s.files()
			if int64(len(chunks)) < got.Chunks {
				t.Fatalf("the store has %d chunks in files, of %d", len(chunks), got.Chunks)
			}
			if err := harm(chunks[len(chunks)/2]); err != nil {
				t.Fatal(err)
			}
			path := blank(t, 8*mib)
			_, err := s.write(t.Context(), got.Index, path)
			if err == nil {
				t.Fatal("a damaged image was written without complaint")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), "nothing boots from it") && !strings.Contains(err.Error(), "has not been touched") {
				t.Errorf("the error doesn't say how the disk is left: %v", err)
			}
			b := contents(t, path)
			touched := !bytes.Equal(b, bytes.Repeat([]byte{0xa5}, len(b)))
			if touched && bootable(b) {
				t.Error("the disk may boot half an image")
			}
		})
	}
}

// files are those that chunks are in, all but the one index.
func (s *server) files() (out []string) {
	s.t.Helper()
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.Contains(path, "index") {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}
