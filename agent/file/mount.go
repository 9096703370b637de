package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Volume is a mounted file system. It belongs to one goroutine.
type Volume struct {
	// Device is the block device that it is on.
	Device string
	// Kind is the file system's type.
	Kind string
	// Dir is where it is mounted; Root is the folder in there that is the root
	// of the installed system: the same, or a btrfs subvolume.
	Dir, Root string
	readOnly  bool
	root      int // Of Root; O_PATH.
	mounts    []string
}

// mountFlags: an installed system's programs run only in chroot.exec, which
// needs neither flag to be off for the rest.
const mountFlags = unix.MS_NOATIME

func (s *Service) mount(ctx context.Context, src source, readOnly bool) (*Volume, error) {
	trouble, err := s.modules(src.kind.Type)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.path, err)
	}
	device := src.path
	if src.loop {
		if err := s.LoadModule("loop"); err != nil {
			trouble += fmt.Sprintf("loading module loop: %v", err)
		}
		loop, err := attach(ctx, src, readOnly)
		if err != nil {
			return nil, err
		}
		defer loop.Close() // The mount keeps it; without one it goes by itself.
		device = loop.Name()
	}
	if err := os.MkdirAll(s.Folder, 0o711); err != nil {
		return nil, fmt.Errorf("making folder to mount in: %w", err)
	}
	dir, err := os.MkdirTemp(s.Folder, "mount-")
	if err != nil {
		return nil, fmt.Errorf("making folder to mount in: %w", err)
	}
	flags, data := uintptr(mountFlags), ""
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if src.kind.Type == "xfs" {
		data = "nouuid" // A copy of a mounted file system's image is mounted as well.
	}
	if err := unix.Mount(device, dir, src.kind.Type, flags, data); err != nil {
		err = fmt.Errorf("mounting %s (%s): %w", device, src.kind.Type, err)
		if trouble != "" {
			err = fmt.Errorf("%w; %s", err, trouble)
		}
		return nil, errors.Join(err, os.Remove(dir))
	}
	// What is mounted in it later must not show anywhere else.
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("making mount private: %w", err), unmount(dir, false), os.Remove(dir))
	}
	v := &Volume{Device: src.path, Kind: src.kind.Type, Dir: dir, Root: dir, readOnly: readOnly, root: -1, mounts: []string{dir}}
	v.Root = filepath.Join(dir, subvolume(src.kind.Type, dir))
	if v.root, err = unix.Open(v.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("opening root of %s: %w", device, err), v.Close())
	}
	return v, nil
}

// subvolume returns the btrfs subvolume that distributions put their root into
// when the top of the file system isn't it: Fedora `root`, Ubuntu and others `@`.
func subvolume(kind, dir string) string {
	if kind != "btrfs" {
		return ""
	}
	for _, sub := range []string{"", "root", "@"} {
		if st, err := os.Lstat(filepath.Join(dir, sub, "etc")); err == nil && st.IsDir() {
			return sub
		}
	}
	return ""
}

// unmountTries times 100 ms is how long a file system may be busy before it is
// taken away from whoever keeps it so.
const unmountTries = 50

// Close syncs and unmounts. The error says if not everything that was written
// is on stable storage.
func (v *Volume) Close() error {
	var errs []error
	if v.root >= 0 {
		if err := v.sync(); err != nil {
			errs = append(errs, err)
		}
		errs = append(errs, unix.Close(v.root))
		v.root = -1
	}
	for i := len(v.mounts) - 1; i >= 0; i-- {
		errs = append(errs, unmount(v.mounts[i], i > 0))
	}
	v.mounts = nil
	if err := os.Remove(v.Dir); err != nil {
		errs = append(errs, fmt.Errorf("removing folder: %w", err))
	}
	return errors.Join(errs...)
}

func (v *Volume) sync() error {
	if v.readOnly {
		return nil
	}
	fd, err := unix.Openat(v.root, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s to sync it: %w", v.Device, err)
	}
	defer unix.Close(fd)
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("syncing %s: %w", v.Device, err)
	}
	return nil
}

// unmount undoes one mount. A bound one is detached with all that is below it.
func unmount(dir string, bound bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if bound {
		flags |= unix.MNT_DETACH
	}
	var err error
	for range unmountTries {
		if err = unix.Unmount(dir, flags); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(100 * time.Millisecond) // Goes on when the step is cancelled: it must not stay mounted.
	}
	if errors.Is(err, unix.EBUSY) {
		// Detached it no longer shows, but the step must not pass for a success.
		return errors.Join(fmt.Errorf("unmounting %s: %w: something that the step started still runs in it", dir, err), unix.Unmount(dir, flags|unix.MNT_DETACH))
	}
	if err != nil {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	return nil
}
