// Package debian builds a small real Debian disk image: GPT, an EFI system
// partition and an ext4 root, bootable by BIOS, UEFI and UEFI with Secure Boot,
// configured at first boot by cloud-init, its console on the first serial port.
// It is what the demonstration and the end-to-end tests install; nothing in it
// is made for them, so it is also a start for an image of one's own.
//
// Packages come from the Debian archive through mmdebstrap. Loop devices and
// mounts are not used, and root is not needed: mmdebstrap takes a user
// namespace, and fakeroot keeps owners while mkfs.ext4 copies the files in.
//
// Everything after mmdebstrap's archive is deterministic; identifiers are
// derived from the inputs.
package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// builder is part of the digest of the inputs: raise it when the same inputs
// would give another result.
const builder = "debian/1"

// Config says what to build. The zero value of an optional field is given in
// its comment.
type Config struct {
	// Out is the image's file, such as build/images/debian.raw.zst. Beside it
	// come the same name with .sha256 (for sha256sum -c) and with .json (Manifest).
	Out string
	// Cache keeps the file tree between builds. Empty: ../cache beside Out's folder.
	Cache string
	// Suite is the Debian release. Empty: bookworm.
	Suite string
	// Mirror is the archive's URL. Empty: mmdebstrap's choice.
	Mirror string
	// Kernel is the kernel package. Empty: linux-image-cloud-amd64, which has
	// drivers for virtual machines and NVMe; linux-image-amd64 is for all servers.
	Kernel string
	// Ignition has the image configured by Ignition in its initramfs, in place of
	// cloud-init. The configuration is read from /boot/ignition/config.ign.
	Ignition bool
	// Packages are installed as well.
	Packages []string
	// Size is the length of the disk image in bytes, rounded up to MiB; the
	// root grows to its disk at first boot. 0: what the files need and a quarter more.
	Size int64
	// Level is the zstd level by name: fastest, default, better or best. Empty: better.
	Level string
	// Refresh installs the packages anew even if the cache has them.
	Refresh bool
	// Progress, if set, hears of each phase. Total is 0 when it is not known.
	// It is called from the goroutine that called Build.
	Progress func(phase string, done, total int64)
}

// Manifest describes a finished image; it is stored beside it as JSON.
type Manifest struct {
	// Inputs is the SHA-256 of everything that decides the image.
	Inputs string `json:"inputs"`
	Suite  string `json:"suite"`
	Kernel string `json:"kernel"`
	// Size and SHA256 are of the compressed file.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// DiskSize is the length of the image on a disk.
	DiskSize int64 `json:"diskSize"`
	// RootPartition is the number of the partition with the root file system.
	RootPartition int `json:"rootPartition"`
	// RootUUID is the UUID of the root file system.
	RootUUID string `json:"rootUUID"`
	// Cached reports that the image was found finished; it is not stored.
	Cached bool `json:"-"`
}

// Build makes the image, or finds that it is there already. The image appears
// complete or not at all.
func Build(ctx context.Context, c Config) (Manifest, error) {
	c, err := c.withDefaults()
	if err != nil {
		return Manifest{}, err
	}
	if err := checkTools(); err != nil {
		return Manifest{}, err
	}
	for _, dir := range []string{filepath.Dir(c.Out), c.Cache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Manifest{}, fmt.Errorf("making output folder: %w", err)
		}
	}
	base := filepath.Join(c.Cache, "debian-"+c.baseDigest()[:16]+".tar")
	baseID, err := c.makeBase(ctx, base)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Inputs: c.inputs(baseID), Suite: c.Suite, RootPartition: rootPartition}
	if old, ok := finished(c.Out, m.Inputs); ok {
		return old, nil
	}
	return c.assemble(ctx, base, m)
}

func (c Config) withDefaults() (Config, error) {
	if !strings.HasSuffix(c.Out, ".zst") {
		return c, fmt.Errorf("debian: output file %q must end in .zst", c.Out)
	}
	if c.Cache == "" {
		c.Cache = filepath.Join(filepath.Dir(filepath.Dir(c.Out)), "cache")
	}
	if c.Suite == "" {
		c.Suite = "bookworm"
	}
	if c.Kernel == "" {
		c.Kernel = "linux-image-cloud-amd64"
	}
	if c.Level == "" {
		c.Level = "better"
	}
	if ok, _ := zstd.EncoderLevelFromString(c.Level); !ok {
		return c, fmt.Errorf("debian: %q is no level; use fastest, default, better or best", c.Level)
	}
	if c.Progress == nil {
		c.Progress = func(string, int64, int64) {}
	}
	return c, nil
}

// baseDigest names what the cached file tree depends on.
func (c Config) baseDigest() string {
	h := sha256.New()
	fmt.Fprintln(h, builder, c.Suite, c.Mirror, c.packages(), c.early(), excluded, compileHook)
	return hex.EncodeToString(h.Sum(nil))
}

func (c Config) inputs(baseID string) string {
	h := sha256.New()
	fmt.Fprintln(h, builder, baseID, c.Size, c.Level, links, grubConfig, bootPrograms, c.own())
	err := fs.WalkDir(overlay, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := overlay.ReadFile(path)
		fmt.Fprintln(h, path, len(b))
		h.Write(b)
		return err
	})
	if err != nil { // an embedded file system does not fail
		panic(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// assemble makes the image from the file tree and writes the three files, the
// manifest last.
func (c Config) assemble(ctx context.Context, base string, m Manifest) (Manifest, error) {
	work, err := os.MkdirTemp(c.Cache, "image-")
	if err != nil {
		return Manifest{}, fmt.Errorf("making a folder to work in: %w", err)
	}
	defer os.RemoveAll(work) //nolint:errcheck // a left-over in the cache is harmless
	d := disk{own: c.own(), work: work, raw: filepath.Join(work, "disk.raw"), rootUUID: uuidFrom(m.Inputs, "root"), diskGUID: uuidFrom(m.Inputs, "disk")}
	m.RootUUID = d.rootUUID
	c.Progress("adding configuration", 0, 0)
	files, err := d.addOverlay(base)
	if err != nil {
		return Manifest{}, err
	}
	m.Kernel = files.kernel
	if m.DiskSize, err = d.layout(files.size, c.Size); err != nil {
		return Manifest{}, err
	}
	c.Progress("making file systems", 0, 0)
	if err := d.make(ctx); err != nil {
		return Manifest{}, err
	}
	if err := c.compress(ctx, d.raw, &m); err != nil {
		return Manifest{}, err
	}
	return m, c.describe(m)
}

// describe writes what stands beside a finished file, the manifest last.
func (c Config) describe(m Manifest) error {
	sum := fmt.Sprintf("%s  %s\n", m.SHA256, filepath.Base(c.Out))
	if err := writeAtomic(c.Out+".sha256", []byte(sum)); err != nil {
		return err
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("writing manifest: %w", err)
	}
	return writeAtomic(c.Out+".json", append(b, '\n'))
}

// compress writes c.Out from the raw image.
func (c Config) compress(ctx context.Context, raw string, m *Manifest) (err error) {
	in, err := os.Open(raw)
	if err != nil {
		return fmt.Errorf("compressing image: %w", err)
	}
	defer in.Close() //nolint:errcheck // read only
	out, err := os.CreateTemp(filepath.Dir(c.Out), ".image-")
	if err != nil {
		return fmt.Errorf("compressing image: %w", err)
	}
	defer func() {
		if err != nil {
			_ = out.Close()
			_ = os.Remove(out.Name())
		}
	}()
	h := sha256.New()
	count := &counter{}
	_, level := zstd.EncoderLevelFromString(c.Level)
	z, err := zstd.NewWriter(io.MultiWriter(out, h, count), zstd.WithEncoderLevel(level), zstd.WithWindowSize(8<<20))
	if err != nil {
		return fmt.Errorf("compressing image: %w", err)
	}
	r := &reader{ctx: ctx, r: in, report: func(n int64) { c.Progress("compressing", n, m.DiskSize) }}
	if _, err := io.Copy(z, r); err != nil {
		return fmt.Errorf("compressing image: %w", errors.Join(err, z.Close()))
	}
	if err := errors.Join(z.Close(), out.Chmod(0o644), out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("compressing image: %w", err)
	}
	m.Size, m.SHA256 = count.n, hex.EncodeToString(h.Sum(nil))
	return os.Rename(out.Name(), c.Out)
}

// finished returns the manifest beside out if it was made from the same inputs
// and the image is whole.
func finished(out, inputs string) (Manifest, bool) {
	m, err := ReadManifest(out)
	if err != nil || m.Inputs != inputs {
		return Manifest{}, false
	}
	f, err := os.Open(out)
	if err != nil {
		return Manifest{}, false
	}
	defer f.Close() //nolint:errcheck // read only
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil || hex.EncodeToString(h.Sum(nil)) != m.SHA256 {
		return Manifest{}, false
	}
	m.Cached = true
	return m, true
}

// ReadManifest returns the manifest of the image in file out. Without one the
// error wraps fs.ErrNotExist.
func ReadManifest(out string) (Manifest, error) {
	var m Manifest
	b, err := os.ReadFile(out + ".json")
	if err != nil {
		return m, fmt.Errorf("reading manifest of the image: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("reading manifest of the image: %w", err)
	}
	return m, nil
}

// writeAtomic replaces path as a whole.
func writeAtomic(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// uuidFrom makes a version 8 UUID (RFC 9562 §5.8) out of names.
func uuidFrom(names ...string) string {
	s := sha256.Sum256([]byte(strings.Join(names, "/")))
	s[6], s[8] = s[6]&0x0f|0x80, s[8]&0x3f|0x80
	h := hex.EncodeToString(s[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}

type reader struct {
	ctx    context.Context
	r      io.Reader
	n      int64
	report func(int64)
}

func (r *reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(b)
	r.n += int64(n)
	r.report(r.n)
	return n, err
}

// early are the files that must be there before the kernel's package makes its initramfs.
func (c Config) early() map[string]string {
	out := maps.Clone(earlyFiles)
	if c.Ignition {
		maps.Copy(out, ignitionEarly)
	}
	return out
}

// own are files of ours besides those that every image has.
func (c Config) own() map[string]string {
	if c.Ignition {
		return ignitionOwn
	}
	return nil
}

// packages are those of a small server that can be configured from outside.
func (c Config) packages() []string {
	p := []string{
		c.Kernel, "linux-base", "initramfs-tools", "zstd", "kmod", "udev",
		"systemd-sysv", "systemd-resolved", "dbus", "libpam-systemd", "login", "passwd",
		"iproute2", "netbase", "ca-certificates", "openssh-server", "sudo",
	}
	if c.Ignition {
		p = append(p, "ignition", "curl")
	} else {
		p = append(p, "cloud-init")
	}
	if c.Suite == "trixie" || c.Suite == "sid" {
		p = append(p, "systemd-repart")
	}
	return slices.Concat(p, c.Packages)
}

// Deadlines of the programs that a build runs.
const (
	installDeadline = 30 * time.Minute
	toolDeadline    = 10 * time.Minute
)
