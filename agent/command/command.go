// Package command is the action that runs a program of the agent's system
// (command), and the one that does nothing (noop).
//
// A program runs in a process group of its own, which is killed as a whole
// when the step is cancelled or its time is over. What it prints goes to the
// log as it comes.
package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bedplate/bedplate/agent/step"
)

// killDelay is how long a program has after the first, polite signal.
const killDelay = 5 * time.Second

// Path is where programs are looked for, and PATH in their environment.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Execute is the action command. With: command (list of strings), env (map).
func Execute(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	argv, err := Strings(req.With["command"])
	if err != nil || len(argv) == 0 {
		return step.Result{}, errors.New("command is not a list of strings with a program at its head")
	}
	program, err := Find(argv[0])
	if err != nil {
		return step.Result{}, err
	}
	cmd := &exec.Cmd{Path: program, Args: argv, Env: Environment(req), Dir: "/"}
	return Run(ctx, cmd, rep)
}

// Noop is the action noop.
func Noop(context.Context, step.Request, step.Reporter) (step.Result, error) {
	return step.Result{}, nil
}

// Run runs cmd in a process group of its own and reports what it prints. The
// result has exit_code and stdout; an exit code other than 0 is an error.
func Run(ctx context.Context, cmd *exec.Cmd, rep step.Reporter) (step.Result, error) {
	return RunAs(ctx, cmd.Args[0], cmd, rep)
}

// RunAs is Run for a cmd that only leads to the program that counts: errors
// speak of name.
func RunAs(ctx context.Context, name string, cmd *exec.Cmd, rep step.Reporter) (step.Result, error) {
	stdout, stderr := step.NewLineWriter(rep, step.Stdout, true), step.NewLineWriter(rep, step.Stderr, false)
	defer stderr.Close()
	defer stdout.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	// A background process that holds the pipes open must not keep the step.
	cmd.WaitDelay = killDelay
	if err := cmd.Start(); err != nil {
		return step.Result{}, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	stop := make(chan struct{})
	killed := make(chan struct{})
	go func() { // ends with stop
		defer close(killed)
		kill(ctx, cmd.Process.Pid, stop)
	}()
	err := cmd.Wait()
	close(stop)
	<-killed
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what the program left behind
	return result(ctx, name, cmd.ProcessState, stdout.Tail(), err)
}

// kill ends the process group once ctx is done.
func kill(ctx context.Context, pid int, stop <-chan struct{}) {
	select {
	case <-stop:
		return
	case <-ctx.Done():
	}
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	timer := time.NewTimer(killDelay)
	defer timer.Stop()
	select {
	case <-stop:
	case <-timer.C:
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
}

func result(ctx context.Context, name string, state *os.ProcessState, tail string, err error) (step.Result, error) {
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the program itself ended well
	}
	code := int32(state.ExitCode())
	status, _ := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		code = 128 + int32(status.Signal())
	}
	r := step.Result{ExitCode: &code, Outputs: map[string]any{"exit_code": int64(code), "stdout": tail}}
	switch {
	case ctx.Err() != nil:
		return r, context.Cause(ctx)
	case status.Signaled():
		return r, fmt.Errorf("%s was killed by signal %d (%s)", name, status.Signal(), status.Signal())
	case code != 0:
		return r, fmt.Errorf("%s: exit code %d", name, code)
	case err != nil:
		return r, fmt.Errorf("waiting for %s: %w", name, err)
	}
	return r, nil
}

// Find returns the program's path, looked for in Path if it has no slash.
func Find(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(Path, ":") {
		p := dir + "/" + name
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("there is no program %s in the agent's system; run it in a container step instead", name)
}

// Environment is PATH, HOME and what the step gives in env and with.env.
func Environment(req step.Request) []string {
	env := map[string]string{"PATH": Path, "HOME": "/root", "TERM": "linux"}
	maps.Copy(env, req.Env)
	if m, ok := req.With["env"].(map[string]any); ok {
		for k, v := range m {
			env[k] = fmt.Sprint(v)
		}
	}
	list := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}

// Strings reads a list of strings out of a step's inputs.
func Strings(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case []string:
		return v, nil
	case []any:
		list := make([]string, len(v))
		for i, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("element %d is not a string", i)
			}
			list[i] = s
		}
		return list, nil
	default:
		return nil, errors.New("not a list")
	}
}
