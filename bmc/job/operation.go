package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// carryOut does the attempt's operation and returns what it found, for people.
func (c *Controller) carryOut(ctx context.Context, a *attempt) (string, error) {
	switch op := a.operation().GetOperation().(type) {
	case *pb.Operation_Power:
		return c.power(ctx, a, op.Power)
	case *pb.Operation_BootDevice:
		return c.bootDevice(ctx, a.machine, op.BootDevice)
	case *pb.Operation_InsertMedia:
		return c.insertMedia(ctx, a.machine, op.InsertMedia)
	case *pb.Operation_EjectMedia:
		return c.ejectMedia(ctx, a.machine, op.EjectMedia)
	case *pb.Operation_Inventory:
		return c.inventory(ctx, a.machine)
	case *pb.Operation_Firmware:
		return c.firmware(ctx, a, op.Firmware)
	case *pb.Operation_Bios:
		return c.bios(ctx, a.machine, op.Bios)
	case *pb.Operation_SecureBoot:
		return c.secureBoot(ctx, a.machine, op.SecureBoot)
	case *pb.Operation_Password:
		return "the BMC has a password that only this server knows", c.cfg.BMCs.RotatePassword(ctx, a.machine)
	case *pb.Operation_ResetBmc:
		return c.resetBMC(ctx, a.machine)
	case *pb.Operation_ClearEventLog:
		return "the event log is empty", c.do(ctx, a.machine, func(ctx context.Context, b *bmc.Client) error { return b.ClearEventLog(ctx) })
	}
	return "", permanent(errors.New("this server doesn't know the operation: it is of a newer version"))
}

func (c *Controller) do(ctx context.Context, m *pb.Machine, f func(context.Context, *bmc.Client) error) error {
	return c.cfg.BMCs.Do(ctx, m, f)
}

// power changes the machine's power and confirms it.
func (c *Controller) power(ctx context.Context, a *attempt, op *pb.PowerOperation) (string, error) {
	action, err := bmc.ParsePowerAction(op.GetAction())
	if err != nil {
		return "", permanent(err)
	}
	if done, err := c.lookFirst(ctx, a, action); err != nil || done != "" {
		return done, err
	}
	var change bmc.PowerChange
	err = c.do(ctx, a.machine, func(ctx context.Context, b *bmc.Client) (err error) {
		change, err = c.setPower(ctx, b, action, op.GetGrace())
		return err
	})
	if err != nil {
		return "", c.afterPower(action, err)
	}
	c.record(ctx, a.machine, func(s *pb.BMCStatus) { s.Power = PowerProto(change.After) })
	return change.String(), nil
}

// setPower is the driver's SetPower, with the end of the grace that an
// operating system is given.
func (c *Controller) setPower(ctx context.Context, b *bmc.Client, action bmc.PowerAction, grace string) (bmc.PowerChange, error) {
	limit, err := time.ParseDuration(grace)
	if action != bmc.ActionSoft || err != nil || limit <= 0 {
		return b.SetPower(ctx, action)
	}
	soft, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	patient := bmc.NewClient(b.Driver, bmc.Wait{Soft: limit}, c.cfg.Now)
	change, err := patient.SetPower(soft, action)
	if err == nil || ctx.Err() != nil || !errors.Is(err, bmc.ErrPowerState) && soft.Err() == nil {
		return change, err
	}
	return b.SetPower(ctx, bmc.ActionOff)
}

// repeatable reports whether a power action that was done can be done again
// without harm: it only leads to a state.
func repeatable(action bmc.PowerAction) bool {
	return action == bmc.ActionOn || action == bmc.ActionOff || action == bmc.ActionSoft
}

// bootWait is how long it is waited for a sign that a machine which is on was
// reset: a server's firmware asks the network after two or three minutes.
const bootWait = 4 * time.Minute

// lookFirst finds out what became of an earlier try of an action that mustn't
// be repeated blindly. It returns the result if nothing is left to be done.
func (c *Controller) lookFirst(ctx context.Context, a *attempt, action bmc.PowerAction) (string, error) {
	if repeatable(action) || !a.cut && a.status().GetAttempts() <= 1 {
		return "", nil
	}
	if action == bmc.ActionNMI {
		if a.cut {
			return "", permanent(errors.New("the server was restarted while the NMI was sent: whether it arrived is not known, and it was not sent again"))
		}
		return "", nil // only what was refused is tried again
	}
	seen := fmt.Sprintf("the machine was seen to start since, so the %s was not repeated", action)
	if c.booted(a) {
		return seen, nil
	}
	state, err := c.powerState(ctx, a.machine)
	if err != nil || state != bmc.PowerOn || !a.cut {
		return "", err // off: SetPower switches it on
	}
	wait, cancel := context.WithTimeout(ctx, bootWait)
	defer cancel()
	for sleep(wait, bmcPause) == nil {
		if c.booted(a) {
			return seen, nil
		}
	}
	return "", permanent(fmt.Errorf("the server was restarted during the power %s: the machine is on, nothing says whether it was done, and it was not repeated; create the job again if it is still wanted", action))
}

// booted reports whether the machine was seen to start since the operation began.
func (c *Controller) booted(a *attempt) bool {
	return c.cfg.Booted != nil && c.cfg.Booted(machine.Name(a.machine.Metadata.Name), a.status().GetStartTime().AsTime())
}

func (c *Controller) powerState(ctx context.Context, m *pb.Machine) (state bmc.PowerState, err error) {
	err = c.do(ctx, m, func(ctx context.Context, b *bmc.Client) error {
		state, err = b.PowerState(ctx)
		return err
	})
	return state, err
}

// afterPower decides what a failed power action's error means for another try.
func (c *Controller) afterPower(action bmc.PowerAction, err error) error {
	if action != bmc.ActionNMI || errors.Is(err, bmc.ErrBusy) || errors.Is(err, bmc.ErrCircuitOpen) {
		return err
	}
	return permanent(err)
}

// PowerProto is a power state as machine.status has it; on the way from one to
// another it is unknown.
func PowerProto(s bmc.PowerState) pb.PowerState {
	switch s {
	case bmc.PowerOn:
		return pb.PowerState_POWER_ON
	case bmc.PowerOff:
		return pb.PowerState_POWER_OFF
	}
	return pb.PowerState_POWER_STATE_UNSPECIFIED
}

// record brings the machine's status up to date. Where that fails the poller
// does it later, so it is no failure of the operation.
func (c *Controller) record(ctx context.Context, m *pb.Machine, change func(*pb.BMCStatus)) {
	if err := c.cfg.BMCs.Record(ctx, m.Metadata.Name, change); err != nil && ctx.Err() == nil {
		c.cfg.Logger.Warn("recording what a BMC said", "machine", m.Metadata.Name, "err", err)
	}
}

// bootDevice sets what the machine boots.
func (c *Controller) bootDevice(ctx context.Context, m *pb.Machine, op *pb.BootDeviceOperation) (string, error) {
	device, err := bmc.ParseBootDevice(op.GetDevice())
	if err != nil {
		return "", permanent(err)
	}
	mode, err := bmc.ParseBootMode(op.GetMode())
	if err != nil {
		return "", permanent(err)
	}
	o := bmc.BootOverride{Device: device, Mode: mode, Persistent: op.GetPersistent(), URI: op.GetUri()}
	err = c.do(ctx, m, func(ctx context.Context, b *bmc.Client) error { return b.SetBoot(ctx, o) })
	if err != nil {
		return "", err
	}
	shown := o.String()
	c.record(ctx, m, func(s *pb.BMCStatus) {
		if s.BootOverride = shown; device == bmc.BootNone {
			s.BootOverride = ""
		}
	})
	return shown, nil
}

func mediaKind(op *pb.MediaOperation) bmc.MediaKind {
	if op.GetKind() == "usb" {
		return bmc.MediaUSB
	}
	return bmc.MediaCD
}

// agentMedia is what the agent's system is called where its URL, which has a
// token in it, must not be seen.
const agentMedia = "the agent's system"

// insertMedia inserts a medium: the agent's system, unless a URL is given.
func (c *Controller) insertMedia(ctx context.Context, m *pb.Machine, op *pb.MediaOperation) (string, error) {
	kind, url, shown := mediaKind(op), op.GetUrl(), op.GetUrl()
	if url == "" {
		if c.cfg.MediaURL == nil {
			return "", permanent(errors.New("this server makes no boot media: give a URL"))
		}
		var err error
		if url, err = c.cfg.MediaURL(ctx, m); err != nil {
			return "", fmt.Errorf("making the medium for machine %s: %w", m.Metadata.Name, err)
		}
		if kind == bmc.MediaUSB {
			// The same image; BMCs tell a stick from a CD by its name's ending.
			url = strings.TrimSuffix(url, ".iso") + ".img"
		}
		shown = agentMedia
	}
	err := c.do(ctx, m, func(ctx context.Context, b *bmc.Client) error { return b.InsertMedia(ctx, kind, url) })
	switch {
	case err != nil && shown == agentMedia:
		return "", hidden{err, url}
	case err != nil:
		return "", err
	}
	c.record(ctx, m, func(s *pb.BMCStatus) { s.Media = shown })
	return fmt.Sprintf("%s is inserted as %s", shown, kind), nil
}

// urls are what an error may quote of a medium.
var urls = regexp.MustCompile(`\b[a-z]+://[^\s"'<>,]+`)

// hidden is an error about the agent's medium: its URLs, which have a token,
// aren't shown. Some BMCs quote only the end of it, which is hidden as well.
type hidden struct {
	error
	url string
}

func (e hidden) Error() string {
	text := urls.ReplaceAllString(e.error.Error(), agentMedia)
	if _, path, ok := strings.Cut(e.url, "://"); ok {
		if _, path, ok = strings.Cut(path, "/"); ok && path != "" {
			text = strings.ReplaceAll(text, path, "…")
		}
	}
	return text
}

func (e hidden) Unwrap() error { return e.error }

// ejectMedia ejects what is inserted.
func (c *Controller) ejectMedia(ctx context.Context, m *pb.Machine, op *pb.MediaOperation) (string, error) {
	kind := mediaKind(op)
	err := c.do(ctx, m, func(ctx context.Context, b *bmc.Client) error { return b.EjectMedia(ctx, kind) })
	if err != nil {
		return "", hidden{err, ""} // it says what is inserted
	}
	if c.cfg.MediaEjected != nil {
		if err := c.cfg.MediaEjected(ctx, m); err != nil {
			return "", fmt.Errorf("taking back the medium of machine %s: %w", m.Metadata.Name, err)
		}
	}
	c.record(ctx, m, func(s *pb.BMCStatus) { s.Media = "" })
	return fmt.Sprintf("no %s is inserted", kind), nil
}

// bios changes BIOS settings.
func (c *Controller) bios(ctx context.Context, m *pb.Machine, op *pb.BIOSOperation) (string, error) {
	names := slices.Sorted(maps.Keys(op.GetAttributes()))
	err := c.do(ctx, m, func(ctx context.Context, b *bmc.Client) error {
		if op.GetReset_() {
			if err := b.ResetBIOS(ctx); err != nil {
				return err
			}
		}
		if len(names) == 0 {
			return nil
		}
		return b.SetBIOS(ctx, op.GetAttributes())
	})
	what := strings.Join(names, ", ")
	switch {
	case op.GetReset_() && what != "":
		what = "the factory's settings, and " + what
	case op.GetReset_():
		what = "the factory's settings"
	}
	return what + ": in force after the next restart", err
}

// secureBoot changes Secure Boot.
func (c *Controller) secureBoot(ctx context.Context, m *pb.Machine, op *pb.SecureBootOperation) (string, error) {
	var done []string
	err := c.do(ctx, m, func(ctx context.Context, b *bmc.Client) error {
		done = nil
		if op.GetResetKeys() != "" {
			reset, err := bmc.ParseKeyReset(op.GetResetKeys())
			if err != nil {
				return permanent(err)
			}
			if err := b.ResetSecureBootKeys(ctx, reset); err != nil {
				return err
			}
			done = append(done, "keys: "+op.GetResetKeys())
		}
		if op.GetState() == "" {
			return nil
		}
		done = append(done, "Secure Boot: "+op.GetState())
		return b.SetSecureBoot(ctx, op.GetState() == "enable")
	})
	return strings.Join(done, ", ") + ": in force after the next restart", err
}

// A BMC that is restarted is away for some minutes.
const (
	bmcDown  = 15 * time.Second
	bmcPause = 5 * time.Second
)

// resetBMC restarts the BMC and waits until it answers again.
func (c *Controller) resetBMC(ctx context.Context, m *pb.Machine) (string, error) {
	err := c.do(ctx, m, func(ctx context.Context, b *bmc.Client) error { return b.ResetManager(ctx) })
	if err != nil {
		return "", err
	}
	started := c.cfg.Now()
	if err := sleep(ctx, bmcDown); err != nil {
		return "", err
	}
	for {
		err := c.do(ctx, m, func(ctx context.Context, b *bmc.Client) error {
			_, err := b.PowerState(ctx)
			return err
		})
		if err == nil {
			return fmt.Sprintf("the BMC answers again after %s", c.cfg.Now().Sub(started).Round(time.Second)), nil
		}
		if !bmc.Transient(err) && !errors.Is(err, bmc.ErrCircuitOpen) {
			return "", fmt.Errorf("after its restart: %w", err)
		}
		if wait := sleep(ctx, bmcPause); wait != nil {
			return "", fmt.Errorf("the BMC was restarted and has not come back: %w", err)
		}
	}
}

// sleep waits for d or for the end of ctx, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
