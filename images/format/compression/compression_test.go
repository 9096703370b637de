package compression

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	uxz "github.com/ulikunitz/xz"
)

// content is half noise and half zeros, so that every codec has several blocks.
func content(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range n / 2 {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func compress(t testing.TB, kind Kind, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch kind {
	case None:
		return bytes.Clone(data)
	case Gzip:
		w = gzip.NewWriter(&b)
	case Bzip2:
		w, err = bzip2.NewWriter(&b, nil)
	case XZ:
		w, err = uxz.NewWriter(&b)
	case Zstd:
		w, err = zstd.NewWriter(&b)
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

var kinds = []Kind{Gzip, Bzip2, XZ, Zstd}

func decode(kind Kind, b []byte) ([]byte, error) {
	r, err := NewReader(kind, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, 64<<20))
}

func TestReader(t *testing.T) {
	data := content(300_000)
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			packed := compress(t, kind, data)
			if got := Detect(packed[:PeekSize]); got != kind {
				t.Errorf("Detect = %s", got)
			}
			got, err := decode(kind, packed)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes, %v; want what went in", len(got), err)
			}
			got, err = decode(kind, append(bytes.Clone(packed), packed...))
			if err != nil || len(got) != 2*len(data) {
				t.Errorf("two streams in a row: %d bytes, %v", len(got), err)
			}
			for _, cut := range []int{0, 1, 5, 11, 30, len(packed) / 2, len(packed) - 9, len(packed) - 1} {
				if _, err := decode(kind, packed[:cut]); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("cut at %d of %d: %v, want an early end", cut, len(packed), err)
				}
			}
			if _, err := decode(kind, append(bytes.Clone(packed), "garbage at the end"...)); err == nil {
				t.Error("garbage after the end went unnoticed")
			}
			for at := 20; at < len(packed); at += len(packed) / 7 {
				broken := bytes.Clone(packed)
				broken[at] ^= 0x10
				if got, err := decode(kind, broken); err == nil && !bytes.Equal(got, data) {
					t.Errorf("wrong content from a byte changed at %d went unnoticed", at)
				}
			}
		})
	}
}

func TestReader_ForeignTools(t *testing.T) {
	data := content(2_000_000)
	for kind, tool := range map[Kind][]string{
		Gzip: {"gzip", "-9"}, Bzip2: {"bzip2"}, XZ: {"xz", "-T2", "--block-size=300KiB", "-6"}, Zstd: {"zstd", "-19", "-q"},
	} {
		path, err := exec.LookPath(tool[0])
		if err != nil {
			t.Logf("SKIPPED: no %s to make a file with", tool[0])
			continue
		}
		cmd := exec.Command(path, append(tool[1:], "-c")...)
		cmd.Stdin = bytes.NewReader(data)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(kind, packed); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: got %d bytes, %v", tool[0], len(got), err)
		}
	}
}

func TestReader_WindowIsBounded(t *testing.T) {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(256<<20), zstd.WithSingleSegment(false))
	if err == nil {
		_, err = io.CopyN(w, zeros{}, 300<<20)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(Zstd, b.Bytes()); err == nil || !strings.Contains(err.Error(), "more than 128 MiB") {
		t.Errorf("a window of 256 MiB: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestDetect_None(t *testing.T) {
	for _, s := range []string{"", "BZ", "BZh9 is no magic!!", "\x55\xaa", strings.Repeat("\x00", 18)} {
		if got := Detect([]byte(s)); got != None {
			t.Errorf("Detect(%q) = %s", s, got)
		}
	}
}

func FuzzReader(f *testing.F) {
	for i, kind := range kinds {
		f.Add(uint8(i), compress(f, kind, []byte("a little content, a little content")))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		kind := kinds[int(which)%len(kinds)]
		r, err := NewReader(kind, bytes.NewReader(data))
		if err != nil {
			return
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(r, 16<<20))
		_ = fmt.Sprint(n, err)
	})
}
