package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// MountImage mounts the root file system of the image on a disk, for writing.
// images is step.Request.Images.
func (s *Service) MountImage(ctx context.Context, path string, images map[string]any) (*Volume, error) {
	return s.open(ctx, place{disk: path, root: rootOf(images)}, false)
}

// MountDevice mounts the file system on a device, for writing.
func (s *Service) MountDevice(ctx context.Context, device string) (*Volume, error) {
	return s.open(ctx, place{device: device}, false)
}

// ReadFile returns a file's content. One that is longer than limit, or no
// regular file, is an error.
func (v *Volume) ReadFile(name string, limit int64) ([]byte, error) {
	// O_NONBLOCK: a FIFO in its place must not keep us waiting.
	fd, err := v.openat(clean(name), unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, wrap(err, "opening", clean(name))
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() // Only read.
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, wrap(errors.Join(err, errors.New("it is no regular file")), "reading", clean(name))
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, wrap(err, "reading", clean(name))
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading /%s: it is longer than %d bytes", clean(name), limit)
	}
	return b, nil
}

// WriteFile makes or replaces a file of root, with the folders that are missing.
func (v *Volume) WriteFile(name string, mode uint32, content []byte) error {
	return v.write(name, attributes{mode: mode, dirMode: 0o755}, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// MakeFolder makes a folder, and those above it that are missing. One that is
// there keeps its permissions.
func (v *Volume) MakeFolder(name string, mode uint32) error {
	fd, err := v.folder(name, mode)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
