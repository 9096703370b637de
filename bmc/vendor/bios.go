package vendor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/bmc"
)

// hasBIOS reports whether the provider has BIOS settings by Redfish.
func (d *Driver) hasBIOS() bool { return d.name == Dell || d.name == Gofish }

// BIOSSettings are those in force; the library doesn't say which are pending.
func (d *Driver) BIOSSettings(ctx context.Context) (bmc.BIOSSettings, error) {
	if !d.hasBIOS() {
		return bmc.BIOSSettings{}, bmc.Unsupported(d.name, "BIOS settings")
	}
	all, err := get(ctx, d, "BIOS settings", d.client.GetBiosConfiguration)
	return bmc.BIOSSettings{Current: all, Pending: map[string]string{}}, err
}

// RequestBIOS is unsupported: what is pending can't be read back by the library,
// nor are the types of settings known to it.
func (d *Driver) RequestBIOS(_ context.Context, settings map[string]string) error {
	names := strings.Join(slices.Sorted(maps.Keys(settings)), ", ")
	return d.unsupported("setting "+names, fmt.Errorf("its settings can't be read back as pending: leave spec.bmc.driver empty for Redfish"))
}

// ResetBIOS brings all settings to the factory's at the next reset.
func (d *Driver) ResetBIOS(ctx context.Context) error {
	if !d.hasBIOS() {
		return bmc.Unsupported(d.name, "BIOS settings")
	}
	return d.do(ctx, "resetting BIOS settings", d.client.ResetBiosConfiguration)
}

// ResetManager restarts the BMC.
func (d *Driver) ResetManager(ctx context.Context) error {
	if d.name == AMT {
		return bmc.Unsupported(d.name, "manager reset")
	}
	_, err := get(ctx, d, "restarting the BMC", func(ctx context.Context) (bool, error) { return d.client.ResetBMC(ctx, "GracefulRestart") })
	return err
}
