package bmc

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// SetPower brings the machine's power to where action leads, and returns when
// the BMC says it is there. A *PowerError says where it is instead. The change
// says what was done: nothing when the state was right already, on where a
// machine that was off was to be cycled or reset.
//
// A cycle is off, confirmed, a pause, and on, confirmed: a BMC that is asked for
// a cycle as one action can't be told from one that ignores it. When ctx ends
// in between, the error says that the machine is off.
func (c *Client) SetPower(ctx context.Context, action PowerAction) (PowerChange, error) {
	before, err := c.steadyState(ctx)
	if err != nil {
		return PowerChange{Action: action}, err
	}
	change := PowerChange{Action: action, Before: before, After: before}
	switch {
	case action == ActionNMI && before != PowerOn:
		return change, &PowerError{Action: action, Wanted: PowerOn, Found: before}
	case action == ActionOn && before == PowerOn, (action == ActionOff || action == ActionSoft) && before == PowerOff:
		return change, nil
	case (action == ActionCycle || action == ActionReset) && before == PowerOff:
		change.Done = ActionOn
	default:
		change.Done = action
	}
	if change.Done == ActionCycle {
		change.After, err = c.cycle(ctx)
	} else {
		change.After, err = c.bring(ctx, change.Done)
	}
	return change, err
}

// cycle switches off and on.
func (c *Client) cycle(ctx context.Context) (PowerState, error) {
	if found, err := c.bring(ctx, ActionOff); err != nil {
		return found, fmt.Errorf("power cycle: %w", err)
	}
	if err := sleep(ctx, c.wait.OffTime); err != nil {
		return PowerOff, fmt.Errorf("power cycle was stopped half-way, the machine is off: %w", err)
	}
	found, err := c.bring(ctx, ActionOn)
	if err != nil {
		return found, fmt.Errorf("power cycle: machine was switched off and does not come on: %w", err)
	}
	return found, nil
}

// steadyState returns the power state once it is neither between two states
// nor unknown, or what it is when that lasts.
func (c *Client) steadyState(ctx context.Context) (PowerState, error) {
	state := PowerUnknown
	_, err := c.poll(ctx, c.wait.ReadBack, func() (bool, error) {
		var err error
		state, err = c.PowerState(ctx)
		return state == PowerOn || state == PowerOff, err
	})
	if err != nil {
		return PowerUnknown, fmt.Errorf("reading power state: %w", err)
	}
	return state, nil
}

// goal is the state that an action leads to, and how long that may take.
func (c *Client) goal(action PowerAction) (PowerState, time.Duration) {
	switch action {
	case ActionOff:
		return PowerOff, c.wait.PowerOff
	case ActionSoft:
		return PowerOff, c.wait.Soft
	default:
		return PowerOn, c.wait.PowerOn
	}
}

// request asks for action, again and again while the BMC is too busy to do it.
func (c *Client) request(ctx context.Context, action PowerAction) (asked error) {
	ended, err := c.poll(ctx, c.wait.ReadBack, func() (bool, error) {
		asked = c.RequestPower(ctx, action)
		if errors.Is(asked, ErrBusy) {
			return false, asked
		}
		return true, nil
	})
	if err != nil && !ended && asked == nil {
		return err
	}
	return asked
}

// bring asks for action and waits for its goal. On and off are asked for once
// more at half time, as a BMC may drop them while firmware starts, and at
// once where it isn't known whether the BMC has heard it.
func (c *Client) bring(ctx context.Context, action PowerAction) (PowerState, error) {
	want, limit := c.goal(action)
	asked := c.request(ctx, action)
	if asked != nil && (!Transient(asked) || errors.Is(asked, ErrBusy)) {
		return PowerUnknown, fmt.Errorf("power %s: %w", action, asked)
	}
	repeatable := action == ActionOn || action == ActionOff
	if asked != nil && !repeatable {
		limit = min(limit, c.wait.ReadBack)
	}
	start, found := c.now(), PowerUnknown
	again := start.Add(limit / 2)
	ended, err := c.poll(ctx, limit, func() (bool, error) {
		state, err := c.PowerState(ctx)
		if err != nil {
			return false, err
		}
		if found = state; state == want {
			return true, nil
		}
		if repeatable && (asked != nil || !c.now().Before(again)) {
			again = start.Add(limit)
			asked = c.RequestPower(ctx, action) // what comes of it shows in the state
		}
		return false, nil
	})
	switch {
	case err == nil && !ended:
		if asked != nil && !repeatable && action != ActionSoft {
			// Of a reset or an NMI the state doesn't tell whether it was done.
			return found, fmt.Errorf("power %s: %w", action, asked)
		}
		return found, nil
	case asked != nil:
		return found, fmt.Errorf("power %s: %w", action, errors.Join(asked, err))
	case err != nil:
		return found, fmt.Errorf("power %s was accepted, but the state can't be read: %w", action, err)
	default:
		return found, &PowerError{Action: action, Wanted: want, Found: found, Waited: c.now().Sub(start)}
	}
}
