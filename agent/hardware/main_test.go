package hardware

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// TestMain is the Worker when a Service under test starts one.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == WorkerName {
		if err := Worker(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// recorder is a step.Reporter that keeps what it is told.
type recorder struct {
	mu       sync.Mutex
	lines    []string
	progress int
}

func (r *recorder) Log(_, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

func (r *recorder) Progress(int64, int64, string, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress++
}

// newService returns a Service for a machine whose kernel is a folder.
func newService(t *testing.T, c Config) *Service {
	t.Helper()
	if c.Disks == nil {
		c.Disks = func(context.Context) ([]*pb.Disk, error) { return nil, nil }
	}
	c.Random, c.Now = rand.Reader, time.Now
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// kernel makes files below a new folder that stands for /.
func kernel(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	write(t, root, files)
	return root
}

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// rows are a step's results by subject and measure.
func rows(t *testing.T, r step.Result) map[string]map[string]any {
	t.Helper()
	list, ok := r.Outputs["results"].([]any)
	if !ok {
		t.Fatalf("results are a %T", r.Outputs["results"])
	}
	out := map[string]map[string]any{}
	for _, v := range list {
		m := v.(map[string]any)
		out[fmt.Sprint(m["subject"], " ", m["measure"])] = m
	}
	return out
}

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

func trimFloat(v float64) string { return fmt.Sprintf("%.6g", v) }
