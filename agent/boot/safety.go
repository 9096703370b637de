package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// unsafeDrivers leave their devices in a state that the next kernel's driver
// can't make use of, or hang when they are told to let go of them. The agent's
// own kernel matters, not the installed one: what no driver has touched is as
// the firmware left it.
var unsafeDrivers = map[string]string{
	"mlx4_core": "after a kexec its cards read as zeros (iPXE issue 916), or it hangs in mlx4_shutdown (Talos issue 10143)",
	// Graphics: the next kernel finds no framebuffer of the firmware, and needs the card's own POST.
	"amdgpu": "its cards want a reset of the machine", "radeon": "its cards want a reset of the machine",
	"nouveau": "its cards want a reset of the machine", "nvidia": "its cards want a reset of the machine",
	"ioatdma": "the next kernel's self-test of it times out (kexec mailing list, December 2009)",
}

var errUnsafe = errors.New("kexec is not safe here")

func unsafe(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errUnsafe, fmt.Sprintf(format, args...))
}

// safe returns nil if nothing speaks against starting an installed system
// without its firmware.
func (m Machine) safe(images map[string]any) error {
	for name, v := range images {
		if i, ok := v.(map[string]any); ok && i["handover"] == "reboot" {
			return unsafe("image %s says that it wants a restart (spec.handover)", name)
		}
	}
	if text(m.path("proc/sys/kernel/kexec_load_disabled")) == "1" {
		return unsafe("the kernel has switched it off until the next restart (kernel.kexec_load_disabled)")
	}
	if err := m.safeDrivers(); err != nil {
		return err
	}
	return m.safeFirmware()
}

func (m Machine) safeDrivers() error {
	links, err := filepath.Glob(m.path("sys/bus/pci/devices/*/driver"))
	if err != nil {
		return err
	}
	slices.Sort(links)
	for _, l := range links {
		to, err := os.Readlink(l)
		if err != nil {
			continue // unbound a moment ago
		}
		if why, bad := unsafeDrivers[filepath.Base(to)]; bad {
			return unsafe("device %s has the driver %s: %s", filepath.Base(filepath.Dir(l)), filepath.Base(to), why)
		}
	}
	return nil
}

const efiGlobal = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// safeFirmware finds what only a restart carries out: settings that wait for
// one, and wishes for the next boot (UEFI §8.5.4, §3.3).
func (m Machine) safeFirmware() error {
	pending, err := filepath.Glob(m.path("sys/class/firmware-attributes/*/attributes/pending_reboot"))
	if err != nil {
		return err
	}
	for _, p := range pending {
		if text(p) == "1" {
			return unsafe("firmware settings wait for a restart")
		}
	}
	const bootToFirmware, capsule = 1 << 0, 1 << 2
	if b, err := os.ReadFile(m.path("sys/firmware/efi/efivars/OsIndications" + efiGlobal)); err == nil && len(b) >= 12 {
		if binary.LittleEndian.Uint64(b[4:])&(bootToFirmware|capsule) != 0 {
			return unsafe("the firmware has something to do at the next restart (OsIndications)")
		}
	}
	if b, err := os.ReadFile(m.path("sys/firmware/efi/efivars/BootNext" + efiGlobal)); err == nil && len(b) >= 6 {
		return unsafe("the firmware is to boot something else next (BootNext is %04X)", binary.LittleEndian.Uint16(b[4:]))
	}
	return nil
}

func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
