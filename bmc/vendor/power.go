package vendor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/bedplate/bedplate/bmc"
)

// PowerState asks for the power.
func (d *Driver) PowerState(ctx context.Context) (bmc.PowerState, error) {
	text, err := get(ctx, d, "power state", d.client.GetPowerState)
	return powerState(text), err
}

// powerState reads the providers' words, which are those of their BMCs.
func powerState(text string) bmc.PowerState {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "on":
		return bmc.PowerOn
	case "off":
		return bmc.PowerOff
	case "poweringon":
		return bmc.PoweringOn
	case "poweringoff":
		return bmc.PoweringOff
	}
	return bmc.PowerUnknown
}

// RequestPower asks for the action.
func (d *Driver) RequestPower(ctx context.Context, a bmc.PowerAction) error {
	what := "power " + a.String()
	if a == bmc.ActionNMI {
		if d.name == AMT || d.name == ASRockRack {
			return bmc.Unsupported(d.name, what)
		}
		return d.do(ctx, what, d.client.SendNMI)
	}
	word, ok := d.powerWord(a)
	if !ok {
		return bmc.Unsupported(d.name, what)
	}
	_, err := get(ctx, d, what, func(ctx context.Context) (bool, error) {
		ok, err := d.client.SetPowerState(ctx, word)
		if a == bmc.ActionSoft && acceptedSoft(err) {
			err = nil
		}
		return ok, err
	})
	return err
}

// errNoImage says that an update by URL isn't what the providers do.
var errNoImage = errors.New("firmware is uploaded by this driver, not fetched by the BMC: set push in the operation")

// unsupported is an error that says why, too.
func (d *Driver) unsupported(what string, why error) error {
	return fmt.Errorf("%s: %s: %w: %w", d.name, what, bmc.ErrUnsupported, why)
}
