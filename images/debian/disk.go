package debian

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Layout of the disk, in sectors of 512 bytes:
//
//	1  2048   1 MiB     BIOS boot: GRUB's core image
//	2  4096   32 MiB    EFI system partition, FAT16
//	3  69632  the rest  root, ext4
const (
	sector        = 512
	biosStart     = 2048
	biosSectors   = 2048
	espStart      = 4096
	espSectors    = 65536
	rootStart     = espStart + espSectors
	rootPartition = 3
	mebibyte      = 1 << 20
)

// disk is an image that is being made.
type disk struct {
	work, raw          string
	rootUUID, diskGUID string
	// own are files by name, beside the overlay.
	own map[string]string
}

// bootPrograms are the signed boot programs, by their places on this machine,
// and GRUB's for BIOS.
const (
	shim     = "/usr/lib/shim/shimx64.efi.signed"
	grubEFI  = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
	grubBIOS = "/usr/lib/grub/i386-pc/boot.img"
)

var bootPrograms = []string{shim, grubEFI, grubBIOS}

// grubConfig boots by the links that Debian keeps to the newest kernel. Both
// verbs are the root's UUID. fbcon comes first: the last console is /dev/console.
const grubConfig = `set timeout=0
if serial --unit=0 --speed=115200; then
  terminal_output console serial
fi
search --no-floppy --fs-uuid --set=root %s
linux /vmlinuz root=UUID=%s ro console=tty0 console=ttyS0,115200 quiet
initrd /initrd.img
boot
`

// grubStart finds the root and reads grubConfig there.
const grubStart = `search --no-floppy --fs-uuid --set=root %s
set prefix=($root)/boot/grub
configfile $prefix/grub.cfg
`

// layout decides the length of the image and makes the empty file.
func (d disk) layout(content, want int64) (int64, error) {
	need := rootStart*sector + content + content/4 + 96*mebibyte
	size := max(want, 0)
	if size == 0 {
		size = need
	}
	size = (size + mebibyte - 1) / mebibyte * mebibyte
	if size < need-content/4 {
		return 0, fmt.Errorf("the image needs %d MiB, %d MiB were asked for", need/mebibyte+1, size/mebibyte)
	}
	f, err := os.Create(d.raw)
	if err != nil {
		return 0, fmt.Errorf("making image: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return 0, fmt.Errorf("making image: %w", err)
	}
	return size, nil
}

// make fills the image: partitions, root, EFI system partition, BIOS boot code.
func (d disk) make(ctx context.Context) error {
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"making partitions", d.partition},
		{"making root file system", d.makeRoot},
		{"making EFI system partition", d.makeESP},
		{"installing BIOS boot code", d.installBIOS},
	}
	for _, s := range steps {
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

func (d disk) partition(ctx context.Context) error {
	part := func(n, start int, size, kind, name string) []string {
		i := strconv.Itoa(n)
		return []string{
			"-n", fmt.Sprintf("%d:%d:%s", n, start, size), "-t", i + ":" + kind, "-c", i + ":" + name,
			"-u", i + ":" + uuidFrom(d.diskGUID, i),
		}
	}
	args := []string{"-o", "-a", "1", "-U", d.diskGUID}
	args = append(args, part(1, biosStart, "+"+strconv.Itoa(biosSectors-1), "ef02", "bios")...)
	args = append(args, part(2, espStart, "+"+strconv.Itoa(espSectors-1), "ef00", "esp")...)
	// The type of "root partition, x86-64", by which systemd-repart finds it.
	args = append(args, part(3, rootStart, "0", "8304", "root")...)
	return run(ctx, toolDeadline, nil, "sgdisk", append(args, d.raw)...)
}

// makeRoot copies the tree into an ext4 file system. mkfs.ext4 takes owners
// from the files, so they are unpacked as root, or under fakeroot.
func (d disk) makeRoot(ctx context.Context) error {
	info, err := os.Stat(d.raw)
	if err != nil {
		return err
	}
	// The last 33 sectors hold the second partition table.
	blocks := (info.Size()/sector - rootStart - 2048) / 8
	const script = `set -e
mkdir "$1/root"
tar -C "$1/root" --numeric-owner -xf "$1/root.tar"
rm "$1/root.tar"
mkfs.ext4 -q -b 4096 -U "$2" -L root -d "$1/root" -E "offset=$3,root_owner=0:0,hash_seed=$2,lazy_itable_init=0,lazy_journal_init=0" "$4" "$5"
rm -rf "$1/root"`
	args := []string{"sh", "-c", script, "sh", d.work, d.rootUUID, strconv.Itoa(rootStart * sector), d.raw, strconv.FormatInt(blocks, 10)}
	if os.Geteuid() != 0 {
		args = append([]string{"fakeroot", "--"}, args...)
	}
	return run(ctx, toolDeadline, []string{"E2FSPROGS_FAKE_TIME=" + epochText()}, args[0], args[1:]...)
}

// makeESP writes shim and GRUB, signed by the distribution, at the path that
// firmware tries by itself and at the path that a boot entry names.
func (d disk) makeESP(ctx context.Context) error {
	at := fmt.Sprintf("%s@@%d", d.raw, espStart*sector)
	config := filepath.Join(d.work, "efi.cfg")
	if err := os.WriteFile(config, fmt.Appendf(nil, grubStart, d.rootUUID), 0o644); err != nil {
		return err
	}
	serial := strings.ReplaceAll(d.diskGUID, "-", "")[:8]
	for _, args := range [][]string{
		{"mformat", "-i", at, "-T", strconv.Itoa(espSectors), "-N", serial, "-v", "ESP", "::"},
		{"mmd", "-i", at, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"},
		{"mcopy", "-i", at, shim, "::/EFI/BOOT/BOOTX64.EFI"},
		{"mcopy", "-i", at, grubEFI, "::/EFI/BOOT/grubx64.efi"},
		{"mcopy", "-i", at, shim, "::/EFI/debian/shimx64.efi"},
		{"mcopy", "-i", at, grubEFI, "::/EFI/debian/grubx64.efi"},
		{"mcopy", "-i", at, config, "::/EFI/debian/grub.cfg"},
	} {
		if err := run(ctx, toolDeadline, []string{"MTOOLS_SKIP_CHECK=1", "SOURCE_DATE_EPOCH=" + epochText()}, args[0], args[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// installBIOS does what grub-install and grub-bios-setup do, without a mounted
// disk: core image into the BIOS boot partition, boot sector into the first
// sector, and in both the place of the next part (GRUB 2.06,
// grub-core/boot/i386/pc/{boot,diskboot}.S).
func (d disk) installBIOS(ctx context.Context) error {
	config, core := filepath.Join(d.work, "bios.cfg"), filepath.Join(d.work, "core.img")
	if err := os.WriteFile(config, fmt.Appendf(nil, grubStart, d.rootUUID), 0o644); err != nil {
		return err
	}
	if err := run(ctx, toolDeadline, nil, "grub-mkimage", "-O", "i386-pc", "-o", core, "-p", "/boot/grub", "-c", config,
		"biosdisk", "part_gpt", "ext2", "search", "search_fs_uuid", "normal", "configfile", "linux", "serial", "terminal", "echo", "test", "minicmd", "gzio"); err != nil {
		return err
	}
	image, err := os.ReadFile(core)
	if err != nil {
		return err
	}
	boot, err := os.ReadFile(grubBIOS)
	if err != nil {
		return err
	}
	if image, err = patchCore(image, biosStart, biosSectors); err != nil {
		return err
	}
	f, err := os.OpenFile(d.raw, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	mbr := make([]byte, sector)
	_, err = f.ReadAt(mbr, 0)
	if err == nil {
		mbr, err = patchBoot(boot, mbr, biosStart)
	}
	if err == nil {
		_, err = f.WriteAt(mbr, 0)
	}
	if err == nil {
		_, err = f.WriteAt(image, biosStart*sector)
	}
	return errors.Join(err, f.Close())
}

// patchCore pads the core image to sectors and writes the block list at the
// end of its first sector: where the rest begins, its length, its segment.
func patchCore(core []byte, lba uint64, room int) ([]byte, error) {
	core = append(core, make([]byte, -len(core)&(sector-1))...)
	if len(core) < 2*sector || len(core)/sector > room {
		return nil, fmt.Errorf("GRUB's core image has %d sectors, want 2 to %d", len(core)/sector, room)
	}
	const blockList, segment = 0x1f4, 0x820
	binary.LittleEndian.PutUint64(core[blockList:], lba+1)
	binary.LittleEndian.PutUint16(core[blockList+8:], uint16(len(core)/sector-1))
	binary.LittleEndian.PutUint16(core[blockList+10:], segment)
	return core, nil
}

// patchBoot returns GRUB's boot sector with the place of the core image and
// the partition table of mbr.
func patchBoot(boot, mbr []byte, lba uint64) ([]byte, error) {
	if len(boot) != sector || len(mbr) != sector {
		return nil, fmt.Errorf("GRUB's boot sector has %d bytes, want %d", len(boot), sector)
	}
	const kernelSector, bootDrive, driveCheck, diskSignature = 0x5c, 0x64, 0x66, 0x1b8
	out := bytes.Clone(boot)
	binary.LittleEndian.PutUint64(out[kernelSector:], lba)
	out[bootDrive] = 0xff                           // the drive that the firmware booted
	out[driveCheck], out[driveCheck+1] = 0x90, 0x90 // no-ops: believe the firmware
	copy(out[diskSignature:], mbr[diskSignature:])
	return out, nil
}

// tools are the programs that a build needs, and the packages that have them.
var tools = map[string]string{
	"mmdebstrap": "mmdebstrap", "sgdisk": "gdisk", "mkfs.ext4": "e2fsprogs", "mformat": "mtools",
	"grub-mkimage": "grub-common", grubBIOS: "grub-pc-bin", grubEFI: "grub-efi-amd64-signed", shim: "shim-signed",
}

// checkTools returns one error that names every missing package.
func checkTools() error {
	want := map[string]string{}
	for tool, pkg := range tools {
		want[tool] = pkg
	}
	if os.Geteuid() != 0 {
		want["fakeroot"] = "fakeroot"
	}
	var missing []string
	for tool, pkg := range want {
		if _, err := look(tool); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("building the image needs more packages: apt-get install %s", strings.Join(missing, " "))
	}
	return nil
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
func run(ctx context.Context, deadline time.Duration, env []string, name string, args ...string) error {
	path, err := look(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Env = append(cmd.Env, env...)
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

func lastLines(s string, n int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-n):], "; ")
}
