package erase

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bedplate/bedplate/agent/disk/erase/scsi"
)

// scsiDisk is a disk behind SCSI commands.
type scsiDisk struct {
	rotational bool
	port       Port
	poll       time.Duration
	offers     []scsi.Action
}

var scsiSanitizes = []struct {
	name   string
	action scsi.Action
}{
	{"scsi-sanitize-crypto", scsi.CryptoErase}, {"scsi-sanitize-block", scsi.BlockErase}, {"scsi-sanitize-overwrite", scsi.Overwrite},
}

// identify asks which service actions of SANITIZE there are. A disk that
// doesn't know the question has none.
func (d *scsiDisk) identify(ctx context.Context, _ *Result) error {
	for _, s := range scsiSanitizes {
		c := scsi.Supports(s.action)
		reply, err := d.port.SCSI(ctx, c)
		if err == nil && reply.Err() == nil && scsi.ParseSupports(c.Data) {
			d.offers = append(d.offers, s.action)
		}
	}
	return nil
}

func (d *scsiDisk) hidden(context.Context) ([]string, error) { return nil, nil }
func (d *scsiDisk) logPage() string                          { return "" }

func (d *scsiDisk) methods() []method {
	var out []method
	for _, s := range scsiSanitizes {
		for _, offered := range d.offers {
			if offered == s.action {
				out = append(out, method{name: s.name, level: sanitizeLevel(s.name, d.rotational), deep: true, run: func(ctx context.Context, done advance) error {
					return d.sanitize(ctx, s.action, done)
				}})
			}
		}
	}
	return out
}

func (d *scsiDisk) sanitize(ctx context.Context, a scsi.Action, done advance) error {
	reply, err := d.port.SCSI(ctx, scsi.Sanitize(a))
	if err == nil {
		err = reply.Err()
	}
	if err != nil {
		return fmt.Errorf("starting to sanitize: %w", err)
	}
	return d.await(ctx, done)
}

// await returns when no sanitize operation is in progress any more.
func (d *scsiDisk) await(ctx context.Context, done advance) error {
	for failures := 0; ; {
		s, err := d.sense(ctx)
		switch {
		case err != nil:
			if failures++; failures >= maxLogErrors {
				return fmt.Errorf("asking how sanitizing gets on: %w", err)
			}
		case s.Sanitizing():
			failures = 0
			done(s.Fraction())
		case s.SanitizeFailed():
			err := errors.New("the disk says that sanitizing failed")
			if reply, leave := d.port.SCSI(ctx, scsi.Sanitize(scsi.ExitFailure)); leave != nil || reply.Err() != nil {
				err = errors.Join(err, fmt.Errorf("leaving failure mode: %w", errors.Join(leave, reply.Err())))
			}
			return err
		case s.Key == scsi.NoSense || s.Key == scsi.RecoveredError || s.Key == scsi.UnitAttention:
			return nil
		default:
			if failures++; failures >= maxLogErrors {
				return fmt.Errorf("asking how sanitizing gets on: %w", s)
			}
		}
		if err := pause(ctx, d.poll); err != nil {
			return fmt.Errorf("%w; the disk goes on by itself", err)
		}
	}
}

// sense asks for the disk's state, which comes as the data of REQUEST SENSE.
func (d *scsiDisk) sense(ctx context.Context) (scsi.Sense, error) {
	c := scsi.RequestSense()
	reply, err := d.port.SCSI(ctx, c)
	if err != nil {
		return scsi.Sense{}, err
	}
	if s, ok := scsi.ParseSense(reply.Sense); ok && reply.Status != 0 {
		return s, nil // Some answer with it in place of the data.
	}
	s, ok := scsi.ParseSense(c.Data)
	if !ok {
		return scsi.Sense{}, errors.New("the answer to REQUEST SENSE isn't sense data")
	}
	return s, nil
}

// ongoing follows a sanitize operation of an earlier boot. SCSI doesn't tell
// which one it was, so it counts for nothing but time: once it is over the
// methods are gone through.
func (d *scsiDisk) ongoing(ctx context.Context, done advance) (name, level string, err error) {
	if len(d.offers) == 0 {
		return "", "", nil
	}
	s, err := d.sense(ctx)
	if err != nil || !s.Sanitizing() {
		return "", "", nil // As above: the methods will show.
	}
	if err := d.await(ctx, done); err != nil && ctx.Err() != nil {
		return "", "", err
	}
	return "", "", nil
}
