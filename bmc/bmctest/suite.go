package bmctest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/bmc"
)

// Machine is the machine behind a virtual BMC as its owner sees it: what really
// happened, whatever the BMC says. Functions that are nil aren't asked.
type Machine struct {
	Power    func() bmc.PowerState
	SetPower func(bmc.PowerState)
	Boot     func() bmc.BootOverride
	Media    func(bmc.MediaKind) string
	// Serial returns the machine's end of the serial port once a console is open.
	Serial func() io.ReadWriter
	// FinishTasks ends the tasks that run.
	FinishTasks func()
}

// Setup is a virtual BMC, fresh, with a machine that is off.
type Setup struct {
	Target  bmc.Target
	Dial    func(ctx context.Context, t bmc.Target) (bmc.Driver, error)
	Machine Machine
	// Identity is what the BMC has to say of the machine; empty fields aren't compared.
	Identity bmc.Identity
	// BIOS are two settings that can be changed, with their new values.
	BIOS map[string]string
	// Image is the URL of an image that the BMC can insert.
	Image string
	// Timeout bounds each subtest. Zero: 30 s.
	Timeout time.Duration
	// Wait is for the clients; zero: short ones.
	Wait bmc.Wait
	// Devices and Modes are what it can boot; nil: all.
	Devices []bmc.BootDevice
	Modes   []bmc.BootMode
	// FirmwareURI and FirmwareImage are an image that it takes; empty: anything is.
	FirmwareURI   string
	FirmwareImage string
	// FirmwareTargets are what the image is for; nil: the image knows.
	FirmwareTargets []string
	// Echo is set where the machine says on its console what it is told there.
	Echo bool
	// Soft is set where the machine has an operating system that shuts down.
	Soft bool
}

// Run holds a driver against virtual BMCs: setup makes one for each subtest. What
// the driver lacks has to be lacking in the right way: with an error that is
// bmc.ErrUnsupported and names the driver; required are what it must not lack.
func Run(t *testing.T, setup func(t *testing.T) Setup, required ...Capability) {
	for _, c := range conformance {
		t.Run(c.name, func(t *testing.T) {
			s := setup(t)
			x := open(t, s)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the driver is %s", x.Name())
				}
			})
			if err := c.check(x); err != nil {
				if !errors.Is(err, bmc.ErrUnsupported) {
					t.Fatal(err)
				}
				if !strings.Contains(err.Error(), x.Name()) {
					t.Errorf("the error of what is lacking doesn't name the driver %s: %v", x.Name(), err)
				}
				if slices.Contains(required, c.capability) {
					t.Fatalf("driver lacks %s: %v", c.capability, err)
				}
				t.Skipf("lacking: %v", err)
			}
		})
	}
}

// Capability is a part of the contract.
type Capability string

// The capabilities that Run can require.
const (
	Login        Capability = "login"
	Power        Capability = "power"
	NMI          Capability = "NMI"
	Boot         Capability = "boot override"
	HTTPBoot     Capability = "HTTP boot"
	VirtualMedia Capability = "virtual media"
	Identity     Capability = "identity"
	Inventory    Capability = "inventory"
	Sensors      Capability = "sensors"
	HealthReport Capability = "health"
	EventLog     Capability = "event log"
	Firmware     Capability = "firmware"
	Update       Capability = "firmware update"
	BIOS         Capability = "BIOS settings"
	SecureBoot   Capability = "Secure Boot"
	Users        Capability = "users"
	Console      Capability = "serial console"
	Manager      Capability = "manager"
)

// fixture is an open client of a fresh BMC.
type fixture struct {
	*bmc.Client
	t   *testing.T
	s   Setup
	ctx context.Context
}

func open(t *testing.T, s Setup) *fixture {
	t.Helper()
	if s.Timeout == 0 {
		s.Timeout = 30 * time.Second
	}
	if s.Wait == (bmc.Wait{}) {
		s.Wait = bmc.Wait{
			Poll: 10 * time.Millisecond, PowerOn: 5 * time.Second, PowerOff: 5 * time.Second, Soft: 5 * time.Second,
			OffTime: 10 * time.Millisecond, ReadBack: 2 * time.Second, Task: 10 * time.Second,
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.Timeout)
	d, err := s.Dial(ctx, s.Target)
	if err != nil {
		cancel()
		t.Fatalf("logging in to %v: %v", s.Target, err)
	}
	t.Cleanup(func() {
		defer cancel()
		if err := d.Close(ctx); err != nil && ctx.Err() == nil {
			t.Logf("logging out: %v", err)
		}
	})
	return &fixture{Client: bmc.NewClient(d, s.Wait, time.Now), t: t, s: s, ctx: ctx}
}

// conformance are the checks. Each returns the error that ended it.
var conformance = []struct {
	name       string
	capability Capability
	check      func(x *fixture) error
}{
	{"a wrong password is refused, and not shown", Login, checkLogin},
	{"a call ends when its context does", Login, checkContext},
	{"power goes where it is told", Power, checkPower},
	{"a machine that is off is switched on by a reset or a cycle", Power, checkOffReset},
	{"a soft shutdown ends in off", Power, checkSoft},
	{"an NMI needs a machine that is on", NMI, checkNMI},
	{"a boot override is as it was set", Boot, checkBoot},
	{"HTTP boot has its URI", HTTPBoot, checkHTTPBoot},
	{"a medium is inserted, replaced and ejected", VirtualMedia, checkMedia},
	{"the identity is the machine's", Identity, checkIdentity},
	{"the inventory has the identity in it", Inventory, checkInventory},
	{"sensors have names and values", Sensors, checkSensors},
	{"health is a judgement", HealthReport, checkHealth},
	{"the event log is read and cleared", EventLog, checkEventLog},
	{"firmware has versions", Firmware, checkFirmware},
	{"firmware is updated by URL, as a task", Update, checkUpdate},
	{"firmware is updated by upload, as a task", Update, checkUpload},
	{"BIOS settings are pending until a reset", BIOS, checkBIOS},
	{"a BIOS setting that isn't there is refused by name", BIOS, checkUnknownBIOS},
	{"Secure Boot is set and read back", SecureBoot, checkSecureBoot},
	{"a user is made, can log in, and is deleted", Users, checkUsers},
	{"the own password is changed and proven", Users, checkPassword},
	{"the console carries bytes both ways", Console, checkConsole},
	{"the manager says what it is", Manager, checkManager},
}

// same returns an error where got is not want.
func (x *fixture) same(what string, got, want any) {
	x.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		x.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func checkLogin(x *fixture) error {
	wrong := x.s.Target
	wrong.Password = "wr0ng-and-secret"
	d, err := x.s.Dial(x.ctx, wrong)
	if err == nil {
		_ = d.Close(x.ctx)
		x.t.Fatal("a wrong password logs in")
	}
	if !errors.Is(err, bmc.ErrAuth) {
		x.t.Errorf("error is %v, want bmc.ErrAuth", err)
	}
	if strings.Contains(err.Error(), wrong.Password) {
		x.t.Errorf("error shows the password: %v", err)
	}
	return nil
}

func checkContext(x *fixture) error {
	ctx, cancel := context.WithCancel(x.ctx)
	cancel()
	start := time.Now()
	if _, err := x.PowerState(ctx); !errors.Is(err, context.Canceled) {
		x.t.Errorf("a call with a cancelled context returned %v", err)
	}
	if took := time.Since(start); took > time.Second {
		x.t.Errorf("a call with a cancelled context took %s", took)
	}
	return nil
}

// isPower compares the power with what the driver and the owner say.
func (x *fixture) isPower(want bmc.PowerState) error {
	x.t.Helper()
	state, err := x.PowerState(x.ctx)
	if err != nil {
		return err
	}
	x.same("power by the BMC", state, want)
	if x.s.Machine.Power != nil {
		x.same("power by the machine", x.s.Machine.Power(), want)
	}
	return nil
}

func checkPower(x *fixture) error {
	if err := x.isPower(bmc.PowerOff); err != nil {
		return err
	}
	for _, step := range []struct {
		action bmc.PowerAction
		want   bmc.PowerChange
	}{
		{bmc.ActionOff, bmc.PowerChange{Action: bmc.ActionOff, Before: bmc.PowerOff, After: bmc.PowerOff}},
		{bmc.ActionOn, bmc.PowerChange{Action: bmc.ActionOn, Before: bmc.PowerOff, After: bmc.PowerOn, Done: bmc.ActionOn}},
		{bmc.ActionOn, bmc.PowerChange{Action: bmc.ActionOn, Before: bmc.PowerOn, After: bmc.PowerOn}},
		{bmc.ActionReset, bmc.PowerChange{Action: bmc.ActionReset, Before: bmc.PowerOn, After: bmc.PowerOn, Done: bmc.ActionReset}},
		{bmc.ActionCycle, bmc.PowerChange{Action: bmc.ActionCycle, Before: bmc.PowerOn, After: bmc.PowerOn, Done: bmc.ActionCycle}},
		{bmc.ActionOff, bmc.PowerChange{Action: bmc.ActionOff, Before: bmc.PowerOn, After: bmc.PowerOff, Done: bmc.ActionOff}},
	} {
		change, err := x.SetPower(x.ctx, step.action)
		if err != nil {
			return err
		}
		x.same("power "+step.action.String(), change, step.want)
		if err := x.isPower(step.want.After); err != nil {
			return err
		}
	}
	return nil
}

func checkOffReset(x *fixture) error {
	for _, action := range []bmc.PowerAction{bmc.ActionReset, bmc.ActionCycle} {
		if _, err := x.SetPower(x.ctx, bmc.ActionOff); err != nil {
			return err
		}
		change, err := x.SetPower(x.ctx, action)
		if err != nil {
			return err
		}
		x.same("power "+action.String(), change, bmc.PowerChange{Action: action, Before: bmc.PowerOff, After: bmc.PowerOn, Done: bmc.ActionOn})
	}
	return nil
}

func checkSoft(x *fixture) error {
	if !x.s.Soft {
		x.t.Skip("the machine has no operating system that shuts down")
	}
	if _, err := x.SetPower(x.ctx, bmc.ActionOn); err != nil {
		return err
	}
	if _, err := x.SetPower(x.ctx, bmc.ActionSoft); err != nil {
		return err
	}
	return x.isPower(bmc.PowerOff)
}

func checkNMI(x *fixture) error {
	if _, err := x.SetPower(x.ctx, bmc.ActionNMI); !errors.Is(err, bmc.ErrPowerState) {
		x.t.Errorf("NMI to a machine that is off returned %v, want bmc.ErrPowerState", err)
	}
	if _, err := x.SetPower(x.ctx, bmc.ActionOn); err != nil {
		return err
	}
	_, err := x.SetPower(x.ctx, bmc.ActionNMI)
	return err
}

func checkBoot(x *fixture) error {
	devices := x.s.Devices
	if devices == nil {
		devices = []bmc.BootDevice{bmc.BootNetwork, bmc.BootDisk, bmc.BootCD, bmc.BootUSB, bmc.BootSetup, bmc.BootDiagnostic}
	}
	modes := x.s.Modes
	if modes == nil {
		modes = []bmc.BootMode{bmc.ModeUEFI, bmc.ModeBIOS}
	}
	for _, device := range devices {
		for _, mode := range modes {
			for _, persistent := range []bool{false, true} {
				if persistent && device == bmc.BootSetup {
					continue // a machine that always enters its setup is none
				}
				if err := x.boots(bmc.BootOverride{Device: device, Mode: mode, Persistent: persistent}); err != nil {
					return err
				}
			}
		}
	}
	if err := x.SetBoot(x.ctx, bmc.BootOverride{Device: bmc.BootNone}); err != nil {
		return err
	}
	found, err := x.BootOverride(x.ctx)
	x.same("boot override that was ended", found.Device, bmc.BootNone)
	return err
}

// boots sets an override and compares what is said of it.
func (x *fixture) boots(o bmc.BootOverride) error {
	x.t.Helper()
	if err := x.SetBoot(x.ctx, o); err != nil {
		return err
	}
	found, err := x.BootOverride(x.ctx)
	x.same("boot override by the BMC", found, o)
	if err == nil && x.s.Machine.Boot != nil {
		x.same("boot override by the machine", x.s.Machine.Boot(), o)
	}
	return err
}

func checkHTTPBoot(x *fixture) error {
	o := bmc.BootOverride{Device: bmc.BootHTTP, Mode: bmc.ModeUEFI, URI: "http://192.0.2.9/boot.efi"}
	if err := x.SetBoot(x.ctx, o); err != nil {
		return err
	}
	found, err := x.BootOverride(x.ctx)
	x.same("boot override", found, o)
	return err
}

func checkMedia(x *fixture) error {
	image := x.s.Image
	if image == "" {
		image = "http://192.0.2.9/agent.iso"
	}
	for _, kind := range []bmc.MediaKind{bmc.MediaCD, bmc.MediaUSB} {
		for _, url := range []string{image + "?1", image, image} {
			if err := x.InsertMedia(x.ctx, kind, url); err != nil {
				return err
			}
			if x.s.Machine.Media != nil {
				x.same("inserted as "+kind.String(), x.s.Machine.Media(kind), url)
			}
		}
		for range 2 {
			if err := x.EjectMedia(x.ctx, kind); err != nil {
				return err
			}
		}
		if x.s.Machine.Media != nil {
			x.same("inserted as "+kind.String(), x.s.Machine.Media(kind), "")
		}
	}
	return nil
}

func checkIdentity(x *fixture) error {
	id, err := x.Identity(x.ctx)
	if err != nil {
		return err
	}
	want := x.s.Identity
	for _, f := range []struct{ what, got, want string }{
		{"UUID", string(id.UUID), string(want.UUID)},
		{"serial number", id.Serial, want.Serial},
		{"manufacturer", id.Manufacturer, want.Manufacturer},
		{"product", id.Product, want.Product},
	} {
		if f.want != "" {
			x.same(f.what, f.got, f.want)
		}
	}
	for _, mac := range want.MACs {
		if !slices.Contains(id.MACs, mac) {
			x.t.Errorf("MAC addresses are %v, want %v among them", id.MACs, mac)
		}
	}
	x.same("power", id.Power, bmc.PowerOff)
	return nil
}

func checkInventory(x *fixture) error {
	inv, err := x.Inventory(x.ctx)
	if err != nil {
		return err
	}
	if want := string(x.s.Identity.UUID); want != "" {
		x.same("UUID", inv.GetSystem().GetUuid(), want)
	}
	if want := x.s.Identity.Serial; want != "" {
		x.same("serial number", inv.GetSystem().GetSerial(), want)
	}
	for _, mac := range x.s.Identity.MACs {
		found := false
		for _, nic := range inv.GetNics() {
			found = found || nic.GetMac() == mac.String()
		}
		if !found {
			x.t.Errorf("no interface has address %v", mac)
		}
	}
	return nil
}
