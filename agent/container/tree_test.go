package container

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// plain returns a layer's uncompressed bytes.
func plain(t testing.TB, l v1.Layer) []byte {
	t.Helper()
	rc, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	d, err := decompress(rc)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unpackAll unpacks layers into root of a folder with a neighbour, and lists
// what there is then.
func unpackAll(t testing.TB, layers ...v1.Layer) (list []string, err error) {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := openTree(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.close()
	for _, l := range layers {
		if err = tree.unpack(bytes.NewReader(plain(t, l))); err != nil {
			break
		}
	}
	werr := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(p)
			list = append(list, rel+" -> "+target)
			return err
		}
		b, err := os.ReadFile(p)
		list = append(list, rel+" "+string(b))
		return err
	})
	if werr != nil {
		t.Fatal(werr)
	}
	return list, err
}

func link(name, target string) tar.Header {
	return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink}
}
func hard(name, target string) tar.Header {
	return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeLink}
}
func folder(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }

func TestUnpack(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]tar.Header
		want   []string
	}{
		"files, folders, links": {
			[][]tar.Header{{folder("a"), file("a/x", "1"), link("a/l", "x"), hard("b/h", "a/x")}},
			[]string{"root/a/l -> x", "root/a/x 1", "root/b/h 1", "secret untouched"},
		},
		"a later layer replaces and removes": {
			[][]tar.Header{{file("a/x", "1"), file("a/y", "1"), file("d/z", "1"), file("e", "1")}, {file("a/x", "2"), file("a/.wh.y", ""), file(".wh.d", ""), folder("e"), file("e/f", "2")}},
			[]string{"root/a/x 2", "root/e/f 2", "secret untouched"},
		},
		"an opaque folder hides what was there, not what comes with it": {
			[][]tar.Header{{file("a/old", "1"), file("a/sub/old", "1")}, {file("a/new", "2"), file("a/.wh..wh..opq", ""), file("a/newer", "2")}},
			[]string{"root/a/new 2", "root/a/newer 2", "secret untouched"},
		},
		"names that climb out stay inside": {
			[][]tar.Header{{file("../secret", "bad"), file("/../../secret2", "bad"), file("a/../../secret3", "bad")}},
			[]string{"root/secret bad", "root/secret2 bad", "root/secret3 bad", "secret untouched"},
		},
		"a link out of the root is followed inside it": {
			[][]tar.Header{{folder("etc"), link("up", "../.."), link("abs", "/etc"), file("up/secret", "bad"), file("abs/passwd", "ok")}},
			[]string{"root/abs -> /etc", "root/etc/passwd ok", "root/secret bad", "root/up -> ../..", "secret untouched"},
		},
		"a file in place of a link does not go through it": {
			[][]tar.Header{{link("x", "../secret")}, {file("x", "new")}},
			[]string{"root/x new", "secret untouched"},
		},
		"a whiteout through a link stays inside": {
			[][]tar.Header{{link("up", ".."), file("secret", "inner")}, {file("up/.wh.secret", "")}},
			[]string{"root/up -> ..", "secret untouched"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var layers []v1.Layer
			for _, headers := range c.layers {
				layers = append(layers, layer(t, headers...))
			}
			got, err := unpackAll(t, layers...)
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
	for name, headers := range map[string][]tar.Header{
		"a hard link to the machine's file": {hard("h", "../../secret")},
		"a whiteout of nothing":             {file("a/.wh.", "")},
		"a whiteout of the folder above":    {file("a/.wh...", "")},
		"links in a circle":                 {link("a", "b"), link("b", "a"), file("a/x", "1")},
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			got, err := unpackAll(t, layer(t, headers...))
			if err == nil || !strings.Contains(strings.Join(got, "\n"), "secret untouched") {
				t.Errorf("error %v, there is %q", err, got)
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(plain(f, layer(f, folder("a"), file("a/x", "1"), link("l", "/a"), file("l/y", "2"), file("a/.wh.x", ""), hard("h", "l/y"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		root := filepath.Join(dir, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		tree, err := openTree(root)
		if err != nil {
			t.Fatal(err)
		}
		defer tree.close()
		_ = tree.unpack(bytes.NewReader(b))
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || entries[0].Name() != "root" {
			t.Errorf("outside the root: %v, %v", entries, err)
		}
	})
}

func TestLookUp(t *testing.T) {
	dir := t.TempDir()
	passwd, group := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
	if err := os.WriteFile(passwd, []byte("root:x:0:0::/root:/bin/sh\nann:x:1001:1002::/home/ann:\nbroken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(group, []byte("wheel:x:10:ann,bob\nusers:x:100:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]account{
		"":          {home: "/root"},
		"ann":       {uid: 1001, gid: 1002, groups: []int{10}, home: "/home/ann"},
		"1001":      {uid: 1001, gid: 1002, groups: []int{10}, home: "/home/ann"},
		"7":         {uid: 7, home: "/"},
		"7:8":       {uid: 7, gid: 8, home: "/"},
		"ann:users": {uid: 1001, gid: 100, home: "/home/ann"},
	} {
		got, err := lookUp(user, passwd, group)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(account{})); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", user, err, diff)
		}
	}
	for _, user := range []string{"eve", "ann:eve", "-1"} {
		if got, err := lookUp(user, passwd, group); err == nil {
			t.Errorf("%q is %+v", user, got)
		}
	}
	if got, err := lookUp("", filepath.Join(dir, "none"), filepath.Join(dir, "none")); err != nil || got.uid != 0 {
		t.Errorf("without files: %+v, %v", got, err)
	}
}
