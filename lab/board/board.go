// Package board is what is behind the network ports of a virtual baseboard
// management controller: accounts, power, boot override, virtual media,
// firmware settings, event log, sensors, updates, and faults by choice. Redfish
// (lab/redfish) and IPMI (lab/ipmi) are two views of the same Board, as they
// are in a server; a Machine is what it drives.
//
// What must survive the loss of power is kept in one file in the board's folder,
// written before anybody is answered. All methods may be called by any number
// of goroutines.
package board

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Machine is what a board drives.
type Machine interface {
	// On reports whether the power is on.
	On() bool
	// PowerOn, PowerOff, Reset, Shutdown and NMI are the buttons. Those that
	// need a running machine return an error where it is off.
	PowerOn(ctx context.Context) error
	PowerOff(ctx context.Context) error
	Reset(ctx context.Context) error
	Shutdown(ctx context.Context) error
	NMI(ctx context.Context) error
	// SetNext says how the next boot goes, whoever causes it. The machine calls
	// Board.Observe when that boot has begun.
	SetNext(ctx context.Context, s Setup) error
	// SetMedia puts a file into a drive, or with an empty path takes it out.
	SetMedia(ctx context.Context, drive Drive, m Medium) error
	// Hardware is what the machine is made of.
	Hardware() Hardware
	// Console is the serial port. It stays open when the power goes.
	Console(ctx context.Context) (net.Conn, error)
}

// Config is what a board needs.
type Config struct {
	Machine Machine
	// Dir keeps settings and media; empty keeps settings in memory and refuses media.
	Dir string
	// Username and Password are those of the factory's account.
	Username, Password string
	// Address and MAC are the board's own.
	Address net.IP
	MAC     string
	// Faults that it has from the start.
	Faults []Fault
	// Dial makes the board's own connections, to fetch media and to send
	// events; nil is a plain dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Now  func() time.Time
	Log  *slog.Logger
}

// Board is the state of one controller.
type Board struct {
	machine Machine
	dir     string
	factory Account
	address net.IP
	mac     string
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	now     func() time.Time
	log     *slog.Logger
	started time.Time

	// order is held through a change of power, of settings or of media, so that
	// one ends before the next begins. It is taken before mu.
	order sync.Mutex
	// next is held while the machine is told how its next boot goes, so that
	// what it is told last is what is true. It is taken after order, before mu.
	next sync.Mutex

	mu        sync.Mutex
	saved     saved
	faults    map[FaultKind]Fault
	tasks     tasks
	fetching  map[Drive]bool
	marks     marks
	resetting *marks // those at the reset that goes on; nil for none
	listeners map[int]func(Event)
	nextID    int
	flash     <-chan struct{} // holds the writing of firmware; nil: nothing does
	life      context.Context
	end       context.CancelFunc
	work      sync.WaitGroup
}

// marks count changes of what a boot uses up.
type marks struct{ override, settings int }

// ErrOff is returned for what only a running machine can do.
var ErrOff = errors.New("the machine is off")

// New returns a board with what its folder remembers.
func New(cfg Config) (*Board, error) {
	if cfg.Machine == nil || cfg.Now == nil {
		return nil, errors.New("a board needs a machine and a clock")
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Board{
		machine: cfg.Machine, dir: cfg.Dir, address: cfg.Address, mac: cfg.MAC, dial: cfg.Dial, now: cfg.Now, log: cfg.Log, started: cfg.Now(),
		factory: Account{ID: firstAccount, Username: cfg.Username, Password: cfg.Password, Role: Administrator, Enabled: true},
		faults:  map[FaultKind]Fault{}, listeners: map[int]func(Event){}, tasks: tasks{next: 1}, fetching: map[Drive]bool{},
	}
	for _, f := range cfg.Faults {
		b.faults[f.Kind] = f
	}
	b.life, b.end = context.WithCancel(context.Background())
	if err := b.load(); err != nil {
		b.end()
		return nil, err
	}
	if err := b.restore(); err != nil {
		b.end()
		return nil, err
	}
	return b, nil
}

// restore tells the machine what the folder remembers.
func (b *Board) restore() error {
	ctx, cancel := context.WithTimeout(b.life, machineDeadline)
	defer cancel()
	for drive, m := range b.saved.Media {
		if err := b.machine.SetMedia(ctx, drive, m); err != nil {
			return fmt.Errorf("putting %s back into drive %s: %w", m.Image, drive, err)
		}
	}
	return b.applyNext(ctx)
}

// Close ends what the board does in the background and waits for it.
func (b *Board) Close() {
	b.end()
	b.work.Wait()
}

// Address is the board's own; nil if it has none of its own.
func (b *Board) Address() net.IP { return b.address }

// MAC is the board's own.
func (b *Board) MAC() string { return b.mac }

// Now is the board's clock.
func (b *Board) Now() time.Time { return b.now() }

// Started is when the board was last started or reset.
func (b *Board) Started() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.started
}

// Hardware is what the machine is made of.
func (b *Board) Hardware() Hardware { return b.machine.Hardware() }

// Console is the machine's serial port.
func (b *Board) Console(ctx context.Context) (net.Conn, error) { return b.machine.Console(ctx) }

// Dial connects from the board.
func (b *Board) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return b.dial(ctx, network, address)
}

// Restart is a reset of the board itself: sessions are gone, settings stay. A
// new BMC firmware that waits for it becomes active.
func (b *Board) Restart() {
	b.mu.Lock()
	b.started = b.now()
	b.activateLocked(FirmwareBMC)
	b.mu.Unlock()
	b.record(Entry{Sensor: "BMC", Type: sensorMicrocontroller, Severity: OK, MessageID: "ManagerReset", Message: "The management controller was reset."})
	b.publish(Event{Kind: BoardReset})
}

// FactoryReset makes the accounts those of the factory again.
func (b *Board) FactoryReset() error {
	b.mu.Lock()
	b.saved.Accounts = []Account{b.factory}
	err := b.saveLocked()
	b.mu.Unlock()
	b.accountsChanged()
	b.Restart()
	return err
}

// Event is something that happened.
type Event struct {
	Kind  EventKind
	Entry Entry // what the log says; empty if nothing
}

// EventKind tells events apart.
type EventKind int

// The kinds of events.
const (
	Logged        EventKind = iota // an entry in the event log
	PowerChanged                   // on or off
	BoardReset                     // the board itself started anew
	MediaChanged                   // a drive got or lost its medium
	TaskChanged                    // a task went on
	UsersChanged                   // accounts are others
	SettingChange                  // boot override or firmware settings
	FaultChanged                   // a fault came or went
)

// Subscribe calls f for every event until the returned function is called. f
// must not block, and must only read from the board.
func (b *Board) Subscribe(f func(Event)) (cancel func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := b.nextID
	b.nextID++
	b.listeners[id] = f
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.listeners, id)
	}
}

func (b *Board) publish(e Event) {
	b.mu.Lock()
	listeners := make([]func(Event), 0, len(b.listeners))
	for _, f := range b.listeners {
		listeners = append(listeners, f)
	}
	b.mu.Unlock()
	for _, f := range listeners {
		f(e)
	}
}
