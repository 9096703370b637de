package iso

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bedplate/bedplate/images/agentos"
)

// Boot programs of Debian's packages, by their places on this machine.
const (
	shim       = "/usr/lib/shim/shimx64.efi.signed"
	grubEFI    = "/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"
	grubHybrid = "/usr/lib/grub/i386-pc/boot_hybrid.img"
	grubCD     = "/usr/lib/grub/i386-pc/cdboot.img"
	grubKernel = "/usr/lib/grub/i386-pc/kernel.img"
)

var bootPrograms = []string{shim, grubEFI, grubHybrid, grubCD, grubKernel}

// tools are the programs that a build needs, and the packages that have them.
var tools = map[string]string{
	"xorriso": "xorriso", "mformat": "mtools", "grub-mkimage": "grub-common",
	grubHybrid: "grub-pc-bin", grubEFI: "grub-efi-amd64-signed", shim: "shim-signed",
}

// Deadline of one tool, and the slack of the EFI system partition: file
// allocation table, folders, and clusters that are not full.
const (
	toolDeadline = 2 * time.Minute
	espSlack     = 1 << 20
	mebibyte     = 1 << 20
)

// build is one image in the making.
type build struct {
	dir, work string
	inputs    string
	epoch     time.Time
}

func builderOf(c Config, m Manifest, work string) build {
	return build{dir: c.Dir, work: work, inputs: m.Inputs, epoch: c.Epoch}
}

// mark is shorter than the digest: it is a file's name.
func (b build) mark() string { return mark(b.inputs[:16]) }

func (b build) tree(path string) string { return filepath.Join(b.work, "tree", path) }

func (b build) make(ctx context.Context) error {
	for _, s := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"laying out the boot medium", b.lay},
		{"making GRUB for BIOS", b.makeBIOS},
		{"making EFI system partition", b.makeESP},
		{"writing the image", b.write},
	} {
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

// lay makes the tree of the ISO 9660 file system. The agent's system is linked,
// not copied, where the file system can.
func (b build) lay(context.Context) error {
	config := []byte(grubConfig(b.mark()))
	files := map[string][]byte{
		b.mark(): nil, scriptPath: emptyScript(), archivePath: emptyArchive(b.inputs), "esp.cfg": config,
	}
	for _, path := range configPaths {
		files[path] = config
	}
	for path, content := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(b.tree(path)), 0o755), os.WriteFile(b.tree(path), content, 0o644)); err != nil {
			return err
		}
	}
	if err := os.Rename(b.tree("esp.cfg"), filepath.Join(b.work, "esp.cfg")); err != nil {
		return err
	}
	for path, name := range map[string]string{kernelPath: agentos.KernelFile, initramfsPath: agentos.InitramfsFile} {
		if err := linkOrCopy(filepath.Join(b.dir, name), b.tree(path)); err != nil {
			return err
		}
	}
	return nil
}

// linkOrCopy links a file; Linux refuses that for another user's files
// (fs.protected_hardlinks), and some file systems for all.
func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}

// makeBIOS makes GRUB's El Torito image, which the boot sector of a stick
// starts as well.
func (b build) makeBIOS(ctx context.Context) error {
	args := []string{"-O", "i386-pc-eltorito", "-o", b.tree(biosPath), "-p", "/boot/grub"}
	return b.run(ctx, "grub-mkimage", append(args, strings.Fields(biosModules)...)...)
}

// makeESP makes the EFI system partition, as small as it can be: firmware takes
// the length of a CD's boot image from a field of 16 bits.
func (b build) makeESP(ctx context.Context) error {
	size := int64(espSlack)
	for _, path := range []string{shim, grubEFI} {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		size += info.Size()
	}
	size = (size + mebibyte - 1) / mebibyte * mebibyte
	esp, config := filepath.Join(b.work, "esp.img"), filepath.Join(b.work, "esp.cfg")
	if err := os.WriteFile(esp, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(esp, size); err != nil {
		return err
	}
	commands := [][]string{
		{"mformat", "-i", esp, "-T", strconv.FormatInt(size/512, 10), "-h", "64", "-s", "32", "-N", b.inputs[:8], "-v", "BEDPLATE", "::"},
		{"mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/EFI/debian", "::/boot", "::/boot/grub"},
		{"mcopy", "-i", esp, shim, "::/EFI/BOOT/BOOTX64.EFI"},
		{"mcopy", "-i", esp, grubEFI, "::/EFI/BOOT/grubx64.efi"},
	}
	for _, path := range configPaths {
		commands = append(commands, []string{"mcopy", "-i", esp, config, "::" + path})
	}
	for _, args := range commands {
		if err := b.run(ctx, args[0], args[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// write runs xorriso with the options that Ubuntu's installation media are made with.
func (b build) write(ctx context.Context) error {
	// 16 octets that are the medium's own, for the identities in its tables.
	id := b.inputs[:32]
	// xorriso 1.5.4 takes the first second of 1970 for no date at all.
	stamp := time.Unix(max(b.epoch.Unix(), 1), 0).UTC().Format("2006010215040500")
	return b.run(ctx, "xorriso", "-report_about", "WARNING", "-as", "mkisofs",
		"-r", "-V", "BEDPLATE", "-o", filepath.Join(b.work, ImageFile),
		"--modification-date="+stamp, "--set_all_file_dates", stamp, "--gpt_disk_guid", id,
		"--grub2-mbr", grubHybrid, "--protective-msdos-label", "-partition_cyl_align", "off", "-partition_offset", "16", "--mbr-force-bootable",
		"-append_partition", "2", "28732ac11ff8d211ba4b00a0c93ec93b", filepath.Join(b.work, "esp.img"), "-appended_part_as_gpt",
		"-iso_mbr_part_type", "a2a0d0ebe5b9334487c068b6b72699c7",
		"-c", "/boot/boot.cat", "-b", biosPath, "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info",
		"-eltorito-alt-boot", "-e", "--interval:appended_partition_2:::", "-no-emul-boot", b.tree("/"))
}

// maxImage bounds what is read to find the parts.
const maxImage = 1 << 30

// locate finds where the parts have come to lie, by their bytes: each must be
// there exactly once, whole and on a block's boundary.
func (b build) locate(m *Manifest) error {
	path := filepath.Join(b.work, ImageFile)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > maxImage {
		return fmt.Errorf("image of %d bytes, at most %d", info.Size(), maxImage)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, p := range []struct {
		path string
		to   *Region
	}{{scriptPath, &m.Script}, {archivePath, &m.Archive}, {kernelPath, &m.Kernel}, {initramfsPath, &m.Initramfs}} {
		content, err := os.ReadFile(b.tree(p.path))
		if err != nil {
			return err
		}
		if *p.to, err = find(image, content); err != nil {
			return fmt.Errorf("looking for %s in the image: %w", p.path, err)
		}
	}
	return nil
}

// isoBlock is the length of a block of ISO 9660.
const isoBlock = 2048

func find(image, content []byte) (Region, error) {
	at := bytes.Index(image, content)
	switch {
	case at < 0:
		return Region{}, errors.New("it is not there in one piece")
	case bytes.Contains(image[at+1:], content):
		return Region{}, errors.New("it is there more than once")
	case at%isoBlock != 0:
		return Region{}, fmt.Errorf("it begins at %d, inside of a block", at)
	}
	return Region{Offset: int64(at), Size: int64(len(content))}, nil
}

// checkTools returns one error that names every missing package.
func checkTools() error {
	var missing []string
	for tool, pkg := range tools {
		if _, err := look(tool); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("building the boot medium needs more packages: apt-get install %s", strings.Join(slices.Compact(missing), " "))
}

// look finds a program; users other than root have no sbin in their PATH.
func look(tool string) (string, error) {
	if filepath.IsAbs(tool) {
		_, err := os.Stat(tool)
		return tool, err
	}
	if p, err := exec.LookPath(tool); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		p := filepath.Join(dir, tool)
		if info, err := os.Stat(p); err == nil && info.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", &fs.PathError{Op: "finding", Path: tool, Err: fs.ErrNotExist}
}

// run starts a program and returns its last words in the error if it fails.
func (b build) run(ctx context.Context, name string, args ...string) error {
	path, err := look(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, toolDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MTOOLS_SKIP_CHECK=1", "SOURCE_DATE_EPOCH="+strconv.FormatInt(b.epoch.Unix(), 10))
	cmd.WaitDelay = 10 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("%s: %w: %s", name, err, lastLines(said.String(), 5))
	}
	return nil
}
