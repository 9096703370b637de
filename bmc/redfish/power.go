package redfish

import (
	"context"
	"fmt"
	"slices"

	"github.com/stmcginnis/gofish/redfish"

	"github.com/bedplate/bedplate/bmc"
)

// PowerState asks for the system's power state.
func (d *Driver) PowerState(ctx context.Context) (bmc.PowerState, error) {
	s, err := d.system(ctx)
	if err != nil {
		return bmc.PowerUnknown, err
	}
	return powerState(s.PowerState), nil
}

func powerState(s redfish.PowerState) bmc.PowerState {
	switch s {
	case redfish.OnPowerState, redfish.PausedPowerState:
		return bmc.PowerOn
	case redfish.OffPowerState:
		return bmc.PowerOff
	case redfish.PoweringOnPowerState:
		return bmc.PoweringOn
	case redfish.PoweringOffPowerState:
		return bmc.PoweringOff
	default:
		return bmc.PowerUnknown
	}
}

// resetTypes are the words for each action, the best first.
var resetTypes = map[bmc.PowerAction][]redfish.ResetType{
	bmc.ActionOn:    {redfish.OnResetType, redfish.ForceOnResetType},
	bmc.ActionOff:   {redfish.ForceOffResetType},
	bmc.ActionSoft:  {redfish.GracefulShutdownResetType, redfish.PushPowerButtonResetType},
	bmc.ActionCycle: {redfish.PowerCycleResetType},
	bmc.ActionReset: {redfish.ForceRestartResetType, redfish.PowerCycleResetType},
	bmc.ActionNMI:   {redfish.NmiResetType},
}

// RequestPower sends ComputerSystem.Reset.
func (d *Driver) RequestPower(ctx context.Context, a bmc.PowerAction) error {
	s, err := d.system(ctx)
	if err != nil {
		return err
	}
	reset := s.Actions.Reset
	if reset.Target == "" {
		return d.lacks("power control")
	}
	allowed := reset.Allowed
	if len(allowed) == 0 && reset.Info != "" {
		if allowed, err = d.allowedResets(ctx, reset.Info); err != nil {
			return err
		}
	}
	word, ok := choose(resetTypes[a], allowed)
	if !ok {
		return d.lacks(fmt.Sprintf("power %s (the BMC allows %v)", a, allowed))
	}
	_, err = d.post(ctx, reset.Target, map[string]any{"ResetType": word})
	return err
}

// allowedResets reads the allowed values from an ActionInfo resource.
func (d *Driver) allowedResets(ctx context.Context, path string) ([]redfish.ResetType, error) {
	var info struct {
		Parameters []struct {
			Name            string
			AllowableValues []redfish.ResetType
		}
	}
	if _, err := d.get(ctx, path, &info); err != nil {
		return nil, err
	}
	for _, p := range info.Parameters {
		if p.Name == "ResetType" {
			return p.AllowableValues, nil
		}
	}
	return nil, nil
}

// choose returns the first of wanted that is allowed; where the service doesn't
// say what is, the first.
func choose[T comparable](wanted, allowed []T) (word T, ok bool) {
	for _, w := range wanted {
		if len(allowed) == 0 || slices.Contains(allowed, w) {
			return w, true
		}
	}
	return word, false
}
