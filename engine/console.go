package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/console"
	"github.com/bedplate/bedplate/bmc/console/sshd"
	"github.com/bedplate/bedplate/bmc/fleet"
	"github.com/bedplate/bedplate/event"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// consoleDir is the folder of recordings in the data directory.
const consoleDir = "consoles"

// buildConsoles builds what shares machines' serial consoles.
func (e *Engine) buildConsoles() (err error) {
	e.consoles, err = console.New(console.Config{
		Open:        func(ctx context.Context, name string) (io.ReadWriteCloser, error) { return e.fleet.Console(ctx, name) },
		Unsupported: bmc.ErrUnsupported, Dir: filepath.Join(e.cfg.DataDir, consoleDir), Keep: int64(e.cfg.BMC.RecordConsoles) << 20,
		Now: e.cfg.Now, Logger: e.log, Registry: e.registry,
	})
	return err
}

// feedConsoles tells the consoles which machines have one, and puts the last
// lines of a console on the timeline when its machine fails.
func (e *Engine) feedConsoles(ctx context.Context) error {
	states := map[string]pb.MachineState{}
	return resource.Follow(ctx, e.db,
		func(m *pb.Machine) {
			name := m.GetMetadata().GetName()
			if m.GetSpec().GetBmc().GetAddress() == "" || fleet.Undecided(m) {
				delete(states, name)
				return
			}
			was, known := states[name]
			state := m.GetStatus().GetState()
			states[name] = state
			switch {
			case !known:
				e.consoles.Set(name)
			case was != state && state == pb.MachineState_FAILED:
				e.noteConsole(ctx, name)
			}
		},
		func(name string) {
			delete(states, name)
			if err := e.consoles.Forget(name); err != nil {
				e.log.Warn("forgetting a console", "machine", name, "err", err)
			}
		},
		e.synced("consoles"))
}

// noteConsole puts the last lines of a machine's console where people look
// after a failure.
func (e *Engine) noteConsole(ctx context.Context, name string) {
	tail := e.consoles.Tail(name, tailLines, e.cfg.Now().Add(-tailAge))
	if len(tail) == 0 {
		return
	}
	text := strings.Join(tail, " / ")
	e.timeline.Observe(machine.Sighting{Time: e.cfg.Now(), Source: machine.SourceBMC, Machine: machine.Name(name), Event: "console", Detail: text})
	op := e.events.Op(event.Entry{Kind: "Machine", Name: name, Reason: "ConsoleTail", Message: "its console said last: " + text, Warning: true})
	if _, err := e.store.Txn(ctx, nil, []store.Op{op}); err != nil && ctx.Err() == nil {
		e.log.Warn("noting what a console said", "machine", name, "err", err)
	}
}

// buildSSH builds the SSH front end of the consoles.
func (e *Engine) buildSSH(context.Context) error {
	if e.cfg.sshPort() == 0 {
		return nil
	}
	key, err := sshd.HostKey(e.cfg.DataDir, e.cfg.Rand)
	if err != nil {
		return err
	}
	e.ssh = sshd.New(sshd.Config{
		Address: e.cfg.bind(e.cfg.sshPort()), HostKey: key, Consoles: e.consoles, Now: e.cfg.Now, Logger: e.log,
		Token: func(secret string, from netip.Addr) (sshd.Principal, error) {
			h, err := e.api.HolderOf(secret, from)
			return sshd.Principal{Name: h.Name, MayType: h.Role >= pb.Role_OPERATOR, Still: h.Still}, err
		},
		Key: func(key []byte, _ netip.Addr) (sshd.Principal, error) {
			h, err := e.api.HolderOfKey(key)
			return sshd.Principal{Name: h.Name, MayType: h.Role >= pb.Role_OPERATOR, Still: h.Still}, err
		},
		Machine: func(name string) error {
			_, err := e.fleet.Machine(name)
			return err
		},
		Attached: func(ctx context.Context, name, who string, types bool) error {
			what := "somebody watches its console over SSH"
			if types {
				what = "somebody may type on its console over SSH"
			}
			_, err := e.store.Txn(ctx, nil, []store.Op{e.events.Op(event.Entry{Kind: "Machine", Name: name, Reason: "ConsoleAttached", Message: what, Actor: who})})
			return err
		},
	})
	return nil
}

// listenSSH binds the SSH port, if there is to be one.
func (e *Engine) listenSSH() error {
	if e.ssh == nil {
		return nil
	}
	return e.ssh.Listen()
}

// runSSH serves consoles over SSH.
func (e *Engine) runSSH(ctx context.Context) error {
	if e.ssh == nil {
		<-ctx.Done()
		return nil
	}
	return e.ssh.Run(ctx)
}

// consoleViews are the consoles as the API has them.
type consoleViews struct{ *console.Hub }

// Log implements api.Consoles.
func (v consoleViews) Log(_ context.Context, name string, bytes int) (*pb.GetMachineConsoleLogResponse, error) {
	data, state, err := v.Hub.Log(name, bytes)
	if err != nil {
		return nil, err
	}
	out := &pb.GetMachineConsoleLogResponse{Data: data, Recording: state.Open, Error: state.Reason}
	if !state.Last.IsZero() {
		out.Time = timestamppb.New(state.Last)
	}
	return out, nil
}

// Attach implements api.Consoles.
func (v consoleViews) Attach(ctx context.Context, name string, history int, typed <-chan []byte, send func(data []byte, notice string) error) error {
	viewer, err := v.Hub.Attach(name, history)
	if err != nil {
		return err
	}
	defer viewer.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	refused := make(chan string, 1)
	done := make(chan struct{})
	go func() { // ends with ctx, and is waited for
		defer close(done)
		typeOn(ctx, viewer, typed, refused)
	}()
	defer func() { cancel(); <-done }()
	chunks := make(chan console.Chunk)
	failed := make(chan error, 1)
	read := make(chan struct{})
	go func() { // the same
		defer close(read)
		failed <- pump(ctx, viewer, chunks)
	}()
	defer func() { cancel(); <-read }()
	for {
		select {
		case c := <-chunks:
			err = send(c.Data, c.Notice)
		case notice := <-refused:
			err = send(nil, notice)
		case err = <-failed:
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the console of machine/%s is gone: the machine was deleted, or the server stops", name)
			}
		}
		if err != nil {
			return err
		}
	}
}

// pump hands on what a viewer sees.
func pump(ctx context.Context, viewer *console.Viewer, chunks chan<- console.Chunk) error {
	for {
		c, err := viewer.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case chunks <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// typeOn types what comes; why it can't be typed goes to refused.
func typeOn(ctx context.Context, viewer *console.Viewer, typed <-chan []byte, refused chan<- string) {
	for {
		select {
		case data := <-typed:
			if err := viewer.Send(data); err != nil {
				select {
				case refused <- err.Error():
				default: // it has been told already
				}
			}
		case <-ctx.Done():
			return
		}
	}
}
