package debian

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// BuildLive makes a system that runs in memory: the whole file tree as one
// initramfs in Out (cpio "newc", Linux' Documentation/driver-api/early-userspace/
// buffer-format.rst; zstd), and its kernel beside it, as KernelFile names it.
// Nothing is looked for on disks: the tree's own systemd is /init.
func BuildLive(ctx context.Context, c Config) (Manifest, error) {
	c, err := c.withDefaults()
	if err != nil {
		return Manifest{}, err
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(c.Out), 0o755), os.MkdirAll(c.Cache, 0o755)); err != nil {
		return Manifest{}, fmt.Errorf("making output folder: %w", err)
	}
	base := filepath.Join(c.Cache, "debian-"+c.baseDigest()[:16]+".tar")
	baseID, err := c.makeBase(ctx, base)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Inputs: c.inputs(baseID + "/live/1"), Suite: c.Suite}
	if old, ok := finished(c.Out, m.Inputs); ok {
		return old, nil
	}
	work, err := os.MkdirTemp(c.Cache, "live-")
	if err != nil {
		return m, fmt.Errorf("making a folder to work in: %w", err)
	}
	defer os.RemoveAll(work) //nolint:errcheck // a left-over in the cache is harmless
	c.Progress("adding configuration", 0, 0)
	own := liveOwn(c.own())
	d := disk{work: work, own: own}
	files, err := d.addOverlay(base)
	if err != nil {
		return m, err
	}
	m.Kernel = files.kernel
	cpio := filepath.Join(work, "root.cpio")
	if err := writeLive(filepath.Join(work, "root.tar"), cpio, KernelFile(c.Out), files.kernel); err != nil {
		return m, fmt.Errorf("writing the initramfs: %w", err)
	}
	info, err := os.Stat(cpio)
	if err != nil {
		return m, fmt.Errorf("writing the initramfs: %w", err)
	}
	m.DiskSize = info.Size()
	if err := c.compress(ctx, cpio, &m); err != nil {
		return m, err
	}
	return m, c.describe(m)
}

// KernelFile is where BuildLive puts the kernel of the initramfs in out.
func KernelFile(out string) string { return strings.TrimSuffix(out, ".initramfs.zst") + ".vmlinuz" }

// liveOwn are the files of a system without a disk.
func liveOwn(own map[string]string) map[string]string {
	out := map[string]string{"etc/fstab": "", "boot/grub/grub.cfg": ""}
	for name, content := range own {
		out[name] = content
	}
	delete(out, ignitionFlag)
	return out
}

// writeLive turns the tree into a cpio archive, without /boot, and takes the kernel out of it.
func writeLive(from, to, kernelFile, release string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	w := &cpioWriter{w: out}
	err = copyLive(tar.NewReader(in), w, kernelFile, release)
	if err == nil {
		err = w.link("init", "/sbin/init")
	}
	if err == nil {
		err = w.header("TRAILER!!!", 0, 0, 0, 0)
	}
	return errors.Join(err, out.Close())
}

func copyLive(r *tar.Reader, w *cpioWriter, kernelFile, release string) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
		switch {
		case name == "boot/vmlinuz-"+release:
			b, err := io.ReadAll(r)
			if err == nil {
				err = writeAtomic(kernelFile, b)
			}
			if err != nil {
				return err
			}
			continue
		case name == "" || strings.HasPrefix(name, "boot/"):
			continue
		}
		if err := w.entry(name, h, r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// cpioWriter writes entries of an initramfs.
type cpioWriter struct {
	w     io.Writer
	inode uint32
}

const (
	modeFolder  = 0o040000
	modeRegular = 0o100000
	modeLink    = 0o120000
)

func (c *cpioWriter) entry(name string, h *tar.Header, r io.Reader) error {
	perm := uint32(h.Mode) & 0o7777
	switch h.Typeflag {
	case tar.TypeDir:
		return c.header(name, modeFolder|perm, h.Uid, h.Gid, 0)
	case tar.TypeSymlink:
		return c.link(name, h.Linkname)
	case tar.TypeLink: // A link by name does: both are read only from here on.
		return c.link(name, "/"+strings.TrimPrefix(h.Linkname, "./"))
	case tar.TypeReg:
		if err := c.header(name, modeRegular|perm, h.Uid, h.Gid, h.Size); err != nil {
			return err
		}
		if _, err := io.Copy(c.w, r); err != nil {
			return err
		}
		return c.pad(h.Size)
	}
	return nil // Devices and sockets are made at boot.
}

func (c *cpioWriter) link(name, target string) error {
	if err := c.header(name, modeLink|0o777, 0, 0, int64(len(target))); err != nil {
		return err
	}
	if _, err := io.WriteString(c.w, target); err != nil {
		return err
	}
	return c.pad(int64(len(target)))
}

// header writes the 110 bytes, the name, and zeros up to a multiple of four.
func (c *cpioWriter) header(name string, mode uint32, uid, gid int, size int64) error {
	if size > 1<<32-1 {
		return fmt.Errorf("%d bytes are too many for an initramfs", size)
	}
	c.inode++
	_, err := fmt.Fprintf(c.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, uid, gid, 1, epoch.Unix(), size, 0, 0, 0, 0, len(name)+1, 0, name)
	if err != nil {
		return err
	}
	return c.pad(int64(110 + len(name) + 1))
}

func (c *cpioWriter) pad(n int64) error {
	_, err := c.w.Write(make([]byte, (4-n%4)%4))
	return err
}
