package vendor

import (
	"context"
	"maps"

	"github.com/bmc-toolbox/bmclib/v2/bmc"

	contract "github.com/bedplate/bedplate/bmc"
)

// devices are the library's words for boot devices.
var devices = map[contract.BootDevice]bmc.BootDeviceType{
	contract.BootNone: bmc.BootDeviceTypeNone, contract.BootNetwork: bmc.BootDeviceTypePXE, contract.BootDisk: bmc.BootDeviceTypeDisk,
	contract.BootCD: bmc.BootDeviceTypeCDROM, contract.BootUSB: bmc.BootDeviceTypeUSB, contract.BootSetup: bmc.BootDeviceTypeBIOS,
	contract.BootHTTP: bmc.BootDeviceUefiHTTP, contract.BootDiagnostic: bmc.BootDeviceTypeDiag,
}

// BootOverride reads the override, by gofish: the other providers can't.
func (d *Driver) BootOverride(ctx context.Context) (contract.BootOverride, error) {
	if d.name != Gofish {
		return contract.BootOverride{}, contract.Unsupported(d.name, "reading the boot override")
	}
	found, err := get(ctx, d, "boot override", d.client.GetBootDeviceOverride)
	if err != nil {
		return contract.BootOverride{}, err
	}
	out := contract.BootOverride{Device: contract.BootNone, Persistent: found.IsPersistent, Mode: contract.ModeBIOS}
	if found.IsEFIBoot {
		out.Mode = contract.ModeUEFI
	}
	for device, word := range maps.All(devices) {
		if word == found.Device {
			out.Device = device
		}
	}
	if out.Device == contract.BootNone {
		out.Persistent = false
	}
	return out, nil
}

// RequestBoot sets the override, by gofish, or by AMT for one boot of the network.
func (d *Driver) RequestBoot(ctx context.Context, o contract.BootOverride) error {
	switch {
	case d.name != Gofish && d.name != AMT, o.URI != "":
		return contract.Unsupported(d.name, "boot override "+o.String())
	case d.name == AMT && (o.Device != contract.BootNetwork || o.Persistent):
		return contract.Unsupported(d.name, "boot override "+o.String()+" (AMT has the network, once)")
	}
	_, err := get(ctx, d, "setting boot override", func(ctx context.Context) (bool, error) {
		return d.client.SetBootDevice(ctx, string(devices[o.Device]), o.Persistent, o.Mode == contract.ModeUEFI)
	})
	return err
}
