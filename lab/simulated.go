package lab

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/bedplate/bedplate/lab/board"
	"github.com/bedplate/bedplate/lab/nvram"
)

// Simulated is a machine that is nothing but its power: what a fleet's BMCs
// drive where no QEMU would fit. It boots for a while, then has a system that
// listens to the power button and echoes on its console.
type Simulated struct {
	hardware     board.Hardware
	boot         time.Duration
	shutdownTime time.Duration
	now          func() time.Time
	work         sync.WaitGroup
	life         context.Context
	end          context.CancelFunc

	// observe is told of boots and of the power's end.
	observe func(board.Observation)

	mu       sync.Mutex
	since    time.Time // when the last boot began; zero while the power is off
	booted   board.Setup
	next     board.Setup
	media    map[board.Drive]board.Medium
	boots    int
	nmis     int
	clients  map[net.Conn]chan []byte
	secure   board.SecureBoot
	finished bool
}

// NewSimulated returns a machine that is off. boot is how long it takes from
// power-on until its system hears the power button, shutdown how long that then
// takes to go down. Attach connects it to its board; Close must be called after use.
func NewSimulated(h board.Hardware, boot, shutdown time.Duration, now func() time.Time) *Simulated {
	s := &Simulated{hardware: h, boot: boot, shutdownTime: shutdown, now: now, media: map[board.Drive]board.Medium{}, clients: map[net.Conn]chan []byte{}}
	s.life, s.end = context.WithCancel(context.Background())
	s.changeKeysLocked(board.SecureBootChange{}) // as delivered
	return s
}

// Attach has a board told of boots and of the power's end. It is called before the machine is used.
func (s *Simulated) Attach(b *board.Board) { s.observe = b.Observe }

// On reports whether the power is on.
func (s *Simulated) On() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.since.IsZero()
}

// Booted returns how the last boot went, and how many boots there were.
func (s *Simulated) Booted() (last board.Setup, boots int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.booted, s.boots
}

// NMIs is how many non-maskable interrupts there were.
func (s *Simulated) NMIs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nmis
}

// Media returns what is in a drive.
func (s *Simulated) Media(d board.Drive) board.Medium {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.media[d]
}

// PowerOn switches the machine on.
func (s *Simulated) PowerOn(context.Context) error {
	if s.On() {
		return nil
	}
	s.start()
	return nil
}

// start begins a boot, at power-on and at a reset.
func (s *Simulated) start() {
	s.mu.Lock()
	s.since = s.now()
	s.booted = s.next
	s.boots++
	s.changeKeysLocked(s.booted.SecureBoot)
	text := fmt.Sprintf("\r\n%s firmware %s, boot %d from %s\r\n%s login: ", s.hardware.Name, s.booted.BIOSVersion, s.boots, s.booted.Boot, s.hardware.Name)
	s.sayLocked([]byte(text))
	s.mu.Unlock()
	s.tell(board.Booted)
}

// SecureBoot returns its state; only machines with UEFI firmware have it.
func (s *Simulated) SecureBoot() (board.SecureBoot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hardware.UEFI {
		return board.SecureBoot{}, board.ErrNoSecureBoot
	}
	state := s.secure
	state.Databases = maps.Clone(state.Databases)
	state.SetupMode = len(state.Databases["PK"]) == 0
	state.Enforced = state.Enforced && !state.SetupMode
	return state, nil
}

// factoryKeys are those of a simulated machine as delivered: hashes that stand for keys.
func factoryKeys() map[string][]board.Key {
	keys := map[string][]board.Key{}
	for _, d := range nvram.Databases {
		keys[d.Name] = []board.Key{{Hash: strings.Repeat("00", 32)}}
	}
	return keys
}

func (s *Simulated) changeKeysLocked(c board.SecureBootChange) {
	if s.secure.Databases == nil {
		s.secure = board.SecureBoot{Enforced: true, Databases: factoryKeys()}
	}
	for _, r := range c.Resets {
		for name, keys := range factoryKeys() {
			switch {
			case r.Database != "" && r.Database != name, r.Kind == board.DeletePK && name != "PK":
			case r.Kind == board.ResetAllKeysToDefault:
				s.secure.Databases[name] = keys
			default:
				s.secure.Databases[name] = nil
			}
		}
	}
	for _, e := range c.Enrolled {
		s.secure.Databases[e.Database] = append(s.secure.Databases[e.Database], board.Key{Certificate: e.Certificate})
	}
	if c.Enable != nil {
		s.secure.Enforced = *c.Enable
	}
}

func (s *Simulated) tell(o board.Observation) {
	if s.observe != nil {
		s.observe(o)
	}
}

// PowerOff cuts the power.
func (s *Simulated) PowerOff(context.Context) error {
	s.mu.Lock()
	was := !s.since.IsZero()
	s.since = time.Time{}
	s.mu.Unlock()
	if was {
		s.tell(board.Off)
	}
	return nil
}

// Reset presses the reset button.
func (s *Simulated) Reset(context.Context) error {
	if !s.On() {
		return board.ErrOff
	}
	s.start()
	return nil
}

// Shutdown presses the power button. A machine that still boots doesn't listen.
func (s *Simulated) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	since := s.since
	listens := !since.IsZero() && s.now().Sub(since) >= s.boot && !s.finished
	if since.IsZero() {
		s.mu.Unlock()
		return board.ErrOff
	}
	if listens && s.shutdownTime > 0 {
		s.work.Go(func() { s.goDown(since) })
	}
	s.mu.Unlock()
	if listens && s.shutdownTime == 0 {
		return s.PowerOff(ctx)
	}
	return nil
}

// goDown is an operating system that takes its time. since is the boot that it is of.
func (s *Simulated) goDown(since time.Time) {
	t := time.NewTimer(s.shutdownTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.life.Done():
		return
	}
	s.mu.Lock()
	same := s.since.Equal(since)
	s.mu.Unlock()
	if same {
		_ = s.PowerOff(s.life) // it can't fail
	}
}

// NMI counts.
func (s *Simulated) NMI(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		return board.ErrOff
	}
	s.nmis++
	return nil
}

// SetNext says how the next boot goes.
func (s *Simulated) SetNext(_ context.Context, next board.Setup) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = next
	return nil
}

// SetMedia puts a medium into a drive.
func (s *Simulated) SetMedia(_ context.Context, d board.Drive, m board.Medium) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.media[d] = m
	return nil
}

// Hardware is what the machine is made of.
func (s *Simulated) Hardware() board.Hardware { return s.hardware }

// Console connects to a serial port that echoes.
func (s *Simulated) Console(context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	heard := make(chan []byte, consoleBacklog)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished || len(s.clients) >= maxConsoleClients {
		return nil, fmt.Errorf("the console of %s is not to be had", s.hardware.Name)
	}
	s.clients[ours] = heard
	gone := make(chan struct{})
	s.work.Go(func() { s.listen(ours, gone) })
	s.work.Go(func() { say(ours, heard, gone) })
	return theirs, nil
}

// listen echoes what is typed, until the client hangs up.
func (s *Simulated) listen(conn net.Conn, gone chan<- struct{}) {
	buf := make([]byte, 256)
	for {
		n, err := conn.Read(buf)
		s.mu.Lock()
		if n > 0 && !s.since.IsZero() {
			s.sayLocked(append([]byte(nil), buf[:n]...))
		}
		if err != nil {
			delete(s.clients, conn)
		}
		s.mu.Unlock()
		if err != nil {
			close(gone)
			_ = conn.Close()
			return
		}
	}
}

func say(conn net.Conn, heard <-chan []byte, gone <-chan struct{}) {
	for {
		select {
		case piece := <-heard:
			if _, err := conn.Write(piece); err != nil {
				return
			}
		case <-gone:
			return
		}
	}
}

func (s *Simulated) sayLocked(piece []byte) {
	for _, heard := range s.clients {
		select {
		case heard <- piece:
		default: // it doesn't keep up
		}
	}
}

// Close ends what the machine does and waits for it.
func (s *Simulated) Close() {
	s.mu.Lock()
	s.finished = true
	for conn := range s.clients {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.end()
	s.work.Wait()
}
