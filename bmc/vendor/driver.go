package vendor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	bmclib "github.com/bmc-toolbox/bmclib/v2"
	"github.com/go-logr/logr"

	"github.com/bedplate/bedplate/bmc"
)

// slowCall is how long a call must have had for its end by the deadline to be
// the BMC's fault.
const slowCall = 5 * time.Second

// Driver is a session by one provider. It is a bmc.Driver; like those it is for
// one call at a time.
type Driver struct {
	bmc.Lacking
	name   string
	client *bmclib.Client
	wire   *wire
	http   *http.Client // nil with a bridge
	bridge *bridge      // nil with an http.Client
	secret []string
}

var _ bmc.Driver = (*Driver)(nil)

// Dial logs in to the target by the provider of that name. The error is
// bmc.ErrUnsupported where the BMC is not one that the provider knows.
func Dial(ctx context.Context, name string, t bmc.Target, now func() time.Time) (_ *Driver, err error) {
	w, err := newWire(t, defaultPort(name, t), now)
	if err != nil {
		return nil, err
	}
	d := &Driver{Lacking: bmc.Lacking{Driver: name}, name: name, wire: w, secret: secretForms(t.Password)}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.bridge.close())
		}
	}()
	registry, err := d.register(t)
	if err != nil {
		return nil, err
	}
	d.client = bmclib.NewClient(t.Address, t.Username, t.Password, bmclib.WithRegistry(registry), bmclib.WithLogger(logr.Discard()))
	drivers := registry.Drivers
	if err := d.do(ctx, "logging in", d.client.Open); err != nil {
		return nil, err
	}
	d.client.Registry.Drivers = drivers // which Open empties when it fails
	if d.name == AMT {
		// It logs in with each request: the first tells whether it may.
		if _, err := d.PowerState(ctx); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Pin is the pin of the certificate that the BMC showed.
func (d *Driver) Pin() bmc.Pin { return d.wire.seen.Pin() }

// Close logs out.
func (d *Driver) Close(ctx context.Context) error {
	err := d.do(ctx, "logging out", func(ctx context.Context) error {
		return d.client.Close(ctx)
	})
	return errors.Join(err, d.bridge.close())
}

// get makes one call of the library that has an answer. A session that the BMC
// has dropped is opened anew, once: the BMC has refused the call, so nothing is
// done twice. AMT has none.
func get[T any](ctx context.Context, d *Driver, what string, fn func(context.Context) (T, error)) (answer T, err error) {
	err = d.do(ctx, what, func(ctx context.Context) (err error) {
		if answer, err = fn(ctx); err == nil || d.name == AMT || d.wire.fault() != nil || !errors.Is(d.kind(err), bmc.ErrAuth) {
			return err
		}
		drivers := d.client.Registry.Drivers
		err = d.client.Open(ctx)
		d.client.Registry.Drivers = drivers
		if err == nil {
			answer, err = fn(ctx)
		}
		return err
	})
	return answer, err
}

// do makes a call: within its context, with the wire open, and with a panic of
// the provider's parsers as an error of the BMC.
func (d *Driver) do(ctx context.Context, what string, fn func(context.Context) error) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	start, had := time.Now(), time.Duration(0)
	if end, ok := ctx.Deadline(); ok {
		had = end.Sub(start)
	}
	end := d.wire.begin(ctx)
	defer end()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %s: BMC sent what can't be parsed: %v: %w", d.name, what, d.clean(fmt.Sprint(r)), bmc.ErrFailing)
		}
	}()
	if d.http != nil {
		d.http.Timeout = 0 // gofish sets it to what the login had left; the wire ends with the call
	}
	if err := fn(ctx); err != nil {
		return fmt.Errorf("%s: %s: %w", d.name, what, d.fault(ctx, had, err))
	}
	return nil
}
