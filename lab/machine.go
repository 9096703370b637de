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
	"time"

	"golang.org/x/sys/unix"
)

// Machine is one machine of a lab that is up. Its power is the life of a QEMU
// process: on starts one with the firmware at its first instruction, off ends
// it. A guest that switches itself off ends it too; one that reboots does not.
type Machine struct {
	lab       string
	spec      MachineSpec
	dir       string
	tap       string
	accel     string
	namespace *Namespace
	log       *slog.Logger

	mu   sync.Mutex
	done chan struct{} // closed when the process has ended; nil before the first power-on
}

// Deadlines of starting and ending QEMU.
const (
	startDeadline = 20 * time.Second
	quitDeadline  = 5 * time.Second
)

// ErrPower is what Reset and Shutdown return for a machine that is off.
var ErrPower = errors.New("the machine is off")

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
	return makeFiles(m.dir, m.spec)
}

// On reports whether the machine's power is on.
func (m *Machine) On() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.onLocked()
}

func (m *Machine) onLocked() bool {
	if m.done == nil {
		return false
	}
	select {
	case <-m.done:
		return false
	default:
		return true
	}
}

// PowerOn switches the machine on; one that is on stays as it is. It returns
// when QEMU runs, long before the firmware is through.
func (m *Machine) PowerOn(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.onLocked() {
		return nil
	}
	for _, name := range []string{serialSocket, qmpSocket, pidFile} {
		if err := os.Remove(filepath.Join(m.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("powering on %s: %w", m.spec.Name, err)
		}
	}
	out, err := os.Create(filepath.Join(m.dir, qemuLog))
	if err != nil {
		return fmt.Errorf("powering on %s: %w", m.spec.Name, err)
	}
	defer out.Close() //nolint:errcheck // the child has its own
	cmd := exec.Command(qemuProgram, qemuArgs(m.lab, m.spec, m.tap, m.accel)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = m.dir, out, out
	if err := m.namespace.Start(cmd); err != nil {
		return fmt.Errorf("powering on %s: %w", m.spec.Name, err)
	}
	done := make(chan struct{})
	m.done = done
	go func() { // ends with QEMU, which PowerOff and the namespace's end see to
		defer close(done)
		if err := cmd.Wait(); err != nil {
			m.log.Debug("QEMU ended", "machine", m.spec.Name, "err", err)
		}
	}()
	return m.waitStarted(ctx, done)
}

// waitStarted returns when QEMU answers on its monitor.
func (m *Machine) waitStarted(ctx context.Context, done <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		q, err := dialQMP(ctx, m.dir)
		if err == nil {
			return q.conn.Close()
		}
		select {
		case <-tick.C:
		case <-done:
			return fmt.Errorf("powering on %s: QEMU said: %s", m.spec.Name, m.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("powering on %s: QEMU does not answer: %w", m.spec.Name, err)
		}
	}
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
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.onLocked() {
		return nil
	}
	// QEMU may hang up before it has answered.
	err := command(ctx, m.dir, "quit")
	select {
	case <-m.done:
		return nil
	case <-time.After(quitDeadline):
	case <-ctx.Done():
	}
	if kerr := killStray(context.WithoutCancel(ctx), m.dir); kerr != nil {
		return errors.Join(fmt.Errorf("powering off %s: %w", m.spec.Name, kerr), err)
	}
	<-m.done
	return nil
}

// Reset presses the reset button. ErrPower if the machine is off.
func (m *Machine) Reset(ctx context.Context) error { return m.button(ctx, "system_reset") }

// Shutdown presses the power button: an operating system that listens goes
// down in order. ErrPower if the machine is off already.
func (m *Machine) Shutdown(ctx context.Context) error { return m.button(ctx, "system_powerdown") }

func (m *Machine) button(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.onLocked() {
		return fmt.Errorf("%s: %w", m.spec.Name, ErrPower)
	}
	if err := command(ctx, m.dir, name); err != nil {
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

// Wipe makes the machine new: empty disks, firmware variables as delivered, no
// serial log. The machine must be off.
func (m *Machine) Wipe() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.onLocked() {
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
	return makeFiles(m.dir, m.spec)
}

// Console connects to the machine's serial port. QEMU serves one at a time;
// others wait.
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

// drained waits until the other end has read everything. QEMU 7.2 throws away
// what it hasn't read yet when a connection is closed in both directions; with
// only ours closed it reads to the end, as fast as the guest takes it, and closes.
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
