package ipmi

import (
	"context"
	"fmt"

	"github.com/bedplate/bedplate/bmc"
)

// ManagerInfo sends Get Device ID (§20.1).
func (d *Driver) ManagerInfo(ctx context.Context) (bmc.ManagerInfo, error) {
	id, err := get(ctx, d, "device ID", d.c.GetDeviceID)
	if err != nil {
		return bmc.ManagerInfo{}, err
	}
	return bmc.ManagerInfo{
		Model:           fmt.Sprintf("manufacturer %d, product %#04x", id.ManufacturerID, id.ProductID),
		FirmwareVersion: version(id),
		Protocols:       []string{"ipmi"},
	}, nil
}

// ResetManager sends Cold Reset (§20.2).
func (d *Driver) ResetManager(ctx context.Context) error {
	if err := d.do(ctx, "manager reset", d.c.ColdReset); err != nil {
		return err
	}
	d.lost = true
	return nil
}

// Firmware returns the one version that IPMI knows, the BMC's own.
func (d *Driver) Firmware(ctx context.Context) ([]bmc.FirmwareComponent, error) {
	id, err := get(ctx, d, "device ID", d.c.GetDeviceID)
	if err != nil {
		return nil, err
	}
	return []bmc.FirmwareComponent{{ID: "bmc", Name: "Management controller", Version: version(id)}}, nil
}
