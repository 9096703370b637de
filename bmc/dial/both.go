package dial

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/vendor"
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
	// vendor opens the driver of a manufacturer; nil: none is wanted.
	vendor func(ctx context.Context, name string) (bmc.Driver, error)
	// vendors are those that are open, by name.
	vendors map[string]bmc.Driver
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

// Health asks by IPMI where the first driver has none.
func (b *both) Health(ctx context.Context) (bmc.HealthReport, error) {
	return or(ctx, b, func(d bmc.Driver) (bmc.HealthReport, error) { return d.Health(ctx) })
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

// UpdateFirmware uploads by the manufacturer's driver where Redfish has no way.
func (b *both) UpdateFirmware(ctx context.Context, u bmc.FirmwareUpdate) (bmc.TaskID, error) {
	task, err := b.Driver.UpdateFirmware(ctx, u)
	if !errors.Is(err, bmc.ErrUnsupported) || u.Image == nil || b.vendor == nil {
		return task, err
	}
	id, idErr := b.Identity(ctx)
	name := vendor.Of(id.Manufacturer)
	if idErr != nil || name == "" {
		return "", err
	}
	d, vendorErr := b.byVendor(ctx, name)
	if vendorErr != nil {
		return "", fmt.Errorf("%w (nor by the driver %s: %v)", err, name, vendorErr)
	}
	return d.UpdateFirmware(ctx, u)
}

// Task asks the driver that began it.
func (b *both) Task(ctx context.Context, id bmc.TaskID) (bmc.Task, error) {
	name := vendor.TaskProvider(id)
	if name == "" || b.vendor == nil {
		return b.Driver.Task(ctx, id)
	}
	d, err := b.byVendor(ctx, name)
	if err != nil {
		return bmc.Task{}, err
	}
	return d.Task(ctx, id)
}

// byVendor returns a manufacturer's driver, which is opened when it is first needed.
func (b *both) byVendor(ctx context.Context, name string) (bmc.Driver, error) {
	if d := b.vendors[name]; d != nil {
		return d, nil
	}
	d, err := b.vendor(ctx, name)
	if err != nil {
		return nil, err
	}
	if b.vendors == nil {
		b.vendors = map[string]bmc.Driver{}
	}
	b.vendors[name] = d
	return d, nil
}

// Close closes all.
func (b *both) Close(ctx context.Context) error {
	err := b.Driver.Close(ctx)
	if b.opened != nil {
		err = errors.Join(err, b.opened.Close(ctx))
	}
	for _, d := range b.vendors {
		err = errors.Join(err, d.Close(ctx))
	}
	return err
}
