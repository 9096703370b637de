package bmc

import (
	"context"
	"fmt"
	"strings"
)

// PowerState is what a BMC says of its machine's power.
type PowerState uint8

// The power states. The zero value is a state that the BMC doesn't know.
const (
	PowerUnknown PowerState = iota
	PowerOff
	PowerOn
	// PoweringOn and PoweringOff are states in between (Redfish only).
	PoweringOn
	PoweringOff
)

// String returns unknown, off, on, powering on or powering off.
func (s PowerState) String() string {
	switch s {
	case PowerOff:
		return "off"
	case PowerOn:
		return "on"
	case PoweringOn:
		return "powering on"
	case PoweringOff:
		return "powering off"
	default:
		return "unknown"
	}
}

// PowerAction is what is done to a machine's power.
type PowerAction string

// The power actions.
const (
	// ActionOn switches on; a machine that is on stays as it is.
	ActionOn PowerAction = "on"
	// ActionOff cuts the power at once; a machine that is off stays as it is.
	ActionOff PowerAction = "off"
	// ActionSoft asks the operating system to shut down (ACPI power button). It
	// never turns into ActionOff by itself.
	ActionSoft PowerAction = "soft"
	// ActionCycle cuts the power and switches on again. A machine that is off is
	// switched on.
	ActionCycle PowerAction = "cycle"
	// ActionReset resets without cutting the power. A machine that is off is
	// switched on.
	ActionReset PowerAction = "reset"
	// ActionNMI sends a non-maskable interrupt, which most kernels answer with a
	// crash dump. A machine that is off gets none: that is an error.
	ActionNMI PowerAction = "nmi"
)

// PowerActions returns every action, in the order of their documentation.
func PowerActions() []PowerAction {
	return []PowerAction{ActionOn, ActionOff, ActionSoft, ActionCycle, ActionReset, ActionNMI}
}

// ParsePowerAction reads an action by its name.
func ParsePowerAction(s string) (PowerAction, error) {
	for _, a := range PowerActions() {
		if strings.EqualFold(s, string(a)) {
			return a, nil
		}
	}
	return "", fmt.Errorf("%q is no power action: use on, off, soft, cycle, reset or nmi", s)
}

// String returns the action's name.
func (a PowerAction) String() string { return string(a) }

// Power is the driver's part of power control. Client.SetPower is what to call.
type Power interface {
	PowerState(ctx context.Context) (PowerState, error)
	// RequestPower asks for the action and returns when the BMC has accepted it,
	// which says nothing about the machine. It is asked only for what makes
	// sense in the state that the machine was last seen in.
	RequestPower(ctx context.Context, action PowerAction) error
}

// PowerChange is what became of a power action.
type PowerChange struct {
	Action PowerAction
	Before PowerState
	After  PowerState
	// Done is what the BMC was asked for; empty when nothing had to be done. It
	// differs from Action where that made no sense: reset of a machine that is
	// off is on.
	Done PowerAction
}

// String says in one sentence what was done.
func (c PowerChange) String() string {
	switch {
	case c.Done == "":
		return fmt.Sprintf("machine was %s already", c.After)
	case c.Done != c.Action:
		return fmt.Sprintf("machine was %s, so %s became %s; it is %s", c.Before, c.Action, c.Done, c.After)
	default:
		return fmt.Sprintf("%s: machine was %s and is %s", c.Action, c.Before, c.After)
	}
}
