package content

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := s.PutBytes(t.Context(), []byte("chart"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(digest); string(got) != "chart" || err != nil || digest != Digest([]byte("chart")) {
		t.Errorf("it returns %q, %v", got, err)
	}
	if _, err := s.Get(Digest([]byte("other"))); !errors.Is(err, ErrMissing) {
		t.Errorf("what was never stored: %v", err)
	}
	for _, bad := range []string{"", "sha256:..", "sha256:../../etc/passwd", strings.Repeat("a", 64)} {
		if _, err := s.Get(bad); err == nil {
			t.Errorf("%q is taken for a digest", bad)
		}
	}
	if err := os.WriteFile(s.path(digest), []byte("chort"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(digest); err == nil || !strings.Contains(err.Error(), "the file on disk is") {
		t.Errorf("a file that was changed: %v", err)
	}
	broken := errors.New("cut")
	if _, _, err := s.Put(t.Context(), func() ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("an upload that is cut: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) > 0 {
		t.Errorf("it leaves %v", left)
	}
}

func TestPack(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"Chart.yaml": "name: a", "templates/a.yaml": "kind: A", ".git/config": "secret"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, err := Pack(dir)
	if err != nil {
		t.Fatal(err)
	}
	if second, _ := Pack(dir); !bytes.Equal(first, second) {
		t.Error("the same files make other bytes")
	}
	got, err := Unpack(first)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Files{"Chart.yaml": []byte("name: a"), "templates/a.yaml": []byte("kind: A")}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if _, err := Pack(dir); err == nil {
		t.Error("a link out of the directory is followed")
	}
}

// archive makes an archive of one entry.
func archive(t testing.TB, h tar.Header, body string) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	h.Size = int64(len(body))
	if err := errors.Join(w.WriteHeader(&h)); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(body))
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestUnpack_Bad(t *testing.T) {
	for name, data := range map[string][]byte{
		"a name that leads out":  archive(t, tar.Header{Name: "../x", Mode: 0o600, Typeflag: tar.TypeReg}, "x"),
		"an absolute name":       archive(t, tar.Header{Name: "/etc/x", Mode: 0o600, Typeflag: tar.TypeReg}, "x"),
		"a link":                 archive(t, tar.Header{Name: "x", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}, ""),
		"no archive":             []byte("kind: ConfigMap"),
		"an archive that is cut": archive(t, tar.Header{Name: "x", Mode: 0o600, Typeflag: tar.TypeReg}, strings.Repeat("x", 4096))[:40],
	} {
		if files, err := Unpack(data); err == nil {
			t.Errorf("%s is read as %v", name, files)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, tar.Header{Name: "a/b", Mode: 0o600, Typeflag: tar.TypeReg}, "x"))
	f.Add(archive(f, tar.Header{Name: "../b", Mode: 0o600, Typeflag: tar.TypeReg}, "x"))
	f.Add([]byte{0x1f, 0x8b, 8})
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := Unpack(data)
		for name := range files {
			if err == nil && !filepath.IsLocal(name) {
				t.Errorf("%q leads out", name)
			}
		}
	})
}
