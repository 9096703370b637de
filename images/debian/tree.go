package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"crypto/sha256"
)

// overlay holds files that are put over the installed packages.
//
//go:embed all:overlay
var overlay embed.FS

// earlyFiles must be there before the kernel's package makes its initramfs.
var earlyFiles = map[string]string{
	"etc/initramfs-tools/conf.d/image":          "MODULES=list\nCOMPRESS=zstd\n",
	"usr/share/initramfs-tools/modules.d/image": "virtio_pci\nvirtio_blk\nvirtio_scsi\nvirtio_net\nsd_mod\nnvme\nahci\next4\n",
	"etc/kernel-img.conf":                       "do_symlinks = yes\n",
	"etc/apt/apt.conf.d/90norecommends":         "APT::Install-Recommends \"false\";\n",
	"etc/systemd/journald.conf.d/10-image.conf": "[Journal]\nStorage=volatile\n",
	"etc/systemd/resolved.conf.d/10-image.conf": "[Resolve]\nLLMNR=no\nMulticastDNS=no\n",
	"etc/dpkg/dpkg.cfg.d/50nodoc":               "path-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\npath-exclude=/usr/share/info/*\n",
	"etc/systemd/system.conf.d/10-image.conf":   "[Manager]\nDefaultTimeoutStopSec=20s\n",
}

// excluded are paths of packages that are not unpacked.
var excluded = []string{"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/lintian/*"}

// links are symbolic links put over the packages: units to start, the resolver.
var links = map[string]string{
	"etc/systemd/system/multi-user.target.wants/systemd-networkd.service":                 "/lib/systemd/system/systemd-networkd.service",
	"etc/systemd/system/sockets.target.wants/systemd-networkd.socket":                     "/lib/systemd/system/systemd-networkd.socket",
	"etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service": "/lib/systemd/system/systemd-networkd-wait-online.service",
	"etc/systemd/system/multi-user.target.wants/systemd-resolved.service":                 "/lib/systemd/system/systemd-resolved.service",
	"etc/systemd/system/dbus-org.freedesktop.network1.service":                            "/lib/systemd/system/systemd-networkd.service",
	"etc/systemd/system/dbus-org.freedesktop.resolve1.service":                            "/lib/systemd/system/systemd-resolved.service",
	"etc/systemd/system/networking.service":                                               "/dev/null",
	"etc/systemd/system/e2scrub_reap.service":                                             "/dev/null",
	"etc/resolv.conf": "/run/systemd/resolve/stub-resolv.conf",
}

// compileHook compiles Python's modules anew. Under SOURCE_DATE_EPOCH packages
// compile them to be checked against a hash of their source at every import,
// which costs cloud-init's four starts a second each on a slow processor.
const compileHook = `chroot "$1" python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3 /usr/lib/python3.*/`

// makeBase installs the packages into a tar archive, or finds it in the
// cache, and returns what identifies its content.
func (c Config) makeBase(ctx context.Context, base string) (string, error) {
	if id, err := os.ReadFile(base + ".id"); err == nil && !c.Refresh {
		if _, err := os.Stat(base); err == nil {
			return string(id), nil
		}
	}
	c.Progress("installing packages", 0, 0)
	work, err := os.MkdirTemp(c.Cache, "packages-")
	if err != nil {
		return "", fmt.Errorf("making a folder to work in: %w", err)
	}
	defer os.RemoveAll(work) //nolint:errcheck // a left-over in the cache is harmless
	early := filepath.Join(work, "early")
	for name, content := range c.early() {
		file, mode := filepath.Join(early, name), fs.FileMode(0o644)
		if strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), mode)); err != nil {
			return "", fmt.Errorf("writing early files: %w", err)
		}
	}
	tmp := filepath.Join(work, "root.tar")
	args := []string{
		"--variant=minbase", "--format=tar", "--include=" + strings.Join(c.packages(), ","),
		"--aptopt=Apt::Install-Recommends \"false\"", "--setup-hook=sync-in " + early + " /",
	}
	if c.Ignition { // Whichever package was set up last, Ignition is in the initramfs.
		args = append(args, `--customize-hook=chroot "$1" update-initramfs -u -k all`)
	} else {
		args = append(args, "--customize-hook="+compileHook)
	}
	for _, path := range excluded {
		args = append(args, "--dpkgopt=path-exclude="+path)
	}
	args = append(args, "--dpkgopt=path-include=/usr/share/doc/*/copyright", c.Suite, tmp)
	if c.Mirror != "" {
		args = append(args, c.Mirror)
	}
	// The archive's modification times would otherwise be those of the build.
	if err := run(ctx, installDeadline, []string{"SOURCE_DATE_EPOCH=" + epochText()}, "mmdebstrap", args...); err != nil {
		return "", fmt.Errorf("installing packages: %w", err)
	}
	id, err := hashFile(tmp)
	if err != nil {
		return "", fmt.Errorf("reading installed packages: %w", err)
	}
	if err := os.Rename(tmp, base); err != nil {
		return "", fmt.Errorf("keeping installed packages: %w", err)
	}
	return id, writeAtomic(base+".id", []byte(id))
}

// epoch dates everything that a build makes itself; the same as mmdebstrap is told.
var epoch = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func epochText() string { return fmt.Sprint(epoch.Unix()) }

// contents is what addOverlay learned of the file tree.
type contents struct {
	size   int64  // bytes of files, each rounded up to a block
	kernel string // release
}

// dropped reports paths whose content is left out of the image: caches, logs,
// keys and identities that every machine must make for itself. Folders stay.
func dropped(name string, folder bool) bool {
	if folder {
		return strings.HasPrefix(name, "var/lib/apt/lists/") && name != "var/lib/apt/lists/partial"
	}
	for _, dir := range []string{"var/cache/apt/", "var/cache/debconf/", "var/lib/apt/lists/", "dev/", "var/log/", "tmp/", "run/"} {
		if strings.HasPrefix(name, dir) {
			return true
		}
	}
	return strings.HasPrefix(name, "etc/ssh/ssh_host_") || name == "var/lib/dbus/machine-id" || name == "var/lib/systemd/random-seed"
}

// addOverlay copies the base archive to work/root.tar without what is dropped
// and with our files in place of those of the same name.
func (d disk) addOverlay(base string) (contents, error) {
	var c contents
	in, err := os.Open(base)
	if err != nil {
		return c, fmt.Errorf("reading installed packages: %w", err)
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.Create(filepath.Join(d.work, "root.tar"))
	if err != nil {
		return c, fmt.Errorf("writing file tree: %w", err)
	}
	w := tar.NewWriter(out)
	ours := d.ownFiles()
	dirs, err := copyTree(tar.NewReader(in), w, ours, &c)
	if err == nil {
		err = writeOwn(w, ours, dirs, &c)
	}
	if err := errors.Join(err, w.Close(), out.Close()); err != nil {
		return c, fmt.Errorf("writing file tree: %w", err)
	}
	if c.kernel == "" {
		return c, errors.New("writing file tree: no kernel in /boot")
	}
	return c, nil
}

// copyTree copies what is neither dropped nor replaced and returns the folders seen.
func copyTree(r *tar.Reader, w *tar.Writer, ours map[string]own, c *contents) (map[string]bool, error) {
	dirs := map[string]bool{".": true}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dirs, nil
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "/")
		if _, replaced := ours[name]; replaced {
			continue
		}
		folder := h.Typeflag == tar.TypeDir
		if dropped(name, folder) {
			continue
		}
		if folder {
			dirs[name] = true
		}
		if k, ok := strings.CutPrefix(name, "boot/vmlinuz-"); ok {
			c.kernel = k
		}
		c.size += (h.Size + 4095) &^ 4095
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.Copy(w, r); err != nil {
			return nil, err
		}
	}
}

// own is a file or, if link is set, a symbolic link of ours.
type own struct {
	content []byte
	link    string
}

// ownFiles are the embedded overlay, the links, and the files that name this
// image's file systems.
func (d disk) ownFiles() map[string]own {
	out := map[string]own{
		"etc/fstab": {content: fmt.Appendf(nil, "UUID=%s / ext4 defaults,x-systemd.growfs 0 1\n", d.rootUUID)},
		// Empty: systemd makes one at first boot and keeps it.
		"etc/machine-id":     {},
		"etc/hostname":       {content: []byte("debian\n")},
		"boot/grub/grub.cfg": {content: fmt.Appendf(nil, grubConfig, d.rootUUID, d.rootUUID)},
	}
	for name, content := range d.own {
		out[name] = own{content: []byte(content)}
	}
	for name, target := range links {
		out[name] = own{link: target}
	}
	err := fs.WalkDir(overlay, "overlay", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := overlay.ReadFile(name)
		out[strings.TrimPrefix(name, "overlay/")] = own{content: b}
		return err
	})
	if err != nil { // an embedded file system does not fail
		panic(err)
	}
	return out
}

// writeOwn adds our files, sorted, with the folders that are missing.
func writeOwn(w *tar.Writer, ours map[string]own, dirs map[string]bool, c *contents) error {
	names := make([]string, 0, len(ours))
	for name := range ours {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := writeParents(w, path.Dir(name), dirs); err != nil {
			return err
		}
		o := ours[name]
		h := &tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(o.content)), ModTime: epoch, Typeflag: tar.TypeReg, Format: tar.FormatGNU}
		if o.link != "" {
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, o.link, 0o777
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, bytes.NewReader(o.content)); err != nil {
			return err
		}
		c.size += 4096
	}
	return nil
}

func writeParents(w *tar.Writer, dir string, dirs map[string]bool) error {
	if dirs[dir] {
		return nil
	}
	if err := writeParents(w, path.Dir(dir), dirs); err != nil {
		return err
	}
	dirs[dir] = true
	return w.WriteHeader(&tar.Header{Name: "./" + dir + "/", Mode: 0o755, ModTime: epoch, Typeflag: tar.TypeDir, Format: tar.FormatGNU})
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
