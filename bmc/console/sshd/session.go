package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bedplate/bedplate/bmc/console"
)

const (
	// history is what a session begins with, so that a prompt is seen.
	history = 4 << 10
	// maxCommand bounds the command of an exec request.
	maxCommand = 256
)

// session is one channel: it waits for a request for a shell, or for the
// command log, and then has the console.
func (s *Server) session(ctx context.Context, offer ssh.NewChannel, machine string, who Principal) {
	ch, requests, err := offer.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	for r := range requests {
		switch r.Type {
		case "pty-req", "env", "window-change":
			answer(r, true)
		case "shell":
			answer(r, true)
			s.attach(ctx, ch, requests, machine, who)
			return
		case "exec":
			answer(r, true)
			s.exec(ch, r.Payload, machine)
			return
		default:
			answer(r, false)
		}
	}
}

func answer(r *ssh.Request, ok bool) {
	if r.WantReply {
		_ = r.Reply(ok, nil) // the connection's end shows elsewhere
	}
}

// exit ends a session with a status (RFC 4254 §6.10).
func exit(ch ssh.Channel, code uint32) {
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code})) // the same
}

// exec prints the recording.
func (s *Server) exec(ch ssh.Channel, payload []byte, machine string) {
	var command struct{ Text string }
	if len(payload) > maxCommand || ssh.Unmarshal(payload, &command) != nil || strings.TrimSpace(command.Text) != "log" {
		say(ch.Stderr(), "the only command is log: it prints what was recorded")
		exit(ch, 2)
		return
	}
	if err := s.cfg.Machine(machine); err != nil {
		say(ch.Stderr(), err.Error())
		exit(ch, 1)
		return
	}
	data, _, err := s.cfg.Consoles.Log(machine, console.MaxHistory)
	if err == nil {
		_, err = ch.Write(data)
	}
	if err != nil {
		say(ch.Stderr(), err.Error())
		exit(ch, 1)
		return
	}
	exit(ch, 0)
}

// say writes one line about the console, not of it.
func say(w io.Writer, text string) {
	_, _ = fmt.Fprintf(w, "\r\n[bedplate: %s]\r\n", text) // the connection's end shows elsewhere
}

// attach connects the channel to the console until one of them ends.
func (s *Server) attach(ctx context.Context, ch ssh.Channel, requests <-chan *ssh.Request, machine string, who Principal) {
	v, err := s.open(ctx, machine, who)
	if err != nil {
		say(ch, err.Error())
		exit(ch, 1)
		return
	}
	defer v.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	typed := make(chan struct{})
	go func() { // ends when the channel is closed, which session does; it is waited for below
		defer close(typed)
		defer cancel()
		typeIn(ch, v, who)
	}()
	go ssh.DiscardRequests(requests) // ends with the channel as well
	mode := "you may type; end with ~."
	if !who.MayType {
		mode = "you may watch: the role of token " + who.Name + " doesn't allow typing"
	}
	say(ch, "console of "+machine+"; "+mode)
	err = show(ctx, ch, v)
	if errors.Is(err, io.EOF) {
		say(ch, "the machine is gone, or the server stops")
	}
	exit(ch, 0)
	_ = ch.Close() // ends typeIn
	<-typed
}

// open attaches to a console, with a note of who does.
func (s *Server) open(ctx context.Context, machine string, who Principal) (*console.Viewer, error) {
	if err := s.cfg.Machine(machine); err != nil {
		return nil, err
	}
	if err := s.cfg.Attached(ctx, machine, who.Name, who.MayType); err != nil {
		return nil, err
	}
	return s.cfg.Consoles.Attach(machine, history)
}

// typeIn sends what is typed until the client has ended.
func typeIn(ch ssh.Channel, v *console.Viewer, who Principal) {
	buf := make([]byte, 4<<10)
	for {
		n, err := ch.Read(buf)
		if n > 0 && who.MayType {
			if err := v.Send(buf[:n]); err != nil {
				say(ch, err.Error())
			}
		}
		if err != nil {
			return
		}
	}
}

// show writes what the console says until it, the client or ctx ends. A client
// that takes nothing for a while is hung up on.
func show(ctx context.Context, ch ssh.Channel, v *console.Viewer) error {
	for {
		c, err := v.Next(ctx)
		if err != nil {
			return err
		}
		if err := deliver(ch, c); err != nil {
			return err
		}
	}
}

func deliver(ch ssh.Channel, c console.Chunk) error {
	stuck := time.AfterFunc(writeTimeout, func() { _ = ch.Close() })
	defer stuck.Stop()
	if c.Notice != "" {
		say(ch, c.Notice)
	}
	_, err := ch.Write(c.Data)
	return err
}
