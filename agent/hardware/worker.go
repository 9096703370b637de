package hardware

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// WorkerName is what argv[0] of the process that tests processors and memory
// is. A program that is a Service's Program calls Worker when it has this name.
const WorkerName = "bedplate-test"

// Bounds of the talk with a worker.
const (
	maxNote     = 64 << 10
	maxStderr   = 4 << 10
	lowest      = 19   // of nice(2)
	killMeFirst = 1000 // of oom_score_adj
)

// job is what a worker is to do.
type job struct {
	Test     string
	CPUs     []int
	Seed     uint64
	Duration time.Duration
	// Bytes and Passes are for memory.
	Bytes  int64 `json:",omitempty"`
	Passes int64 `json:",omitempty"`
}

// note is what a worker says: one line of JSON each.
type note struct {
	Done    int64         `json:",omitempty"`
	Total   int64         `json:",omitempty"`
	Message string        `json:",omitempty"`
	CPU     *cpuResult    `json:",omitempty"`
	Memory  *memoryResult `json:",omitempty"`
	Error   string        `json:",omitempty"`
}

// Worker is the whole of a process that was started as WorkerName: it reads
// its job from stdin and writes what it finds to stdout.
func Worker(stdin io.Reader, stdout io.Writer) error {
	var j job
	if err := json.NewDecoder(io.LimitReader(stdin, maxNote)).Decode(&j); err != nil {
		return fmt.Errorf("reading what to test: %w", err)
	}
	// Of the whole group, which is this process: each of its threads.
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, lowest); err != nil {
		return fmt.Errorf("lowering priority: %w", err)
	}
	out := &notes{enc: json.NewEncoder(stdout)}
	var err error
	switch j.Test {
	case "cpu":
		err = testCPUs(j, out)
	case "memory":
		err = testMemory(j, out)
	default:
		err = fmt.Errorf("no test is called %q", j.Test)
	}
	if err != nil {
		out.say(note{Error: err.Error()})
	}
	return out.err
}

// notes writes notes of several goroutines.
type notes struct {
	mu  sync.Mutex
	enc *json.Encoder
	err error
}

func (n *notes) say(v note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.err = n.enc.Encode(v)
	}
}

// crash is a worker that ended by a signal that nobody here sent.
type crash struct{ signal syscall.Signal }

func (c *crash) Error() string {
	switch c.signal {
	case unix.SIGBUS:
		return "its process was ended by SIGBUS: it read memory that the hardware reports as lost"
	case unix.SIGKILL:
		return "its process was killed by the kernel: there was not enough memory"
	case unix.SIGSEGV, unix.SIGILL, unix.SIGFPE, unix.SIGTRAP:
		return fmt.Sprintf("its process crashed (%v): a processor or memory gave it wrong data", c.signal)
	}
	return fmt.Sprintf("its process was ended by %v", c.signal)
}

// work runs a job in a process of its own and hands on its notes. The process
// is gone when work returns; it is killed when ctx is done.
func (s *Service) work(ctx context.Context, j job, hear func(note)) error {
	task, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("writing what to test: %w", err)
	}
	// Pdeathsig is sent when the thread that started the process ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Program)
	cmd.Args = []string{WorkerName}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	said := &head{limit: maxStderr}
	cmd.Stderr = said
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting the test: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting the test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the test: %w", err)
	}
	s.first(cmd.Process.Pid)
	_, err = in.Write(task)
	err = errors.Join(err, in.Close())
	failed := listen(out, hear)
	waited := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case failed != nil:
		return failed
	case waited != nil:
		return explain(waited, said.b)
	}
	return err
}

// first has the kernel end that process before any other when memory runs out.
func (s *Service) first(pid int) {
	path := filepath.Join(s.Root, "proc", strconv.Itoa(pid), "oom_score_adj")
	if err := os.WriteFile(path, []byte(strconv.Itoa(killMeFirst)), 0); err != nil {
		s.Log.Warn("the test's process is not marked as the first to go", "err", err)
	}
}

// listen reads notes until the worker closes its end.
func listen(r io.Reader, hear func(note)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxNote)
	var failed error
	for lines.Scan() {
		var n note
		if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
			return fmt.Errorf("reading what the test found: %w", err)
		}
		if n.Error != "" {
			failed = errors.New(n.Error)
			continue
		}
		hear(n)
	}
	return failed
}

func explain(err error, stderr []byte) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			return &crash{st.Signal()}
		}
		// The Go runtime turns such a signal into a message and exit code 2.
		for _, sig := range []syscall.Signal{unix.SIGBUS, unix.SIGSEGV, unix.SIGILL, unix.SIGFPE} {
			if exit.ExitCode() == 2 && containsSignal(stderr, sig) {
				return &crash{sig}
			}
		}
	}
	return fmt.Errorf("the test's process ended: %w: %s", err, firstLine(stderr))
}

// head keeps the beginning of what is written to it.
type head struct {
	b     []byte
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), h.limit-len(h.b))]...)
	return len(p), nil
}

// cpus are the processors that this process may run on.
func cpus() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("asking which CPUs there are: %w", err)
	}
	var all []int
	for i := 0; len(all) < set.Count(); i++ {
		if set.IsSet(i) {
			all = append(all, i)
		}
	}
	return all, nil
}

// pin keeps the calling goroutine on one processor until the process ends.
func pin(cpu int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("moving to CPU %d: %w", cpu, err)
	}
	return nil
}

func containsSignal(stderr []byte, sig syscall.Signal) bool {
	return bytes.Contains(stderr, []byte(unix.SignalName(sig)))
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return string(line)
}
