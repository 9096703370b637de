package bmc

import (
	"context"
	"io"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Driver is an open session with one BMC over one protocol. It is made of small
// capabilities; what a BMC or a protocol lacks returns an error that is
// ErrUnsupported and names the driver. Every method is bounded by its context
// and by the driver's own timeout for one request.
type Driver interface {
	// Name is the driver's name, such as redfish or ipmi.
	Name() string
	Power
	Boot
	VirtualMedia
	Inventory
	Sensors
	EventLog
	Firmware
	BIOS
	SecureBoot
	Users
	Console
	Events
	Manager
	// Pin is the pin of the certificate that the BMC showed; empty without TLS.
	Pin() Pin
	// Close logs out. The driver can't be used after.
	Close(ctx context.Context) error
}

// Lacking is a Driver without any capability. Drivers embed it, so that each
// has what it implements and says of the rest that it lacks it.
type Lacking struct {
	// Driver is the name that errors carry.
	Driver string
}

var _ Driver = Lacking{}

func (l Lacking) lacks(what string) error { return Unsupported(l.Driver, what) }

// Name returns the driver's name.
func (l Lacking) Name() string { return l.Driver }

// Pin returns no pin.
func (l Lacking) Pin() Pin { return "" }

// Close does nothing.
func (l Lacking) Close(context.Context) error { return nil }

// PowerState is unsupported.
func (l Lacking) PowerState(context.Context) (PowerState, error) {
	return PowerUnknown, l.lacks("power state")
}

// RequestPower is unsupported.
func (l Lacking) RequestPower(_ context.Context, a PowerAction) error {
	return l.lacks("power " + a.String())
}

// BootOverride is unsupported.
func (l Lacking) BootOverride(context.Context) (BootOverride, error) {
	return BootOverride{}, l.lacks("boot override")
}

// RequestBoot is unsupported.
func (l Lacking) RequestBoot(context.Context, BootOverride) error { return l.lacks("boot override") }

// Media is unsupported.
func (l Lacking) Media(context.Context) ([]Media, error) { return nil, l.lacks("virtual media") }

// RequestInsert is unsupported.
func (l Lacking) RequestInsert(context.Context, MediaKind, string) error {
	return l.lacks("virtual media")
}

// RequestEject is unsupported.
func (l Lacking) RequestEject(context.Context, MediaKind) error { return l.lacks("virtual media") }

// Identity is unsupported.
func (l Lacking) Identity(context.Context) (Identity, error) { return Identity{}, l.lacks("identity") }

// Inventory is unsupported.
func (l Lacking) Inventory(context.Context) (*pb.Inventory, error) {
	return nil, l.lacks("inventory")
}

// Sensors is unsupported.
func (l Lacking) Sensors(context.Context) ([]Sensor, error) { return nil, l.lacks("sensors") }

// Health is unsupported.
func (l Lacking) Health(context.Context) (HealthReport, error) {
	return HealthReport{}, l.lacks("health")
}

// EventLog is unsupported.
func (l Lacking) EventLog(context.Context, int) ([]LogEntry, error) { return nil, l.lacks("event log") }

// ClearEventLog is unsupported.
func (l Lacking) ClearEventLog(context.Context) error { return l.lacks("event log") }

// Firmware is unsupported.
func (l Lacking) Firmware(context.Context) ([]FirmwareComponent, error) {
	return nil, l.lacks("firmware inventory")
}

// UpdateFirmware is unsupported.
func (l Lacking) UpdateFirmware(context.Context, FirmwareUpdate) (TaskID, error) {
	return "", l.lacks("firmware update")
}

// Task is unsupported.
func (l Lacking) Task(context.Context, TaskID) (Task, error) { return Task{}, l.lacks("tasks") }

// BIOSSettings is unsupported.
func (l Lacking) BIOSSettings(context.Context) (BIOSSettings, error) {
	return BIOSSettings{}, l.lacks("BIOS settings")
}

// RequestBIOS is unsupported.
func (l Lacking) RequestBIOS(context.Context, map[string]string) error {
	return l.lacks("BIOS settings")
}

// ResetBIOS is unsupported.
func (l Lacking) ResetBIOS(context.Context) error { return l.lacks("BIOS settings") }

// SecureBoot is unsupported.
func (l Lacking) SecureBoot(context.Context) (SecureBootState, error) {
	return SecureBootState{}, l.lacks("Secure Boot")
}

// RequestSecureBoot is unsupported.
func (l Lacking) RequestSecureBoot(context.Context, bool) error { return l.lacks("Secure Boot") }

// ResetSecureBootKeys is unsupported.
func (l Lacking) ResetSecureBootKeys(context.Context, KeyReset) error {
	return l.lacks("Secure Boot keys")
}

// Users is unsupported.
func (l Lacking) Users(context.Context) ([]User, error) { return nil, l.lacks("users") }

// CreateUser is unsupported.
func (l Lacking) CreateUser(context.Context, string, string, Role) error { return l.lacks("users") }

// SetPassword is unsupported.
func (l Lacking) SetPassword(context.Context, string, string) error { return l.lacks("users") }

// DeleteUser is unsupported.
func (l Lacking) DeleteUser(context.Context, string) error { return l.lacks("users") }

// Console is unsupported.
func (l Lacking) Console(context.Context) (io.ReadWriteCloser, error) {
	return nil, l.lacks("serial console")
}

// EventStream returns none.
func (l Lacking) EventStream(context.Context) (string, error) { return "", nil }

// Watch is unsupported.
func (l Lacking) Watch(context.Context, func(), func(Event)) error { return l.lacks("events") }

// ManagerInfo is unsupported.
func (l Lacking) ManagerInfo(context.Context) (ManagerInfo, error) {
	return ManagerInfo{}, l.lacks("manager")
}

// ResetManager is unsupported.
func (l Lacking) ResetManager(context.Context) error { return l.lacks("manager reset") }
