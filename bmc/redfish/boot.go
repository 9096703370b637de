package redfish

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/stmcginnis/gofish/redfish"

	"github.com/bedplate/bedplate/bmc"
)

// boot is a system's boot override.
type boot struct {
	Enabled        redfish.BootSourceOverrideEnabled  `json:"BootSourceOverrideEnabled"`
	Target         redfish.BootSourceOverrideTarget   `json:"BootSourceOverrideTarget"`
	Mode           redfish.BootSourceOverrideMode     `json:"BootSourceOverrideMode"`
	HTTPBootURI    string                             `json:"HttpBootUri"`
	AllowedTargets []redfish.BootSourceOverrideTarget `json:"BootSourceOverrideTarget@Redfish.AllowableValues"`
	AllowedModes   []redfish.BootSourceOverrideMode   `json:"BootSourceOverrideMode@Redfish.AllowableValues"`
}

// usbCD is Supermicro's word for virtual media as a CD.
const usbCD redfish.BootSourceOverrideTarget = "UsbCd"

// bootTargets are the words for each device, the best first.
var bootTargets = map[bmc.BootDevice][]redfish.BootSourceOverrideTarget{
	bmc.BootNetwork:    {redfish.PxeBootSourceOverrideTarget},
	bmc.BootDisk:       {redfish.HddBootSourceOverrideTarget},
	bmc.BootCD:         {redfish.CdBootSourceOverrideTarget, usbCD},
	bmc.BootUSB:        {redfish.UsbBootSourceOverrideTarget, redfish.FloppyBootSourceOverrideTarget},
	bmc.BootSetup:      {redfish.BiosSetupBootSourceOverrideTarget},
	bmc.BootHTTP:       {redfish.UefiHTTPBootSourceOverrideTarget},
	bmc.BootDiagnostic: {redfish.DiagsBootSourceOverrideTarget, redfish.UtilitiesBootSourceOverrideTarget},
}

// BootOverride reads the override that the next boot will find.
func (d *Driver) BootOverride(ctx context.Context) (bmc.BootOverride, error) {
	s, err := d.system(ctx)
	if err != nil {
		return bmc.BootOverride{}, err
	}
	if s.Boot.Enabled == "" && s.Boot.Target == "" {
		return bmc.BootOverride{}, d.lacks("boot override")
	}
	o := s.Boot.override()
	if pending, ok := d.pendingBoot(ctx, s); ok && pending.override().Device != bmc.BootNone {
		o = pending.override()
	}
	return o, nil
}

// pendingBoot reads the override from the system's settings, where the service
// keeps what comes at the next reset there.
func (d *Driver) pendingBoot(ctx context.Context, s *system) (boot, bool) {
	path := s.Settings.SettingsObject.Path
	if path == "" || path == d.systemPath {
		return boot{}, false
	}
	var settings struct{ Boot boot }
	if _, err := d.get(ctx, path, &settings); err != nil || settings.Boot.Target == "" {
		return boot{}, false
	}
	return settings.Boot, true
}

// override returns what the words mean.
func (b boot) override() bmc.BootOverride {
	o := bmc.BootOverride{Device: bmc.BootNone}
	if b.Enabled == redfish.DisabledBootSourceOverrideEnabled || b.Enabled == "" {
		return o
	}
	for device, words := range bootTargets {
		if slices.Contains(words, b.Target) {
			o.Device = device
		}
	}
	if o.Device == bmc.BootNone {
		if b.Target != redfish.NoneBootSourceOverrideTarget && b.Target != "" {
			o.Device = bmc.BootDevice(b.Target) // one that package bmc has no word for
		}
		return o
	}
	o.Persistent = b.Enabled == redfish.ContinuousBootSourceOverrideEnabled
	switch b.Mode {
	case redfish.UEFIBootSourceOverrideMode:
		o.Mode = bmc.ModeUEFI
	case redfish.LegacyBootSourceOverrideMode:
		o.Mode = bmc.ModeBIOS
	}
	if o.Device == bmc.BootHTTP {
		o.URI = b.HTTPBootURI
	}
	return o
}

// RequestBoot sets the override on the system, or on its settings where the
// service keeps it there.
func (d *Driver) RequestBoot(ctx context.Context, o bmc.BootOverride) error {
	s, err := d.system(ctx)
	if err != nil {
		return err
	}
	want, err := d.bootWords(o, s.Boot)
	if err != nil {
		return err
	}
	path := d.systemPath
	if _, ok := d.pendingBoot(ctx, s); ok {
		path = s.Settings.SettingsObject.Path
	}
	err = d.patch(ctx, path, map[string]any{"Boot": want})
	var refused *Error
	if _, hasMode := want["BootSourceOverrideMode"]; hasMode && errors.As(err, &refused) && refused.badRequest() {
		// The mode can't be written on many (quirks.go); reading back shows whether it is right all the same.
		delete(want, "BootSourceOverrideMode")
		err = d.patch(ctx, path, map[string]any{"Boot": want})
	}
	return err
}

// bootWords returns the properties to write for an override.
func (d *Driver) bootWords(o bmc.BootOverride, now boot) (map[string]any, error) {
	if o.Device == bmc.BootNone {
		return map[string]any{
			"BootSourceOverrideEnabled": redfish.DisabledBootSourceOverrideEnabled,
			"BootSourceOverrideTarget":  redfish.NoneBootSourceOverrideTarget,
		}, nil
	}
	target, ok := choose(bootTargets[o.Device], now.AllowedTargets)
	if !ok {
		return nil, d.lacks(fmt.Sprintf("boot device %s (the BMC allows %v)", o.Device, now.AllowedTargets))
	}
	words := map[string]any{
		"BootSourceOverrideEnabled": redfish.OnceBootSourceOverrideEnabled,
		"BootSourceOverrideTarget":  target,
	}
	if o.Persistent {
		words["BootSourceOverrideEnabled"] = redfish.ContinuousBootSourceOverrideEnabled
	}
	switch o.Mode {
	case bmc.ModeUEFI:
		words["BootSourceOverrideMode"] = redfish.UEFIBootSourceOverrideMode
	case bmc.ModeBIOS:
		words["BootSourceOverrideMode"] = redfish.LegacyBootSourceOverrideMode
	}
	if o.Device == bmc.BootHTTP && o.URI != "" {
		words["HttpBootUri"] = o.URI
	}
	return words, nil
}
