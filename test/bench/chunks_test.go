package bench

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bedplate/bedplate/agent/image"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/images"
)

// A disk image of 8 GiB of which 1 GiB is data: 256 runs of 4 MiB, spread out
// evenly, that compress about 2:1.
const (
	largeSize = 8 << 30
	largeData = 1 << 30
	largeRun  = 4 << 20
)

// makeLarge writes the image, sparse.
func makeLarge(b *testing.B, path string) {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // Sync tells.
	noise := rand.NewChaCha8([32]byte{2})
	run := make([]byte, largeRun)
	for i := range int64(largeData / largeRun) {
		for at := 0; at < len(run); at += 64 {
			_, _ = noise.Read(run[at : at+32]) // Never fails.
			copy(run[at+32:at+64], "the same thirty-two bytes, always")
		}
		if _, err := f.WriteAt(run, i*(largeSize/(largeData/largeRun))); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Truncate(largeSize); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
}

// shell runs a line and returns how long it took.
func shell(b *testing.B, line string) time.Duration {
	b.Helper()
	start := time.Now()
	if out, err := exec.CommandContext(b.Context(), "bash", "-e", "-o", "pipefail", "-c", line).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", line, err, out)
	}
	return time.Since(start)
}

// large is the image in every form, served.
type large struct {
	dir, raw, disk string
	index          string
	server         *httptest.Server
	// left is how many chunks are served before the server refuses; negative: all.
	left atomic.Int64
}

func newLarge(b *testing.B) *large {
	b.Helper()
	for _, program := range []string{"curl", "zstd", "dd", "qemu-img"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Skipf("SKIPPED: %s, to compare with, is not installed", program)
		}
	}
	l := &large{dir: b.TempDir()}
	l.raw, l.disk = filepath.Join(l.dir, "image.raw"), filepath.Join(l.dir, "disk")
	makeLarge(b, l.raw)
	l.left.Store(-1)
	return l
}

func (l *large) serve(b *testing.B, store *images.Store) {
	content := store.Handler(func(string) (string, bool) { return "", false }, nil)
	files := http.FileServer(http.Dir(l.dir))
	l.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasPrefix(r.URL.Path, "/images/"):
			files.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, "/images/chunks/") && l.left.Load() >= 0 && l.left.Add(-1) < 0:
			l.left.Store(0)
			http.Error(w, "interrupted", http.StatusForbidden)
		default:
			content.ServeHTTP(w, r)
		}
	}))
	b.Cleanup(l.server.Close)
}

// blank makes the disk new.
func (l *large) blank(b *testing.B) {
	shell(b, fmt.Sprintf("rm -f %[1]s; truncate -s %[2]d %[1]s; sync", l.disk, int64(largeSize)))
}

// write installs the image by image.write.
func (l *large) write(b *testing.B) (time.Duration, map[string]any, error) {
	b.Helper()
	w, err := image.New(image.Config{Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	res, err := w.Steps()["image.write"].Execute(b.Context(), step.Request{
		With:   map[string]any{"image": "os", "disk": l.disk},
		Images: map[string]any{"os": map[string]any{"name": "os", "index": l.index, "chunks_url": l.server.URL + "/images"}},
		HTTP:   http.DefaultClient,
	}, quiet{})
	return time.Since(start), res.Outputs, err
}

// BenchmarkImagePipeline imports the image and writes it to a disk (a file on
// this machine's disk, written around the page cache): for the first time, after
// an interruption at half, and again over itself. Each is held against what an
// operator would use instead, in the same run. In `x-…` are how many times as
// long the other took:
//
//   - import against `zstd -T0` of the raw file, and `qemu-img convert -c -O qcow2`;
//   - the first write against curl | zstd -dc | dd oflag=direct, and against
//     `qemu-img convert` of the qcow2, which has no network to cross;
//   - the reinstallation against reading the data with dd iflag=direct.
//
// An iteration takes minutes: -benchtime 1x.
func BenchmarkImagePipeline(b *testing.B) {
	l := newLarge(b)
	for b.Loop() {
		l.importing(b)
		l.writing(b)
	}
	b.ReportMetric(0, "ns/op")
}

func (l *large) importing(b *testing.B) {
	dir := filepath.Join(l.dir, "store")
	store, err := images.Open(images.Config{Dir: dir, Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(l.raw)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	start := time.Now()
	res, err := store.Import(b.Context(), io.Reader(f), images.Expect{})
	if err != nil {
		b.Fatal(err)
	}
	ours := time.Since(start)
	l.index = res.Index
	b.ReportMetric(ours.Seconds(), "s-import")
	b.ReportMetric(shell(b, fmt.Sprintf("cd %s && zstd -q -f -T0 image.raw -o image.raw.zst && sync image.raw.zst", l.dir)).Seconds()/ours.Seconds(), "x-import-zstd")
	b.ReportMetric(shell(b, fmt.Sprintf("cd %s && rm -f image.qcow2 && qemu-img convert -c -O qcow2 image.raw image.qcow2 && sync image.qcow2", l.dir)).Seconds()/ours.Seconds(), "x-import-qemu-img")
	if l.server == nil {
		l.serve(b, store)
	}
}

func (l *large) writing(b *testing.B) {
	l.blank(b)
	first, _, err := l.write(b)
	if err != nil {
		b.Fatal(err)
	}
	shell(b, fmt.Sprintf("cmp %s %s", l.raw, l.disk))
	again, out, err := l.write(b)
	if err != nil {
		b.Fatal(err)
	}
	if kept := out["kept"].(int64); kept < largeData*9/10 {
		b.Errorf("%d bytes were kept in a reinstallation of the same", kept)
	}
	read := shell(b, fmt.Sprintf("for i in $(seq 0 %d); do echo $((i*%d)); done | while read at; do dd if=%s of=/dev/null bs=%d count=1 skip=$((at/%d)) iflag=direct status=none; done",
		largeData/largeRun-1, largeSize/(largeData/largeRun), l.disk, largeRun, largeRun))
	l.blank(b)
	l.left.Store(largeData >> 21)
	if _, _, err := l.write(b); err == nil {
		b.Error("the interrupted write succeeded")
	}
	l.left.Store(-1)
	resumed, out, err := l.write(b)
	if err != nil {
		b.Fatal(err)
	}
	shell(b, fmt.Sprintf("cmp %s %s", l.raw, l.disk))
	l.blank(b)
	pipe := shell(b, fmt.Sprintf("curl -sf %s/image.raw.zst | zstd -dc | dd of=%s bs=4M iflag=fullblock oflag=direct conv=notrunc,fsync status=none", l.server.URL, l.disk))
	l.blank(b)
	qemu := shell(b, fmt.Sprintf("qemu-img convert -n -t none -W -m 8 -f qcow2 -O raw %s/image.qcow2 %s && sync %s", l.dir, l.disk, l.disk))
	b.ReportMetric(first.Seconds(), "s-first")
	b.ReportMetric(resumed.Seconds(), "s-resumed")
	b.ReportMetric(float64(out["kept"].(int64))/largeData, "kept-resumed")
	b.ReportMetric(again.Seconds(), "s-again")
	b.ReportMetric(pipe.Seconds()/first.Seconds(), "x-pipe")
	b.ReportMetric(qemu.Seconds()/first.Seconds(), "x-qemu-img")
	b.ReportMetric(read.Seconds()/again.Seconds(), "x-again-read")
}
