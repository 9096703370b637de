// Package agentos builds the in-memory system that a machine boots from the
// network: a distribution's signed kernel, untouched, and one initramfs with
// the agent as /init, the drivers that real servers need with everything they
// depend on, the few programs that make file systems, and CA certificates.
// There is no package manager, nothing that listens, and no shell but for
// rescue: a busybox that is in no path.
//
// The kernel comes from the Debian archive by package name; apt checks its
// digest against the signed index, and the build checks it again before use.
// Root is not needed: packages are unpacked, never installed, and the archive
// writer makes device nodes and owners itself.
//
// The result is reproducible: the same inputs give the same bytes. Entries are
// sorted, owned by root and dated SOURCE_DATE_EPOCH. A build whose inputs have
// not changed since the last is not done again.
//
// Build may be called by any number of goroutines for different output folders.
package agentos

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// builder is part of the digest of the inputs: raise it when the same inputs
// would give another result.
const builder = "agentos/2"

// File names of a finished build, inside the output folder.
const (
	KernelFile    = "vmlinuz"
	InitramfsFile = "initramfs.zst"
	ManifestFile  = "manifest.json"
)

// Config says what to build. The zero value of an optional field is given in
// its comment.
type Config struct {
	// Out is the folder that receives the three files; made if missing.
	Out string
	// Agent is the path of the static agent binary.
	Agent string
	// KernelPackage is the name of a Debian kernel package; a metapackage is
	// followed. Empty: linux-image-amd64, the one for real servers.
	KernelPackage string
	// KernelDeb is the path of a kernel package to use instead of downloading one.
	KernelDeb string
	// Cache is the folder where packages are kept between builds.
	// Empty: a folder named cache beside Out's parent's contents, that is Out/../cache.
	Cache string
	// Modules are kernel modules to add to the built-in list, by name.
	Modules []string
	// Firmware is a folder such as /lib/firmware; the blobs that the chosen
	// modules name are taken from it where they exist. Empty: none.
	Firmware string
	// Tools are programs to include, by path on this machine, with the
	// libraries they need. Nil: DefaultTools.
	Tools []string
	// Shell is a static busybox, which only the action rescue.ssh uses.
	// Empty: the distribution's.
	Shell string
	// Certificates is a PEM bundle of CA certificates. Empty: the distribution's.
	Certificates string
	// Epoch dates every file in the archive. Zero: 1 January 1970.
	Epoch time.Time
	// Force builds even when nothing has changed.
	Force bool
	// Progress, if set, hears of each phase as it starts and goes on. Total is
	// 0 when it is not known. It is called from the goroutine that called Build.
	Progress func(phase string, done, total int64)
}

// File is one file of a finished build.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Manifest describes a finished build; it is stored beside it as JSON.
type Manifest struct {
	// Inputs is the SHA-256 of everything that went in.
	Inputs         string `json:"inputs"`
	Release        string `json:"release"`
	Package        string `json:"package"`
	PackageVersion string `json:"packageVersion"`
	Kernel         File   `json:"kernel"`
	Initramfs      File   `json:"initramfs"`
	// Unpacked is the size of the initramfs in memory, in bytes.
	Unpacked int64  `json:"unpacked"`
	Agent    string `json:"agent"`
	// Modules are the names of the modules inside, sorted.
	Modules []string `json:"modules"`
	// Absent are listed modules that this kernel neither has nor has built in.
	Absent []string `json:"absent,omitempty"`
	Tools  []string `json:"tools"`
	// Cached reports that this build was found finished; it is not stored.
	Cached bool `json:"-"`
}

// ErrAgent is wrapped when the agent binary is missing or cannot be PID 1.
var ErrAgent = errors.New("the agent must be a static Linux binary")

// Build makes the kernel, the initramfs and the manifest in c.Out, or finds
// that they are there already. Files appear complete or not at all.
func Build(ctx context.Context, c Config) (Manifest, error) {
	c, err := c.withDefaults()
	if err != nil {
		return Manifest{}, err
	}
	agent, err := readAgent(c.Agent)
	if err != nil {
		return Manifest{}, err
	}
	for _, dir := range []string{c.Out, c.Cache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Manifest{}, fmt.Errorf("making output folder: %w", err)
		}
	}
	c.Progress("kernel package", 0, 0)
	pkg, err := c.kernelPackage(ctx)
	if err != nil {
		return Manifest{}, err
	}
	c.Progress("programs", 0, 0)
	extra, err := c.collectFiles()
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{
		Package: pkg.name, PackageVersion: pkg.version,
		Agent: digest(agent), Tools: slices.Clone(c.Tools),
	}
	if m.Inputs, err = c.inputs(m, pkg, extra); err != nil {
		return Manifest{}, err
	}
	if old, ok := finished(c.Out, m.Inputs); ok && !c.Force {
		return old, nil
	}
	return c.assemble(ctx, m, pkg, agent, extra)
}

func (c Config) withDefaults() (Config, error) {
	if c.Out == "" {
		return c, errors.New("agentos: no output folder given")
	}
	if c.KernelPackage == "" {
		c.KernelPackage = "linux-image-amd64"
	}
	if c.Cache == "" {
		c.Cache = filepath.Join(filepath.Dir(filepath.Clean(c.Out)), "cache")
	}
	if c.Tools == nil {
		c.Tools = DefaultTools()
	}
	if c.Shell == "" {
		c.Shell = "/bin/busybox"
	}
	if c.Certificates == "" {
		c.Certificates = "/etc/ssl/certs/ca-certificates.crt"
	}
	if c.Epoch.IsZero() {
		c.Epoch = time.Unix(0, 0)
	}
	if c.Progress == nil {
		c.Progress = func(string, int64, int64) {}
	}
	return c, nil
}

// assemble unpacks the kernel package and writes the three files.
func (c Config) assemble(ctx context.Context, m Manifest, pkg kernelPackage, agent []byte, extra *tree) (Manifest, error) {
	work, err := os.MkdirTemp(c.Cache, "unpack-")
	if err != nil {
		return Manifest{}, fmt.Errorf("making a folder to unpack in: %w", err)
	}
	defer os.RemoveAll(work) //nolint:errcheck // a left-over in the cache is harmless
	c.Progress("unpacking kernel package", 0, 0)
	kernel, release, err := pkg.unpack(ctx, work)
	if err != nil {
		return Manifest{}, err
	}
	m.Release = release
	c.Progress("kernel modules", 0, 0)
	all, err := readModules(ctx, filepath.Join(work, "lib/modules", release))
	if err != nil {
		return Manifest{}, err
	}
	chosen, absent := all.choose(append(slices.Clone(serverModules), c.Modules...))
	m.Absent = absent
	for _, mod := range chosen {
		m.Modules = append(m.Modules, mod.name)
	}
	t := newTree()
	t.merge(extra)
	t.file("init", 0o755, agent)
	if err := all.install(t, release, chosen); err != nil {
		return Manifest{}, err
	}
	if c.Firmware != "" {
		if err := installFirmware(t, c.Firmware, chosen); err != nil {
			return Manifest{}, err
		}
	}
	return c.write(ctx, m, t, kernel)
}

// write puts the finished files in place, the manifest last.
func (c Config) write(ctx context.Context, m Manifest, t *tree, kernel []byte) (Manifest, error) {
	var err error
	if m.Kernel, err = writeFile(ctx, c.Out, KernelFile, func(w io.Writer) error {
		_, err := w.Write(kernel)
		return err
	}); err != nil {
		return Manifest{}, err
	}
	total := t.size()
	m.Initramfs, err = writeFile(ctx, c.Out, InitramfsFile, func(w io.Writer) error {
		// The kernel's decoder takes windows of up to 128 MiB; 8 MiB is what
		// compression levels up to 19 use. One goroutine: the same bytes every time.
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
			zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return fmt.Errorf("starting zstd: %w", err)
		}
		p := &progressWriter{ctx: ctx, w: z, report: func(n int64) { c.Progress("compressing", n, total) }}
		if err := t.writeCPIO(p, c.Epoch); err != nil {
			return err
		}
		m.Unpacked = p.n
		return z.Close()
	})
	if err != nil {
		return Manifest{}, err
	}
	_, err = writeFile(ctx, c.Out, ManifestFile, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(m)
	})
	return m, err
}

// inputs is the digest of everything that decides the bytes of the result.
func (c Config) inputs(m Manifest, pkg kernelPackage, extra *tree) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, builder, m.Agent, pkg.sha256, c.Epoch.Unix(), serverModules, c.Modules)
	if err := extra.writeCPIO(h, c.Epoch); err != nil {
		return "", err
	}
	if c.Firmware != "" {
		if err := hashFolder(h, c.Firmware); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// finished returns the manifest in dir if it was made from the same inputs and
// its files are whole.
func finished(dir, inputs string) (Manifest, bool) {
	m, err := ReadManifest(dir)
	if err != nil || m.Inputs != inputs {
		return Manifest{}, false
	}
	for _, f := range []File{m.Kernel, m.Initramfs} {
		got, err := hashFile(filepath.Join(dir, f.Name))
		if err != nil || got != f.SHA256 {
			return Manifest{}, false
		}
	}
	m.Cached = true
	return m, true
}

// ReadManifest returns the manifest of the build in dir. A folder without one
// gives an error that wraps fs.ErrNotExist.
func ReadManifest(dir string) (Manifest, error) {
	var m Manifest
	b, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if err != nil {
		return m, fmt.Errorf("reading manifest of the agent system: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("reading manifest of the agent system: %w", err)
	}
	return m, nil
}

// readAgent returns the agent's bytes if it is a static ELF binary.
func readAgent(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing, run make build first: %w", path, ErrAgent)
	}
	if err != nil {
		return nil, fmt.Errorf("reading agent: %w", err)
	}
	needs, err := neededBy(path)
	if err != nil {
		return nil, fmt.Errorf("reading agent: %w: %w", ErrAgent, err)
	}
	if len(needs.libraries) > 0 || needs.interpreter != "" {
		return nil, fmt.Errorf("%s needs %s; build it with CGO_ENABLED=0: %w", path, strings.Join(needs.libraries, ", "), ErrAgent)
	}
	return b, nil
}

// writeFile writes name in dir through a temporary file that is renamed when complete.
func writeFile(ctx context.Context, dir, name string, fill func(io.Writer) error) (_ File, err error) {
	f, err := os.CreateTemp(dir, "."+name+"-")
	if err != nil {
		return File{}, fmt.Errorf("writing %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	h := sha256.New()
	count := &progressWriter{ctx: ctx, w: io.MultiWriter(f, h), report: func(int64) {}}
	if err := fill(count); err != nil {
		return File{}, fmt.Errorf("writing %s: %w", name, err)
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return File{}, fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return File{}, fmt.Errorf("writing %s: %w", name, err)
	}
	return File{Name: name, Size: count.n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// progressWriter counts what goes through it and stops when ctx is done.
type progressWriter struct {
	ctx    context.Context
	w      io.Writer
	n      int64
	report func(int64)
}

func (p *progressWriter) Write(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.w.Write(b)
	p.n += int64(n)
	p.report(p.n)
	return n, err
}

func digest(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
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

// hashFolder feeds names, sizes and times of everything under dir to w; the
// bytes of a firmware folder, often a gigabyte, are not read for it.
func hashFolder(w io.Writer, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("reading firmware folder: %w", err)
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("reading firmware folder: %w", err)
		}
		_, err = fmt.Fprintln(w, path, info.Size(), info.ModTime().UnixNano())
		return err
	})
}

// installFirmware adds the blobs that the chosen modules ask for by name.
// Debian compresses none of them; a missing one is passed over, because most
// modules name blobs of every generation of their hardware.
func installFirmware(t *tree, dir string, chosen []*module) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("opening firmware folder: %w", err)
	}
	defer root.Close() //nolint:errcheck // read only
	for _, m := range chosen {
		for _, name := range m.firmware {
			b, err := fs.ReadFile(root.FS(), name)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
				continue
			}
			if err != nil {
				return fmt.Errorf("reading firmware %s: %w", name, err)
			}
			t.file("usr/lib/firmware/"+name, 0o644, b)
		}
	}
	return nil
}

// lines returns the non-empty lines of b.
func lines(b []byte) []string {
	var out []string
	for line := range bytes.Lines(b) {
		if s := strings.TrimSpace(string(line)); s != "" {
			out = append(out, s)
		}
	}
	return out
}
