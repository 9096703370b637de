// Package dial opens sessions with BMCs: it knows every driver of package bmc
// and which one a BMC wants. Its Dialer is what a bmc.Pool is given.
//
// A target without a protocol is asked for Redfish first. Where nothing speaks
// Redfish, IPMI is used; but not where the target's certificate is pinned or
// signed by a known CA, because somebody in between who keeps Redfish from
// answering would then be given an IPMI login, which is worth a guess at the
// password. Where Redfish is there, IPMI is used besides for what Redfish or
// that service hasn't got: the serial console, and an NMI on some. Firmware that
// is to be uploaded, where the service has no way for that, is by the driver of
// the machine's manufacturer in package vendor. A target that names such a
// driver has that one alone, and IPMI for what it lacks.
package dial

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/ipmi"
	"github.com/bedplate/bedplate/bmc/redfish"
	"github.com/bedplate/bedplate/bmc/vendor"
)

// Dialer opens sessions.
type Dialer struct {
	// Now is the clock, required.
	Now func() time.Time
}

// Dial logs in to the target with the driver it wants.
func (d Dialer) Dial(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	driver, err := d.dial(ctx, t)
	if err != nil || t.SSH == nil {
		return driver, err
	}
	return withShell{Driver: driver, target: t}, nil
}

func (d Dialer) dial(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	if t.Driver != "" {
		return d.wanted(ctx, t)
	}
	switch t.Protocol {
	case bmc.ProtocolIPMI:
		return d.ipmi(ctx, t)
	case bmc.ProtocolRedfish:
		return d.redfish(ctx, t)
	case bmc.ProtocolAuto:
		return d.auto(ctx, t)
	}
	return nil, fmt.Errorf("%q is no BMC protocol: use auto, redfish or ipmi", t.Protocol)
}

func (d Dialer) redfish(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	driver, err := redfish.Dial(ctx, t, d.Now)
	if err != nil {
		return nil, err
	}
	return driver, nil
}

func (d Dialer) ipmi(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	driver, err := ipmi.Dial(ctx, t)
	if err != nil {
		return nil, err
	}
	return driver, nil
}

// wanted is the vendor's driver that the target names, with IPMI for what it
// lacks; Intel AMT has none.
func (d Dialer) wanted(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	first, err := d.vendor(ctx, t.Driver, t)
	if err != nil || t.Driver == vendor.AMT {
		return first, err
	}
	return &both{Driver: first, second: func(ctx context.Context) (bmc.Driver, error) { return d.ipmi(ctx, t) }}, nil
}

func (d Dialer) vendor(ctx context.Context, name string, t bmc.Target) (bmc.Driver, error) {
	driver, err := vendor.Dial(ctx, name, t, d.Now)
	if err != nil {
		return nil, err
	}
	return driver, nil
}

// auto finds out what the BMC speaks.
func (d Dialer) auto(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	first, err := d.firstOf(ctx, t)
	if err == nil {
		return &both{
			Driver: first, second: func(ctx context.Context) (bmc.Driver, error) { return d.ipmi(ctx, t) },
			vendor: func(ctx context.Context, name string) (bmc.Driver, error) { return d.vendor(ctx, name, t) },
		}, nil
	}
	if t.TLS.Pin != "" || t.TLS.Roots != nil || !errors.Is(err, bmc.ErrUnsupported) && !errors.Is(err, bmc.ErrUnreachable) {
		return nil, err
	}
	second, ipmiErr := d.ipmi(ctx, t)
	switch {
	case ipmiErr == nil:
		return second, nil
	case errors.Is(ipmiErr, bmc.ErrUnreachable):
		return nil, fmt.Errorf("%w: neither Redfish (%v) nor IPMI (%v)", bmc.ErrUnreachable, err, ipmiErr)
	}
	return nil, ipmiErr // it speaks IPMI, and says no
}

// firstOf dials Redfish, in half the time at most, so that some is left for IPMI.
func (d Dialer) firstOf(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	end, ok := ctx.Deadline()
	if !ok || t.TLS.Pin != "" || t.TLS.Roots != nil {
		return d.redfish(ctx, t)
	}
	half, cancel := context.WithTimeout(ctx, end.Sub(d.Now())/2)
	defer cancel()
	driver, err := d.redfish(half, t)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", bmc.ErrUnreachable, err)
	}
	return driver, err
}
