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
	"runtime"
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
	"github.com/bedplate/bedplate/agent/disk/partition"
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

// job is one write of a test.
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

func TestWrite_EveryCodecSurvivesCuts(t *testing.T) {
	for i, codec := range codecs {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(3, uint64(i)))
			slow := codec == "xz" || codec == "bzip2" // Above all with the race detector.
			for round := range 2 {
				img := sample(uint64(10*i+round), mib+rng.IntN(2*mib)&^511)
				if slow {
					img = img[:mib+70<<10]
					clear(img[40<<10 : len(img)-2048])
				}
				packed := compress(t, codec, img)
				f := &file{data: packed}
				for range rng.IntN(6) {
					f.cuts = append(f.cuts, 1+rng.IntN(len(packed)/2))
				}
				path := blank(t, int64(len(img)+rng.IntN(3*mib))&^4095+4096)
				w := testWrite{with: map[string]any{"digest": digest(packed), "verify": true}}
				out, err := w.run(t, t.Context(), f, path)
				if err != nil {
					t.Fatal(err)
				}
				got := contents(t, path)
				if !bytes.Equal(got[:len(img)], img) {
					t.Fatalf("cuts %v: the disk differs from the image", f.cuts)
				}
				if out["bytes"] != int64(len(img)) || out["digest"] != digest(packed) || out["disk"] != path {
					t.Errorf("outputs = %v", out)
				}
				if w.rep.done != int64(len(packed)) || w.rep.total != w.rep.done {
					t.Errorf("progress ended at %d of %d", w.rep.done, w.rep.total)
				}
				if end := got[len(got)-headSize:]; len(img) < len(got)-headSize && !allZero(end) {
					t.Error("the end of the disk still has old content")
				}
			}
		})
	}
}

func TestWrite_CorruptionIsNeverASuccess(t *testing.T) {
	img := sample(1, 5*mib/2)
	for i, codec := range codecs {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(5, uint64(i)))
			img := bytes.Clone(img)
			if codec == "xz" || codec == "bzip2" {
				img = img[:mib+70<<10]
				clear(img[40<<10 : len(img)-2048])
			}
			packed := compress(t, codec, img)
			for _, damage := range []struct {
				name string
				file []byte
				want string
			}{
				{"truncated", packed[:len(packed)*3/4], "expected digest " + digest(packed)},
				{"one bit", flip(packed, len(packed)/3+rng.IntN(len(packed)/2)), "expected digest " + digest(packed)},
				{"garbage at the end", append(bytes.Clone(packed), "garbage at the end"...), "expected digest " + digest(packed)},
			} {
				path := blank(t, 4*mib)
				w := testWrite{with: map[string]any{"digest": digest(packed)}}
				_, err := w.run(t, t.Context(), &file{data: damage.file}, path)
				if err == nil || !strings.Contains(err.Error(), damage.want) || !strings.Contains(err.Error(), "got "+digest(damage.file)) {
					t.Errorf("%s: error = %v\nwant one with %q and what was got", damage.name, err, damage.want)
				}
				unbootable(t, path, err)
			}
			if codec == "none" {
				return
			}
			for name, bad := range map[string][]byte{
				"truncated": packed[:len(packed)-5], "garbage": append(bytes.Clone(packed), "garbage at the end"...),
			} {
				path := blank(t, 4*mib)
				w := testWrite{}
				_, err := w.run(t, t.Context(), &file{data: bad}, path)
				if err == nil {
					t.Errorf("%s, without a digest: no error", name)
				}
				unbootable(t, path, err)
			}
		})
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 4
	return b
}

func TestWrite_Refusals(t *testing.T) {
	img := sample(2, 3*mib)
	packed := compress(t, "gzip", img)
	untouched := "has not been touched"
	left := "is left so that nothing boots from it"
	for _, c := range []struct {
		name  string
		with  map[string]any
		file  http.Handler
		size  int64
		wants []string
	}{
		{"a wrong length is found before anything is written", map[string]any{"size_bytes": int64(len(img) + 1)}, &file{data: img}, 4 * mib,
			[]string{fmt.Sprintf("expected %d bytes, got %d", len(img)+1, len(img)), untouched}},
		{"a raw image larger than the disk", nil, &file{data: img}, 2 * mib,
			[]string{fmt.Sprintf("the image has %d bytes, the disk has %d: select a larger disk", len(img), 2*mib), untouched}},
		{"a compressed image larger than the disk", nil, &file{data: packed}, 2 * mib,
			[]string{"the disk has 2097152: select a larger disk"}},
		{"a missing file", nil, http.NotFoundHandler(), 4 * mib, []string{"404 Not Found", untouched}},
		{"an empty file", nil, &file{}, 4 * mib, []string{"the file is empty", untouched}},
		{"an empty image", nil, &file{data: compress(t, "gzip", nil)}, 4 * mib, []string{"the image is empty", untouched}},
		{"another compression than was said", map[string]any{"compression": "zstd"}, &file{data: packed}, 4 * mib,
			[]string{"expected compression zstd, but the file begins like gzip", untouched}},
		{"another format than was said", map[string]any{"format": "qcow2"}, &file{data: packed}, 4 * mib,
			[]string{"expected format qcow2, but the file is raw", untouched}},
		{"qcow2 inside gzip", nil, &file{data: compress(t, "gzip", append([]byte("QFI\xfb"), img...))}, 4 * mib,
			[]string{"qcow2 image inside gzip", untouched}},
		{"a wrong digest", map[string]any{"digest": digest(nil)}, &file{data: packed}, 4 * mib,
			[]string{"expected digest " + digest(nil) + ", got " + digest(packed), left}},
		{"no such disk", nil, &file{data: img}, -1, []string{"disk.select finds the ones that are there"}},
		{"no source", map[string]any{"url": ""}, nil, 4 * mib, []string{"with.image: give either the name of an Image, or `url`"}},
		{"nonsense", map[string]any{"digest": "md5:1", "format": "vmdk", "speed": 1}, nil, 4 * mib,
			[]string{"with.digest", "with.format", "with.speed: this action has no such input"}},
		{"an unknown image", map[string]any{"image": "debian"}, nil, 4 * mib, []string{`there is no image "debian" among those`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "none")
			if c.size > 0 {
				path = blank(t, c.size)
			}
			w := testWrite{with: c.with}
			_, err := w.run(t, t.Context(), c.file, path)
			for _, want := range c.wants {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error = %v\nwant one with %q", err, want)
				}
			}
			if c.size > 0 && strings.Contains(fmt.Sprint(c.wants), untouched) && contents(t, path)[0] != 0xa5 {
				t.Error("the disk was touched")
			}
			if c.size > 0 && strings.Contains(fmt.Sprint(err), left) {
				unbootable(t, path, err)
			}
		})
	}
}

func TestWrite_NamedImage(t *testing.T) {
	img := sample(3, 2*mib)
	packed := compress(t, "zstd", img)
	path := blank(t, 4*mib)
	w := testWrite{with: map[string]any{"image": "debian"}, images: map[string]any{"debian": map[string]any{
		"url": "/images/debian", "digest": digest(packed), "format": "raw", "compression": "zstd",
		"size_bytes": int64(len(packed)), "root_partition": int64(3), "anything": "else",
	}}}
	out, err := w.run(t, t.Context(), http.StripPrefix("/images/debian", &file{data: packed}), path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(contents(t, path)[:len(img)], img) || out["root_partition"] != int64(3) {
		t.Errorf("outputs = %v", out)
	}
}

func TestWrite_WithoutDigestWarns(t *testing.T) {
	img := sample(4, 2*mib)
	w := testWrite{}
	out, err := w.run(t, t.Context(), &file{data: img}, blank(t, 4*mib))
	if err != nil || out["digest"] != digest(img) {
		t.Errorf("outputs = %v, %v", out, err)
	}
	if !strings.Contains(w.rep.text(), "has no digest") {
		t.Errorf("log = %q, want a warning", w.rep.text())
	}
}

func TestWrite_ChangedFile(t *testing.T) {
	img, other := sample(5, 6*mib), sample(6, 6*mib)
	t.Run("the write starts over", func(t *testing.T) {
		f := &file{data: img}
		f.hook = func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				http.ServeContent(&cutter{w, 3 * mib}, r, "", time.Time{}, bytes.NewReader(img))
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Etag", `"v2"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(other))
			return true
		}
		path := blank(t, 8*mib)
		w := testWrite{}
		_, err := w.run(t, t.Context(), f, path)
		if err != nil || !bytes.Equal(contents(t, path)[:len(other)], other) {
			t.Errorf("the new file isn't on the disk: %v", err)
		}
		if !strings.Contains(w.rep.text(), "starting over") {
			t.Errorf("log = %q", w.rep.text())
		}
	})
	t.Run("a file that never stays the same is a failure", func(t *testing.T) {
		f := &file{data: img}
		f.hook = func(n int, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Etag", fmt.Sprintf(`"v%d"`, n))
			http.ServeContent(&cutter{w, 3 * mib}, r, "", time.Time{}, bytes.NewReader(img))
			panic(http.ErrAbortHandler)
		}
		path := blank(t, 8*mib)
		w := testWrite{}
		_, err := w.run(t, t.Context(), f, path)
		if err == nil || !strings.Contains(err.Error(), "the file on the server changed") || f.n.Load() > 2*(restarts+1) {
			t.Errorf("after %d requests: %v", f.n.Load(), err)
		}
		unbootable(t, path, err)
	})
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

func (r *recorder) open(path string) (Device, error) {
	d, err := disk.Open(path)
	r.Device = d
	return r, err
}

func TestWrite_EndsComeLast(t *testing.T) {
	img := sample(8, 10*mib)
	r := &recorder{}
	w := testWrite{with: map[string]any{"digest": digest(img)}, open: r.open}
	if _, err := w.run(t, t.Context(), &file{data: img}, blank(t, 10*mib)); err != nil {
		t.Fatal(err)
	}
	e := r.events
	if got, want := strings.Join(e[:3], ", "), "zero 0+1048576, zero 9437184+1048576, sync"; got != want {
		t.Errorf("first: %s\nwant: %s", got, want)
	}
	if got, want := strings.Join(e[len(e)-5:], ", "), "sync, write 9437184+1048576, sync, write 0+1048576, sync"; got != want {
		t.Errorf("last: %s\nwant: %s", got, want)
	}
	for _, ev := range e[3 : len(e)-5] {
		var off, n int64
		if _, err := fmt.Sscanf(ev[strings.Index(ev, " ")+1:], "%d+%d", &off, &n); err == nil && (off < headSize || off+n > 9*mib) {
			t.Errorf("an end was touched before everything was verified: %s", ev)
		}
	}
}

func TestWrite_DiskWithoutZeroing(t *testing.T) {
	img := sample(9, 8*mib)
	r := &recorder{noZero: true}
	path := blank(t, 10*mib)
	w := testWrite{open: r.open, with: map[string]any{"verify": true}}
	out, err := w.run(t, t.Context(), &file{data: compress(t, "zstd", img)}, path)
	if err != nil || !bytes.Equal(contents(t, path)[:len(img)], img) {
		t.Errorf("the disk differs: %v", err)
	}
	if out["skipped"] != int64(0) {
		t.Errorf("outputs = %v, want nothing skipped", out)
	}
}

func TestWrite_FailingDisk(t *testing.T) {
	img := sample(10, 10*mib)
	for i := 6 * mib; i < 7*mib; i++ {
		img[i] = byte(i) | 1
	}
	t.Run("a write error names the place", func(t *testing.T) {
		r := &recorder{failAt: 6*mib + 5}
		path := blank(t, 12*mib)
		w := testWrite{open: r.open}
		// The network goes silent, which must not hide the disk's failure.
		f := &file{data: img, hook: func(n int, rw http.ResponseWriter, req *http.Request) bool {
			_, _ = rw.Write(img)
			rw.(http.Flusher).Flush()
			<-req.Context().Done()
			return true
		}}
		_, err := w.run(t, t.Context(), f, path)
		if err == nil || !strings.Contains(err.Error(), "input/output error; "+path+" is left so") {
			t.Errorf("error = %v", err)
		}
		unbootable(t, path, err)
	})
	t.Run("reading back finds what a disk lost", func(t *testing.T) {
		r := &recorder{wrong: true}
		path := blank(t, 12*mib)
		w := testWrite{open: r.open, with: map[string]any{"verify": true}}
		_, err := w.run(t, t.Context(), &file{data: img}, path)
		if err == nil || !strings.Contains(err.Error(), "are not what was written") {
			t.Errorf("error = %v", err)
		}
		unbootable(t, path, err)
	})
	t.Run("a failing first block is cleared again", func(t *testing.T) {
		r := &recorder{failAt: 5}
		path := blank(t, 12*mib)
		w := testWrite{open: r.open}
		_, err := w.run(t, t.Context(), &file{data: img}, path)
		if err == nil {
			t.Error("no error")
		}
		unbootable(t, path, err)
	})
}

func TestWrite_FailureBeforeASecondStartTellsTheTruth(t *testing.T) {
	img := sample(13, 6*mib)
	f := &file{data: img, hook: func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch n {
		case 1:
			http.ServeContent(&cutter{w, 5 * mib}, r, "", time.Time{}, bytes.NewReader(img))
			panic(http.ErrAbortHandler)
		case 2:
			w.Header().Set("Etag", `"v2"`)
			return false
		}
		w.WriteHeader(http.StatusNotFound)
		return true
	}}
	path := blank(t, 8*mib)
	w := testWrite{}
	_, err := w.run(t, t.Context(), f, path)
	if err == nil || !strings.Contains(err.Error(), "404") || strings.Contains(err.Error(), "not been touched") {
		t.Errorf("error = %v", err)
	}
	unbootable(t, path, err)
}

func TestWrite_Cancelled(t *testing.T) {
	img := sample(11, 6*mib)
	ctx, cancel := context.WithCancelCause(t.Context())
	f := &file{data: img, hook: func(_ int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(img)))
		_, _ = w.Write(img[:5*mib])
		w.(http.Flusher).Flush()
		cancel(errors.New("cancelled by a person"))
		<-r.Context().Done()
		return true
	}}
	path := blank(t, 8*mib)
	w := testWrite{}
	if _, err := w.run(t, ctx, f, path); err == nil || !strings.Contains(err.Error(), "cancelled by a person") {
		t.Errorf("error = %v", err)
	}
}

// gptImage makes an image with a GPT and one partition that fills it.
func gptImage(t testing.TB, blockSize, size int) []byte {
	t.Helper()
	img := sample(12, size)
	clear(img[:headSize])
	clear(img[size-headSize:])
	g, err := partition.NewGPT(partition.RandomGUID([16]byte{1}), blockSize, uint64(size/blockSize))
	if err != nil {
		t.Fatal(err)
	}
	unit := uint64(mib / blockSize)
	if err := g.Set(partition.Partition{Number: 2, Type: partition.TypeLinux, ID: partition.RandomGUID([16]byte{2}), Start: unit, Blocks: uint64(size/blockSize) - 2*unit}); err != nil {
		t.Fatal(err)
	}
	partition.PutProtective(img, uint64(size/blockSize))
	h, e := g.Primary()
	copy(img[blockSize:], h)
	copy(img[2*blockSize:], e)
	b, lba := g.Backup()
	copy(img[int(lba)*blockSize:], b)
	return img
}

func TestWrite_GPT(t *testing.T) {
	img := gptImage(t, 512, 6*mib)
	read := func(path string) *partition.GPT {
		t.Helper()
		b := contents(t, path)
		blocks := uint64(len(b) / 512)
		primary, err := partition.ReadGPT(bytes.NewReader(b), 512, 1, blocks)
		if err != nil {
			t.Fatal(err)
		}
		backup, err := partition.ReadGPT(bytes.NewReader(b), 512, blocks-1, blocks)
		if err != nil {
			t.Fatalf("the backup copy isn't at the end of the disk: %v", err)
		}
		if !bytes.Equal(primary.Entries, backup.Entries) || primary.AlternateLBA != blocks-1 || primary.LastUsable != blocks-34 {
			t.Errorf("primary = %+v\nbackup = %+v", primary, backup)
		}
		return primary
	}
	t.Run("the backup copy moves to the end of a larger disk", func(t *testing.T) {
		path := blank(t, 20*mib)
		w := testWrite{}
		if _, err := w.run(t, t.Context(), &file{data: img}, path); err != nil {
			t.Fatal(err)
		}
		if p := read(path).Partitions(); len(p) != 1 || p[0].Blocks != 4*mib/512 {
			t.Errorf("partitions = %+v", p)
		}
		if got := contents(t, path); !bytes.Equal(got[mib:6*mib], img[mib:]) {
			t.Error("the rest of the image differs")
		}
	})
	t.Run("the last partition grows when that is asked for", func(t *testing.T) {
		path := blank(t, 20*mib)
		w := testWrite{with: map[string]any{"grow": true}}
		if _, err := w.run(t, t.Context(), &file{data: img}, path); err != nil {
			t.Fatal(err)
		}
		if p := read(path).Partitions(); len(p) != 1 || p[0].Blocks != 18*mib/512 {
			t.Errorf("partitions = %+v", p)
		}
	})
	t.Run("a disk of the same size gets the image byte for byte", func(t *testing.T) {
		path := blank(t, 6*mib)
		w := testWrite{}
		if _, err := w.run(t, t.Context(), &file{data: img}, path); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(contents(t, path), img) {
			t.Error("the disk differs")
		}
	})
	t.Run("partitions beyond the disk are found before anything is written", func(t *testing.T) {
		path := blank(t, 4*mib)
		w := testWrite{}
		_, err := w.run(t, t.Context(), &file{data: compress(t, "zstd", img)}, path)
		if err == nil || !strings.Contains(err.Error(), "partition 2 ends at block") || !strings.Contains(err.Error(), "has not been touched") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("blocks of another size are found before anything is written", func(t *testing.T) {
		w := testWrite{}
		_, err := w.run(t, t.Context(), &file{data: gptImage(t, 4096, 6*mib)}, blank(t, 20*mib))
		if err == nil || !strings.Contains(err.Error(), "blocks of 4096 bytes, this disk has blocks of 512") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("an MBR's last partition grows", func(t *testing.T) {
		mbr := bytes.Clone(img)
		clear(mbr[:mib])
		parts := []partition.Partition{{Number: 1, MBRType: 0x83, Start: 2048, Blocks: 4096, Bootable: true}}
		if err := partition.AppendMBR(mbr, 7, parts); err != nil {
			t.Fatal(err)
		}
		path := blank(t, 20*mib)
		w := testWrite{with: map[string]any{"grow": true}}
		if _, err := w.run(t, t.Context(), &file{data: mbr}, path); err != nil {
			t.Fatal(err)
		}
		m, err := partition.ReadMBR(bytes.NewReader(contents(t, path)), 512)
		if err != nil || len(m.Partitions()) != 1 || m.Partitions()[0].Blocks != 19*2048 || !m.Partitions()[0].Bootable {
			t.Errorf("table = %+v, %v", m, err)
		}
	})
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

func TestWrite_MemoryIsBounded(t *testing.T) {
	const size = 160 * mib
	piece := compress(t, "zstd", sample(30, 4*mib)) // Frames in a row are one stream.
	var peak uint64
	measure := func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse)
	}
	runtime.GC()
	measure()
	before := peak
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range size / (4 * mib) {
			_, _ = w.Write(piece) // The reader fails if this does.
			measure()
		}
	})
	w := testWrite{buffer: bufferSize, open: func(string) (Device, error) { return nowhere{size}, nil }}
	out, err := w.run(t, t.Context(), h, "/dev/nowhere")
	if err != nil || out["bytes"] != int64(size) {
		t.Fatalf("%v, %v", out, err)
	}
	if used := peak - before; used > 96*mib {
		t.Errorf("writing %d MiB took %d MiB of memory", size/mib, used/mib)
	} else {
		t.Logf("writing %d MiB took %d MiB of memory", size/mib, used/mib)
	}
}
