package ipmi

import (
	"context"

	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
)

// selectors are the boot devices of parameter 5 (table 28-14), those to write first.
var selectors = map[bmc.BootDevice][]types.BootDeviceSelector{
	bmc.BootNone:       {types.BootDeviceSelectorNoOverride},
	bmc.BootNetwork:    {types.BootDeviceSelectorForcePXE},
	bmc.BootDisk:       {types.BootDeviceSelectorForceHardDrive, types.BootDeviceSelectorForceHardDriveSafe, types.BootDeviceSelectorForceRemoteHardDrive},
	bmc.BootCD:         {types.BootDeviceSelectorForceCDROM, types.BootDeviceSelectorForceRemoteCDROM},
	bmc.BootUSB:        {types.BootDeviceSelectorForceFloppy, types.BootDeviceSelectorForceRemoteFloppy, types.BootDeviceSelectorForceRemoteMedia},
	bmc.BootSetup:      {types.BootDeviceSelectorForceBIOSSetup},
	bmc.BootDiagnostic: {types.BootDeviceSelectorForceDiagnosticPartition},
}

// BootOverride sends Get System Boot Options (§28.13), parameter 5.
func (d *Driver) BootOverride(ctx context.Context) (bmc.BootOverride, error) {
	flags := &types.BootOptionParam_BootFlags{}
	err := d.do(ctx, "boot override", func(ctx context.Context) error {
		err := d.c.GetSystemBootOptionsParamFor(ctx, flags)
		if isCode(err, types.CodeParameterNotSupported) {
			*flags = types.BootOptionParam_BootFlags{} // nothing was set yet
			return nil
		}
		return err
	})
	if err != nil {
		return bmc.BootOverride{}, err
	}
	return overrideOf(flags), nil
}

// overrideOf returns what boot flags mean. Flags that aren't valid are none: the
// BIOS has taken them, or the BMC has dropped them.
func overrideOf(flags *types.BootOptionParam_BootFlags) bmc.BootOverride {
	o := bmc.BootOverride{Device: bmc.BootNone}
	if !flags.BootFlagsValid {
		return o
	}
	for device, words := range selectors {
		for _, w := range words {
			if w == flags.BootDeviceSelector {
				o.Device = device
			}
		}
	}
	if o.Device == bmc.BootNone {
		return o
	}
	o.Persistent = flags.Persist
	o.Mode = bmc.ModeBIOS
	if flags.BIOSBootType == types.BIOSBootTypeEFI {
		o.Mode = bmc.ModeUEFI
	}
	return o
}

// RequestBoot sends Set System Boot Options (§28.12), parameter 5. Before, it
// asks with parameter 3 that the flags stay valid for longer than the 60 seconds
// that a BMC otherwise drops them after, which servers take to get to them.
func (d *Driver) RequestBoot(ctx context.Context, o bmc.BootOverride) error {
	words, ok := selectors[o.Device]
	if !ok || o.URI != "" {
		return bmc.Unsupported(Name, "boot device "+o.Device.String())
	}
	flags := &types.BootOptionParam_BootFlags{
		BootFlagsValid:     true,
		Persist:            o.Persistent && o.Device != bmc.BootNone,
		BIOSBootType:       types.BIOSBootTypeLegacy,
		BootDeviceSelector: words[0],
	}
	if o.Mode == bmc.ModeUEFI {
		flags.BIOSBootType = types.BIOSBootTypeEFI
	}
	return d.do(ctx, "boot override", func(ctx context.Context) error {
		_, err := d.c.SetSystemBootOptionsParam(ctx, &chassis.SetSystemBootOptionsParamRequest{
			ParamSelector: types.BootOptionParamSelector_BMCBootFlagValidBitClear,
			ParamData:     []byte{keepFlagsOnTimeout},
		})
		if _, answered := types.IsResponseError(err); err != nil && !answered {
			return err // a BMC without parameter 3 keeps them or doesn't
		}
		return d.c.SetSystemBootOptionsParamFor(ctx, flags)
	})
}

// keepFlagsOnTimeout is bit 3 of parameter 3: don't clear the valid bit when no
// Chassis Control comes within 60 seconds.
const keepFlagsOnTimeout = 1 << 3
