package shell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bedplate/bedplate/bmc"
)

// Name is the name in errors.
const Name = "ssh"

// Port is SSH's.
const Port = 22

// The bounds of a login.
const (
	dialTimeout = 10 * time.Second
	// loginTimeout bounds key exchange, login and the wait for the prompt: BMCs
	// take seconds for the first.
	loginTimeout = 30 * time.Second
	// maxGreeting bounds what a shell may say before its prompt.
	maxGreeting = 64 << 10
)

// The size of the terminal, which is what firmware's own menus are made for.
const rows, columns = 24, 80

// ErrNoPrompt means that the BMC's shell didn't get ready.
var ErrNoPrompt = errors.New("BMC's shell shows no prompt: say what gets the console in spec.bmc.console_command, or - if the shell is the console")

// Console logs in and opens the console. command is what is said at the
// prompt; empty: nothing, and no prompt is waited for. ctx bounds the opening.
func Console(ctx context.Context, t bmc.Target, command string) (_ io.ReadWriteCloser, err error) {
	way := bmc.SSH{}
	if t.SSH != nil {
		way = *t.SSH
	}
	host, _, err := t.HostPort(Port)
	if err != nil {
		return nil, err
	}
	port := way.Port
	if port == 0 {
		port = Port
	}
	address := net.JoinHostPort(host, strconv.Itoa(int(port)))
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", Name, bmc.ErrUnreachable, err)
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	c, err := open(conn, address, t, way, command)
	if !stop() {
		return nil, fmt.Errorf("%s: %w: opening the console took too long or was given up: %w", Name, bmc.ErrUnreachable, context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	return c, nil
}

// open makes a console of a connection, which is closed by whoever gave it
// where that fails or takes too long.
func open(conn net.Conn, address string, t bmc.Target, way bmc.SSH, command string) (*console, error) {
	keys := &hostKey{target: t, want: way.HostKey}
	shaken, channels, requests, err := ssh.NewClientConn(conn, address, clientConfig(t, keys))
	if err != nil {
		return nil, fault(err, keys)
	}
	client := ssh.NewClient(shaken, channels, requests)
	if keys.first() != "" && way.Seen != nil {
		way.Seen(keys.first())
	}
	c, err := start(client)
	if err == nil && command != "" {
		err = c.enter(command)
	}
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	return c, nil
}

// console is a shell that has become a serial port.
type console struct {
	client  *ssh.Client
	session *ssh.Session
	output  io.Reader
	input   io.WriteCloser
	once    sync.Once
}

// start opens a shell on a terminal.
func start(client *ssh.Client) (*console, error) {
	s, err := client.NewSession()
	if err != nil {
		return nil, fmt.Errorf("opening a shell: %w", err)
	}
	c := &console{client: client, session: s}
	if c.input, err = s.StdinPipe(); err != nil {
		return nil, fmt.Errorf("opening a shell: %w", err)
	}
	if c.output, err = s.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("opening a shell: %w", err)
	}
	// Some BMCs refuse a terminal, and all a command in its place.
	_ = s.RequestPty("vt100", rows, columns, ssh.TerminalModes{})
	if err := s.Shell(); err != nil {
		return nil, fmt.Errorf("opening a shell: %w", err)
	}
	return c, nil
}

// enter waits for the prompt and says the command.
func (c *console) enter(command string) error {
	var seen []byte
	buffer := make([]byte, 4096)
	for !isPrompt(seen) {
		n, err := c.output.Read(buffer)
		seen = append(seen, buffer[:n]...)
		if err != nil || len(seen) > maxGreeting {
			return ErrNoPrompt
		}
	}
	if _, err := io.WriteString(c.input, command+"\r"); err != nil {
		return fmt.Errorf("saying %q to the BMC's shell: %w", command, err)
	}
	return nil
}

// isPrompt reports whether a shell waits after what it has said: those of BMCs
// end in -> (SMASH, DSP0214), > or >>, those of Linux in # or $.
func isPrompt(seen []byte) bool {
	line := bytes.TrimRight(seen[bytes.LastIndexByte(seen, '\n')+1:], " \x00")
	return len(line) > 0 && bytes.IndexByte([]byte(">#$%"), line[len(line)-1]) >= 0
}

// Read returns what the machine has said; io.EOF when the BMC has ended it.
func (c *console) Read(p []byte) (int, error) { return c.output.Read(p) }

// Write types.
func (c *console) Write(p []byte) (int, error) { return c.input.Write(p) }

// Close ends the connection, which ends the console on every BMC.
func (c *console) Close() (err error) {
	c.once.Do(func() {
		_ = c.session.Close()
		err = c.client.Close()
	})
	return err
}
