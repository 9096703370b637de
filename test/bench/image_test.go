package bench

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/bedplate/bedplate/agent/image"
	"github.com/bedplate/bedplate/agent/step"
)

// imageSize is that of the disk image; half of it is zeros, as in a fresh
// operating system image.
const imageSize = 512 << 20

// diskImage makes an image whose data compresses about 2:1.
func diskImage() []byte {
	b := make([]byte, imageSize)
	noise := rand.NewChaCha8([32]byte{1})
	for at := 0; at < len(b); at += 8 << 20 {
		run := b[at : at+4<<20]
		for i := 0; i < len(run); i += 64 {
			_, _ = noise.Read(run[i : i+32]) // Never fails.
			copy(run[i+32:i+64], "the same thirty-two bytes, always")
		}
	}
	return b
}

func packImage(b *testing.B, codec string, data []byte) []byte {
	b.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch codec {
	case "raw":
		return data
	case "gzip":
		w, err = gzip.NewWriterLevel(&out, gzip.DefaultCompression)
	case "zstd":
		w, err = zstd.NewWriter(&out)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

// quiet is a step.Reporter that nobody reads.
type quiet struct{}

func (quiet) Log(string, string)                    {}
func (quiet) Progress(int64, int64, string, string) {}

// BenchmarkImageWrite writes an image to a disk (a file on this machine's
// disk, written around the page cache), and in turn has the usual pipe of
// programs do it: curl | zstd -dc | dd oflag=direct conv=fsync. Reported are
// MB/s of the disk image and how many times as fast as the pipe it is; both
// within one run, so that the machine's own speed cancels out. image.write
// also verifies the digest and skips zeros; the pipe does neither.
func BenchmarkImageWrite(b *testing.B) {
	data := diskImage()
	for codec, unpack := range map[string]string{"raw": "cat", "gzip": "gzip -dc", "zstd": "zstd -dc"} {
		b.Run(codec, func(b *testing.B) {
			packed := packImage(b, codec, data)
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(packed))
			}))
			defer s.Close()
			dir := b.TempDir()
			digest := fmt.Sprintf("sha256:%x", sha256.Sum256(packed))
			w, err := image.New(image.Config{Now: time.Now})
			if err != nil {
				b.Fatal(err)
			}
			var ours, pipe time.Duration
			b.SetBytes(imageSize)
			for b.Loop() {
				disk := emptyDisk(b, filepath.Join(dir, "disk"))
				start := time.Now()
				req := step.Request{With: map[string]any{"url": s.URL, "digest": digest, "disk": disk}, HTTP: http.DefaultClient}
				if _, err := w.Steps()["image.write"].Execute(b.Context(), req, quiet{}); err != nil {
					b.Fatal(err)
				}
				ours += time.Since(start)
				b.StopTimer()
				disk = emptyDisk(b, disk)
				start = time.Now()
				line := fmt.Sprintf("curl -sf %s | %s | dd of=%s bs=4M iflag=fullblock oflag=direct conv=notrunc,fsync status=none", s.URL, unpack, disk)
				if out, err := exec.CommandContext(b.Context(), "bash", "-o", "pipefail", "-c", line).CombinedOutput(); err != nil {
					b.Skipf("SKIPPED: the pipe to compare with can't run: %v\n%s", err, out)
				}
				pipe += time.Since(start)
				b.StartTimer()
			}
			b.ReportMetric(pipe.Seconds()/ours.Seconds(), "x-pipe")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// emptyDisk makes a file that stands for a blank disk.
func emptyDisk(b *testing.B, path string) string {
	b.Helper()
	_ = os.Remove(path) // It may not be there yet.
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(imageSize)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	return path
}
