package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/bedplate/bedplate/images/catalog"
	"github.com/bedplate/bedplate/images/checksum"
	"github.com/bedplate/bedplate/images/signature"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// site is a publisher: files by path, and a key that signs.
type site struct {
	*httptest.Server
	files map[string][]byte
	key   *openpgp.Entity
	// cut breaks each transfer off after so many bytes; 0: never.
	cut int
	// asked are the Range headers that came, by path.
	asked []string
	hook  func(w http.ResponseWriter, r *http.Request) bool
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{files: map[string][]byte{}, key: newKey(t, 0)}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	s.files["/key.asc"] = publicKey(t, s.key)
	return s
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	if s.hook != nil && s.hook(w, r) {
		return
	}
	data, ok := s.files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	sum := sha256.Sum256(data)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:4])+`"`)
	if strings.HasSuffix(r.URL.Path, ".raw") {
		s.asked = append(s.asked, r.Header.Get("Range"))
	}
	if s.cut > 0 && strings.HasSuffix(r.URL.Path, ".raw") {
		w = &cutting{ResponseWriter: w, left: s.cut}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// cutting breaks the connection.
type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func newKey(t *testing.T, days uint32) *openpgp.Entity {
	t.Helper()
	made := now.AddDate(-1, 0, 0)
	e, err := openpgp.NewEntity("Site", "", "site@example", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: days * 86400, Time: func() time.Time { return made }})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func publicKey(t *testing.T, e *openpgp.Entity) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := e.Serialize(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func fingerprint(e *openpgp.Entity) string {
	return strings.ToUpper(hex.EncodeToString(e.PrimaryKey.Fingerprint))
}

func detached(t *testing.T, e *openpgp.Entity, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	at := now.AddDate(-1, 0, 1)
	if err := openpgp.ArmoredDetachSign(&out, e, bytes.NewReader(content), &packet.Config{Time: func() time.Time { return at }}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func cleartext(t *testing.T, e *openpgp.Entity, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, e.PrivateKey, &packet.Config{Time: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// sums256 is the list of checksums of a disk.
func sums256(disk []byte) []byte { return fmt.Appendf(nil, "%x  disk.raw\n", sha256.Sum256(disk)) }

// publish puts version 1.0 on the site in one of the layouts there are, and returns its entry.
func (s *site) publish(t *testing.T, layout string, disk []byte) *catalog.Entry {
	t.Helper()
	s.files["/index"] = []byte("v1.0 v1.1 v0.9")
	s.files["/1.0/disk.raw"] = disk
	e := &catalog.Entry{
		Name: "os", Kind: "disk", Architectures: map[string]string{"x86_64": "amd64"}, Channels: []string{"stable"},
		Versions: catalog.Versions{Kind: "pattern", URL: s.URL + "/index", Pattern: "v([0-9.]+)"},
		Keys:     []catalog.Key{{Fingerprint: fingerprint(s.key), URL: s.URL + "/key.asc"}},
	}
	f := catalog.File{Role: "disk", URL: s.URL + "/{version}/disk.raw"}
	sig := s.URL + "/{version}/{file}.sig"
	switch layout {
	case "signed file":
		f.Signature = &catalog.Signature{Kind: "gpg", Of: "file", URL: sig}
		s.files["/1.0/disk.raw.sig"] = detached(t, s.key, disk)
	case "signed list":
		f.Checksums, f.Signature = s.URL+"/{version}/SUMS", &catalog.Signature{Kind: "gpg", Of: "checksums", URL: sig}
		s.files["/1.0/SUMS"] = sums256(disk)
		s.files["/1.0/disk.raw.sig"] = detached(t, s.key, s.files["/1.0/SUMS"])
	case "cleartext list":
		f.Checksums, f.Signature = s.URL+"/{version}/SUMS", &catalog.Signature{Kind: "gpg", Of: "checksums"}
		s.files["/1.0/SUMS"] = cleartext(t, s.key, sums256(disk))
	case "unsigned list":
		f.Checksums = s.URL + "/{version}/SUMS"
		s.files["/1.0/SUMS"] = fmt.Appendf(nil, "SHA512 (disk.raw) = %x\n", sha512.Sum512(disk))
	}
	e.Files = []catalog.File{f}
	return e
}

func (s *site) fetcher(t *testing.T) *Fetcher {
	t.Helper()
	src, err := NewSite("", s.Client().Transport)
	if err != nil {
		t.Fatal(err)
	}
	return &Fetcher{Source: src, Dir: filepath.Join(t.TempDir(), "cache"), Now: func() time.Time { return now }}
}

func fetch(t *testing.T, f *Fetcher, e *catalog.Entry, version string) ([]File, error) {
	t.Helper()
	r, err := e.Release("stable", version, "")
	if err != nil {
		t.Fatal(err)
	}
	return f.Release(t.Context(), r)
}

var layouts = []string{"signed file", "signed list", "cleartext list", "unsigned list"}

func TestRelease(t *testing.T) {
	disk := bytes.Repeat([]byte("disk"), 1<<16)
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			s := newSite(t)
			e := s.publish(t, layout, disk)
			f := s.fetcher(t)
			files, err := fetch(t, f, e, "1.0")
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(files[0].Path)
			if err != nil || !bytes.Equal(got, disk) {
				t.Fatalf("%d bytes came, %v", len(got), err)
			}
			if want := fmt.Sprintf("sha256:%x", sha256.Sum256(disk)); files[0].Digest != want || files[0].Size != int64(len(disk)) {
				t.Errorf("it is %s of %d bytes, want %s", files[0].Digest, files[0].Size, want)
			}
			signed := layout != "unsigned list"
			if by := files[0].Proof.SignedBy; signed && by != fingerprint(s.key) || !signed && by != "" {
				t.Errorf("signed by %q", by)
			}
			if err := f.Forget(files); err != nil {
				t.Error(err)
			}
			if left, _ := os.ReadDir(f.Dir); len(left) > 0 {
				t.Errorf("%d files are left over", len(left))
			}
		})
	}
}

func TestRelease_Lies(t *testing.T) {
	disk, evil := bytes.Repeat([]byte("disk"), 1<<16), bytes.Repeat([]byte("evil"), 1<<16)
	other := newKey(t, 0)
	for _, tc := range []struct {
		name, layout string
		lie          func(s *site, e *catalog.Entry, f *Fetcher)
		want         error
	}{
		{"another file under the signature", "signed file", func(s *site, _ *catalog.Entry, _ *Fetcher) { s.files["/1.0/disk.raw"] = evil }, signature.ErrSignature},
		{"another file than is listed", "signed list", func(s *site, _ *catalog.Entry, _ *Fetcher) { s.files["/1.0/disk.raw"] = evil }, ErrDigest},
		{"another file, beside an unsigned list", "unsigned list", func(s *site, _ *catalog.Entry, _ *Fetcher) { s.files["/1.0/disk.raw"] = evil }, ErrDigest},
		{"file and list exchanged", "signed list", func(s *site, _ *catalog.Entry, _ *Fetcher) {
			s.files["/1.0/disk.raw"], s.files["/1.0/SUMS"] = evil, sums256(evil)
		}, signature.ErrSignature},
		{"all of it exchanged, signed by another key", "signed list", func(s *site, _ *catalog.Entry, _ *Fetcher) {
			s.files["/1.0/disk.raw"], s.files["/1.0/SUMS"] = evil, sums256(evil)
			s.files["/1.0/disk.raw.sig"] = detached(t, other, sums256(evil))
		}, signature.ErrSignature},
		{"the key exchanged as well", "signed list", func(s *site, _ *catalog.Entry, _ *Fetcher) {
			s.files["/1.0/disk.raw"], s.files["/1.0/SUMS"] = evil, sums256(evil)
			s.files["/1.0/disk.raw.sig"] = detached(t, other, sums256(evil))
			s.files["/key.asc"] = publicKey(t, other)
		}, signature.ErrKey},
		{"a list without its signature", "cleartext list", func(s *site, _ *catalog.Entry, _ *Fetcher) { s.files["/1.0/SUMS"] = sums256(evil) }, signature.ErrSignature},
		{"a line before the signed list", "cleartext list", func(s *site, _ *catalog.Entry, _ *Fetcher) {
			s.files["/1.0/disk.raw"] = evil
			s.files["/1.0/SUMS"] = append(sums256(evil), s.files["/1.0/SUMS"]...)
		}, ErrDigest},
		{"a key that has expired", "signed list", func(s *site, e *catalog.Entry, _ *Fetcher) {
			old := newKey(t, 30)
			e.Keys[0].Fingerprint = fingerprint(old)
			s.files["/key.asc"] = publicKey(t, old)
			s.files["/1.0/disk.raw.sig"] = detached(t, old, s.files["/1.0/SUMS"])
		}, signature.ErrExpired},
		{"a list that lags behind", "signed list", func(s *site, _ *catalog.Entry, _ *Fetcher) {
			list := []byte(strings.Repeat("0", 64) + "  older.raw\n")
			s.files["/1.0/SUMS"], s.files["/1.0/disk.raw.sig"] = list, detached(t, s.key, list)
		}, checksum.ErrNotListed},
		{"a file cut short", "signed list", func(s *site, _ *catalog.Entry, _ *Fetcher) { s.files["/1.0/disk.raw"] = disk[:1000] }, ErrDigest},
		{"a file without an end", "signed list", func(s *site, _ *catalog.Entry, f *Fetcher) {
			f.Most = 1 << 20
			s.hook = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/1.0/disk.raw" {
					return false
				}
				for r.Context().Err() == nil {
					if _, err := w.Write(disk); err != nil {
						return true
					}
				}
				return true
			}
		}, errTooLong},
		{"a list without an end", "unsigned list", func(s *site, _ *catalog.Entry, _ *Fetcher) {
			s.files["/1.0/SUMS"] = bytes.Repeat([]byte("x"), checksum.MaxList+1)
		}, nil},
		{"a redirect to plain http", "signed list", func(s *site, _ *catalog.Entry, _ *Fetcher) {
			s.hook = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/1.0/disk.raw" {
					http.Redirect(w, r, "http://mirror.example/disk.raw", http.StatusFound)
				}
				return r.URL.Path == "/1.0/disk.raw"
			}
		}, ErrInsecure},
		{"another digest than the person's", "signed list", func(_ *site, _ *catalog.Entry, f *Fetcher) {
			f.Digest = "sha256:" + strings.Repeat("0", 64)
		}, ErrDigest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			e := s.publish(t, tc.layout, disk)
			f := s.fetcher(t)
			tc.lie(s, e, f)
			files, err := fetch(t, f, e, "1.0")
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Fatalf("got %v, error %v; want %v", files, err, tc.want)
			}
			left, _ := filepath.Glob(filepath.Join(f.Dir, "*.raw"))
			for _, name := range left {
				t.Errorf("%s is kept, to go on with a lie", name)
			}
		})
	}
}

func TestRelease_Resume(t *testing.T) {
	disk := bytes.Repeat([]byte("0123456789"), 100_000)
	s := newSite(t)
	e := s.publish(t, "signed list", disk)
	s.cut = 300_000
	f := s.fetcher(t)
	if _, err := fetch(t, f, e, "1.0"); err != nil {
		t.Fatal(err)
	}
	if len(s.asked) != 4 || s.asked[0] != "" || s.asked[3] != "bytes=900000-" {
		t.Errorf("asked for %q; want the rest of it each time", s.asked)
	}
	t.Run("what has come whole isn't fetched again", func(t *testing.T) {
		s.asked, s.cut = nil, 0
		if _, err := fetch(t, f, e, "1.0"); err != nil {
			t.Fatal(err)
		}
		if len(s.asked) != 1 || s.asked[0] != "bytes=1000000-" {
			t.Errorf("asked for %q", s.asked)
		}
	})
	t.Run("a file that has changed meanwhile is fetched from its beginning", func(t *testing.T) {
		changed := bytes.Repeat([]byte("abcdefghij"), 100_000)
		e = s.publish(t, "signed list", changed)
		files, err := fetch(t, f, e, "1.0")
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(files[0].Path); !bytes.Equal(got, changed) {
			t.Error("it is mixed from both")
		}
	})
}

func TestRelease_NotThere(t *testing.T) {
	s := newSite(t)
	e := s.publish(t, "signed list", []byte("disk"))
	_, err := fetch(t, s.fetcher(t), e, "1.2")
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "there are 1.1, 1.0, 0.9 in stable") {
		t.Errorf("error %v: it should name versions like it", err)
	}
}

func TestVersions(t *testing.T) {
	s := newSite(t)
	e := s.publish(t, "signed list", []byte("disk"))
	got, err := s.fetcher(t).Versions(t.Context(), e, "stable", "")
	if err != nil || strings.Join(got, " ") != "1.1 1.0 0.9" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestMirror(t *testing.T) {
	s := newSite(t)
	e := s.publish(t, "signed list", []byte("disk"))
	plain := httptest.NewServer(http.StripPrefix("/copies", http.HandlerFunc(s.serve)))
	defer plain.Close()
	src, err := NewSite(plain.URL+"/copies/", nil)
	if err != nil {
		t.Fatal(err)
	}
	f := s.fetcher(t)
	f.Source = src
	s.Server.Close() // nothing may come from the publisher
	if _, err := fetch(t, f, e, "1.0"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"ftp://x", "mirror", "https://x?y=1"} {
		if _, err := NewSite(bad, nil); err == nil {
			t.Errorf("the mirror %q is taken", bad)
		}
	}
}

func TestFolder(t *testing.T) {
	s := newSite(t)
	e := s.publish(t, "signed list", []byte("disk"))
	dir := t.TempDir()
	for name, data := range s.files {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := s.fetcher(t)
	f.Source = Folder{Dir: dir}
	s.Server.Close()
	files, err := fetch(t, f, e, "1.0")
	if err != nil || files[0].Path != filepath.Join(dir, "disk.raw") {
		t.Fatalf("got %+v, %v", files, err)
	}
	if err := f.Forget(files); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "disk.raw")); err != nil {
		t.Errorf("the person's own file is gone: %v", err)
	}
	t.Run("a link out of the folder isn't followed", func(t *testing.T) {
		if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link.raw")); err != nil {
			t.Fatal(err)
		}
		if _, err := (Folder{Dir: dir}).Open(context.Background(), "https://x/link.raw", 0, ""); err == nil {
			t.Error("it is")
		}
	})
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-9/*")
	f.Fuzz(func(t *testing.T, s string) {
		if first, size, err := contentRange(s); err == nil && (first < 0 || size < -1) {
			t.Errorf("%q: %d of %d", s, first, size)
		}
	})
}
