package source

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/bedplate/bedplate/images/catalog"
	"github.com/bedplate/bedplate/images/signature"
)

// bundled fetches a release, and returns the bundle's file and the entry. The site is gone then.
func bundled(t *testing.T, layout string, disk []byte) (string, *catalog.Entry, *Fetcher) {
	t.Helper()
	s := newSite(t)
	e := s.publish(t, layout, disk)
	f := s.fetcher(t)
	r, err := e.Release("stable", "1.0", "")
	if err != nil {
		t.Fatal(err)
	}
	files, err := f.Release(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := WriteBundle(&out, r, files, now); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "os.tar")
	if err := os.WriteFile(name, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Server.Close()
	return name, e, s.fetcher(t)
}

func fromBundle(t *testing.T, name string, e *catalog.Entry, f *Fetcher) ([]File, error) {
	t.Helper()
	b, err := OpenBundle(name)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	f.Source = b
	if b.Entry != "os" || b.Channel != "stable" || b.Version != "1.0" {
		t.Errorf("it says that it is %+v", b.Bundled)
	}
	return fetch(t, f, e, b.Version)
}

func TestBundle(t *testing.T) {
	disk := bytes.Repeat([]byte("disk"), 1<<16)
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			name, e, f := bundled(t, layout, disk)
			files, err := fromBundle(t, name, e, f)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(files[0].Path); err != nil || !bytes.Equal(got, disk) {
				t.Errorf("%d bytes came, %v", len(got), err)
			}
			if signed := layout != "unsigned list"; signed != (files[0].Proof.SignedBy != "") {
				t.Errorf("signed by %q", files[0].Proof.SignedBy)
			}
		})
	}
	t.Run("a bundle of another's making is no better than another's site", func(t *testing.T) {
		name, e, f := bundled(t, "signed list", []byte("evil"))
		e.Keys[0].Fingerprint = fingerprint(newKey(t, 0)) // the key that we trust isn't theirs
		if _, err := fromBundle(t, name, e, f); !errors.Is(err, signature.ErrKey) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("damage is found", func(t *testing.T) {
		name, e, f := bundled(t, "unsigned list", disk)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(data, []byte("diskdisk"))
		data[at] ^= 1
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := fromBundle(t, name, e, f); !errors.Is(err, ErrDigest) {
			t.Errorf("a flipped bit: %v", err)
		}
		for _, cut := range []int{0, 1, 600, len(data) / 2, len(data) - 2000} {
			if err := os.WriteFile(name, data[:cut], 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := fromBundle(t, name, e, f); err == nil {
				t.Errorf("cut after %d of %d bytes: it is taken", cut, len(data))
			}
		}
	})
}

func FuzzOpenBundle(f *testing.F) {
	var out bytes.Buffer
	if err := WriteBundle(&out, &catalog.Release{Entry: &catalog.Entry{Name: "os"}, Version: "1"}, nil, now); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Add(out.Bytes()[:700])
	name := filepath.Join(f.TempDir(), "b.tar")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := OpenBundle(name)
		if err == nil {
			_ = b.Close()
		} else if !errors.Is(err, ErrBundle) {
			t.Error(err)
		}
	})
}
