package file

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/images/format/compression"
)

// maxName bounds the names in an archive; the kernel's own bound is 4096.
const maxName = 4096

// formats are the archive formats and their compression.
var formats = map[string]compression.Kind{
	"tar": compression.None, "tar.gz": compression.Gzip, "tar.bz2": compression.Bzip2,
	"tar.xz": compression.XZ, "tar.zst": compression.Zstd,
}

// extract fetches the whole archive into the file system first, without a
// name: nothing is unpacked of an archive whose digest is wrong.
func (s *Service) extract(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	in := input.Of(req.With)
	p, r := placeOf(in, req), remoteOf(in, req)
	in.Required("url")
	format, into := in.String("format"), in.String("path")
	kind, known := formats[format]
	if format != "" && !known {
		in.Fail("format", "%q is none of tar, tar.gz, tar.bz2, tar.xz, tar.zst", format)
	}
	if err := in.Err(); err != nil {
		return step.Result{}, err
	}
	if r.digest == "" {
		rep.Log(step.Agent, fmt.Sprintf("warning: %s has no digest, so nothing tells whether it is the right file", r.url))
	}
	u := &unpacker{ctx: ctx, into: clean(into), digested: r.digest != ""}
	err := s.within(ctx, p, false, func(v *Volume) error {
		u.v = v
		f, err := v.scratch()
		if err != nil {
			return fmt.Errorf("making file for the archive: %w", err)
		}
		defer f.Close() // Only read again.
		if _, err := s.fetch(ctx, r, req, rep, f); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("reading archive: %w", err)
		}
		return u.archive(f, kind, known)
	})
	if err != nil {
		return step.Result{}, fmt.Errorf("unpacking %s: %w", r.url, err)
	}
	rep.Log(step.Agent, fmt.Sprintf("unpacked %d entries with %d bytes of content", u.entries, u.bytes))
	return step.Result{Outputs: map[string]any{"files": u.entries, "bytes": u.bytes}}, nil
}

// unpacker unpacks one archive below a folder of a Volume.
type unpacker struct {
	ctx  context.Context
	v    *Volume
	into string
	// digested tells that the archive is known to be whole.
	digested bool
	entries  int64
	bytes    int64
	// folders get their times last, when nothing changes in them any more.
	folders []folderTime
}

type folderTime struct {
	name string
	time time.Time
}

func (u *unpacker) archive(f io.Reader, kind compression.Kind, known bool) error {
	b := bufio.NewReaderSize(f, 256<<10)
	head, err := b.Peek(compression.PeekSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading archive: %w", err)
	}
	if found := compression.Detect(head); known && found != kind {
		return fmt.Errorf("expected compression %s, but the archive begins like %s", kind, found)
	} else if kind = found; len(head) == 0 {
		return errors.New("the archive is empty")
	}
	r, err := compression.NewReader(kind, b)
	if err != nil {
		return err
	}
	defer r.Close() // Always nil.
	fd, err := u.v.folder(u.into, 0o755)
	if err != nil {
		return err
	}
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("closing folder: %w", err)
	}
	end := &ending{r: r}
	if err := u.all(tar.NewReader(end)); err != nil {
		return err
	}
	// Package tar takes a file that ends between two entries for a whole one.
	if !u.digested && end.zeros < endMark {
		return errors.New("reading archive: it has no end mark, so it was probably cut short: give its digest")
	}
	// Behind the end mark come zeros at most; the decoder's own checksum is at the very end.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("reading archive: %w", err)
	}
	for _, f := range slices.Backward(u.folders) {
		if err := u.times(f.name, f.time); err != nil {
			return err
		}
	}
	return nil
}

// endMark is the length of the zeros at the end of an archive (POSIX.1 pax).
const endMark = 1024

// ending counts the zeros that what was read ends with.
type ending struct {
	r     io.Reader
	zeros int
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	last := len(bytes.TrimRight(p[:n], "\x00"))
	if last > 0 {
		e.zeros = 0
	}
	e.zeros = min(e.zeros+n-last, endMark)
	return n, err
}

func (u *unpacker) all(r *tar.Reader) error {
	for {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		h, err := r.Next()
		if err == io.EOF { //nolint:errorlint // An io.EOF wrapped in another failure is not the end.
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading archive: %w", err)
		}
		if err := u.entry(h, r); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// leaves reports whether a name would lead out of where it is unpacked.
func leaves(name string) bool {
	return len(name) > maxName || slices.Contains(strings.Split(name, "/"), "..") || strings.ContainsRune(name, 0)
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if leaves(h.Name) || h.Typeflag == tar.TypeLink && leaves(h.Linkname) {
		return errors.New("its name leads out of the folder that it is unpacked into")
	}
	u.entries++
	name := clean(path.Join(u.into, h.Name))
	dir, base := path.Split(name)
	if base == "" || name == u.into {
		return nil // The root itself keeps its attributes.
	}
	parent, err := u.v.folder(dir, 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if h.Typeflag == tar.TypeDir {
		return u.folder(parent, base, name, h)
	}
	if err := unix.Unlinkat(parent, base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing what is in its place: %w", err)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.regular(parent, base, h, content)
	case tar.TypeLink:
		return u.hardLink(parent, base, h)
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, parent, base)
	case tar.TypeFifo:
		err = unix.Mknodat(parent, base, unix.S_IFIFO|mode(h), 0)
	case tar.TypeChar, tar.TypeBlock:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
		err = unix.Mknodat(parent, base, kind|mode(h), int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	default:
		return fmt.Errorf("entries of type %q can't be unpacked", h.Typeflag)
	}
	if err != nil {
		return err
	}
	return u.special(parent, base, h)
}

func mode(h *tar.Header) uint32 { return uint32(h.Mode) & 0o7777 }

// special sets what a link, device or pipe has of attributes.
func (u *unpacker) special(parent int, base string, h *tar.Header) error {
	if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil && !u.v.plain(err) {
		return fmt.Errorf("setting owner: %w", err)
	}
	if h.Typeflag != tar.TypeSymlink { // It was made past the umask, and a link has no permissions.
		if err := unix.Fchmodat(parent, base, mode(h), 0); err != nil && !u.v.plain(err) {
			return fmt.Errorf("setting permissions: %w", err)
		}
	}
	return setTime(parent, base, h.ModTime)
}

func setTime(parent int, base string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil || t.IsZero() {
		return nil // A time that the kernel can't say is not worth a failure.
	}
	if err := unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("setting time: %w", err)
	}
	return nil
}

func (u *unpacker) regular(parent int, base string, h *tar.Header, content io.Reader) error {
	f, err := create(parent, base)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, content)
	u.bytes += n
	if err == nil {
		err = u.descriptor(f, h)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return setTime(parent, base, h.ModTime)
}

// descriptor sets owner, permissions and extended attributes.
func (u *unpacker) descriptor(f *os.File, h *tar.Header) error {
	fd := int(f.Fd())
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil && !u.v.plain(err) {
		return fmt.Errorf("setting owner: %w", err)
	}
	if err := unix.Fchmod(fd, mode(h)); err != nil && !u.v.plain(err) {
		return fmt.Errorf("setting permissions: %w", err)
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && !u.v.plain(err) {
			return fmt.Errorf("setting attribute %s: %w", name, err)
		}
	}
	return nil
}

func (u *unpacker) folder(parent int, base, name string, h *tar.Header) error {
	err := unix.Mkdirat(parent, base, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	// A link to a folder in its place is followed: /lib -> usr/lib.
	fd, err := u.v.openat(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	u.folders = append(u.folders, folderTime{name, h.ModTime})
	return errors.Join(u.descriptor(f, h), f.Close())
}

func (u *unpacker) times(name string, t time.Time) error {
	fd, err := u.v.openat(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return wrap(err, "opening folder", name)
	}
	defer unix.Close(fd)
	return wrap(setTime(fd, ".", t), "folder", name)
}

func (u *unpacker) hardLink(parent int, base string, h *tar.Header) error {
	dir, target := path.Split(clean(path.Join(u.into, h.Linkname)))
	from, err := u.v.openat(strings.TrimSuffix(dir, "/"), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("finding what it links to, %q: %w", h.Linkname, err)
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, target, parent, base, 0); err != nil {
		return fmt.Errorf("linking to %q: %w", h.Linkname, err)
	}
	return nil
}
