package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/bedplate/bedplate/agent/step"
)

// Command is one run of a program.
type Command struct {
	Args []string
	// Stdin is what it reads; keys go this way and never onto a command line.
	Stdin []byte
	// Files are further inputs, from /dev/fd/3 on.
	Files [][]byte
	// Line hears of what it prints, one call at a time.
	Line func(stream, text string)
}

// environment keeps programs from waiting for udev, which isn't there.
var environment = []string{
	"PATH=/sbin:/usr/sbin:/bin:/usr/bin", "LC_ALL=C", "DM_DISABLE_UDEV=1", "MDADM_NO_UDEV=1", "LVM_SUPPRESS_FD_WARNINGS=1",
}

var folders = []string{"/sbin", "/usr/sbin", "/bin", "/usr/bin"}

// run executes a program. It is killed when ctx is done.
func run(ctx context.Context, c Command) error {
	path, err := look(c.Args[0])
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, c.Args[1:]...)
	cmd.Env, cmd.WaitDelay = environment, 5*time.Second
	cmd.Stdin = bytes.NewReader(c.Stdin)
	var pipes sync.WaitGroup
	defer pipes.Wait()
	for _, content := range c.Files {
		r, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("making a pipe for %s: %w", c.Args[0], err)
		}
		defer r.Close() // Ends the writer below, should the program not have read all.
		cmd.ExtraFiles = append(cmd.ExtraFiles, r)
		pipes.Go(func() {
			_, _ = w.Write(content) // A program that doesn't read it says so itself.
			_ = w.Close()
		})
	}
	var mu sync.Mutex
	line := func(stream, text string) {
		mu.Lock()
		defer mu.Unlock()
		if c.Line != nil {
			c.Line(stream, text)
		}
	}
	out, errs := &lineWriter{stream: step.Stdout, line: line}, &lineWriter{stream: step.Stderr, line: line}
	cmd.Stdout, cmd.Stderr = out, errs
	err = cmd.Run()
	out.end()
	errs.end()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%s: %w", strings.Join(c.Args[:min(2, len(c.Args))], " "), err)
	}
	return nil
}

func look(name string) (string, error) {
	for _, dir := range folders {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s isn't in the agent's system: build it with this program", name)
}

// maxLine bounds one line of output; the rest of a longer one is dropped.
const maxLine = 64 << 10

// lineWriter calls line for each line. exec writes to it from one goroutine.
type lineWriter struct {
	stream string
	line   func(stream, text string)
	part   []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	for _, c := range b {
		switch {
		case c == '\n' || c == '\r':
			w.end()
		case len(w.part) < maxLine:
			w.part = append(w.part, c)
		}
	}
	return len(b), nil
}

func (w *lineWriter) end() {
	if len(w.part) > 0 {
		w.line(w.stream, strings.ToValidUTF8(string(w.part), "\uFFFD"))
	}
	w.part = w.part[:0]
}

// lastLines is how many lines of output go with a failure.
const lastLines = 20

// tool runs a program, hands its output to the log, and puts its last line
// into the error.
func (r *runner) tool(ctx context.Context, stdin []byte, args ...string) error {
	return r.program(ctx, Command{Args: args, Stdin: stdin})
}

func (r *runner) program(ctx context.Context, c Command) error {
	var last []string
	c.Line = func(stream, text string) {
		r.rep.Log(stream, text)
		if last = append(last, text); len(last) > lastLines {
			last = last[1:]
		}
	}
	err := r.Run(ctx, c)
	if err != nil && len(last) > 0 {
		r.last = last
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(last[len(last)-1]))
	}
	return err
}

// maxOutput bounds what a program may answer.
const maxOutput = 4 << 20

var errOutput = errors.New("it printed too much")

// ask runs a program and returns what it prints on stdout. What it prints on
// stderr is in the error.
func (r *runner) ask(ctx context.Context, args ...string) (string, error) {
	var out strings.Builder
	var said []string
	err := r.Run(ctx, Command{Args: args, Line: func(stream, text string) {
		if stream == step.Stdout && out.Len() <= maxOutput {
			_, _ = io.WriteString(&out, text+"\n") // Never fails.
		}
		if stream == step.Stderr {
			said = append(said[:min(len(said), lastLines)], text)
		}
	}})
	if out.Len() > maxOutput {
		return "", fmt.Errorf("%s: %w", args[0], errOutput)
	}
	if err != nil && len(said) > 0 {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(said[len(said)-1]))
	}
	return out.String(), err
}
