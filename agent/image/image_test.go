package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

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
