package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal (pty(7)).
type terminal struct {
	name   string // TERM
	master *os.File
	slave  *os.File
}

// openTerminal answers a pty-req.
func (s *session) openTerminal(payload []byte) error {
	var p ptyRequest
	if err := ssh.Unmarshal(payload, &p); err != nil {
		return err
	}
	if s.term != nil {
		return errors.New("there is one already")
	}
	t, err := newTerminal(p.Term)
	if err != nil {
		s.r.log("session %d has no terminal: %v", s.number, err)
		return err
	}
	t.resize(windowChange{p.Columns, p.Rows, p.Width, p.Height})
	s.term = t
	s.env = append(s.env, "TERM="+printable(p.Term))
	return nil
}

func (s *session) closeTerminal() {
	if s.term != nil {
		s.term.close()
	}
}

func newTerminal(name string) (*terminal, error) {
	// Not by the poller: a master whose slave nobody holds reads as EIO, which ends it.
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a terminal: %w", err)
	}
	number, err := unlock(master)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("unlocking a terminal: %w", err), master.Close())
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a terminal: %w", err), master.Close())
	}
	return &terminal{name: name, master: master, slave: slave}, nil
}

func unlock(master *os.File) (number int, err error) {
	raw, err := master.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	return number, errors.Join(cerr, err)
}

func (t *terminal) resize(w windowChange) {
	raw, err := t.master.SyscallConn()
	if err != nil {
		return
	}
	size := unix.Winsize{Row: uint16(w.Rows), Col: uint16(w.Columns), Xpixel: uint16(w.Width), Ypixel: uint16(w.Height)}
	_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &size) }) // of no consequence
}

func (t *terminal) close() {
	t.slave.Close()
	t.master.Close()
}

// start starts cmd with the terminal as its own and joins it to the channel.
func (t *terminal) start(cmd *exec.Cmd, channel ssh.Channel, g *group) (end func() error, err error) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.slave, t.slave, t.slave
	cmd.SysProcAttr = g.attributes(&syscall.SysProcAttr{Setsid: true, Setctty: true})
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t.slave.Close() // the last one to hold it should be a process of the session
	said := make(chan struct{})
	go func() { // ends when nothing holds the terminal any more, or with t.close
		defer close(said)
		_, _ = io.Copy(channel, t.master)
	}()
	go func() { _, _ = io.Copy(t.master, channel) }() // ends with the channel
	return func() error {
		err := cmd.Wait()
		select {
		case <-said: // its last words
		case <-time.After(time.Second): // something in the background holds the terminal
		}
		return err
	}, nil
}

// consoles are those that the machine has.
func (r *running) consoles() []string {
	if r.s.cfg.Consoles == nil {
		return nil
	}
	return r.s.cfg.Consoles()
}

// restart is the wait before a console gets another shell.
const restart = time.Second

// console keeps a shell on one of the machine's consoles, for whoever sits there.
func (r *running) console(ctx context.Context, path string) {
	r.log("a shell waits on console %s", path)
	for ctx.Err() == nil {
		if err := r.consoleShell(ctx, path); err != nil && ctx.Err() == nil {
			r.log("console %s: %v", path, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(restart):
		}
	}
}

func (r *running) consoleShell(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	cmd := r.shell("", []string{"TERM=linux"})
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, f
	cmd.SysProcAttr = r.group.attributes(&syscall.SysProcAttr{Setsid: true, Setctty: true})
	var once sync.Once
	closed := func() { once.Do(func() { f.Close() }) }
	defer closed()
	io.WriteString(f, "\n"+r.s.cfg.Banner)
	if err := cmd.Start(); err != nil {
		return err
	}
	closed()
	number := r.next()
	r.log("session %d: console %s", number, path)
	stop := context.AfterFunc(ctx, func() { hangUp(cmd) })
	defer stop()
	err = cmd.Wait()
	r.log("session %d ended: %s", number, how(cmd, err))
	return nil
}
