package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/lab/board"
)

// Machine is one machine of a lab that is up. Its power is the life of a QEMU
// process: on starts one with the firmware at its first instruction, off ends
// it. A guest that switches itself off ends it too; one that reboots does not,
// unless the next boot needs another command line: then QEMU is started anew.
type Machine struct {
	lab   string
	spec  MachineSpec
	dir   string
	taps  []string
	accel string
	// fallback: without KVM where that fails.
	fallback  bool
	namespace *Namespace
	log       *slog.Logger
	now       func() time.Time
	console   *console
	bmc       *BMC
	// observe is told of boots and of the power's end; nil for nobody.
	observe func(board.Observation)

	// order is held through an order: it is taken before mu.
	order sync.Mutex
	on    atomic.Bool

	mu   sync.Mutex
	done chan struct{} // closed when the power is off; nil before the first power-on
	off  bool          // PowerOff wants the end: no restart
	run  running
}

// running is what QEMU was started with, and what it shall be started with next.
type running struct {
	setup, next board.Setup
	media       map[board.Drive]board.Medium
	usb         int // number of the USB medium's device, which is a new one each time
	restart     bool
}

// Deadlines of starting and ending QEMU.
const (
	startDeadline = 20 * time.Second
	quitDeadline  = 5 * time.Second
)

// ErrPower is what Reset and Shutdown return for a machine that is off.
var ErrPower = board.ErrOff

// Name returns the machine's name in the lab.
func (m *Machine) Name() string { return m.spec.Name }

// Spec returns the machine's definition with everything filled in.
func (m *Machine) Spec() MachineSpec { return m.spec }

// Dir returns the machine's folder.
func (m *Machine) Dir() string { return m.dir }

// Disk returns the path of the raw image of disk i.
func (m *Machine) Disk(i int) string { return filepath.Join(m.dir, diskFile(i)) }

// SerialLog returns the path of the file with everything that the machine
// ever wrote to its serial port.
func (m *Machine) SerialLog() string { return filepath.Join(m.dir, serialLog) }

// BMC returns the machine's management controller; nil if it has none.
func (m *Machine) BMC() *BMC { return m.bmc }

func (m *Machine) prepare(ctx context.Context) error {
	if _, err := exec.LookPath(qemuProgram); err != nil {
		return fmt.Errorf("%w (apt-get install qemu-system-x86 ipxe-qemu ovmf)", err)
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	if err := killStray(ctx, m.dir); err != nil {
		return err
	}
	if err := makeFiles(m.dir, m.spec); err != nil {
		return err
	}
	var err error
	m.console, err = newConsole(ctx, m.dir, m.now)
	return err
}

// close gives back what prepare took. The machine must be off.
func (m *Machine) close() {
	if m.console != nil {
		m.console.close()
	}
}

// On reports whether the machine's power is on.
func (m *Machine) On() bool { return m.on.Load() }

// PowerOn switches the machine on; one that is on stays as it is. It returns
// when QEMU runs, long before the firmware is through.
func (m *Machine) PowerOn(ctx context.Context) error {
	m.order.Lock()
	defer m.order.Unlock()
	if m.On() {
		return nil
	}
	m.mu.Lock()
	p, err := m.start(ctx)
	if err != nil {
		m.mu.Unlock()
		return fmt.Errorf("powering on %s: %w", m.spec.Name, err)
	}
	m.off = false
	done := make(chan struct{})
	m.done = done
	m.on.Store(true)
	m.mu.Unlock()
	go m.live(p, done) // ends with QEMU, which PowerOff and the namespace's end see to
	m.tell(board.Booted)
	return nil
}

func (m *Machine) tell(o board.Observation) {
	if m.observe != nil {
		m.observe(o)
	}
}

// process is a QEMU that runs.
type process struct {
	ended chan error
	// reason is sent once: why it ended, in QEMU's words, or "".
	reason chan string
}

// start starts QEMU and returns when it answers. m.mu is held.
func (m *Machine) start(ctx context.Context) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	for _, name := range []string{uartSocket, qmpSocket, eventSocket, pidFile} {
		if err := os.Remove(filepath.Join(m.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := m.startTPM(ctx); err != nil {
		return nil, err
	}
	out, err := os.Create(filepath.Join(m.dir, qemuLog))
	if err != nil {
		return nil, err
	}
	defer out.Close() //nolint:errcheck // the child has its own
	setup := m.run.next
	if err := prepareFirmware(m.dir, m.spec, setup); err != nil {
		return nil, err
	}
	cmd := exec.Command(qemuProgram, qemuArgs(m.lab, m.spec, m.taps, m.accel, start{setup: setup, media: m.run.media, usb: m.run.usb})...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = m.dir, out, out
	if err := m.namespace.Start(cmd); err != nil {
		return nil, err
	}
	m.run.setup, m.run.restart = setup, false
	p := &process{ended: make(chan error, 1), reason: make(chan string, 1)}
	go func() { p.ended <- cmd.Wait() }() // ends with QEMU
	if err := m.waitStarted(ctx, p); err != nil {
		_ = cmd.Process.Kill()
		return nil, err
	}
	return p, nil
}

// waitStarted returns when QEMU answers on its monitors and its serial port.
func (m *Machine) waitStarted(ctx context.Context, p *process) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		q, err := dialQMP(ctx, m.dir, eventSocket)
		if err == nil {
			err = m.attach(ctx, q, p)
		}
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.ended:
			p.ended <- nil
			return fmt.Errorf("QEMU said: %s", m.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("QEMU does not answer: %w", err)
		}
	}
}

// attach listens to what QEMU tells, and connects the console.
func (m *Machine) attach(ctx context.Context, events *qmp, p *process) error {
	if m.console != nil {
		port, err := dialFile(ctx, m.dir, uartSocket)
		if err != nil {
			return errors.Join(err, events.conn.Close())
		}
		m.console.attach(port)
	}
	if err := events.conn.SetDeadline(time.Time{}); err != nil {
		return errors.Join(err, events.conn.Close())
	}
	go func() { // ends with QEMU, which hangs up
		defer events.conn.Close() //nolint:errcheck // it is over
		p.reason <- events.watch(observer{
			settle: !m.spec.Firmware.uefi(),
			begun:  func() { m.tell(board.Resetting) },
			done:   func() { m.tell(board.Booted) },
			stopped: func() {
				if err := command(context.Background(), m.dir, "quit", nil); err != nil && !errors.Is(err, net.ErrClosed) {
					m.log.Debug("ending a QEMU that has stopped", "machine", m.spec.Name, "err", err)
				}
			},
		})
	}()
	return nil
}

// live waits for QEMU's end, and starts another where a reset needs one.
func (m *Machine) live(p *process, done chan<- struct{}) {
	for {
		if err := <-p.ended; err != nil {
			m.log.Debug("QEMU ended", "machine", m.spec.Name, "err", err)
		}
		reason := <-p.reason
		next, err := m.again(reason)
		if err != nil {
			m.log.Error("starting QEMU again after a reset", "machine", m.spec.Name, "err", err)
		}
		if next == nil {
			break
		}
		p = next
		m.tell(board.Booted)
	}
	m.on.Store(false)
	close(done)
	m.tell(board.Off)
}

// again starts QEMU anew if it ended by a reset that wants it; nil if not.
func (m *Machine) again(reason string) (*process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.off:
		return nil, nil //nolint:nilnil // it is to stay off
	case reason == reasonStopped:
		return m.emulate()
	case !m.run.restart || !strings.HasSuffix(reason, "reset"):
		return nil, nil //nolint:nilnil // it is to stay off
	}
	return m.start(context.Background())
}

// emulate starts a machine anew without KVM, after QEMU has stopped its
// processors by itself: KVM may run firmware and fail with a later instruction. m.mu is held.
func (m *Machine) emulate() (*process, error) {
	words := m.firstWords()
	if m.accel != "kvm" || !m.fallback {
		return nil, fmt.Errorf("QEMU has stopped the machine: %s", words)
	}
	m.log.Warn("KVM failed: starting the machine again with emulated processors", "machine", m.spec.Name, "err", words)
	m.accel = "tcg"
	return m.start(context.Background())
}

// firstWords is the first line of QEMU's own output, which has the cause where a dump follows.
func (m *Machine) firstWords() string {
	b, err := os.ReadFile(filepath.Join(m.dir, qemuLog))
	if err != nil {
		return err.Error()
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return first
}

// lastWords are the last lines of QEMU's own output.
func (m *Machine) lastWords() string {
	b, err := os.ReadFile(filepath.Join(m.dir, qemuLog))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-3):], "; ")
}

// PowerOff cuts the machine's power; one that is off stays as it is.
func (m *Machine) PowerOff(ctx context.Context) error {
	m.order.Lock()
	defer m.order.Unlock()
	m.mu.Lock()
	m.off = true
	done := m.done
	m.mu.Unlock()
	if !m.On() {
		return nil
	}
	// QEMU may hang up before it has answered.
	err := command(ctx, m.dir, "quit", nil)
	select {
	case <-done:
		return nil
	case <-time.After(quitDeadline):
	case <-ctx.Done():
	}
	if kerr := killStray(context.WithoutCancel(ctx), m.dir); kerr != nil {
		return errors.Join(fmt.Errorf("powering off %s: %w", m.spec.Name, kerr), err)
	}
	<-done
	return nil
}

// Reset presses the reset button. ErrPower if the machine is off.
func (m *Machine) Reset(ctx context.Context) error { return m.button(ctx, "system_reset") }

// Shutdown presses the power button: an operating system that listens goes
// down in order. ErrPower if the machine is off already.
func (m *Machine) Shutdown(ctx context.Context) error { return m.button(ctx, "system_powerdown") }

// NMI sends a non-maskable interrupt. ErrPower if the machine is off.
func (m *Machine) NMI(ctx context.Context) error { return m.button(ctx, "inject-nmi") }

func (m *Machine) button(ctx context.Context, name string) error {
	m.order.Lock()
	defer m.order.Unlock()
	if !m.On() {
		return fmt.Errorf("%s: %w", m.spec.Name, ErrPower)
	}
	if err := command(ctx, m.dir, name, nil); err != nil {
		return fmt.Errorf("machine %s: %w", m.spec.Name, err)
	}
	return nil
}

// WaitOff returns when the machine's power is off.
func (m *Machine) WaitOff(ctx context.Context) error {
	m.mu.Lock()
	done := m.done
	m.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s to go off: %w", m.spec.Name, ctx.Err())
	}
}

// Wipe makes the machine new: empty disks, firmware variables as delivered,
// another TPM, no serial log. The machine must be off. Its BMC stays as it is.
func (m *Machine) Wipe() error {
	m.order.Lock()
	defer m.order.Unlock()
	if m.On() {
		return fmt.Errorf("wiping %s: power it off first", m.spec.Name)
	}
	names := []string{serialLog, m.spec.Firmware.varsFile()}
	for i := range m.spec.Disks {
		names = append(names, diskFile(i))
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(m.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("wiping %s: %w", m.spec.Name, err)
		}
	}
	if err := os.RemoveAll(filepath.Join(m.dir, tpmDir)); err != nil {
		return fmt.Errorf("wiping %s: %w", m.spec.Name, err)
	}
	return makeFiles(m.dir, m.spec)
}

// Console connects to the machine's serial port. Any number may: all hear the
// machine, and what they type goes in as it comes. The connection stays when the power goes.
func (m *Machine) Console(ctx context.Context) (net.Conn, error) {
	return dialFile(ctx, m.dir, serialSocket)
}

// Type writes text to the machine's serial port, as if typed.
func (m *Machine) Type(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, qmpDeadline)
	defer cancel()
	conn, err := m.Console(ctx)
	if err != nil {
		return fmt.Errorf("typing to %s: %w", m.spec.Name, err)
	}
	defer conn.Close() //nolint:errcheck // the write is what counts
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("typing to %s: %w", m.spec.Name, err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return fmt.Errorf("typing to %s: %w", m.spec.Name, err)
	}
	return drained(conn)
}

// drained waits until the other end has read everything: with only our
// direction closed the console reads to the end, as fast as the guest takes it,
// and closes.
func drained(conn net.Conn) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := half.CloseWrite(); err != nil {
		return fmt.Errorf("typing to the end: %w", err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return fmt.Errorf("waiting for what was typed to be read: %w", err)
	}
	return nil
}

// startTime is field 22 of /proc/PID/stat; 0 if there is no such process, or
// it is dead and only nobody has asked for its exit code.
func startTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field is a name in parentheses that may hold anything.
	_, rest, ok := cutLast(string(b), ")")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0
	}
	v, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return 0
	}
	return v
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// killStray ends the QEMU that belongs to a machine's folder, if there is one,
// and waits for its end. The folder is its working directory, which tells it
// from another process that got its number.
func killStray(ctx context.Context, dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, pidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 2 {
		return nil // not finished writing when it died
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	cwd := fmt.Sprintf("/proc/%d/cwd", pid)
	if at, err := os.Readlink(cwd); err != nil || at != real {
		return nil
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, quitDeadline)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if at, err := os.Readlink(cwd); err != nil || at != real {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("process %d does not end: %w", pid, ctx.Err())
		}
	}
}
