package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// consoleHistory is how much of the recording is shown first.
const consoleHistory = 4 << 10

// leaveTimeout is how long the server may take to end a console.
const leaveTimeout = 2 * time.Second

func newConsoleCommand(a *app) *cobra.Command {
	kind := mustKind("Machine")
	var readOnly, log, follow bool
	var bytes uint32
	cmd := &cobra.Command{
		Use:   "console NAME",
		Short: "Open a machine's serial console",
		Long: `Open a machine's serial console, through its BMC. What is typed goes there; ~. at
the beginning of a line ends it, ~~ types a ~. Many can watch one console.

With --log what was recorded is printed instead, and with --log -f what comes as
well. The same console is on the server's SSH port:

  ssh -p 8022 NAME@SERVER        (the password is an API token)`,
		Example:           "  bedplate machine console web-1\n  bedplate machine console web-1 --log | tail\n  bedplate machine console web-1 --log -f",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(kind),
		RunE: func(cmd *cobra.Command, words []string) error {
			if follow && !log {
				return usageError{errors.New("-f is for --log: without it the console is followed anyway")}
			}
			return a.with(cmd.Context(), func(c *client) error {
				s := &consoleView{app: a, machines: pb.NewMachineServiceClient(c.conn), name: words[0]}
				var err error
				switch {
				case log && !follow:
					err = s.log(cmd.Context(), c, bytes)
				case log:
					err = s.watch(cmd.Context(), bytes)
				case readOnly:
					err = s.watch(cmd.Context(), consoleHistory)
				default:
					err = s.attach(cmd.Context())
				}
				return c.nearest(cmd.Context(), kind, words[0], err)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&readOnly, "read-only", false, "watch, and type nothing")
	flags.BoolVar(&log, "log", false, "print what was recorded")
	flags.BoolVarP(&follow, "follow", "f", false, "with --log: go on with what comes")
	flags.Uint32Var(&bytes, "bytes", 64<<10, "with --log: the last so many `bytes`, at most 1 MiB")
	return cmd
}

// consoleView is one look at a console.
type consoleView struct {
	*app
	machines pb.MachineServiceClient
	name     string
}

// log prints the recording.
func (s *consoleView) log(ctx context.Context, c *client, bytes uint32) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	r, err := s.machines.GetMachineConsoleLog(ctx, &pb.GetMachineConsoleLogRequest{Name: s.name, Bytes: bytes})
	if err != nil {
		return err
	}
	if len(r.GetData()) == 0 {
		why := orElse(r.GetError(), "it has said nothing yet")
		fprintf(s.stderr, "nothing is recorded of %s's console: %s\n", s.name, why)
	}
	_, err = s.stdout.Write(r.GetData())
	return err
}

// notice shows what the server has to say about a console.
func (s *consoleView) notice(text string) {
	if text != "" {
		fprintf(s.stderr, "\r\n[%s]\r\n", text)
	}
}

// watch shows the console until it, or a person, ends it.
func (s *consoleView) watch(ctx context.Context, history uint32) error {
	return feed(ctx, false, func(ctx context.Context) (grpc.ServerStreamingClient[pb.WatchMachineConsoleResponse], error) {
		return s.machines.WatchMachineConsole(ctx, &pb.WatchMachineConsoleRequest{Name: s.name, History: history})
	}, func(m *pb.WatchMachineConsoleResponse) error {
		history = 0 // what was shown is not shown again after a break
		s.notice(m.GetNotice())
		_, err := s.stdout.Write(m.GetData())
		return err
	}, func(err error) error {
		what, _ := s.explain(err)
		s.notice("connection lost, trying again: " + what)
		return nil
	})
}

// attach connects the terminal to the console.
func (s *consoleView) attach(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.machines.AttachMachineConsole(ctx)
	if err != nil {
		return err
	}
	header := &pb.AttachMachineConsoleRequest{Part: &pb.AttachMachineConsoleRequest_Header{Header: &pb.AttachMachineConsoleHeader{Name: s.name, History: consoleHistory}}}
	if err := stream.Send(header); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	restore, err := s.raw()
	if err != nil {
		return err
	}
	defer restore()
	s.notice("console of " + s.name + "; ~. ends it")
	// A read of the keyboard can't be ended: its goroutine ends with the program.
	left := make(chan struct{})
	go s.typeInto(stream, sync.OnceFunc(func() { close(left) }))
	failed := make(chan error, 1)
	go func() { failed <- s.show(stream) }() // ends with the stream
	select {
	case err := <-failed:
		return err
	case <-left:
		// What was typed last is on its way: the server ends when it has it.
		late := time.AfterFunc(leaveTimeout, cancel)
		defer late.Stop()
		if err := stream.CloseSend(); err == nil {
			<-failed
		}
		s.notice("left")
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// raw makes every key go to the machine, Ctrl-C as well.
func (s *consoleView) raw() (restore func(), err error) {
	f, ok := s.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}, nil
	}
	was, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	return func() { _ = term.Restore(int(f.Fd()), was) }, nil // the program ends, and there is no other way
}

// show writes what the console says.
func (s *consoleView) show(stream grpc.BidiStreamingClient[pb.AttachMachineConsoleRequest, pb.AttachMachineConsoleResponse]) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return streamEnded(err)
		}
		s.notice(m.GetNotice())
		if _, err := s.stdout.Write(m.GetData()); err != nil {
			return err
		}
	}
}

// typeInto sends what is typed until ~. or the end of the input.
func (s *consoleView) typeInto(stream grpc.BidiStreamingClient[pb.AttachMachineConsoleRequest, pb.AttachMachineConsoleResponse], leave func()) {
	defer leave()
	keys := escapes{lineStart: true}
	buf := make([]byte, 4<<10)
	for {
		n, err := s.stdin.Read(buf)
		data, over := keys.filter(buf[:n])
		if len(data) > 0 {
			if stream.Send(&pb.AttachMachineConsoleRequest{Part: &pb.AttachMachineConsoleRequest_Data{Data: data}}) != nil {
				return // show tells why
			}
		}
		if over || err != nil {
			return
		}
	}
}

// escapes finds ~. at the beginning of lines, as ssh does.
type escapes struct {
	// lineStart: the last key was Return, or there was none yet.
	lineStart bool
	tilde     bool
}

// filter returns what goes to the machine, and whether the person has left.
func (e *escapes) filter(in []byte) (out []byte, over bool) {
	for _, b := range in {
		switch {
		case e.tilde && b == '.':
			return out, true
		case e.tilde && b != '~':
			out = append(out, '~')
		case !e.tilde && e.lineStart && b == '~':
			e.tilde = true
			continue
		}
		out = append(out, b)
		e.tilde = false
		e.lineStart = b == '\r' || b == '\n'
	}
	return out, false
}
