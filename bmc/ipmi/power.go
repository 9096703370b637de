package ipmi

import (
	"context"

	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
)

// PowerState sends Get Chassis Status (§28.2).
func (d *Driver) PowerState(ctx context.Context) (bmc.PowerState, error) {
	s, err := get(ctx, d, "power state", d.c.GetChassisStatus)
	switch {
	case err != nil:
		return bmc.PowerUnknown, err
	case s.PowerIsOn:
		return bmc.PowerOn, nil
	}
	return bmc.PowerOff, nil
}

// controls are the words of Chassis Control (§28.3).
var controls = map[bmc.PowerAction]chassis.ChassisControl{
	bmc.ActionOn:    chassis.ChassisControlPowerUp,
	bmc.ActionOff:   chassis.ChassisControlPowerDown,
	bmc.ActionSoft:  chassis.ChassisControlSoftShutdown,
	bmc.ActionCycle: chassis.ChassisControlPowerCycle,
	bmc.ActionReset: chassis.ChassisControlHardReset,
	bmc.ActionNMI:   chassis.ChassisControlDiagnosticInterrupt,
}

// RequestPower sends Chassis Control.
func (d *Driver) RequestPower(ctx context.Context, a bmc.PowerAction) error {
	control, ok := controls[a]
	if !ok {
		return bmc.Unsupported(Name, "power "+a.String())
	}
	return d.do(ctx, "power "+a.String(), func(ctx context.Context) error {
		_, err := d.c.ChassisControl(ctx, control)
		if isCode(err, types.CodeParameterOutOfRange, types.CodeRequestDataFieldInvalid) {
			return bmc.ErrUnsupported // the command is there, this use of it isn't
		}
		return err
	})
}
