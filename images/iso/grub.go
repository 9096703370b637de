package iso

import (
	"bytes"
	"fmt"
	"strings"
)

// Sizes of the machine's part. The script has room for a kernel command line
// of 2047 bytes, quoted; the archive for the configuration of 64 interfaces.
const (
	scriptSize  = 8 << 10
	archiveSize = 64 << 10
)

// Paths in the image.
const (
	kernelPath    = "/boot/vmlinuz"
	initramfsPath = "/boot/initramfs.zst"
	scriptPath    = "/bedplate/machine.cfg"
	archivePath   = "/bedplate/machine.cpio"
	biosPath      = "/boot/grub/bios.img"
)

// KernelPath is where a machine's script finds the kernel.
const KernelPath = kernelPath

// InitrdPaths are what a machine's script is to have the kernel unpack, in
// order: an archive that isn't compressed comes first.
func InitrdPaths() []string { return []string{archivePath, initramfsPath} }

// configPaths are where GRUB looks for its configuration. The signed GRUB for
// CDs has the prefix /boot/grub, the one for disks /EFI/debian; both take it
// from the device that they were started from, which from a CD is the ISO 9660
// file system and from a stick the EFI system partition (GRUB 2.06 under OVMF
// 2022.11). So it is in both places of both file systems.
var configPaths = []string{"/boot/grub/grub.cfg", "/EFI/debian/grub.cfg"}

// mark is a file that tells this medium from others: its name has the digest
// of what went in.
func mark(inputs string) string { return "/bedplate/" + inputs }

// grubConfig finds the medium that GRUB itself came from and goes on with the
// machine's script there. The search of all devices comes last, as it could
// find another machine's medium of the same build.
func grubConfig(mark string) string {
	return strings.ReplaceAll(`set timeout=0
set medium=
if [ -e ($root)MARK ]; then set medium=$root; fi
if [ -z "$medium" ]; then
  if regexp --set=1:disk '^\(([^,)]+)' "$cmdpath"; then
    if [ -e ($disk)MARK ]; then set medium=$disk; fi
  fi
fi
if [ -z "$medium" ]; then search --no-floppy --file --set=medium MARK; fi
if [ -n "$medium" ]; then
  set root=$medium
  source ($medium)`+scriptPath+`
else
  echo 'Bedplate: the medium that this machine booted from is not readable any more: insert it again.'
fi
echo 'Bedplate: this machine restarts in 30 s.'
sleep 30
reboot
`, "MARK", mark)
}

// biosModules are built into GRUB for BIOS; the medium has no others.
const biosModules = "biosdisk iso9660 part_gpt part_msdos normal configfile linux serial terminal echo test regexp search search_fs_file minicmd sleep gzio halt reboot"

// emptyScript is what the image has for a script before it is any machine's.
func emptyScript() []byte {
	script, err := padScript([]byte(`echo 'Bedplate: this is no machine'\''s medium. To make one: bedplate machine media NAME --out FILE.iso'
`))
	if err != nil {
		panic(err) // it is a constant, and short
	}
	return script
}

// padScript fills a script up with empty lines, which GRUB passes over.
func padScript(script []byte) ([]byte, error) {
	if len(script) > scriptSize {
		return nil, fmt.Errorf("boot script of %d bytes, the medium has room for %d: shorten the machine's kernel_args", len(script), scriptSize)
	}
	out := bytes.Repeat([]byte{'\n'}, scriptSize)
	copy(out, script)
	return out, nil
}

// padArchive fills an archive up with zeros, which the kernel passes over
// between archives (init/initramfs.c).
func padArchive(archive []byte) ([]byte, error) {
	if len(archive) > archiveSize {
		return nil, fmt.Errorf("configuration of %d bytes, the medium has room for %d: shorten the machine's interfaces", len(archive), archiveSize)
	}
	out := make([]byte, archiveSize)
	copy(out, archive)
	return out, nil
}

// emptyArchive is what the image has in the archive's place, and is found by:
// it is zero but for its ends, so that the kernel would pass over it too.
func emptyArchive(inputs string) []byte {
	out := make([]byte, archiveSize)
	copy(out, "bedplate machine archive "+inputs)
	copy(out[archiveSize-len(inputs):], inputs)
	return out
}
