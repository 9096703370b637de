package file

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/step"
)

// volume is a folder that stands for a mounted file system.
func volume(t testing.TB) *Volume {
	t.Helper()
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &Volume{Device: "/dev/test", Kind: "ext4", Dir: dir, Root: dir, root: fd}
}

func mine(mode uint32) attributes {
	return attributes{mode: mode, dirMode: 0o755, uid: os.Getuid(), gid: os.Getgid()}
}

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestVolume_Write(t *testing.T) {
	v := volume(t)
	at := func(name string) string { return filepath.Join(v.Root, name) }
	t.Run("a new file, with its folders", func(t *testing.T) {
		old := unix.Umask(0o077)
		defer unix.Umask(old)
		must(t, v.write("/etc/cloud/cloud.cfg.d/90.cfg", mine(0o640), text("x: y\n")))
		b, err := os.ReadFile(at("etc/cloud/cloud.cfg.d/90.cfg"))
		st, serr := os.Stat(at("etc/cloud/cloud.cfg.d/90.cfg"))
		dir, derr := os.Stat(at("etc/cloud"))
		if err := errors.Join(err, serr, derr); err != nil || string(b) != "x: y\n" || st.Mode() != 0o640 || dir.Mode().Perm() != 0o755 {
			t.Errorf("%q, %v, %v, %v", b, st, dir, err)
		}
	})
	t.Run("a file is replaced as a whole, or not at all", func(t *testing.T) {
		must(t, v.write("etc/hostname", mine(0o644), text("old")))
		broken := errors.New("connection lost")
		if err := v.write("etc/hostname", mine(0o644), func(w io.Writer) error { return errors.Join(text("ne")(w), broken) }); !errors.Is(err, broken) {
			t.Errorf("error = %v", err)
		}
		if b, err := os.ReadFile(at("etc/hostname")); err != nil || string(b) != "old" {
			t.Errorf("after a failure: %q, %v", b, err)
		}
		if _, err := os.Stat(at("etc/" + temporary)); err == nil {
			t.Error("the incomplete file is left behind")
		}
		must(t, os.WriteFile(at("etc/"+temporary), nil, 0o600)) // As an attempt that lost power leaves it.
		must(t, v.write("etc/hostname", mine(0o644), text("new")))
		if b, err := os.ReadFile(at("etc/hostname")); err != nil || string(b) != "new" {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("no link leads out", func(t *testing.T) {
		outside := t.TempDir()
		must(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("safe"), 0o600))
		must(t, os.Symlink(outside, at("away")))
		must(t, os.Symlink("../../../../../../../../../.."+outside, at("up")))
		must(t, os.Symlink(filepath.Join(outside, "victim"), at("direct")))
		for _, name := range []string{"away/victim", "up/victim", "direct", "../../../../../../.." + outside + "/victim"} {
			err := v.write(name, mine(0o644), text("broken into"))
			if b, rerr := os.ReadFile(filepath.Join(outside, "victim")); rerr != nil || string(b) != "safe" {
				t.Fatalf("writing %s got out: %v, %v", name, err, rerr)
			}
		}
		if st, err := os.Lstat(at("direct")); err != nil || !st.Mode().IsRegular() {
			t.Errorf("the link wasn't replaced: %v, %v", st, err)
		}
	})
	t.Run("absolute links mean the installed system's own", func(t *testing.T) {
		must(t, os.MkdirAll(at("usr/lib"), 0o755))
		must(t, os.Symlink("/usr/lib", at("lib")))
		must(t, v.write("/lib/modules.conf", mine(0o644), text("m")))
		if _, err := os.Stat(at("usr/lib/modules.conf")); err != nil {
			t.Error(err)
		}
		if !v.Exists("/lib/modules.conf") || v.Exists("/lib/nothing") {
			t.Error("Exists is wrong")
		}
	})
	if err := v.write("/", mine(0o644), text("")); err == nil {
		t.Error("the root became a file")
	}
	if err := v.write("etc/hostname/x", mine(0o644), text("")); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
}

type entry struct {
	tar.Header
	content string
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		e.Uid, e.Gid = os.Getuid(), os.Getgid()
		must(t, w.WriteHeader(&e.Header))
		_, err := io.WriteString(w, e.content)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func unpack(t testing.TB, v *Volume, data []byte) (*unpacker, error) {
	t.Helper()
	u := &unpacker{ctx: t.Context(), v: v, into: "srv"}
	f, err := v.scratch()
	must(t, err)
	defer f.Close()
	_, err = f.Write(data)
	must(t, err)
	_, err = f.Seek(0, io.SeekStart)
	must(t, err)
	return u, u.archive(f, "", false)
}

func TestUnpacker(t *testing.T) {
	then := time.Unix(1_700_000_000, 0)
	good := archive(t,
		entry{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700}},
		entry{Header: tar.Header{Name: "app/", Typeflag: tar.TypeDir, Mode: 0o750, ModTime: then}},
		entry{Header: tar.Header{Name: "app/run", Typeflag: tar.TypeReg, Mode: 0o4755, ModTime: then}, content: "#!/bin/sh\n"},
		entry{Header: tar.Header{Name: "app/same", Typeflag: tar.TypeLink, Linkname: "app/run"}},
		entry{Header: tar.Header{Name: "app/link", Typeflag: tar.TypeSymlink, Linkname: "/srv/app/run"}},
		entry{Header: tar.Header{Name: "app/pipe", Typeflag: tar.TypeFifo, Mode: 0o622}},
		entry{Header: tar.Header{Name: "deep/er/file", Typeflag: tar.TypeReg, Mode: 0o600}, content: "below"},
	)
	t.Run("everything comes with its attributes, twice", func(t *testing.T) {
		v := volume(t)
		var z bytes.Buffer
		w, err := zstd.NewWriter(&z)
		must(t, err)
		_, err = w.Write(good)
		must(t, errors.Join(err, w.Close()))
		for _, data := range [][]byte{good, z.Bytes()} {
			u, err := unpack(t, v, data)
			if err != nil || u.entries != 7 || u.bytes != 15 {
				t.Fatalf("%d entries, %d bytes, %v", u.entries, u.bytes, err)
			}
		}
		srv := filepath.Join(v.Root, "srv")
		run, err := os.Stat(filepath.Join(srv, "app/run"))
		must(t, err)
		same, err := os.Stat(filepath.Join(srv, "app/same"))
		must(t, err)
		if run.Mode() != 0o755|os.ModeSetuid || !run.ModTime().Equal(then) || !os.SameFile(run, same) {
			t.Errorf("run is %v of %v", run.Mode(), run.ModTime())
		}
		if dir, err := os.Stat(filepath.Join(srv, "app")); err != nil || dir.Mode().Perm() != 0o750 || !dir.ModTime().Equal(then) {
			t.Errorf("app is %v: %v", dir, err)
		}
		if link, err := os.Readlink(filepath.Join(srv, "app/link")); err != nil || link != "/srv/app/run" {
			t.Errorf("link = %q, %v", link, err)
		}
		if pipe, err := os.Stat(filepath.Join(srv, "app/pipe")); err != nil || pipe.Mode() != os.ModeNamedPipe|0o622 {
			t.Errorf("pipe is %v: %v", pipe, err)
		}
	})
	for name, bad := range map[string]struct {
		data []byte
		want string
	}{
		"a name that climbs":      {archive(t, entry{Header: tar.Header{Name: "../../etc/passwd", Typeflag: tar.TypeReg}}), "leads out of the folder"},
		"a link that climbs":      {archive(t, entry{Header: tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}}), "leads out of the folder"},
		"a link to nothing":       {archive(t, entry{Header: tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "y"}}), `linking to "y"`},
		"cut short":               {good[:1800], "reading archive"},
		"no archive":              {[]byte(strings.Repeat("nonsense", 100)), "reading archive"},
		"nothing":                 {nil, "the archive is empty"},
		"a type that isn't known": {archive(t, entry{Header: tar.Header{Name: "x", Typeflag: 'Z'}}), "can't be unpacked"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := unpack(t, volume(t), bad.data); err == nil || !strings.Contains(err.Error(), bad.want) {
				t.Errorf("error = %v, want %q", err, bad.want)
			}
		})
	}
	t.Run("a link on the way stays inside", func(t *testing.T) {
		v, outside := volume(t), t.TempDir()
		_, err := unpack(t, v, archive(t,
			entry{Header: tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}},
			entry{Header: tar.Header{Name: "out/file", Typeflag: tar.TypeReg, Mode: 0o644}, content: "x"}))
		if left, rerr := os.ReadDir(outside); rerr != nil || len(left) != 0 {
			t.Errorf("%d files got out: %v, %v", len(left), err, rerr)
		}
	})
	t.Run("a cancelled step stops", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		u := &unpacker{ctx: ctx, v: volume(t)}
		if err := u.archive(bytes.NewReader(good), "", false); err == nil || err.Error() != "enough" {
			t.Errorf("error = %v", err)
		}
	})
}

type silent struct {
	mu    sync.Mutex
	lines []string
}

func (s *silent) Log(_, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
}
func (*silent) Progress(int64, int64, string, string) {}

func service(t testing.TB) *Service {
	t.Helper()
	s, err := New(Config{LoadModule: func(string) error { return nil }, Folder: t.TempDir(), NodeWait: time.Millisecond, Backoff: time.Millisecond})
	must(t, err)
	return s
}

func TestInputs(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(disk, make([]byte, 8<<20), 0o600))
	steps := service(t).Steps()
	for _, c := range []struct {
		action, want string
		with         map[string]any
	}{
		{"file.write", "with.disk: give either `device`, or `disk` and `partition`", map[string]any{"path": "/x", "content": "y"}},
		{"file.write", "with.partition: goes with `disk`", map[string]any{"device": disk, "partition": "1", "path": "/x", "content": "y"}},
		{"file.write", "with.content: give either `content` or `url`", map[string]any{"disk": disk, "path": "/x"}},
		{"file.write", "with.path: \"/etc/\" names a folder", map[string]any{"disk": disk, "path": "/etc/", "content": ""}},
		{"file.write", "with.mode: \"0999\" are no permissions", map[string]any{"disk": disk, "path": "/x", "content": "", "mode": "0999"}},
		{"file.write", "holds no known file system", map[string]any{"disk": disk, "path": "/x", "content": ""}},
		{"file.write", "no partition table", map[string]any{"disk": disk, "partition": 2, "path": "/x", "content": ""}},
		{"archive.extract", "with.url: is required", map[string]any{"disk": disk}},
		{"archive.extract", `"zip" is none of`, map[string]any{"disk": disk, "url": "http://x", "format": "zip"}},
		{"archive.extract", "with.digest", map[string]any{"disk": disk, "url": "http://x", "digest": "sha1:x"}},
		{"chroot.exec", "with.command: is required", map[string]any{"disk": disk}},
		{"chroot.exec", "holds no known file system", map[string]any{"device": disk, "command": []any{"true"}}},
	} {
		_, err := steps[c.action].Execute(t.Context(), step.Request{With: c.with}, &silent{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %v: %v\nwant %q", c.action, c.with, err, c.want)
		}
	}
}

func TestRootOf(t *testing.T) {
	one, two := map[string]any{"root_partition": int64(1)}, map[string]any{"root_partition": float64(2)}
	for want, images := range map[int]map[string]any{0: {"a": one, "b": two}, 1: {"a": one, "b": one}, 2: {"b": two}} {
		if got := rootOf(images); got != want {
			t.Errorf("rootOf(%v) = %d, want %d", images, got, want)
		}
	}
}

func TestFetch(t *testing.T) {
	content := []byte("the content")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	defer s.Close()
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	var b bytes.Buffer
	n, err := service(t).fetch(t.Context(), remote{s.URL, digest}, step.Request{}, &silent{}, &b)
	if err != nil || n != 11 || b.String() != string(content) {
		t.Errorf("%d bytes, %q, %v", n, b.String(), err)
	}
	wrong := "sha256:" + strings.Repeat("0", 64)
	if _, err := service(t).fetch(t.Context(), remote{s.URL, wrong}, step.Request{}, &silent{}, io.Discard); err == nil || !strings.HasSuffix(err.Error(), "expected digest "+wrong+", got "+digest) {
		t.Errorf("a wrong digest: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func FuzzUnpacker(f *testing.F) {
	f.Add(archive(f, entry{Header: tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Mode: 0o644}, content: "x"}))
	f.Add(archive(f, entry{Header: tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}}, entry{Header: tar.Header{Name: "l/../x", Typeflag: tar.TypeReg}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(data, []byte("GNU.sparse")) {
			return // Sparse files may be as long as they say; the disk is the bound.
		}
		v := volume(t)
		_ = (&unpacker{ctx: t.Context(), v: v, into: "in"}).archive(bytes.NewReader(data), "", false)
		top, err := os.ReadDir(v.Root)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range top {
			if e.Name() != "in" {
				t.Fatalf("%q is outside the folder", e.Name())
			}
		}
	})
}
