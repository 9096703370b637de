package board

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Attribute is one setting of the firmware.
type Attribute struct {
	Name    string
	Display string
	Default string
	Values  []string
	// UEFI is of UEFI firmware only.
	UEFI bool
}

// Enabled and disabled are the values of most settings.
const (
	SettingEnabled  = "Enabled"
	SettingDisabled = "Disabled"
)

var onOff = []string{SettingEnabled, SettingDisabled}

// Names of settings. Each changes the machine for real at its next boot.
const (
	// SettingPXE4 and SettingPXE6 are network boot by IPv4 and by IPv6.
	SettingPXE4 = "PxeIPv4Support"
	SettingPXE6 = "PxeIPv6Support"
	// SettingMenu stops at the firmware's own boot menu for a moment.
	SettingMenu = "BootMenu"
	// SettingVirtualization shows the processor's virtualization to the operating system.
	SettingVirtualization = "ProcVirtualization"
	// SettingCores is how many processors are in use.
	SettingCores = "ProcCores"
)

// Attributes are the settings that the machine has.
func (b *Board) Attributes() []Attribute {
	all := []Attribute{
		{Name: SettingMenu, Display: "Boot Menu", Default: SettingDisabled, Values: onOff},
		{Name: SettingCores, Display: "Processors in Use", Default: "All", Values: []string{"All", "1"}},
		{Name: SettingVirtualization, Display: "Virtualization Technology", Default: SettingEnabled, Values: onOff},
		{Name: SettingPXE4, Display: "IPv4 PXE Support", Default: SettingEnabled, Values: onOff, UEFI: true},
		{Name: SettingPXE6, Display: "IPv6 PXE Support", Default: SettingDisabled, Values: onOff, UEFI: true},
	}
	if b.machine.Hardware().UEFI {
		return all
	}
	return slices.DeleteFunc(all, func(a Attribute) bool { return a.UEFI })
}

// Settings returns the firmware's settings now, and those that wait for a boot.
func (b *Board) Settings() (now, pending map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.settingsLocked(), maps.Clone(b.saved.Pending)
}

func (b *Board) settingsLocked() map[string]string {
	all := map[string]string{}
	for _, a := range b.Attributes() {
		all[a.Name] = a.Default
	}
	maps.Copy(all, b.saved.Settings)
	return all
}

// ChangeSettings makes settings wait for the next boot.
func (b *Board) ChangeSettings(ctx context.Context, wanted map[string]string) error {
	known := b.Attributes()
	for name, value := range wanted {
		at := slices.IndexFunc(known, func(a Attribute) bool { return a.Name == name })
		if at < 0 {
			return fmt.Errorf("%w: no setting %q", ErrInvalid, name)
		}
		if !slices.Contains(known[at].Values, value) {
			return fmt.Errorf("%w: %s %q: want one of %v", ErrInvalid, name, value, known[at].Values)
		}
	}
	return b.pend(ctx, func(pending map[string]string) { maps.Copy(pending, wanted) })
}

// ResetSettings makes the factory's settings wait for the next boot.
func (b *Board) ResetSettings(ctx context.Context) error {
	return b.pend(ctx, func(pending map[string]string) {
		for _, a := range b.Attributes() {
			pending[a.Name] = a.Default
		}
	})
}

func (b *Board) pend(ctx context.Context, change func(map[string]string)) error {
	b.order.Lock()
	defer b.order.Unlock()
	b.mu.Lock()
	pending := maps.Clone(b.saved.Pending)
	if pending == nil {
		pending = map[string]string{}
	}
	change(pending)
	now := b.settingsLocked()
	maps.DeleteFunc(pending, func(name, value string) bool { return now[name] == value })
	b.saved.Pending = pending
	b.marks.settings++
	err := b.saveLocked()
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
