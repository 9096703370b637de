package chunk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// content returns n bytes: of noise, or such as compress well.
func content(n int, noise bool) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i >> 6)
		if noise {
			b[i] = byte(r.Uint32())
		}
	}
	return b
}

func coders(t testing.TB) (*Encoder, *Decoder) {
	t.Helper()
	enc, err := NewEncoder(1)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := NewDecoder(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dec.Close)
	return enc, dec
}

func TestChunk(t *testing.T) {
	enc, dec := coders(t)
	for name, plain := range map[string][]byte{
		"whole, compressible": content(Size, false), "whole, noise": content(Size, true),
		"short": content(4096, false), "a byte": {1},
	} {
		t.Run(name, func(t *testing.T) {
			stored := enc.Encode([]byte("before"), plain)
			stored = stored[len("before"):]
			if len(stored) > len(plain) {
				t.Errorf("stored it has %d bytes, plain %d", len(stored), len(plain))
			}
			got := make([]byte, len(plain))
			if err := dec.Decode(got, stored, Sum(plain)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, plain) {
				t.Error("it came back as something else")
			}
		})
	}
}

func TestDecode_lies(t *testing.T) {
	enc, dec := coders(t)
	plain := content(Size, false)
	stored := enc.Encode(nil, plain)
	bomb := enc.Encode(nil, make([]byte, 4*Size))
	for name, lie := range map[string][]byte{
		"another chunk":      enc.Encode(nil, content(Size, true)),
		"nothing":            nil,
		"cut short":          stored[:len(stored)-1],
		"with more behind":   append(slices.Clone(stored), 0),
		"a shorter chunk":    enc.Encode(nil, plain[:Size-1]),
		"longer than it is":  make([]byte, Size+1),
		"what expands to 4×": bomb,
		"no zstd":            []byte("no zstd"),
	} {
		t.Run(name, func(t *testing.T) {
			if err := dec.Decode(make([]byte, Size), lie, Sum(plain)); !errors.Is(err, ErrDigest) {
				t.Errorf("got %v, want ErrDigest", err)
			}
		})
	}
}

func index() *Index {
	return &Index{Size: 3*Size + 512, Entries: []Entry{{0, 100, Sum([]byte("a"))}, {2, Size, Sum([]byte("b"))}, {3, 512, Sum([]byte("c"))}}}
}

func TestIndex(t *testing.T) {
	x := index()
	b := x.Encode()
	got, err := ReadIndex(bytes.NewReader(b), Sum(b))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(x, got); d != "" {
		t.Error(d)
	}
	if got, want := x.DataSize(), int64(2*Size+512); got != want {
		t.Errorf("%d bytes of data, want %d", got, want)
	}
	if got, want := x.StoredSize(), int64(100+Size+512); got != want {
		t.Errorf("%d bytes stored, want %d", got, want)
	}
	if _, err := ReadIndex(bytes.NewReader(b), Sum(nil)); !errors.Is(err, ErrDigest) {
		t.Errorf("another index: %v", err)
	}
}

func TestDecode_bad(t *testing.T) {
	for name, change := range map[string]func(*Index){
		"no image":                func(x *Index) { x.Size = 0 },
		"an image beyond bounds":  func(x *Index) { x.Size = MaxImage + 1 },
		"two chunks in one place": func(x *Index) { x.Entries[1].Place = 0 },
		"chunks out of order":     func(x *Index) { x.Entries[0].Place = 3 },
		"behind the image":        func(x *Index) { x.Entries[2].Place = 4 },
		"nothing stored":          func(x *Index) { x.Entries[0].Stored = 0 },
		"more stored than plain":  func(x *Index) { x.Entries[2].Stored = 513 },
	} {
		t.Run(name, func(t *testing.T) {
			x := index()
			change(x)
			if _, err := Decode(x.Encode()); !errors.Is(err, ErrIndex) {
				t.Errorf("got %v, want ErrIndex", err)
			}
		})
	}
	b := index().Encode()
	for name, b := range map[string][]byte{"empty": nil, "cut short": b[:len(b)-1], "with more behind": append(slices.Clone(b), 0), "another file": bytes.Repeat([]byte{'x'}, 200)} {
		t.Run(name, func(t *testing.T) {
			if _, err := Decode(b); !errors.Is(err, ErrIndex) {
				t.Errorf("got %v, want ErrIndex", err)
			}
		})
	}
}

func TestParseDigest(t *testing.T) {
	want := Sum([]byte("x"))
	if got, err := ParseDigest(want.String()); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	for _, s := range []string{"", "sha256:", want.String()[:70], want.String() + "0", "SHA256" + want.String()[6:], "sha256:" + string(bytes.Repeat([]byte{'G'}, 64))} {
		if _, err := ParseDigest(s); err == nil {
			t.Errorf("%q is taken for a digest", s)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(index().Encode())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := Decode(b); err == nil && !bytes.Equal(x.Encode(), b) {
			t.Error("there are two encodings of one index")
		}
	})
}

func FuzzChunk(f *testing.F) {
	enc, dec := coders(f)
	f.Add(enc.Encode(nil, content(4096, false)))
	f.Add(content(4096, true))
	f.Fuzz(func(t *testing.T, stored []byte) {
		plain := make([]byte, 4096)
		if dec.Decode(plain, stored, Sum(content(4096, false))) == nil && !bytes.Equal(plain, content(4096, false)) {
			t.Error("it was taken for something else")
		}
	})
}
