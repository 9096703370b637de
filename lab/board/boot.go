package board

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
)

// Target is a boot device, in Redfish's words (ComputerSystem.Boot,
// BootSourceOverrideTarget).
type Target string

// The boot devices.
const (
	BootNone      Target = "None"
	BootPXE       Target = "Pxe"
	BootDisk      Target = "Hdd"
	BootCD        Target = "Cd"
	BootUSB       Target = "Usb"
	BootHTTP      Target = "UefiHttp"
	BootBIOSSetup Target = "BiosSetup"
)

// Enabled says how long an override lasts.
type Enabled string

// How long an override lasts.
const (
	Disabled   Enabled = "Disabled"
	Once       Enabled = "Once"
	Continuous Enabled = "Continuous"
)

// Mode is how the firmware starts a device.
type Mode string

// The modes.
const (
	Legacy Mode = "Legacy"
	UEFI   Mode = "UEFI"
)

// Override is a boot device that comes before the machine's own order.
type Override struct {
	Enabled Enabled `json:"enabled"`
	Target  Target  `json:"target"`
	Mode    Mode    `json:"mode"`
	// URI is where BootHTTP gets its program; empty asks DHCP.
	URI string `json:"uri,omitempty"`
}

// Setup is everything that the next boot of a machine depends on.
type Setup struct {
	// Boot is BootNone for the machine's own order.
	Boot Target
	URI  string
	// Settings are those of the firmware, by their Redfish names.
	Settings map[string]string
	// BIOSVersion is shown to the operating system by SMBIOS.
	BIOSVersion string
	// SecureBoot is what is to be changed of it before the boot.
	SecureBoot SecureBootChange
}

// ErrInvalid is a value that the machine can't have.
var ErrInvalid = errors.New("not possible")

// maxURI bounds what is kept of an address.
const maxURI = 2048

// Targets are the boot devices that the machine has.
func (b *Board) Targets() []Target {
	t := []Target{BootNone, BootPXE, BootDisk, BootCD, BootUSB}
	if b.machine.Hardware().UEFI {
		t = append(t, BootHTTP, BootBIOSSetup)
	}
	return t
}

// Mode is the one that the machine's firmware has.
func (b *Board) Mode() Mode {
	if b.machine.Hardware().UEFI {
		return UEFI
	}
	return Legacy
}

// Override returns the boot override.
func (b *Board) Override() Override {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.overrideLocked()
}

func (b *Board) overrideLocked() Override {
	o := b.saved.Override
	if o.Enabled == "" {
		o.Enabled, o.Target = Disabled, BootNone
	}
	if o.Mode == "" {
		o.Mode = b.Mode()
	}
	return o
}

// SetOverride changes the boot override. An error that is ErrInvalid names what can't be.
func (b *Board) SetOverride(ctx context.Context, o Override) error {
	b.order.Lock()
	defer b.order.Unlock()
	o, err := b.checkOverride(o)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.saved.Override = o
	b.marks.override++
	err = b.saveLocked()
	b.mu.Unlock()
	if err != nil {
		return err
	}
	if err := b.applyNext(ctx); err != nil {
		return err
	}
	b.publish(Event{Kind: SettingChange})
	return nil
}

func (b *Board) checkOverride(o Override) (Override, error) {
	if !slices.Contains([]Enabled{Disabled, Once, Continuous}, o.Enabled) {
		return o, fmt.Errorf("%w: BootSourceOverrideEnabled %q", ErrInvalid, o.Enabled)
	}
	if !slices.Contains(b.Targets(), o.Target) {
		return o, fmt.Errorf("%w: BootSourceOverrideTarget %q", ErrInvalid, o.Target)
	}
	if o.Mode != b.Mode() {
		return o, fmt.Errorf("%w: BootSourceOverrideMode %q", ErrInvalid, o.Mode)
	}
	if o.URI != "" {
		u, err := url.Parse(o.URI)
		if err != nil || len(o.URI) > maxURI || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return o, fmt.Errorf("%w: HttpBootUri %q", ErrInvalid, o.URI)
		}
	}
	// BiosSetup is a screen for a person: once, or the machine would never boot again.
	if o.Target == BootBIOSSetup && o.Enabled == Continuous {
		return o, fmt.Errorf("%w: BootSourceOverrideEnabled %q with the target BiosSetup", ErrInvalid, o.Enabled)
	}
	if o.Target == BootNone {
		o.Enabled = Disabled
	}
	if o.Enabled == Disabled {
		o.Target = BootNone
	}
	return o, nil
}

// setupLocked is how the next boot shall go, by everything that is set.
func (b *Board) setupLocked() Setup {
	s := Setup{Boot: BootNone, Settings: b.settingsLocked(), BIOSVersion: b.nextVersionLocked(FirmwareBIOS), SecureBoot: b.saved.SecureBoot}
	maps.Copy(s.Settings, b.saved.Pending)
	o := b.overrideLocked()
	if _, ignored := b.faults[FaultBootIgnored]; o.Enabled != Disabled && !ignored {
		s.Boot, s.URI = o.Target, o.URI
	}
	return s
}

// applyNext tells the machine how its next boot goes.
func (b *Board) applyNext(ctx context.Context) error {
	b.next.Lock()
	defer b.next.Unlock()
	b.mu.Lock()
	next := b.setupLocked()
	b.mu.Unlock()
	return b.machine.SetNext(ctx, next)
}

// booted uses up what was for one boot, and what waited for it.
func (b *Board) booted() {
	b.mu.Lock()
	then := b.marks
	if b.resetting != nil {
		then, b.resetting = *b.resetting, nil
	}
	if b.saved.Override.Enabled == Once && then.override == b.marks.override {
		b.saved.Override = Override{Enabled: Disabled, Target: BootNone, Mode: b.saved.Override.Mode}
	}
	if then.settings == b.marks.settings {
		settings := b.settingsLocked()
		maps.Copy(settings, b.saved.Pending)
		b.saved.Settings, b.saved.Pending = settings, nil
		b.saved.SecureBoot = SecureBootChange{}
		b.activateLocked(FirmwareBIOS)
	}
	if err := b.saveLocked(); err != nil {
		b.log.Error("saving the board's settings", "err", err)
	}
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(b.life, machineDeadline)
	defer cancel()
	if err := b.applyNext(ctx); err != nil && b.life.Err() == nil {
		b.log.Warn("setting up the machine's next boot", "machine", b.machine.Hardware().Name, "err", err)
	}
}
