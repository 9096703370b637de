package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
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

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/step"
)

const mib = 1 << 20

// testBuffer makes small images be many buffers.
const testBuffer = 256 << 10

// sample makes an image of n bytes with data, holes of several sizes and noise
// right up to its end.
func sample(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(7, seed))
	noise := rand.NewChaCha8([32]byte{byte(seed)})
	b := make([]byte, n)
	for at := 0; at < n; {
		run := 1 + rng.IntN(150<<10)
		_, _ = noise.Read(b[at:min(n, at+run)]) // Never fails.
		at += run + rng.IntN(700<<10)
	}
	for i := max(0, n-700); i < n; i++ {
		b[i] = byte(rng.Uint32()) | 1
	}
	b[0] = 0xeb // No codec's magic.
	return b
}

var codecs = []string{"none", "gzip", "bzip2", "xz", "zstd"}

func compress(t testing.TB, codec string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch codec {
	case "none":
		return data
	case "gzip":
		w, err = gzip.NewWriterLevel(&b, 1)
	case "bzip2":
		w, err = bzip2.NewWriter(&b, &bzip2.WriterConfig{Level: 1})
	case "xz":
		w, err = xz.WriterConfig{DictCap: 1 << 16}.NewWriter(&b)
	case "zstd":
		w, err = zstd.NewWriter(&b, zstd.WithEncoderLevel(zstd.SpeedFastest))
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// old is the content that disks have before.
var old = sync.OnceValue(func() []byte { return bytes.Repeat([]byte{0xa5}, 24*mib) })

// blank makes a disk full of old content, which must never shine through.
func blank(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, old()[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func contents(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unbootable fails unless both ends of the disk are zeros, or the error says
// that the disk is as it was, and it is.
func unbootable(t testing.TB, path string, err error) {
	t.Helper()
	b := contents(t, path)
	if err != nil && strings.Contains(err.Error(), "has not been touched") {
		if !bytes.Equal(b, old()[:len(b)]) {
			t.Error("the disk was touched although the error denies it")
		}
		return
	}
	if !allZero(b[:headSize]) || !allZero(b[len(b)-headSize:]) {
		t.Error("after a failure an end of the disk isn't zeros")
	}
}

// file serves one file with an ETag, and cuts each of the first cuts answers.
type file struct {
	data []byte
	cuts []int
	etag string
	n    atomic.Int32
	// hook may answer instead.
	hook func(n int, w http.ResponseWriter, r *http.Request) bool
}

func (f *file) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(f.n.Add(1))
	if f.etag == "" {
		f.etag = `"v1"`
	}
	w.Header().Set("Etag", f.etag)
	if f.hook != nil && f.hook(n, w, r) {
		return
	}
	if n <= len(f.cuts) {
		http.ServeContent(&cutter{w, f.cuts[n-1]}, r, "", time.Time{}, bytes.NewReader(f.data))
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.data))
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; err == nil && c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		err = errors.New("cut")
	}
	return n, err
}

// reporter keeps log lines.
type reporter struct {
	mu    sync.Mutex
	lines []string
	done  int64
	total int64
}

func (r *reporter) Log(_, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

func (r *reporter) Progress(done, total int64, _, _ string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done, r.total = done, total
}

func (r *reporter) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// testWrite is one write of a test.
type testWrite struct {
	with   map[string]any
	images map[string]any
	open   func(string) (Device, error)
	buffer int
	rep    reporter
}

func (w *testWrite) run(t testing.TB, ctx context.Context, f http.Handler, disk string) (map[string]any, error) {
	t.Helper()
	url := "http://127.0.0.1:1/never"
	if f != nil {
		s := httptest.NewServer(f)
		defer s.Close()
		url = s.URL
	}
	iw, err := New(Config{Now: time.Now, Backoff: time.Millisecond, Open: w.open})
	if err != nil {
		t.Fatal(err)
	}
	iw.buffer = max(testBuffer, w.buffer)
	if w.with == nil {
		w.with = map[string]any{}
	}
	w.with["disk"] = disk
	if w.with["image"] == nil && w.with["url"] == nil {
		w.with["url"] = url
	}
	res, err := iw.Steps()["image.write"].Execute(ctx, step.Request{
		Workflow: "w", Step: "s", Attempt: 1, With: w.with, Images: w.images,
		Server: map[string]string{"http_url": url}, HTTP: http.DefaultClient,
	}, &w.rep)
	http.DefaultClient.CloseIdleConnections()
	return res.Outputs, err
}

// recorder is a disk that keeps track of writes, and fails one of them.
type recorder struct {
	Device
	mu     sync.Mutex
	events []string
	failAt int64
	noZero bool
	wrong  bool
}

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	r.events = append(r.events, fmt.Sprintf("write %d+%d", off, len(p)))
	fail := r.failAt > 0 && off <= r.failAt && r.failAt < off+int64(len(p))
	r.mu.Unlock()
	if fail {
		return 0, fmt.Errorf("writing %d bytes at offset %d: input/output error", len(p), off)
	}
	if r.wrong && off >= headSize {
		p = flip(p, 5)
	}
	return r.Device.WriteAt(p, off)
}

func (r *recorder) ZeroRange(off, n int64) (bool, error) {
	r.mu.Lock()
	r.events = append(r.events, fmt.Sprintf("zero %d+%d", off, n))
	r.mu.Unlock()
	if r.noZero {
		return false, nil
	}
	return r.Device.ZeroRange(off, n)
}

func (r *recorder) Sync() error {
	r.mu.Lock()
	r.events = append(r.events, "sync")
	r.mu.Unlock()
	return r.Device.Sync()
}

// waitFor returns once n whole chunks were given to the disk.
func (r *recorder) waitFor(t testing.TB, n int) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		got := 0
		for _, e := range r.events {
			if strings.HasSuffix(e, fmt.Sprintf("+%d", mib)) && strings.HasPrefix(e, "write ") {
				got++
			}
		}
		r.mu.Unlock()
		if got >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("the disk was given %d whole chunks in 30 s, not %d", got, n)
			return
		}
	}
}

func (r *recorder) open(path string) (Device, error) {
	d, err := disk.Open(path)
	r.Device = d
	return r, err
}

// nowhere is a disk that forgets at once, so that only memory counts.
type nowhere struct{ size int64 }

func (n nowhere) Path() string                           { return "/dev/nowhere" }
func (n nowhere) Size() int64                            { return n.size }
func (n nowhere) BlockSize() int                         { return 512 }
func (n nowhere) ReadAt(p []byte, _ int64) (int, error)  { clear(p); return len(p), nil }
func (n nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (n nowhere) ZeroRange(int64, int64) (bool, error)   { return true, nil }
func (n nowhere) Sync() error                            { return nil }
func (n nowhere) DropCache() error                       { return nil }
func (n nowhere) Reread(context.Context) error           { return disk.ErrNoPartitions }
func (n nowhere) Close() error                           { return nil }
