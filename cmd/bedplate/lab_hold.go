package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/lab"
)

// holdLog is where the process that holds a lab writes, in the lab's folder.
const holdLog = "hold.log"

// labStartDeadline is how long a lab may take to come up.
const labStartDeadline = time.Minute

// newLabHoldCommand is the process behind `lab up`: it owns the namespaces and
// the machines, and takes orders on a socket until the lab goes down.
func newLabHoldCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "hold DIR",
		Hidden: true,
		Args:   args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, words []string) error {
			var spec lab.Spec
			if err := json.NewDecoder(a.stdin).Decode(&spec); err != nil {
				return fmt.Errorf("reading the lab's definition: %w", err)
			}
			return a.holdLab(cmd.Context(), words[0], spec)
		},
	}
}

// holdLab brings a lab up and serves it until ctx is done or it is taken down.
func (a *app) holdLab(ctx context.Context, dir string, spec lab.Spec) error {
	l, err := lab.New(lab.Config{Dir: dir, Spec: spec, Now: a.now, Log: slog.New(slog.NewTextHandler(a.stderr, nil))})
	if err != nil {
		return err
	}
	if err := l.Up(ctx); err != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), labStartDeadline)
		defer cancel()
		return errors.Join(err, l.Down(late))
	}
	return l.Serve(ctx)
}

// startLab starts a process that holds the lab and waits until it is up. An
// ordinary user's runs as root of a user namespace.
func (a *app) startLab(ctx context.Context, dir string, spec lab.Spec) error {
	// The definition is checked here, where the error can be seen best.
	if _, err := lab.New(lab.Config{Dir: dir, Spec: spec, Now: a.now}); err != nil {
		return err
	}
	remote := lab.Remote{Dir: dir}
	if s, err := remote.Status(ctx); err == nil && s.Up {
		return lab.ErrUp
	}
	attr := &syscall.SysProcAttr{}
	if err := lab.Privileges(); err != nil {
		var uerr error
		if attr, uerr = lab.Unprivileged(); uerr != nil {
			return uerr
		}
	}
	attr.Setsid = true
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the lab's folder: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, holdLog))
	if err != nil {
		return fmt.Errorf("making the lab's log: %w", err)
	}
	defer log.Close() //nolint:errcheck // the child has its own
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	definition, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("passing the lab's definition on: %w", err)
	}
	hold := exec.Command(self, "lab", "hold", dir)
	hold.Stdin, hold.Stdout, hold.Stderr, hold.SysProcAttr = strings.NewReader(string(definition)), log, log, attr
	if err := hold.Start(); err != nil {
		return fmt.Errorf("starting the lab: %w", err)
	}
	return waitForLab(ctx, remote, hold, log.Name())
}

func waitForLab(ctx context.Context, remote lab.Remote, hold *exec.Cmd, log string) error {
	ended := make(chan error, 1)
	go func() { ended <- hold.Wait() }() // outlived by the lab when all is well
	ctx, cancel := context.WithTimeout(ctx, labStartDeadline)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, err := remote.Status(ctx); err == nil && s.Up {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-ended:
			return fmt.Errorf("starting the lab: %w", holdError(log, err))
		case <-ctx.Done():
			return hint(fmt.Errorf("starting the lab: %w", ctx.Err()), "see "+log)
		}
	}
}

// holdError is what the holding process said last.
func holdError(log string, err error) error {
	f, oerr := os.Open(log)
	if oerr != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	b, oerr := io.ReadAll(io.LimitReader(f, 1<<16))
	said := strings.TrimSpace(string(b))
	if oerr != nil || said == "" {
		return err
	}
	all := strings.Split(said, "\n")
	return errors.New(strings.TrimPrefix(all[len(all)-1], "error: "))
}

func newLabExecCommand(a *app, f *labFlags) *cobra.Command {
	in := ""
	cmd := &cobra.Command{
		Use:   "exec -- PROGRAM [ARGUMENT]...",
		Short: "Run a program in a lab's network",
		Example: `  bedplate lab exec -- bedplate serve --interface br0
  bedplate lab exec -- ssh debian@10.77.0.50
  bedplate lab exec --in relay -- dhcrelay -4 10.77.0.1`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, words []string) error {
			remote, err := f.remote(a)
			if err != nil {
				return err
			}
			s, err := remote.Status(cmd.Context())
			if err != nil {
				return err
			}
			path, ok := s.Namespaces[in]
			if !s.Up {
				return lab.ErrDown
			}
			if !ok {
				return hint(fmt.Errorf("lab %s has no namespace %q", s.Name, in), "networks that are behind another have one, and peers")
			}
			return replaceSelf(s.PID, path, words)
		},
	}
	cmd.Flags().StringVar(&in, "in", "", "`name` of a network that is behind another, or of a peer (default: where the server runs)")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// replaceSelf turns this process into the program, in the lab's network.
func replaceSelf(holder int, path string, words []string) error {
	program, err := exec.LookPath(words[0])
	if err != nil {
		return fmt.Errorf("finding the program: %w", err)
	}
	runtime.LockOSThread() // and never unlocked: the program takes the thread's place
	err = lab.EnterPath(path)
	if errors.Is(err, syscall.EPERM) {
		return replaceByNsenter(holder, path, program, words[1:])
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("running %s: %w", program, syscall.Exec(program, words, os.Environ()))
}

// replaceByNsenter enters the lab's user namespace first, which a program with
// threads, as every Go program is, cannot do for itself.
func replaceByNsenter(holder int, path, program string, rest []string) error {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return hint(fmt.Errorf("entering the lab's user namespace: %w", err), "apt-get install util-linux")
	}
	args := []string{"nsenter", "--preserve-credentials", fmt.Sprintf("--user=/proc/%d/ns/user", holder), "--net=" + path, "--", program}
	return fmt.Errorf("running nsenter: %w", syscall.Exec(nsenter, append(args, rest...), os.Environ()))
}
