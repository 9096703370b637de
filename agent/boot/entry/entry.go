// Package entry finds what an installed system would boot by default: kernel,
// initramfs and command line, as its boot loader is told. It reads
//
//   - GRUB's configuration as grub-mkconfig writes it (Debian, Ubuntu, SUSE) and
//     as people do, with its environment block: a small interpreter of GRUB's
//     script (GRUB manual, "Writing full configuration files directly");
//   - Boot Loader Specification entries (uapi-group.org, type 1), through GRUB's
//     blscfg (RHEL, Fedora) or for systemd-boot.
//
// It reads file systems that are mounted already, starts nothing and changes
// nothing. What it reads was written by somebody else's image: sizes and steps
// are bounded.
package entry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Volume is one mounted file system of the installed system.
type Volume struct {
	// Number is that of the partition, from 1; 0 for a whole disk.
	Number int
	// UUID and Label are the file system's, PartUUID the partition's.
	UUID, Label, PartUUID string
	// FS is its content.
	FS fs.FS
}

// Entry is what to boot.
type Entry struct {
	// Title is for people.
	Title string
	// Source is the file that it was found in.
	Source string
	// Kernel and Initrds are files.
	Kernel  File
	Initrds []File
	Cmdline string
}

// File is a file of a volume.
type File struct {
	Volume *Volume
	// Path is relative to the top of the volume.
	Path string
}

// Open opens it.
func (f File) Open() (fs.File, error) { return f.Volume.FS.Open(f.Path) }

// ErrNone says that there is no boot loader whose configuration can be read.
var ErrNone = errors.New("no boot loader's configuration was found")

// Bounds of what is read.
const (
	maxConfig  = 1 << 20
	maxEntries = 512
)

// grubConfigs are where distributions have it, on a root or boot partition and
// on an EFI system partition (RHEL 8 and CentOS 7 there).
var grubConfigs = []string{
	"boot/grub/grub.cfg", "boot/grub2/grub.cfg", "grub/grub.cfg", "grub2/grub.cfg",
	"@/boot/grub/grub.cfg", "root/boot/grub2/grub.cfg",
}

// Find returns the default entry. UEFI says how the machine was started.
func Find(volumes []Volume, uefi bool) (Entry, error) {
	var errs []error
	for _, c := range configs(volumes) {
		e, err := fromGRUB(volumes, c, uefi)
		if err == nil {
			return e, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", c.Path, err))
	}
	for i := range volumes {
		e, err := fromSystemdBoot(&volumes[i])
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, ErrNone) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return Entry{}, errors.Join(errs...)
	}
	return Entry{}, ErrNone
}

// configs lists GRUB's configurations, those of vendors' folders on EFI system
// partitions last: most of these only lead to another.
func configs(volumes []Volume) []File {
	var out []File
	add := func(v *Volume, names ...string) {
		for _, name := range names {
			if st, err := fs.Stat(v.FS, name); err == nil && st.Mode().IsRegular() {
				out = append(out, File{v, name})
			}
		}
	}
	for i := range volumes {
		add(&volumes[i], grubConfigs...)
	}
	for i := range volumes {
		vendors, err := fs.ReadDir(volumes[i].FS, "EFI")
		if err != nil {
			continue
		}
		for _, d := range vendors[:min(len(vendors), maxEntries)] {
			add(&volumes[i], path.Join("EFI", d.Name(), "grub.cfg"))
		}
	}
	return out
}

// read returns a small file's content.
func read(f File) (string, error) {
	r, err := f.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", f.Path, err)
	}
	if len(b) > maxConfig {
		return "", fmt.Errorf("%s is larger than %d bytes", f.Path, maxConfig)
	}
	return string(b), nil
}

// clean makes a path of a configuration relative to the top of its volume.
func clean(p string) (string, error) {
	p = strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(p, `\`, "/")), "/")
	if !fs.ValidPath(p) || p == "." {
		return "", fmt.Errorf("%q is no path of a file", p)
	}
	return p, nil
}

// CompareVersions compares runs of digits as numbers: 6.1.0-9 comes before 6.1.0-50.
func CompareVersions(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// joined is a command line of words. One with a blank in it is quoted, as GRUB
// does it and the kernel reads it.
func joined(words []string) string {
	var out []string
	for _, w := range words {
		switch {
		case w == "":
		case strings.ContainsAny(w, " \t"):
			out = append(out, `"`+w+`"`)
		default:
			out = append(out, w)
		}
	}
	return strings.Join(out, " ")
}
