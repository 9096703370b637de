package bmc

import (
	"context"
	"fmt"
	"strings"
)

// BootDevice is what a machine's firmware is told to boot.
type BootDevice string

// The boot devices.
const (
	// BootNone leaves the choice to the firmware's own order, and ends an override.
	BootNone    BootDevice = "none"
	BootNetwork BootDevice = "network"
	BootDisk    BootDevice = "disk"
	// BootCD is a CD-ROM, and virtual media inserted as MediaCD.
	BootCD BootDevice = "cdrom"
	// BootUSB is a USB or floppy device, and virtual media inserted as MediaUSB.
	BootUSB BootDevice = "usb"
	// BootSetup enters the firmware's setup.
	BootSetup BootDevice = "bios-setup"
	// BootHTTP is UEFI HTTP Boot, from BootOverride.URI if that is set.
	BootHTTP BootDevice = "uefi-http"
	// BootDiagnostic is the vendor's diagnostic system.
	BootDiagnostic BootDevice = "diagnostic"
)

// BootDevices returns every device, in the order of their documentation.
func BootDevices() []BootDevice {
	return []BootDevice{BootNone, BootNetwork, BootDisk, BootCD, BootUSB, BootSetup, BootHTTP, BootDiagnostic}
}

// ParseBootDevice reads a device by its name. pxe, cd, floppy and bios, which
// other tools say, are understood too.
func ParseBootDevice(s string) (BootDevice, error) {
	name := strings.ToLower(s)
	if other, ok := map[string]BootDevice{"pxe": BootNetwork, "cd": BootCD, "floppy": BootUSB, "bios": BootSetup, "http": BootHTTP, "hdd": BootDisk}[name]; ok {
		return other, nil
	}
	for _, d := range BootDevices() {
		if name == string(d) {
			return d, nil
		}
	}
	return "", fmt.Errorf("%q is no boot device: use none, network, disk, cdrom, usb, bios-setup, uefi-http or diagnostic", s)
}

// String returns the device's name.
func (d BootDevice) String() string { return string(d) }

// BootMode is which firmware interface a machine boots with.
type BootMode string

// The boot modes. The zero value leaves it as it is.
const (
	ModeDefault BootMode = ""
	ModeBIOS    BootMode = "bios"
	ModeUEFI    BootMode = "uefi"
)

// ParseBootMode reads bios, uefi, or nothing.
func ParseBootMode(s string) (BootMode, error) {
	switch m := BootMode(strings.ToLower(s)); m {
	case ModeDefault, ModeBIOS, ModeUEFI:
		return m, nil
	case "legacy":
		return ModeBIOS, nil
	}
	return "", fmt.Errorf("%q is no boot mode: use bios or uefi", s)
}

// String returns default, bios or uefi.
func (m BootMode) String() string {
	if m == ModeDefault {
		return "default"
	}
	return string(m)
}

// BootOverride is what a machine boots instead of its firmware's own order.
type BootOverride struct {
	Device BootDevice
	Mode   BootMode
	// Persistent keeps the override until it is changed; otherwise it is for one boot.
	Persistent bool
	// URI is what BootHTTP loads; empty: what DHCP says.
	URI string
}

// String says the override as people would: `network once (uefi)`.
func (o BootOverride) String() string {
	s := o.Device.String()
	if o.Device == BootNone || o.Device == "" {
		return "no override"
	}
	if o.URI != "" {
		s += " " + o.URI
	}
	if o.Persistent {
		s += " always"
	} else {
		s += " once"
	}
	if o.Mode != ModeDefault {
		s += " (" + o.Mode.String() + ")"
	}
	return s
}

// Boot is the driver's part of boot overrides. Client.SetBoot is what to call.
type Boot interface {
	BootOverride(ctx context.Context) (BootOverride, error)
	// RequestBoot asks for the override and returns when the BMC has accepted it.
	RequestBoot(ctx context.Context, o BootOverride) error
}
