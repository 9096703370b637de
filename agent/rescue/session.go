package rescue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// session is one channel: a shell, a command or a transfer of files.
type session struct {
	r           *running
	number      int
	peer, local string
	channel     ssh.Channel

	env  []string
	term *terminal
}

// The payloads of requests (RFC 4254 §6).
type (
	ptyRequest struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	windowChange struct{ Columns, Rows, Width, Height uint32 }
	envRequest   struct{ Name, Value string }
	execRequest  struct{ Command string }
	signalName   struct{ Name string }
	exitSignal   struct {
		Name    string
		Core    bool
		Message string
		Lang    string
	}
)

// maxEnv is how many variables a client may set.
const maxEnv = 32

// serve answers the session's requests. The first that starts something
// decides what the session is.
func (s *session) serve(ctx context.Context, requests <-chan *ssh.Request) {
	defer s.closeTerminal()
	for q := range requests {
		switch q.Type {
		case "pty-req":
			reply(q, s.openTerminal(q.Payload))
		case "env":
			reply(q, s.setEnv(q.Payload))
		case "shell":
			reply(q, nil)
			s.run(ctx, "", requests)
			return
		case "exec":
			var e execRequest
			if err := ssh.Unmarshal(q.Payload, &e); err != nil {
				reply(q, err)
				return
			}
			reply(q, nil)
			s.run(ctx, e.Command, requests)
			return
		case "subsystem":
			var e execRequest
			if err := ssh.Unmarshal(q.Payload, &e); err != nil || e.Command != "sftp" {
				reply(q, errors.New("only sftp"))
				continue
			}
			reply(q, nil)
			s.files(ctx, requests)
			return
		default:
			reply(q, errors.New("unknown"))
		}
	}
}

func reply(q *ssh.Request, err error) {
	if q.WantReply {
		_ = q.Reply(err == nil, nil) // the client has gone; so will the channel
	}
}

// setEnv takes what says how to write to the client's terminal.
func (s *session) setEnv(payload []byte) error {
	var e envRequest
	if err := ssh.Unmarshal(payload, &e); err != nil {
		return err
	}
	if e.Name != "LANG" && e.Name != "TZ" && e.Name != "COLORTERM" && !strings.HasPrefix(e.Name, "LC_") || len(s.env) >= maxEnv || strings.ContainsRune(e.Name+e.Value, 0) {
		return errors.New("not to be set")
	}
	s.env = append(s.env, e.Name+"="+e.Value)
	return nil
}

// run starts a shell, or a command in one, and sees it to its end.
func (s *session) run(ctx context.Context, command string, requests <-chan *ssh.Request) {
	cmd := s.r.shell(command, s.env)
	cmd.Env = append(cmd.Env, "SSH_CONNECTION="+connectionOf(s.peer, s.local))
	what := "shell"
	if command != "" {
		what = "command: " + printable(command)
	}
	began := s.r.s.cfg.Now()
	s.r.log("session %d from %s: %s", s.number, s.peer, what)
	end, err := s.start(cmd, command == "")
	if err != nil {
		s.r.log("session %d: %v", s.number, err)
		fmt.Fprintf(s.channel.Stderr(), "%v\r\n", err)
		s.exit(&exec.ExitError{})
		return
	}
	go s.orders(requests, cmd) // ends with the channel
	stop := context.AfterFunc(ctx, func() { hangUp(cmd) })
	err = end()
	stop()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well, and left something behind that holds its output
	}
	s.r.log("session %d ended after %s: %s", s.number, s.r.s.cfg.Now().Sub(began).Round(time.Second), how(cmd, err))
	s.exit(err)
	s.channel.Close()
}

// start starts cmd on the terminal, or on pipes; the function it returns waits
// for its end, and for its last words.
func (s *session) start(cmd *exec.Cmd, greet bool) (end func() error, err error) {
	if s.term != nil {
		if greet {
			io.WriteString(s.channel, strings.ReplaceAll(s.r.s.cfg.Banner, "\n", "\r\n"))
		}
		return s.term.start(cmd, s.channel, s.r.group)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = s.channel, s.channel.Stderr()
	cmd.SysProcAttr = s.r.group.attributes(&syscall.SysProcAttr{Setsid: true})
	cmd.WaitDelay = time.Second // for what it left behind that holds its output
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the channel, or when the command no longer reads
		_, _ = io.Copy(stdin, s.channel)
		stdin.Close()
	}()
	return cmd.Wait, nil
}

// orders carries out what a client asks of a command that runs.
func (s *session) orders(requests <-chan *ssh.Request, cmd *exec.Cmd) {
	for q := range requests {
		switch q.Type {
		case "window-change":
			var w windowChange
			if err := ssh.Unmarshal(q.Payload, &w); err == nil && s.term != nil {
				s.term.resize(w)
			}
		case "signal":
			var n signalName
			if err := ssh.Unmarshal(q.Payload, &n); err == nil {
				if sig := unix.SignalNum("SIG" + n.Name); sig > 0 {
					_ = unix.Kill(-cmd.Process.Pid, sig) // it may have ended
				}
			}
		}
		reply(q, nil)
	}
}

// exit tells the client how it ended.
func (s *session) exit(err error) {
	var e *exec.ExitError
	if errors.As(err, &e) && e.ProcessState != nil {
		if st, ok := e.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			name := strings.TrimPrefix(unix.SignalName(st.Signal()), "SIG")
			_, _ = s.channel.SendRequest("exit-signal", false, ssh.Marshal(exitSignal{Name: name}))
			return
		}
	}
	code := uint32(0)
	if err != nil {
		code = 255
		if e != nil && e.ProcessState != nil {
			code = uint32(e.ExitCode())
		}
	}
	_, _ = s.channel.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, code))
}

func how(cmd *exec.Cmd, err error) string {
	if cmd.ProcessState != nil {
		return cmd.ProcessState.String()
	}
	return err.Error()
}

// files serves SFTP.
func (s *session) files(ctx context.Context, requests <-chan *ssh.Request) {
	s.r.log("session %d from %s: files", s.number, s.peer)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for q := range requests {
			reply(q, errors.New("unknown"))
		}
	})
	defer s.channel.Close()
	server, err := sftp.NewServer(open{s.channel}, sftp.WithServerWorkingDirectory(home))
	if err != nil {
		s.r.log("session %d: %v", s.number, err)
		return
	}
	stop := context.AfterFunc(ctx, func() { s.channel.Close() })
	defer stop()
	err = server.Serve()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	_ = server.Close() // its files
	s.r.log("session %d ended", s.number)
	s.exit(err)
}

// open is a channel that the SFTP server can't close: the exit status has to go
// over it afterwards, without which scp takes a transfer to have failed.
type open struct{ io.ReadWriter }

func (open) Close() error { return nil }

// connectionOf is SSH_CONNECTION: addresses and ports of both ends.
func connectionOf(peer, local string) string {
	ph, pp, _ := net.SplitHostPort(peer)
	lh, lp, _ := net.SplitHostPort(local)
	return strings.Join([]string{ph, pp, lh, lp}, " ")
}

// hangUp ends what is in the session's process group; the rest of it ends with
// its terminal, and at last with the group of the whole action.
func hangUp(cmd *exec.Cmd) {
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGCONT, unix.SIGKILL} {
		_ = unix.Kill(-cmd.Process.Pid, sig) // it may have ended
	}
}

// home is where sessions begin.
const home = "/root"

// shell returns a login shell, or a command in one.
func (r *running) shell(command string, env []string) *exec.Cmd {
	cmd := exec.Command(r.bin + "/sh")
	cmd.Args = []string{"-sh"} // a dash makes it a login shell
	if command != "" {
		cmd.Args = []string{"sh", "-c", command}
	}
	// The system's own programs come first: they can do more than busybox's.
	cmd.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + r.bin,
		"HOME=" + home, "USER=root", "LOGNAME=root", "SHELL=" + r.bin + "/sh", "PS1=rescue:\\w# ",
	}, env...)
	cmd.Dir = home
	if _, err := os.Stat(home); err != nil {
		cmd.Dir = "/"
	}
	return cmd
}
