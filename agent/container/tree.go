package container

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

const (
	maxEntries = 2_000_000
	maxPath    = 4096
	// zstdWindow bounds what a layer can make the decoder allocate.
	zstdWindow = 128 << 20
)

// tree is a container's root while layers are unpacked into it. Every name is
// resolved by the kernel below it, links included.
type tree struct {
	root    int
	asRoot  bool
	entries int
	// made are the paths that the present layer has brought, which its own
	// opaque marks don't hide.
	made map[string]bool
}

func openTree(dir string) (*tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	return &tree{root: fd, asRoot: os.Geteuid() == 0}, nil
}

func (t *tree) close() { unix.Close(t.root) }

// decompress tells a layer's compression by its first bytes.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		return gzip.NewReader(br)
	case len(head) == 4 && string(head) == "\x28\xb5\x2f\xfd":
		d, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

// unpack applies one layer (OCI image specification, layer.md).
func (t *tree) unpack(r io.Reader) error {
	t.made = map[string]bool{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading layer: %w", err)
		}
		if t.entries++; t.entries > maxEntries || len(h.Name) > maxPath || len(h.Linkname) > maxPath {
			return errors.New("reading layer: too many entries, or a name that is too long")
		}
		if err := t.entry(h, tr); err != nil {
			return fmt.Errorf("unpacking %q: %w", h.Name, err)
		}
	}
}

// clean makes a name relative to the root; .. stays inside.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

func (t *tree) entry(h *tar.Header, content io.Reader) error {
	name := clean(h.Name)
	dir, base := path.Split(name)
	if base == "" { // the root itself
		return nil
	}
	parent, err := t.folder(dir)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	switch {
	case base == opaque:
		return t.hide(parent, strings.TrimSuffix(dir, "/"))
	case strings.HasPrefix(base, whiteout):
		victim := strings.TrimPrefix(base, whiteout)
		if victim == "" || victim == "." || victim == ".." {
			return errors.New("a whiteout of nothing")
		}
		return removeAll(parent, victim)
	}
	t.made[name] = true
	if h.Typeflag == tar.TypeDir {
		err = makeFolder(parent, base)
	} else if err = removeAll(parent, base); err == nil {
		err = t.make(parent, base, h, content)
	}
	if err != nil || h.Typeflag == tar.TypeLink || h.Typeflag == tar.TypeXGlobalHeader {
		return err
	}
	return t.attributes(parent, base, h)
}

// openAt opens a folder below the tree's root, links resolved inside it.
func (t *tree) openAt(dir string) (int, error) {
	if dir == "" {
		dir = "."
	}
	return unix.Openat2(t.root, dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
}

// folder opens a folder and makes those on the way that aren't there.
func (t *tree) folder(dir string) (int, error) {
	fd, err := t.openAt(dir)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	up, base := path.Split(strings.TrimSuffix(dir, "/"))
	parent, err := t.folder(up)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, base, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return t.openAt(dir)
}

// makeFolder makes a folder, in place of whatever else has its name.
func makeFolder(parent int, base string) error {
	err := unix.Mkdirat(parent, base, 0o755)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if err := removeAll(parent, base); err != nil {
		return err
	}
	return unix.Mkdirat(parent, base, 0o755)
}

// make makes everything but folders.
func (t *tree) make(parent int, base string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeReg:
		return writeAt(parent, base, content)
	case tar.TypeSymlink:
		return unix.Symlinkat(h.Linkname, parent, base)
	case tar.TypeLink:
		dir, target := path.Split(clean(h.Linkname))
		from, err := t.openAt(dir)
		if err != nil {
			return fmt.Errorf("finding %q: %w", h.Linkname, err)
		}
		defer unix.Close(from)
		return unix.Linkat(from, target, parent, base, 0)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		err := unix.Mknodat(parent, base, kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
		if errors.Is(err, unix.EPERM) && !t.asRoot {
			return nil
		}
		return err
	case tar.TypeXGlobalHeader:
		return nil
	}
	return fmt.Errorf("an entry of type %q", h.Typeflag)
}

func writeAt(parent int, base string, content io.Reader) error {
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// attributes sets owner, mode, capabilities and time, in this order: a change
// of owner clears set-uid bits and capabilities.
func (t *tree) attributes(parent int, base string, h *tar.Header) error {
	if t.asRoot {
		if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("setting owner: %w", err)
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(parent, base, uint32(h.Mode)&0o7777, 0); err != nil && (t.asRoot || !errors.Is(err, unix.ENOENT)) {
			return fmt.Errorf("setting mode: %w", err)
		}
	}
	if caps, ok := h.PAXRecords["SCHILY.xattr.security.capability"]; ok && h.Typeflag == tar.TypeReg {
		// Best effort: a container's root has its capabilities without.
		_ = unix.Setxattr(fmt.Sprintf("/proc/self/fd/%d/%s", parent, base), "security.capability", []byte(caps), 0)
	}
	ts, err := unix.TimeToTimespec(h.ModTime)
	if err != nil {
		return nil // a time before 1970 or after 2262: not worth a failure
	}
	err = unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && (t.asRoot || !errors.Is(err, unix.ENOENT)) {
		return fmt.Errorf("setting time: %w", err)
	}
	return nil
}

// hide removes from a folder what earlier layers brought.
func (t *tree) hide(parent int, dir string) error {
	names, err := list(parent, ".")
	if err != nil {
		return err
	}
	for _, n := range names {
		if t.made[path.Join(dir, n)] {
			continue
		}
		if err := removeAll(parent, n); err != nil {
			return err
		}
	}
	return nil
}

func list(parent int, name string) ([]string, error) {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return f.Readdirnames(-1)
}

// removeAll removes one name and what is below it; links are not followed.
func removeAll(parent int, name string) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	names, err := list(parent, name)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, n := range names {
		if err := removeAll(fd, n); err != nil {
			return err
		}
	}
	return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
}

// writeFile puts a file of ours into the tree.
func (t *tree) writeFile(name string, content []byte, mode uint32) error {
	dir, base := path.Split(clean(name))
	parent, err := t.folder(dir)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer unix.Close(parent)
	if err := removeAll(parent, base); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := writeAt(parent, base, strings.NewReader(string(content))); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return unix.Fchmodat(parent, base, mode, 0)
}
