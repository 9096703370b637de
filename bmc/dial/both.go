package dial

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/bedplate/bedplate/bmc"
)

// both is a driver with a second one for what it lacks, which is opened when it
// is first needed.
type both struct {
	bmc.Driver
	second func(ctx context.Context) (bmc.Driver, error)
	opened bmc.Driver
	// refused is why the second one wasn't let in: that isn't tried again, as
	// accounts get locked.
	refused error
}

// or calls fn with the first driver, and with the second if the first lacks it.
func or[T any](ctx context.Context, b *both, fn func(bmc.Driver) (T, error)) (T, error) {
	v, err := fn(b.Driver)
	if !errors.Is(err, bmc.ErrUnsupported) {
		return v, err
	}
	if b.refused != nil {
		return v, fmt.Errorf("%w (nor by IPMI: %v)", err, b.refused)
	}
	if b.opened == nil {
		second, dialErr := b.second(ctx)
		if errors.Is(dialErr, bmc.ErrAuth) {
			b.refused = dialErr
		}
		if dialErr != nil {
			return v, fmt.Errorf("%w (nor by IPMI: %v)", err, dialErr)
		}
		b.opened = second
	}
	return fn(b.opened)
}

// none makes a call without an answer one for or.
func none(err error) (struct{}, error) { return struct{}{}, err }

// RequestPower asks by IPMI for what Redfish hasn't got: NMI on some.
func (b *both) RequestPower(ctx context.Context, a bmc.PowerAction) error {
	_, err := or(ctx, b, func(d bmc.Driver) (struct{}, error) { return none(d.RequestPower(ctx, a)) })
	return err
}

// BootOverride asks by IPMI where Redfish has no override at all.
func (b *both) BootOverride(ctx context.Context) (bmc.BootOverride, error) {
	return or(ctx, b, func(d bmc.Driver) (bmc.BootOverride, error) { return d.BootOverride(ctx) })
}

// RequestBoot goes to the driver that can read the override back.
func (b *both) RequestBoot(ctx context.Context, o bmc.BootOverride) error {
	_, err := or(ctx, b, func(d bmc.Driver) (struct{}, error) {
		if _, err := d.BootOverride(ctx); err != nil {
			return none(err)
		}
		return none(d.RequestBoot(ctx, o))
	})
	return err
}

// Sensors asks by IPMI where Redfish has none.
func (b *both) Sensors(ctx context.Context) ([]bmc.Sensor, error) {
	return or(ctx, b, func(d bmc.Driver) ([]bmc.Sensor, error) { return d.Sensors(ctx) })
}

// EventLog asks by IPMI where Redfish has none.
func (b *both) EventLog(ctx context.Context, limit int) ([]bmc.LogEntry, error) {
	return or(ctx, b, func(d bmc.Driver) ([]bmc.LogEntry, error) { return d.EventLog(ctx, limit) })
}

// ClearEventLog clears the log that EventLog reads.
func (b *both) ClearEventLog(ctx context.Context) error {
	_, err := or(ctx, b, func(d bmc.Driver) (struct{}, error) { return none(d.ClearEventLog(ctx)) })
	return err
}

// Console opens the console by IPMI: Redfish has none.
func (b *both) Console(ctx context.Context) (io.ReadWriteCloser, error) {
	return or(ctx, b, func(d bmc.Driver) (io.ReadWriteCloser, error) { return d.Console(ctx) })
}

// Close closes both.
func (b *both) Close(ctx context.Context) error {
	err := b.Driver.Close(ctx)
	if b.opened != nil {
		err = errors.Join(err, b.opened.Close(ctx))
	}
	return err
}
