// Package iso makes the boot medium of the agent's system: one ISO 9660
// image that BIOS and UEFI machines boot, with Secure Boot too, from a CD
// drive, real or a BMC's virtual one, and from a USB stick that it was copied
// to.
//
//	system area  GRUB's boot sector for BIOS from a stick; a GPT for UEFI from a stick
//	ISO 9660     GRUB's El Torito image, kernel, initramfs, and the machine's part:
//	               /bedplate/machine.cfg   8 KiB, what GRUB is to do
//	               /bedplate/machine.cpio  64 KiB, a second initramfs
//	partition 2  EFI system partition, also El Torito's image for UEFI: shim and
//	             GRUB as the distribution signed them
//
// The image is built once and holds nothing of any machine. The machine's part
// has a fixed size and place, which the manifest says; Image.Open returns a
// reader of the image with that part replaced as it goes by, so that thousands of
// machines have an image of their own and none of them is on a disk.
//
// The boot loaders come from the distribution's packages by name. The image is
// written by xorriso, which is what Debian and Ubuntu make their media with:
// its arrangement of boot records (that of Ubuntu since 20.10) has been booted by
// every kind of firmware there is. The Go libraries that write ISO 9660 have no
// hybrid boot records.
//
// The result is reproducible. Build and Open may be called by any number of
// goroutines, Build for different folders.
package iso

import (
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
	"strings"
	"time"

	"github.com/bedplate/bedplate/images/agentos"
)

// builder is part of the digest of the inputs: raise it when the same inputs
// would give another result.
const builder = "iso/1"

// File names of a finished build, beside the agent's system that it was made from.
const (
	ImageFile    = "agent.iso"
	ManifestFile = "agent.iso.json"
)

// Config says what to build.
type Config struct {
	// Dir is the folder with the agent's system (package agentos); the medium
	// is put beside it.
	Dir string
	// Epoch dates every file of the image. Zero: 1 January 1970.
	Epoch time.Time
	// Force builds even when nothing has changed.
	Force bool
	// Progress, if set, hears of each phase as it starts; done and total are 0.
	Progress func(phase string, done, total int64)
}

// Region is a part of the image that is replaced for each machine.
type Region struct {
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
}

// End is the offset after the region's last byte.
func (r Region) End() int64 { return r.Offset + r.Size }

// Manifest describes a finished build; it is stored beside it as JSON.
type Manifest struct {
	// Inputs is the SHA-256 of everything that went in.
	Inputs string       `json:"inputs"`
	Image  agentos.File `json:"image"`
	// Script and Archive are the machine's part: what GRUB is to do, and the
	// second initramfs.
	Script  Region `json:"script"`
	Archive Region `json:"archive"`
	// Kernel and Initramfs are where the agent's system is in the image: who has
	// read the second to its end is about to start.
	Kernel    Region `json:"kernel"`
	Initramfs Region `json:"initramfs"`
	// System are the digests of the kernel and initramfs inside.
	System [2]string `json:"system"`
	// Cached reports that this build was found finished; it is not stored.
	Cached bool `json:"-"`
}

// ErrMissing is wrapped when there is no boot medium, or one of another system
// than the one beside it.
var ErrMissing = errors.New("build it with `bedplate agentos build`")

// Build makes the image and its manifest, or finds that they are there already.
// Files appear complete or not at all.
func Build(ctx context.Context, c Config) (Manifest, error) {
	if c.Progress == nil {
		c.Progress = func(string, int64, int64) {}
	}
	if c.Epoch.IsZero() {
		c.Epoch = time.Unix(0, 0)
	}
	if err := checkTools(); err != nil {
		return Manifest{}, err
	}
	system, err := agentos.ReadManifest(c.Dir)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{System: digests(system)}
	if m.Inputs, err = c.inputs(m); err != nil {
		return Manifest{}, err
	}
	if old, err := readManifest(c.Dir); err == nil && old.Inputs == m.Inputs && !c.Force && whole(c.Dir, old) {
		old.Cached = true
		return old, nil
	}
	c.Progress("boot medium", 0, 0)
	return c.assemble(ctx, m)
}

func digests(m agentos.Manifest) [2]string { return [2]string{m.Kernel.SHA256, m.Initramfs.SHA256} }

// inputs is the digest of everything that decides the bytes of the result.
func (c Config) inputs(m Manifest) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, builder, m.System, c.Epoch.Unix(), grubConfig(mark("")), biosModules, string(emptyScript()))
	for _, path := range bootPrograms {
		sum, _, err := hashFile(path)
		if err != nil {
			return "", fmt.Errorf("reading boot loader: %w", err)
		}
		fmt.Fprintln(h, path, sum)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// assemble makes the image in a folder beside its place, looks where its parts
// have come to lie, and moves it there, the manifest last.
func (c Config) assemble(ctx context.Context, m Manifest) (Manifest, error) {
	work, err := os.MkdirTemp(c.Dir, ".medium-")
	if err != nil {
		return m, fmt.Errorf("making a folder to build in: %w", err)
	}
	defer os.RemoveAll(work) //nolint:errcheck // a left-over is harmless
	b := builderOf(c, m, work)
	if err := b.make(ctx); err != nil {
		return m, err
	}
	if err := b.locate(&m); err != nil {
		return m, err
	}
	iso := filepath.Join(work, ImageFile)
	sum, size, err := hashFile(iso)
	if err != nil {
		return m, fmt.Errorf("reading the finished image: %w", err)
	}
	m.Image = agentos.File{Name: ImageFile, Size: size, SHA256: sum}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, fmt.Errorf("encoding manifest: %w", err)
	}
	manifest := filepath.Join(work, ManifestFile)
	if err := errors.Join(os.WriteFile(manifest, append(data, '\n'), 0o644), syncFile(iso), syncFile(manifest)); err != nil {
		return m, fmt.Errorf("writing boot medium: %w", err)
	}
	// Without a manifest there is no medium: nobody reads a new image by an old one.
	if err := os.Remove(filepath.Join(c.Dir, ManifestFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("replacing boot medium: %w", err)
	}
	for _, name := range []string{ImageFile, ManifestFile} {
		if err := os.Rename(filepath.Join(work, name), filepath.Join(c.Dir, name)); err != nil {
			return m, fmt.Errorf("replacing boot medium: %w", err)
		}
	}
	return m, nil
}

// readManifest returns the manifest of the medium in dir.
func readManifest(dir string) (Manifest, error) {
	var m Manifest
	data, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("reading manifest of the boot medium: %w", err)
	}
	return m, m.check()
}

// check makes sure that the parts lie inside the image and apart.
func (m Manifest) check() error {
	for _, r := range []Region{m.Script, m.Archive, m.Kernel, m.Initramfs} {
		if r.Offset <= 0 || r.Size <= 0 || r.End() > m.Image.Size {
			return fmt.Errorf("reading manifest of the boot medium: a part lies outside of it: %w", ErrMissing)
		}
	}
	if m.Script.Offset < m.Archive.End() && m.Archive.Offset < m.Script.End() {
		return fmt.Errorf("reading manifest of the boot medium: its parts overlap: %w", ErrMissing)
	}
	return nil
}

// whole reports whether the image in dir is the one that m describes.
func whole(dir string, m Manifest) bool {
	sum, _, err := hashFile(filepath.Join(dir, ImageFile))
	return err == nil && sum == m.Image.SHA256
}

func hashFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close() //nolint:errcheck // read only
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lastLines returns the end of what a program said, on one line.
func lastLines(s string, n int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-n):], "; ")
}
