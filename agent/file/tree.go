package file

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// resolve keeps every path below the root, for links as well as for `..`.
const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// clean makes a path relative to the root; empty is the root itself.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// openat opens a path below the root.
func (v *Volume) openat(name string, flags int) (int, error) {
	if name == "" {
		name = "."
	}
	for {
		fd, err := unix.Openat2(v.root, name, &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve})
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) { // EAGAIN: a rename elsewhere raced with `..`.
			continue
		}
		return fd, err
	}
}

// folder opens a folder below the root, and makes those on the way that are
// missing, with the given permissions.
func (v *Volume) folder(name string, mode uint32) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY
	name = clean(name)
	fd, err := v.openat(name, flags)
	if name == "" || !errors.Is(err, unix.ENOENT) {
		return fd, wrap(err, "opening folder", name)
	}
	dir, base := path.Split(name)
	parent, err := v.folder(dir, mode)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, base, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, wrap(err, "making folder", name)
	}
	if fd, err = v.openat(name, flags); err != nil {
		return -1, wrap(err, "opening folder", name)
	}
	// Past the umask. An O_PATH descriptor can't be changed itself.
	if err := unix.Fchmodat(parent, base, mode, 0); err != nil && !v.plain(err) {
		return -1, errors.Join(wrap(err, "setting permissions of folder", name), unix.Close(fd))
	}
	return fd, nil
}

func wrap(err error, doing, name string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s /%s: %w", doing, name, err)
}

// plain reports whether an error only says that this file system has no owners
// and permissions.
func (v *Volume) plain(err error) bool {
	return v.Kind == "vfat" && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EINVAL))
}

// attributes of a file that is made.
type attributes struct {
	mode, dirMode uint32
	uid, gid      int
}

// temporary is what a file is called until it is complete. Only one step works
// in a file system at a time.
const temporary = ".bedplate-incomplete"

// write makes a file of content, or replaces one: beside its place, complete
// and synced, then renamed. A link in its place is replaced, not followed.
func (v *Volume) write(name string, a attributes, content func(io.Writer) error) (err error) {
	name = clean(name)
	dir, base := path.Split(name)
	if base == "" {
		return errors.New("the path names a folder")
	}
	parent, err := v.folder(dir, a.dirMode)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := unix.Unlinkat(parent, temporary, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return wrap(err, "removing what is left of an earlier try at", name)
	}
	f, err := create(parent, temporary)
	if err != nil {
		return wrap(err, "making file", name)
	}
	err = v.fill(f, name, a, content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = wrap(unix.Renameat(parent, temporary, parent, base), "renaming to", name)
	}
	if err != nil {
		if uerr := unix.Unlinkat(parent, temporary, 0); uerr != nil {
			err = errors.Join(err, wrap(uerr, "removing the incomplete", name))
		}
		return err
	}
	return v.syncFolder(dir)
}

// create makes a file that isn't there yet.
func create(parent int, name string) (*os.File, error) {
	fd, err := unix.Openat(parent, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (v *Volume) fill(f *os.File, name string, a attributes, content func(io.Writer) error) error {
	if err := content(f); err != nil {
		return err
	}
	// Owner first: a change of owner takes set-id bits away.
	if err := unix.Fchown(int(f.Fd()), a.uid, a.gid); err != nil && !v.plain(err) {
		return wrap(err, "setting owner of", name)
	}
	if err := unix.Fchmod(int(f.Fd()), a.mode); err != nil && !v.plain(err) {
		return wrap(err, "setting permissions of", name)
	}
	return wrap(f.Sync(), "syncing", name)
}

func (v *Volume) syncFolder(name string) error {
	fd, err := v.openat(clean(name), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return wrap(err, "opening folder", name)
	}
	defer unix.Close(fd)
	return wrap(unix.Fsync(fd), "syncing folder", name)
}

// scratch makes a file without a name in this file system: gone when closed.
func (v *Volume) scratch() (*os.File, error) {
	if fd, err := v.openat("", unix.O_TMPFILE|unix.O_RDWR); err == nil {
		return os.NewFile(uintptr(fd), "scratch"), nil
	}
	fd, err := v.openat("", unix.O_RDONLY|unix.O_DIRECTORY) // vfat has no nameless files.
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Unlinkat(fd, temporary, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	f, err := create(fd, temporary)
	if err != nil {
		return nil, err
	}
	if err := unix.Unlinkat(fd, temporary, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Exists reports whether a path is there, links followed within the root.
func (v *Volume) Exists(name string) bool {
	fd, err := v.openat(clean(name), unix.O_PATH)
	if err != nil {
		return false
	}
	return unix.Close(fd) == nil
}
