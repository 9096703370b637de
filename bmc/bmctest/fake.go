package bmctest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Faults are what is wrong with a Fake. The zero value is an honest BMC.
type Faults struct {
	// Dead answers nothing: logins and calls last until their context ends.
	Dead bool
	// Delay is how long every call takes.
	Delay time.Duration
	// Err is what every call returns after login.
	Err error
	// PowerErr is what power requests return that have been carried out.
	PowerErr error
	// FailCalls is how many calls return Err before the BMC is well again; 0 is all.
	FailCalls int
	// IgnorePower, IgnoreBoot, IgnoreMedia, IgnoreBIOS, IgnorePassword accept a
	// change and don't make it.
	IgnorePower, IgnoreBoot, IgnoreMedia, IgnoreBIOS, IgnorePassword bool
	// IgnoreSoft is an operating system that doesn't shut down.
	IgnoreSoft bool
	// EjectAfter is how many times media is listed before it ejects itself; 0 is never.
	EjectAfter int
	// DropSessions is how many calls a session lives for; 0 is for ever.
	DropSessions int
	// LieOn keeps saying that the machine is on.
	LieOn bool
}

// Fake is a BMC in memory. It may be used by any number of goroutines.
type Fake struct {
	mu       sync.Mutex
	user     string
	password string
	faults   Faults

	power    bmc.PowerState
	boot     bmc.BootOverride
	media    map[bmc.MediaKind]string
	listed   int
	bios     bmc.BIOSSettings
	secure   bmc.SecureBootState
	users    []bmc.User
	events   []bmc.LogEntry
	tasks    map[bmc.TaskID]bmc.Task
	firmware []bmc.FirmwareComponent
	identity bmc.Identity

	logins, open, calls, inUse, maxInUse int
	actions                              []bmc.PowerAction
	consoles                             []net.Conn
}

// NewFake returns a BMC that lets user in with password, of a machine that is off.
func NewFake(user, password string) *Fake {
	return &Fake{
		user: user, password: password,
		power:  bmc.PowerOff,
		boot:   bmc.BootOverride{Device: bmc.BootNone},
		media:  map[bmc.MediaKind]string{},
		bios:   bmc.BIOSSettings{Current: map[string]string{"BootMode": "Uefi", "ProcCores": "8", "Virtualization": "true"}, Pending: map[string]string{}},
		secure: bmc.SecureBootState{Mode: bmc.SecureBootUser},
		users:  []bmc.User{{ID: "2", Name: user, Role: bmc.RoleAdministrator, Enabled: true}},
		events: []bmc.LogEntry{{ID: "1", Severity: bmc.HealthOK, Message: "System Event Log cleared"}},
		tasks:  map[bmc.TaskID]bmc.Task{},
		firmware: []bmc.FirmwareComponent{
			{ID: "BIOS", Name: "System BIOS", Version: "1.0", Updatable: true},
			{ID: "BMC", Name: "Management controller", Version: "2.0", Updatable: true},
		},
		identity: bmc.Identity{
			UUID: "01234567-89ab-cdef-0123-456789abcdef", Serial: "FAKE1", Manufacturer: "Bedplate", Product: "Fake",
			MACs: []machine.MAC{{0x52, 0x54, 0, 0x77, 0, 1}},
		},
	}
}

// SetFaults replaces what is wrong with the BMC.
func (f *Fake) SetFaults(faults Faults) { f.mu.Lock(); f.faults, f.listed = faults, 0; f.mu.Unlock() }

// SetIdentity replaces what the BMC says the machine is.
func (f *Fake) SetIdentity(id bmc.Identity) { f.mu.Lock(); f.identity = id; f.mu.Unlock() }

// SetPower sets the machine's power as somebody with a hand on it would.
func (f *Fake) SetPower(s bmc.PowerState) { f.mu.Lock(); f.power = s; f.mu.Unlock() }

// Power returns the machine's power as it really is.
func (f *Fake) Power() bmc.PowerState { f.mu.Lock(); defer f.mu.Unlock(); return f.power }

// Boot returns the override that is really set.
func (f *Fake) Boot() bmc.BootOverride { f.mu.Lock(); defer f.mu.Unlock(); return f.boot }

// MediaImage returns what is really inserted.
func (f *Fake) MediaImage(kind bmc.MediaKind) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.media[kind]
}

// ResetPassword sets the password of the first user as somebody at the BMC's own web page would.
func (f *Fake) ResetPassword(password string) { f.mu.Lock(); f.password = password; f.mu.Unlock() }

// Password returns the password of the first user.
func (f *Fake) Password() string { f.mu.Lock(); defer f.mu.Unlock(); return f.password }

// Actions returns the power actions that were asked for.
func (f *Fake) Actions() []bmc.PowerAction {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.actions)
}

// Counts returns how many logins and calls there were, how many sessions are
// open, and how many calls were under way at once at most.
func (f *Fake) Counts() (logins, open, calls, atOnce int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.logins, f.open, f.calls, f.maxInUse
}

// Finish ends every running task, as failed if message isn't empty.
func (f *Fake) Finish(message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, t := range f.tasks {
		t.State, t.Percent, t.Message = bmc.TaskSucceeded, 100, message
		if message != "" {
			t.State = bmc.TaskFailed
		}
		f.tasks[id] = t
	}
}

// SerialPort returns the machine's end of the newest console that is open, or nil.
func (f *Fake) SerialPort() io.ReadWriteCloser {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.consoles) == 0 {
		return nil
	}
	return f.consoles[len(f.consoles)-1]
}

// Dial logs in: it is a bmc.Config.Dial for a pool with one BMC.
func (f *Fake) Dial(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	f.mu.Lock()
	dead, delay := f.faults.Dead, f.faults.Delay
	f.mu.Unlock()
	if dead {
		<-ctx.Done()
		return nil, fmt.Errorf("fake: %w: %w", bmc.ErrUnreachable, context.Cause(ctx))
	}
	if err := pause(ctx, delay); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logins++
	if t.Username != f.user || t.Password != f.password {
		return nil, fmt.Errorf("fake: %w", bmc.ErrAuth)
	}
	f.open++
	return &session{Lacking: bmc.Lacking{Driver: "fake"}, f: f}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// session is one login at a Fake.
type session struct {
	bmc.Lacking
	f     *Fake
	calls int // guarded by f.mu
	shut  bool
}

var _ bmc.Driver = (*session)(nil)

// do is one call: it suffers the faults, and runs fn with the lock held.
func (s *session) do(ctx context.Context, fn func(f *Fake) error) error {
	f := s.f
	f.mu.Lock()
	f.calls++
	f.inUse++
	f.maxInUse = max(f.maxInUse, f.inUse)
	dead, delay := f.faults.Dead, f.faults.Delay
	f.mu.Unlock()
	defer func() { f.mu.Lock(); f.inUse--; f.mu.Unlock() }()
	if dead {
		<-ctx.Done()
		return fmt.Errorf("fake: %w: %w", bmc.ErrUnreachable, context.Cause(ctx))
	}
	if err := pause(ctx, delay); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.shut {
		return fmt.Errorf("fake: call on a closed session")
	}
	if s.calls++; f.faults.DropSessions > 0 && s.calls > f.faults.DropSessions {
		return fmt.Errorf("fake: session was dropped: %w", bmc.ErrUnreachable)
	}
	if f.faults.Err != nil {
		err := f.faults.Err
		if f.faults.FailCalls > 0 {
			if f.faults.FailCalls--; f.faults.FailCalls == 0 {
				f.faults.Err = nil
			}
		}
		return err
	}
	return fn(f)
}

func (s *session) Close(context.Context) error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if !s.shut {
		s.shut = true
		s.f.open--
	}
	return nil
}

// transient makes the session one that isn't counted: of a single request.
func (s *session) transient() {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.f.open--
}

func (s *session) PowerState(ctx context.Context) (state bmc.PowerState, err error) {
	err = s.do(ctx, func(f *Fake) error {
		if state = f.power; f.faults.LieOn {
			state = bmc.PowerOn
		}
		return nil
	})
	return state, err
}

func (s *session) RequestPower(ctx context.Context, action bmc.PowerAction) error {
	return s.do(ctx, func(f *Fake) error {
		f.actions = append(f.actions, action)
		if f.faults.IgnorePower || action == bmc.ActionSoft && f.faults.IgnoreSoft {
			return nil
		}
		switch action {
		case bmc.ActionOff, bmc.ActionSoft:
			f.power = bmc.PowerOff
		case bmc.ActionOn, bmc.ActionReset, bmc.ActionCycle:
			f.power = bmc.PowerOn
			if !f.boot.Persistent {
				f.boot = bmc.BootOverride{Device: bmc.BootNone}
			}
			maps.Copy(f.bios.Current, f.bios.Pending)
			clear(f.bios.Pending)
			f.secure.Active = f.secure.Enabled
		}
		return f.faults.PowerErr
	})
}

func (s *session) BootOverride(ctx context.Context) (o bmc.BootOverride, err error) {
	err = s.do(ctx, func(f *Fake) error { o = f.boot; return nil })
	return o, err
}

func (s *session) RequestBoot(ctx context.Context, o bmc.BootOverride) error {
	return s.do(ctx, func(f *Fake) error {
		if !f.faults.IgnoreBoot {
			f.boot = o
		}
		return nil
	})
}

func (s *session) Media(ctx context.Context) (media []bmc.Media, err error) {
	err = s.do(ctx, func(f *Fake) error {
		if f.listed++; f.faults.EjectAfter > 0 && f.listed > f.faults.EjectAfter {
			clear(f.media)
		}
		for _, kind := range []bmc.MediaKind{bmc.MediaCD, bmc.MediaUSB} {
			media = append(media, bmc.Media{Slot: string(kind), Kinds: []bmc.MediaKind{kind}, Inserted: f.media[kind] != "", Image: f.media[kind]})
		}
		return nil
	})
	return media, err
}

func (s *session) RequestInsert(ctx context.Context, kind bmc.MediaKind, image string) error {
	return s.do(ctx, func(f *Fake) error {
		if !f.faults.IgnoreMedia {
			f.media[kind] = image
		}
		return nil
	})
}

func (s *session) RequestEject(ctx context.Context, kind bmc.MediaKind) error {
	return s.do(ctx, func(f *Fake) error {
		if !f.faults.IgnoreMedia {
			delete(f.media, kind)
		}
		return nil
	})
}

func (s *session) Identity(ctx context.Context) (id bmc.Identity, err error) {
	err = s.do(ctx, func(f *Fake) error { id = f.identity; id.Power = f.power; return nil })
	return id, err
}

func (s *session) Inventory(ctx context.Context) (inv *pb.Inventory, err error) {
	err = s.do(ctx, func(f *Fake) error {
		inv = &pb.Inventory{System: &pb.System{
			Manufacturer: f.identity.Manufacturer, Product: f.identity.Product,
			Serial: f.identity.Serial, Uuid: string(f.identity.UUID),
		}}
		for _, mac := range f.identity.MACs {
			inv.Nics = append(inv.Nics, &pb.NIC{Mac: mac.String()})
		}
		return nil
	})
	return inv, err
}

func (s *session) Sensors(ctx context.Context) (sensors []bmc.Sensor, err error) {
	err = s.do(ctx, func(f *Fake) error {
		sensors = []bmc.Sensor{{Name: "CPU Temp", Kind: bmc.SensorTemperature, Value: 41, Unit: "°C", Present: true, Health: bmc.HealthOK}}
		return nil
	})
	return sensors, err
}

func (s *session) Health(ctx context.Context) (h bmc.HealthReport, err error) {
	err = s.do(ctx, func(*Fake) error { h.Overall = bmc.HealthOK; return nil })
	return h, err
}

func (s *session) EventLog(ctx context.Context, limit int) (entries []bmc.LogEntry, err error) {
	err = s.do(ctx, func(f *Fake) error {
		entries = slices.Clone(f.events)
		if limit > 0 && len(entries) > limit {
			entries = entries[len(entries)-limit:]
		}
		return nil
	})
	return entries, err
}

func (s *session) ClearEventLog(ctx context.Context) error {
	return s.do(ctx, func(f *Fake) error { f.events = nil; return nil })
}

func (s *session) Firmware(ctx context.Context) (components []bmc.FirmwareComponent, err error) {
	err = s.do(ctx, func(f *Fake) error { components = slices.Clone(f.firmware); return nil })
	return components, err
}

func (s *session) UpdateFirmware(ctx context.Context, u bmc.FirmwareUpdate) (id bmc.TaskID, err error) {
	if u.Image != nil {
		if _, err := io.Copy(io.Discard, u.Image); err != nil {
			return "", err
		}
	}
	err = s.do(ctx, func(f *Fake) error {
		id = bmc.TaskID(strconv.Itoa(len(f.tasks) + 1))
		f.tasks[id] = bmc.Task{ID: id, State: bmc.TaskRunning, Percent: 0}
		return nil
	})
	return id, err
}

func (s *session) Task(ctx context.Context, id bmc.TaskID) (t bmc.Task, err error) {
	err = s.do(ctx, func(f *Fake) error {
		var ok bool
		if t, ok = f.tasks[id]; !ok {
			return fmt.Errorf("task %s: %w", id, bmc.ErrNotFound)
		}
		return nil
	})
	return t, err
}

func (s *session) BIOSSettings(ctx context.Context) (b bmc.BIOSSettings, err error) {
	err = s.do(ctx, func(f *Fake) error {
		b = bmc.BIOSSettings{Current: maps.Clone(f.bios.Current), Pending: maps.Clone(f.bios.Pending)}
		return nil
	})
	return b, err
}

func (s *session) RequestBIOS(ctx context.Context, settings map[string]string) error {
	return s.do(ctx, func(f *Fake) error {
		for name := range settings {
			if _, ok := f.bios.Current[name]; !ok {
				return fmt.Errorf("no BIOS setting %q", name)
			}
		}
		if !f.faults.IgnoreBIOS {
			maps.Copy(f.bios.Pending, settings)
		}
		return nil
	})
}

func (s *session) ResetBIOS(ctx context.Context) error {
	return s.do(ctx, func(f *Fake) error { clear(f.bios.Pending); return nil })
}

func (s *session) SecureBoot(ctx context.Context) (state bmc.SecureBootState, err error) {
	err = s.do(ctx, func(f *Fake) error { state = f.secure; return nil })
	return state, err
}

func (s *session) RequestSecureBoot(ctx context.Context, enabled bool) error {
	return s.do(ctx, func(f *Fake) error { f.secure.Enabled = enabled; return nil })
}

func (s *session) ResetSecureBootKeys(ctx context.Context, reset bmc.KeyReset) error {
	return s.do(ctx, func(f *Fake) error {
		f.secure.Mode = bmc.SecureBootSetup
		if reset == bmc.KeysDefault {
			f.secure.Mode = bmc.SecureBootUser
		}
		return nil
	})
}

func (s *session) Users(ctx context.Context) (users []bmc.User, err error) {
	err = s.do(ctx, func(f *Fake) error { users = slices.Clone(f.users); return nil })
	return users, err
}

func (s *session) CreateUser(ctx context.Context, name, _ string, role bmc.Role) error {
	return s.do(ctx, func(f *Fake) error {
		if slices.ContainsFunc(f.users, func(u bmc.User) bool { return u.Name == name }) {
			return fmt.Errorf("user %q exists", name)
		}
		f.users = append(f.users, bmc.User{ID: strconv.Itoa(len(f.users) + 2), Name: name, Role: role, Enabled: true})
		return nil
	})
}

func (s *session) SetPassword(ctx context.Context, name, password string) error {
	return s.do(ctx, func(f *Fake) error {
		if name == f.user && !f.faults.IgnorePassword {
			f.password = password
		}
		return nil
	})
}

func (s *session) DeleteUser(ctx context.Context, name string) error {
	return s.do(ctx, func(f *Fake) error {
		before := len(f.users)
		f.users = slices.DeleteFunc(f.users, func(u bmc.User) bool { return u.Name == name })
		if len(f.users) == before {
			return fmt.Errorf("user %q: %w", name, bmc.ErrNotFound)
		}
		return nil
	})
}

func (s *session) Console(ctx context.Context) (rw io.ReadWriteCloser, err error) {
	err = s.do(ctx, func(f *Fake) error {
		ours, theirs := net.Pipe()
		for _, c := range f.consoles {
			_ = c.Close() // the newest has it
		}
		f.consoles = []net.Conn{theirs}
		rw = ours
		return nil
	})
	return rw, err
}

func (s *session) ManagerInfo(ctx context.Context) (info bmc.ManagerInfo, err error) {
	err = s.do(ctx, func(*Fake) error { info = bmc.ManagerInfo{Model: "Fake", FirmwareVersion: "2.0"}; return nil })
	return info, err
}

func (s *session) ResetManager(ctx context.Context) error {
	return s.do(ctx, func(*Fake) error { s.shut = true; return nil })
}

// Setup returns the fake as the conformance suite wants it, spoken to as t by dial.
func (f *Fake) Setup(t bmc.Target, dial func(context.Context, bmc.Target) (bmc.Driver, error)) Setup {
	f.mu.Lock()
	id := f.identity
	f.mu.Unlock()
	return Setup{
		Target: t, Dial: dial, Identity: id, Soft: true,
		BIOS: map[string]string{"BootMode": "Bios", "ProcCores": "4", "Virtualization": "false"},
		Machine: Machine{
			Power: f.Power, SetPower: f.SetPower, Boot: f.Boot, Media: f.MediaImage,
			Serial:      func() io.ReadWriter { return f.SerialPort() },
			FinishTasks: func() { f.Finish("") },
		},
	}
}
