package agentos

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"
)

// tree is the content of the archive, by path without a leading slash.
type tree struct {
	nodes map[string]node
}

// node is one entry; content is the target of a symbolic link.
type node struct {
	mode         uint32 // type and permissions as in stat(2)
	content      []byte
	major, minor uint32 // of a device
}

// File types of stat(2).
const (
	typeMask    = 0o170000
	typeDir     = 0o040000
	typeChar    = 0o020000
	typeRegular = 0o100000
	typeLink    = 0o120000
)

func newTree() *tree { return &tree{nodes: map[string]node{}} }

func (t *tree) dir(name string, perm fs.FileMode) {
	t.parents(name)
	t.nodes[name] = node{mode: typeDir | uint32(perm)}
}

func (t *tree) file(name string, perm fs.FileMode, content []byte) {
	t.parents(name)
	t.nodes[name] = node{mode: typeRegular | uint32(perm), content: content}
}

func (t *tree) link(name, target string) {
	t.parents(name)
	t.nodes[name] = node{mode: typeLink | 0o777, content: []byte(target)}
}

func (t *tree) char(name string, perm fs.FileMode, major, minor uint32) {
	t.parents(name)
	t.nodes[name] = node{mode: typeChar | uint32(perm), major: major, minor: minor}
}

// parents adds the folders above name that are not there yet.
func (t *tree) parents(name string) {
	for d := path.Dir(name); d != "." && d != "/"; d = path.Dir(d) {
		if _, ok := t.nodes[d]; !ok {
			t.nodes[d] = node{mode: typeDir | 0o755}
		}
	}
}

func (t *tree) merge(other *tree) { maps.Copy(t.nodes, other.nodes) }

// size is about how many bytes writeCPIO will write.
func (t *tree) size() int64 {
	var n int64
	for name, e := range t.nodes {
		n += int64(cpioHeader + len(name) + len(e.content) + 4)
	}
	return n
}

// cpioHeader is the length of the fixed part of an entry.
const cpioHeader = 110

// writeCPIO writes the tree in the "newc" format of cpio, the one that Linux
// unpacks (Documentation/driver-api/early-userspace/buffer-format.rst):
//
//	"070701" ino mode uid gid nlink mtime filesize devmajor devminor
//	rdevmajor rdevminor namesize check        13 fields of 8 hexadecimal digits
//	name NUL, padded to 4; content, padded to 4; the last entry is TRAILER!!!
//
// A folder sorts before what is in it, as the kernel needs.
func (t *tree) writeCPIO(w io.Writer, at time.Time) error {
	c := &cpioWriter{w: w, mtime: uint32(max(at.Unix(), 0))}
	for _, name := range slices.Sorted(maps.Keys(t.nodes)) {
		if err := c.entry(name, t.nodes[name]); err != nil {
			return fmt.Errorf("writing archive entry %s: %w", name, err)
		}
	}
	c.mtime, c.ino = 0, 0
	return c.put("TRAILER!!!", node{}, 1, 0)
}

type cpioWriter struct {
	w     io.Writer
	mtime uint32
	ino   uint32
}

func (c *cpioWriter) entry(name string, n node) error {
	c.ino++
	links := uint32(1)
	if n.mode&typeMask == typeDir {
		links = 2
	}
	return c.put(name, n, links, c.ino)
}

func (c *cpioWriter) put(name string, n node, links, ino uint32) error {
	if len(n.content) > 1<<31 {
		return fmt.Errorf("%d bytes are more than the format can hold", len(n.content))
	}
	head := fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		ino, n.mode, 0, 0, links, c.mtime, len(n.content), 0, 0, n.major, n.minor, len(name)+1, 0, name)
	if _, err := c.w.Write(pad(head)); err != nil {
		return err
	}
	if len(n.content) == 0 {
		return nil
	}
	if _, err := c.w.Write(n.content); err != nil {
		return err
	}
	_, err := c.w.Write(make([]byte, -len(n.content)&3))
	return err
}

// pad fills b up to a multiple of four bytes.
func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
