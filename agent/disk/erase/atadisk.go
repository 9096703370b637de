package erase

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bedplate/bedplate/agent/disk/erase/ata"
	"github.com/bedplate/bedplate/agent/disk/erase/scsi"
)

// password locks an ATA disk while it erases itself. It is no secret: a disk
// that lost power meanwhile is recognised and opened by it.
const password = "bedplate-disk-erase"

const (
	// eraseLongest is for disks that don't say how long a security erase takes.
	eraseLongest = 72 * time.Hour
	// eraseSlack is added to what a disk says, as disks are optimists.
	eraseSlack = 2 * time.Hour
)

// ataDisk is a disk behind ATA commands inside SCSI ones.
type ataDisk struct {
	port       Port
	poll       time.Duration
	rotational bool
	now        func() time.Time

	id       ata.Identity
	sanitize ata.SanitizeState
	// silent: the controller doesn't hand on what the disk says of sanitizing.
	silent error
}

// send carries one command, and returns what went wrong on either end.
func (d *ataDisk) send(ctx context.Context, c scsi.Command) error {
	reply, err := d.port.SCSI(ctx, c)
	if err != nil {
		return err
	}
	return ata.Err(reply)
}

func (d *ataDisk) ask(ctx context.Context) error {
	c := ata.IdentifyDevice()
	if err := d.send(ctx, c); err != nil {
		return fmt.Errorf("identifying the disk: %w", err)
	}
	id, err := ata.ParseIdentity(c.Data)
	if err != nil {
		return fmt.Errorf("identifying the disk: %w", err)
	}
	d.id = id
	return nil
}

func (d *ataDisk) identify(ctx context.Context, r *Result) error {
	if err := d.ask(ctx); err != nil {
		return err
	}
	r.model, r.serial, r.firmware = d.id.Model, d.id.Serial, d.id.Firmware
	if d.id.Sanitize.Supported {
		d.sanitize, d.silent = d.status(ctx, false)
	}
	return d.unlock(ctx)
}

// unlock opens a disk that lost power during a security erase of ours, and
// takes the password away. One that is locked by anybody else stays so, and
// the methods say why they can't be used.
func (d *ataDisk) unlock(ctx context.Context) error {
	s := d.id.Security
	if !s.Enabled || s.Frozen || s.Expired {
		return nil
	}
	// With another's password both fail, and what the disk says afterwards tells.
	_ = d.openLock(ctx)
	return d.ask(ctx)
}

// openLock takes our password off the disk.
func (d *ataDisk) openLock(ctx context.Context) error {
	if d.id.Security.Locked {
		if err := d.send(ctx, ata.Unlock(password)); err != nil {
			return fmt.Errorf("unlocking: %w", err)
		}
	}
	if err := d.send(ctx, ata.DisablePassword(password)); err != nil {
		return fmt.Errorf("taking the password away: %w", err)
	}
	return nil
}

// hidden compares how many sectors there are by each way of counting.
func (d *ataDisk) hidden(ctx context.Context) ([]string, error) {
	native, what := d.id.Sectors, ""
	for _, q := range []struct {
		has  bool
		name string
		ask  scsi.Command
	}{{d.id.AMAC, "Accessible Max Address", ata.GetNativeMax()}, {d.id.HPA, "Host Protected Area", ata.ReadNativeMax()}} {
		if !q.has {
			continue
		}
		reply, err := d.port.SCSI(ctx, q.ask)
		if err != nil {
			return nil, fmt.Errorf("asking for the native size: %w", err)
		}
		n, err := ata.ParseNativeMax(reply.Sense)
		if err != nil {
			return nil, fmt.Errorf("asking for the native size: %w", err)
		}
		if n > native {
			native, what = n, q.name
		}
	}
	var out []string
	if native > d.id.Sectors {
		out = append(out, fmt.Sprintf("%d sectors are hidden by %s", native-d.id.Sectors, what))
	}
	if !d.id.DCO {
		return out, nil
	}
	c := ata.DeviceConfiguration()
	if err := d.send(ctx, c); err != nil {
		return out, nil //nolint:nilerr // firmware commonly freezes it, and then it can't be asked
	}
	made, err := ata.ParseDeviceConfiguration(c.Data)
	if err == nil && made > native {
		out = append(out, fmt.Sprintf("%d sectors are hidden by Device Configuration Overlay", made-native))
	}
	return out, err
}

func (d *ataDisk) logPage() string { return "" }

func (d *ataDisk) methods() []method {
	var out []method
	var blocked error
	switch {
	case d.silent != nil:
		blocked = d.silent
	case d.sanitize.Frozen:
		blocked = errors.New("the firmware has frozen the Sanitize feature set; it takes commands after a power cycle of the disk")
	}
	for _, s := range d.sanitizes() {
		if s.has {
			out = append(out, method{name: s.name, level: sanitizeLevel(s.name, d.rotational), deep: true, blocked: blocked, run: func(ctx context.Context, done advance) error {
				return d.sanitizeBy(ctx, s.action, done)
			}})
		}
	}
	if !d.id.Security.Supported {
		return out
	}
	enhanced := Clear // NIST SP 800-88r1 table A-8 counts it as purge for magnetic disks alone (table A-5).
	if d.rotational {
		enhanced = Purge
	}
	if d.id.Security.CanEnhance {
		out = append(out, method{name: "ata-erase-enhanced", level: enhanced, deep: true, blocked: d.securityBlocked(), run: func(ctx context.Context, done advance) error {
			return d.securityErase(ctx, true, done)
		}})
	}
	return append(out, method{name: "ata-erase", level: Clear, deep: true, blocked: d.securityBlocked(), run: func(ctx context.Context, done advance) error {
		return d.securityErase(ctx, false, done)
	}})
}

type ataSanitize struct {
	name   string
	action ata.Action
	has    bool
}

func (d *ataDisk) sanitizes() []ataSanitize {
	c := d.id.Sanitize
	return []ataSanitize{
		{"ata-sanitize-crypto", ata.CryptoScramble, c.CryptoScramble}, {"ata-sanitize-block", ata.BlockErase, c.BlockErase}, {"ata-sanitize-overwrite", ata.Overwrite, c.Overwrite},
	}
}

func (d *ataDisk) securityBlocked() error {
	switch s := d.id.Security; {
	case s.Frozen:
		return errors.New("the firmware has frozen the Security feature set: switch the freeze lock off in its setup, or plug the disk in while the machine runs")
	case s.Expired:
		return errors.New("too many wrong passwords: the disk takes none until a power cycle")
	case s.Locked, s.Enabled:
		return errors.New("the disk has a password, and it isn't ours: unlock it, or erase it with its maker's PSID")
	}
	return nil
}

// status asks for the state of the last sanitize command.
func (d *ataDisk) status(ctx context.Context, clear bool) (ata.SanitizeState, error) {
	reply, err := d.port.SCSI(ctx, ata.SanitizeStatus(clear))
	if err != nil {
		return ata.SanitizeState{}, fmt.Errorf("asking for the sanitize status: %w", err)
	}
	s, err := ata.ParseSanitizeStatus(reply.Sense)
	if err != nil {
		return s, fmt.Errorf("asking for the sanitize status: %w", err)
	}
	return s, nil
}

func (d *ataDisk) sanitizeBy(ctx context.Context, a ata.Action, done advance) error {
	if err := d.send(ctx, ata.Sanitize(a)); err != nil {
		return fmt.Errorf("starting to sanitize: %w", err)
	}
	s, err := d.await(ctx, done)
	switch {
	case err != nil:
		return err
	case s.Failure != "":
		return fmt.Errorf("the disk says that sanitizing failed: %s", s.Failure)
	case !s.Completed:
		return errors.New("the disk has stopped sanitizing without an end")
	}
	return nil
}

// await returns when no sanitize command is in progress any more. A failed one
// is left behind, so that other methods can be tried.
func (d *ataDisk) await(ctx context.Context, done advance) (ata.SanitizeState, error) {
	for failures := 0; ; {
		s, err := d.status(ctx, false)
		switch {
		case err != nil:
			if failures++; failures >= maxLogErrors {
				return s, err
			}
		case s.InProgress:
			failures = 0
			done(s.Fraction())
		default:
			if s.Failure != "" {
				if _, err := d.status(ctx, true); err != nil {
					return s, errors.Join(fmt.Errorf("the disk says that sanitizing failed: %s", s.Failure), err)
				}
			}
			return s, nil
		}
		if err := pause(ctx, d.poll); err != nil {
			return s, fmt.Errorf("%w; the disk goes on by itself", err)
		}
	}
}

// ongoing follows a sanitize command of an earlier boot. ATA doesn't tell which
// one it was, so it counts for nothing but time.
func (d *ataDisk) ongoing(ctx context.Context, done advance) (name, level string, err error) {
	if !d.sanitize.InProgress {
		return "", "", nil
	}
	if d.sanitize, err = d.await(ctx, done); err != nil {
		return "", "", err
	}
	return "", "", d.ask(ctx)
}

// securityErase sets the password that erasing needs and takes away. When the
// erase fails the password goes too: no disk is left locked.
func (d *ataDisk) securityErase(ctx context.Context, enhanced bool, done advance) error {
	expected := d.id.Security.Normal
	if enhanced {
		expected = d.id.Security.Enhanced
	}
	limit := eraseLongest
	if expected > 0 {
		limit = 2*expected + eraseSlack
	}
	if err := d.send(ctx, ata.SetPassword(password)); err != nil {
		return fmt.Errorf("setting a password, which erasing needs: %w", err)
	}
	stop := d.estimate(expected, done)
	err := d.send(ctx, ata.ErasePrepare())
	if err == nil {
		err = d.send(ctx, ata.EraseUnit(password, enhanced, limit))
	}
	stop()
	if ctx.Err() != nil {
		return fmt.Errorf("%w; the disk goes on by itself, and is locked with the password %q if it loses power", stopped(ctx), password)
	}
	again := d.ask(ctx)
	if again == nil && d.id.Security.Enabled {
		if off := d.openLock(ctx); off != nil {
			err = errors.Join(err, fmt.Errorf("the disk is left with the password %q: %w", password, off))
		} else if err == nil {
			err = errors.New("the disk still has its password, so it didn't erase")
		}
		again = d.ask(ctx)
	}
	if err = errors.Join(err, again); err != nil {
		return fmt.Errorf("erasing: %w", err)
	}
	return nil
}

// estimate reports progress by the clock, as a security erase has none.
func (d *ataDisk) estimate(expected time.Duration, done advance) (stop func()) {
	if expected <= 0 {
		return func() {}
	}
	start, quit, ended := d.now(), make(chan struct{}), make(chan struct{})
	go func() { // ends with stop, which waits for it
		defer close(ended)
		t := time.NewTicker(d.poll)
		defer t.Stop()
		for {
			select {
			case <-quit:
				return
			case <-t.C:
				done(min(0.99, float64(d.now().Sub(start))/float64(expected)))
			}
		}
	}()
	return func() { close(quit); <-ended }
}
