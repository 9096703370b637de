package bmctest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/bedplate/bedplate/bmc"
)

func checkSensors(x *fixture) error {
	sensors, err := x.Sensors(x.ctx)
	if err != nil {
		return err
	}
	present := 0
	for _, s := range sensors {
		if s.Name == "" || s.Kind == "" {
			x.t.Errorf("sensor without name or kind: %+v", s)
		}
		if s.Present {
			present++
		}
	}
	if present == 0 {
		x.t.Errorf("none of %d sensors has a value", len(sensors))
	}
	return nil
}

func checkHealth(x *fixture) error {
	h, err := x.Health(x.ctx)
	if err != nil {
		return err
	}
	if h.Overall == bmc.HealthUnknown {
		x.t.Errorf("health is unknown: %+v", h)
	}
	return nil
}

func checkEventLog(x *fixture) error {
	before, err := x.EventLog(x.ctx, 0)
	if err != nil {
		return err
	}
	for _, e := range before {
		if e.ID == "" || e.Message == "" {
			x.t.Errorf("entry without ID or message: %+v", e)
		}
	}
	if err := x.ClearEventLog(x.ctx); err != nil {
		return err
	}
	// A BMC may write that its log was cleared, and who was here.
	after, err := x.EventLog(x.ctx, 5)
	if err == nil && len(after) > 1 {
		x.t.Errorf("%d entries are left after clearing", len(after))
	}
	return err
}

func checkFirmware(x *fixture) error {
	components, err := x.Firmware(x.ctx)
	if err != nil {
		return err
	}
	if len(components) == 0 {
		x.t.Error("no firmware is listed")
	}
	for _, c := range components {
		if c.ID == "" || c.Version == "" {
			x.t.Errorf("component without ID or version: %+v", c)
		}
	}
	return nil
}

func checkUpdate(x *fixture) error {
	uri := x.s.FirmwareURI
	if uri == "" {
		uri = "http://192.0.2.9/bios.bin"
	}
	id, err := x.UpdateFirmware(x.ctx, bmc.FirmwareUpdate{URI: uri, Targets: x.s.FirmwareTargets})
	if err != nil {
		return err
	}
	return x.waitUpdate(id)
}

func checkUpload(x *fixture) error {
	image := x.s.FirmwareImage
	if image == "" {
		image = strings.Repeat("firmware", 1<<15)
	}
	id, err := x.UpdateFirmware(x.ctx, bmc.FirmwareUpdate{Image: strings.NewReader(image), Name: "bios.bin", Size: int64(len(image)), Targets: x.s.FirmwareTargets})
	if err != nil {
		return err
	}
	return x.waitUpdate(id)
}

// waitUpdate follows a task to its end.
func (x *fixture) waitUpdate(id bmc.TaskID) error {
	x.t.Helper()
	if id == "" {
		return nil // the BMC was done at once
	}
	running, err := x.Task(x.ctx, id)
	if err != nil {
		return err
	}
	if x.s.Machine.FinishTasks != nil {
		x.same("state of a task that runs", running.State, bmc.TaskRunning)
		x.s.Machine.FinishTasks()
	}
	seen := 0
	end, err := x.WaitTask(x.ctx, id, func(bmc.Task) { seen++ })
	if err != nil {
		return err
	}
	x.same("state of a task that has ended", end.State, bmc.TaskSucceeded)
	if seen == 0 {
		x.t.Error("no progress was reported")
	}
	if _, err := x.Task(x.ctx, id+"0"); !errors.Is(err, bmc.ErrNotFound) {
		x.t.Errorf("a task that isn't there returned %v, want bmc.ErrNotFound", err)
	}
	return nil
}

func checkBIOS(x *fixture) error {
	before, err := x.BIOSSettings(x.ctx)
	if err != nil {
		return err
	}
	want := x.s.BIOS
	if len(want) == 0 {
		x.t.Skip("no settings to change are given")
	}
	if err := x.SetBIOS(x.ctx, want); err != nil {
		return err
	}
	pending, err := x.BIOSSettings(x.ctx)
	if err != nil {
		return err
	}
	for name, value := range want {
		x.same("pending "+name, pending.Pending[name], value)
		x.same("current "+name, pending.Current[name], before.Current[name])
	}
	if _, err := x.SetPower(x.ctx, bmc.ActionReset); err != nil {
		return err
	}
	var after bmc.BIOSSettings
	if err := x.eventually(func() (bool, error) {
		after, err = x.BIOSSettings(x.ctx)
		return len(after.Pending) == 0, err
	}); err != nil {
		return err
	}
	for name, value := range want {
		x.same(name+" after a reset", after.Current[name], value)
	}
	return nil
}

// eventually asks until check is satisfied, which a machine may take a moment for.
func (x *fixture) eventually(check func() (bool, error)) error {
	for {
		ok, err := check()
		if ok || err != nil {
			return err
		}
		select {
		case <-time.After(x.s.Wait.Poll):
		case <-x.ctx.Done():
			x.t.Error("it never came")
			return nil
		}
	}
}

func checkUnknownBIOS(x *fixture) error {
	err := x.SetBIOS(x.ctx, map[string]string{"NoSuchSetting": "1"})
	if errors.Is(err, bmc.ErrUnsupported) {
		return err
	}
	if err == nil || !strings.Contains(err.Error(), "NoSuchSetting") {
		x.t.Errorf("error is %v, want one that names NoSuchSetting", err)
	}
	return nil
}

func checkSecureBoot(x *fixture) error {
	for _, enabled := range []bool{true, false} {
		if err := x.SetSecureBoot(x.ctx, enabled); err != nil {
			return err
		}
		state, err := x.SecureBoot(x.ctx)
		if err != nil {
			return err
		}
		x.same("Secure Boot", state.Enabled, enabled)
	}
	return x.ResetSecureBootKeys(x.ctx, bmc.KeysDefault)
}

const (
	newUser     = "bedplate-test"
	newPassword = "Sup3r-secret/9"
)

func checkUsers(x *fixture) error {
	if err := x.CreateUser(x.ctx, newUser, newPassword, bmc.RoleOperator); err != nil {
		return err
	}
	users, err := x.Users(x.ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(users, func(u bmc.User) bool { return u.Name == newUser })
	if i < 0 || users[i].Role != bmc.RoleOperator || users[i].ID == "" {
		x.t.Errorf("users are %+v, want %s as operator", users, newUser)
	}
	if err := x.CreateUser(x.ctx, newUser, newPassword, bmc.RoleOperator); err == nil {
		x.t.Error("the same user was made twice")
	} else if strings.Contains(err.Error(), newPassword) {
		x.t.Errorf("error shows the password: %v", err)
	}
	if err := x.DeleteUser(x.ctx, newUser); err != nil {
		return err
	}
	if err := x.DeleteUser(x.ctx, newUser); !errors.Is(err, bmc.ErrNotFound) {
		x.t.Errorf("deleting a user that is gone returned %v, want bmc.ErrNotFound", err)
	}
	return nil
}

func checkPassword(x *fixture) error {
	if _, err := x.Users(x.ctx); err != nil {
		return err
	}
	p, err := bmc.NewPool(bmc.Config{Dial: x.s.Dial, Now: time.Now, Rand: func() float64 { return 0 }, Backoff: 10 * time.Millisecond, Wait: x.s.Wait})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(x.ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	if err := p.SetPassword(x.ctx, x.s.Target, newPassword); err != nil {
		return err
	}
	if d, err := x.s.Dial(x.ctx, x.s.Target); !errors.Is(err, bmc.ErrAuth) {
		if err == nil {
			_ = d.Close(x.ctx)
		}
		x.t.Errorf("the old password returned %v, want bmc.ErrAuth", err)
	}
	changed := x.s.Target
	changed.Password = newPassword
	return p.SetPassword(x.ctx, changed, x.s.Target.Password)
}

func checkConsole(x *fixture) error {
	if _, err := x.SetPower(x.ctx, bmc.ActionOn); err != nil {
		return err
	}
	c, err := x.Console(x.ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err := c.Close(); err != nil {
			x.t.Errorf("closing the console: %v", err)
		}
		if _, err := io.ReadAll(c); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			x.t.Errorf("reading a closed console: %v", err)
		}
	}()
	if x.s.Echo {
		return expect(x.ctx, c, c, "there and back: ~.\r\n")
	}
	if x.s.Machine.Serial == nil {
		return nil
	}
	serial := x.s.Machine.Serial()
	if err := expect(x.ctx, serial, c, "from the machine: \x00\xff\r\n"); err != nil {
		return err
	}
	return expect(x.ctx, c, serial, "to the machine: ~.\x1b\r\n")
}

// expect writes text at one end and wants it at the other.
func expect(ctx context.Context, from io.Writer, to io.Reader, text string) error {
	written, read := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := io.WriteString(from, text)
		written <- err
	}()
	go func() {
		got := ""
		for b := bufio.NewReaderSize(to, 16); !strings.HasSuffix(got, text); {
			c, err := b.ReadByte()
			if err != nil {
				read <- err
				return
			}
			got += string([]byte{c})
		}
		read <- nil
	}()
	for _, ch := range []chan error{written, read} {
		select {
		case err := <-ch:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func checkManager(x *fixture) error {
	info, err := x.ManagerInfo(x.ctx)
	if err != nil {
		return err
	}
	if info.FirmwareVersion == "" {
		x.t.Error("the BMC has no version")
	}
	return x.ResetManager(x.ctx)
}
