package board

import (
	"context"
	"fmt"
	"time"
)

// machineDeadline bounds one order to the machine.
const machineDeadline = 40 * time.Second

// Action is a change of power, in Redfish's words (Resource.ResetType).
type Action string

// The changes of power.
const (
	On               Action = "On"
	ForceOn          Action = "ForceOn"
	ForceOff         Action = "ForceOff"
	GracefulShutdown Action = "GracefulShutdown"
	GracefulRestart  Action = "GracefulRestart"
	ForceRestart     Action = "ForceRestart"
	PowerCycle       Action = "PowerCycle"
	PushPowerButton  Action = "PushPowerButton"
	NMI              Action = "Nmi"
)

// Actions are all changes of power there are.
var Actions = []Action{On, ForceOn, ForceOff, GracefulShutdown, GracefulRestart, ForceRestart, PowerCycle, PushPowerButton, NMI}

// PowerOn reports whether the power is on, as the board tells it: with
// FaultWrongPower it tells the opposite.
func (b *Board) PowerOn() bool {
	_, wrong := b.Fault(FaultWrongPower)
	return b.machine.On() != wrong
}

// Power changes the power. ErrOff is for what needs a running machine.
func (b *Board) Power(ctx context.Context, a Action) error {
	b.order.Lock()
	defer b.order.Unlock()
	ctx, cancel := context.WithTimeout(ctx, machineDeadline)
	defer cancel()
	b.ejectIfFaulty(ctx, a)
	if err := b.power(ctx, a); err != nil {
		return fmt.Errorf("%s: %w", a, err)
	}
	return nil
}

func (b *Board) power(ctx context.Context, a Action) error {
	on := b.machine.On()
	switch a {
	case On, ForceOn:
		return b.machine.PowerOn(ctx)
	case ForceOff:
		return b.machine.PowerOff(ctx)
	case PushPowerButton:
		if !on {
			return b.machine.PowerOn(ctx)
		}
		return b.machine.Shutdown(ctx)
	}
	if !on {
		return ErrOff
	}
	switch a {
	case GracefulShutdown:
		return b.machine.Shutdown(ctx)
	case ForceRestart, GracefulRestart:
		return b.machine.Reset(ctx)
	case PowerCycle:
		if err := b.machine.PowerOff(ctx); err != nil {
			return err
		}
		return b.machine.PowerOn(ctx)
	case NMI:
		return b.machine.NMI(ctx)
	}
	return fmt.Errorf("%w: ResetType %q", ErrInvalid, a)
}

// Observation is what a machine tells its board.
type Observation int

// What a machine tells its board.
const (
	// Booted: the power came on, or a reset happened; the firmware starts.
	Booted Observation = iota
	// Off: the power went.
	Off
	// Resetting: a reset has begun; Booted follows when the firmware is
	// through with resets of its own. What is set in between is for a later boot.
	Resetting
)

// Observe is called by the machine, not from within a call of the board's
// unless that call is PowerOn, PowerOff or Reset.
func (b *Board) Observe(o Observation) {
	switch o {
	case Resetting:
		b.mu.Lock()
		m := b.marks
		b.resetting = &m
		b.mu.Unlock()
		return
	case Booted:
		b.booted()
		b.record(Entry{Sensor: "System Boot", Type: sensorBoot, Severity: OK, MessageID: "SystemBoot", Message: "The system started to boot."})
	case Off:
		b.mu.Lock()
		b.resetting = nil
		b.mu.Unlock()
		b.record(Entry{Sensor: "Power Unit", Type: sensorPowerUnit, Severity: OK, MessageID: "PowerOff", Message: "The system's power went off."})
	}
	b.publish(Event{Kind: PowerChanged})
}
