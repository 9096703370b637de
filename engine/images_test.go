package engine

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bedplate/bedplate/agent/image"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/images"
)

// silent is a step.Reporter that nobody reads.
type silent struct{}

func (silent) Log(string, string)                    {}
func (silent) Progress(int64, int64, string, string) {}

// TestImages_Contract has the agent write an image out of the store that the
// server keeps it in, and again after another release of it came.
func TestImages_Contract(t *testing.T) {
	s, err := images.Open(images.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler(func(string) (string, bool) { return "", false }, nil))
	defer server.Close()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xaa}, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := image.New(image.Config{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, 12<<20)
	noise := rand.NewChaCha8([32]byte{1})
	_, _ = noise.Read(disk[:3<<20]) // Never fails.
	_, _ = noise.Read(disk[7<<20:])
	for _, release := range []string{"first", "second"} {
		copy(disk[2<<20:], release)
		got, err := s.Import(t.Context(), bytes.NewReader(disk), images.Expect{})
		if err != nil {
			t.Fatal(err)
		}
		req := step.Request{
			With: map[string]any{"image": "os", "disk": path}, HTTP: http.DefaultClient, Server: map[string]string{"http_url": server.URL},
			Images: map[string]any{"os": map[string]any{"name": "os", "url": server.URL + "/images/" + got.Index, "index": got.Index, "chunks_url": server.URL + "/images", "root_partition": float64(1)}},
		}
		if _, err := w.Steps()["image.write"].Execute(t.Context(), req, silent{}); err != nil {
			t.Fatalf("writing the %s release: %v", release, err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b[:len(disk)], disk) {
			t.Errorf("the disk differs from the %s release", release)
		}
	}
}
