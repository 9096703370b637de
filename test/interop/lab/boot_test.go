package lab

import (
	"net/http"
	"os"
	"testing"

	"github.com/bedplate/bedplate/lab"
)

// What firmware says when it takes a boot device.
const (
	biosNetwork = `iPXE initialising devices`
	biosDisk    = `this is the disk`
	biosCD      = `this is the disc`
	biosUSB     = `this is the stick`
	uefiNetwork = `>>Start PXE over IPv4`
	uefiHTTP    = `>>Start HTTP Boot over IPv4`
	uefiDisk    = `BdsDxe: starting Boot.* "UEFI (Misc|Non-Block Boot) Device`
	uefiCD      = `BdsDxe: starting Boot.* "UEFI QEMU DVD-ROM`
	uefiUSB     = `BdsDxe: starting Boot.* "UEFI QEMU QEMU USB`
)

// newBootRack has a machine with something to boot on every device.
func newBootRack(t *testing.T, firmware lab.Firmware) *rack {
	t.Helper()
	r := newRack(t, lab.MachineSpec{Name: "m", Firmware: firmware, Memory: 256 << 20, Boot: []string{"disk"}, Disks: []lab.DiskSpec{{Size: 8 << 20}}})
	efi := efiVolume(t)
	disk, stick := bootSector("this is the disk"), bootSector("this is the stick")
	if firmware != lab.BIOS {
		disk, stick = efi, efi
	}
	f, err := os.OpenFile(r.machine("m").Disk(0), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(disk); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r.images["/cd.iso"] = disc("this is the disc", efi)
	r.images["/stick.img"] = append(stick, make([]byte, 1<<20)...)
	return r
}

func TestBoot_BIOS(t *testing.T) {
	r := newBootRack(t, lab.BIOS)
	testBoot(r, map[string]string{"Pxe": biosNetwork, "Hdd": biosDisk, "Cd": biosCD, "Usb": biosUSB})
}

func TestBoot_UEFI(t *testing.T) {
	r := newBootRack(t, lab.UEFI)
	testBoot(r, map[string]string{"Pxe": uefiNetwork, "Hdd": uefiDisk, "Cd": uefiCD, "Usb": uefiUSB})
	t.Run("UefiHttp leaves PXE out", func(t *testing.T) {
		r := r.in(t)
		s := r.machine("m").Serial()
		r.override("m", "UefiHttp", "Once", "")
		r.reset("m", "ForceRestart")
		r.says(s, uefiHTTP)
		r.reset("m", "ForceRestart")
		r.says(s, uefiDisk)
	})
	t.Run("BiosSetup stops in the setup, once", func(t *testing.T) {
		r := r.in(t)
		s := r.machine("m").Serial()
		r.override("m", "BiosSetup", "Once", "")
		r.reset("m", "ForceRestart")
		r.says(s, `Select Language|Boot Manager|Standard PC`)
		r.reset("m", "ForceRestart")
		r.says(s, uefiDisk)
	})
}

// testBoot goes through every way to boot a device: at power-on and at a
// reset, once and for ever, with media in the drive before and hot.
func testBoot(r *rack, says map[string]string) {
	r.t.Run("at power-on the override is for one boot", func(t *testing.T) {
		r := r.in(t)
		r.insert("m", "Cd", "/cd.iso")
		s := r.machine("m").Serial()
		r.override("m", "Cd", "Once", "")
		r.reset("m", "On")
		r.says(s, says["Cd"])
		if got := r.redfish("m", http.MethodGet, system, "")["Boot"].(map[string]any)["BootSourceOverrideEnabled"]; got != "Disabled" {
			t.Errorf("the override is %v after its boot", got)
		}
		r.reset("m", "ForceRestart")
		r.says(s, says["Hdd"])
	})
	r.t.Run("at a reset, without the power going", func(t *testing.T) {
		r := r.in(t)
		s := r.machine("m").Serial()
		for _, target := range []string{"Pxe", "Cd", "Hdd"} {
			r.override("m", target, "Once", "")
			r.reset("m", "ForceRestart")
			r.says(s, says[target])
		}
	})
	r.t.Run("a persistent one stays", func(t *testing.T) {
		r := r.in(t)
		s := r.machine("m").Serial()
		r.override("m", "Pxe", "Continuous", "")
		for _, kind := range []string{"ForceRestart", "ForceRestart", "PowerCycle"} {
			r.reset("m", kind)
			r.says(s, says["Pxe"])
		}
		r.override("m", "None", "Disabled", "")
		r.reset("m", "ForceRestart")
		r.says(s, says["Hdd"])
	})
	r.t.Run("a stick that is plugged in while the machine runs, and one that was there before", func(t *testing.T) {
		r := r.in(t)
		s := r.machine("m").Serial()
		r.insert("m", "Usb", "/stick.img")
		r.override("m", "Usb", "Once", "")
		r.reset("m", "ForceRestart")
		r.says(s, says["Usb"])
		r.override("m", "Usb", "Once", "")
		r.reset("m", "PowerCycle")
		r.says(s, says["Usb"])
		r.redfish("m", http.MethodPost, "/redfish/v1/Managers/1/VirtualMedia/Usb/Actions/VirtualMedia.EjectMedia", "{}")
		r.override("m", "Usb", "Once", "")
		r.reset("m", "ForceRestart")
		r.says(s, says["Hdd"])
	})
	r.t.Run("a disc that is changed while the machine runs", func(t *testing.T) {
		r := r.in(t)
		s := r.machine("m").Serial()
		r.redfish("m", http.MethodPost, "/redfish/v1/Managers/1/VirtualMedia/Cd/Actions/VirtualMedia.EjectMedia", "{}")
		r.override("m", "Cd", "Once", "")
		r.reset("m", "ForceRestart")
		r.says(s, says["Hdd"])
		r.insert("m", "Cd", "/cd.iso")
		r.override("m", "Cd", "Once", "")
		r.reset("m", "ForceRestart")
		r.says(s, says["Cd"])
	})
}
