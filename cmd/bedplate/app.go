package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

// app is what a command has of the world around it. Nothing else of this
// package reads the clock, the environment or the terminal.
type app struct {
	args   []string
	getenv func(string) string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	// width returns how wide the terminal behind a stream is; 0 if it is none.
	width func(stream any) int
	now   func() time.Time
	// zone is the time zone that times are shown in.
	zone *time.Location
	// suffix returns a few random letters for a name that must be new.
	suffix func() string
	// connect opens the connection to the server; tests replace it.
	connect func(context.Context) (connection, error)

	flags globalFlags
	// command is the one that was run, for hints.
	command string
	// warned: a warning about the configuration has been given.
	warned bool
}

// connection is a gRPC connection and how to end it.
type connection interface {
	grpc.ClientConnInterface
	io.Closer
}

// globalFlags are the flags that every command has.
type globalFlags struct {
	config, server, token, ca string
	timeout                   time.Duration
}

// run runs one command and reports its error on stderr.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	a := &app{
		args: args, getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr,
		width: terminalWidth, now: time.Now, zone: time.Local,
		suffix: func() string { return strings.ToLower(rand.Text()[:6]) },
	}
	a.connect = a.dial
	return a.run(ctx)
}

func (a *app) run(ctx context.Context) error {
	root := newRootCommand(a)
	root.SetArgs(a.args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err != nil && ctx.Err() != nil && isCancelled(err):
		err = errInterrupted
	case err != nil && strings.HasPrefix(err.Error(), "required flag(s)"): // cobra has no type for it
		err = usageError{err}
	}
	a.command = cmd.CommandPath()
	a.report(err)
	return err
}

func terminalWidth(stream any) int {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		return 80
	}
	return width
}

// style returns the colours for a stream: none unless it is a terminal, nor
// where NO_COLOR is set (https://no-color.org).
func (a *app) style(stream io.Writer) table.Style {
	return table.Style{On: a.width(stream) > 0 && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"}
}

// screen returns what shows progress on a stream.
func (a *app) screen(stream io.Writer) *table.Screen {
	width := a.width(stream)
	if a.getenv("TERM") == "dumb" {
		width = 0
	}
	return table.NewScreen(stream, width, a.now)
}

// Errors with an exit code of their own; all others end with 1.
var (
	// errInterrupted: a person pressed Ctrl-C.
	errInterrupted = errors.New("interrupted")
	// errReported: everything has been said already.
	errReported = errors.New("failed")
	// errNotErased: a record is genuine, and says that its machine isn't erased.
	// That has been said already: exit code 3.
	errNotErased = fmt.Errorf("not erased: %w", errReported)
)

// usageError is a command line that can't be carried out: exit code 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errInterrupted):
		return 130
	case errors.As(err, &usage):
		return 2
	case errors.Is(err, errNotErased):
		return 3
	}
	return 1
}

// args makes a usage error of what a check of the arguments says.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
