// Package logs keeps the last lines that the agent said, and is the action
// logs.collect, which sends them and the kernel's own messages to the
// workflow's log.
package logs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/step"
)

// Ring is an io.Writer that keeps the last lines written to it, each at most
// step.MaxLine long. It may be used by any number of goroutines.
type Ring struct {
	mu    sync.Mutex
	lines []string
	next  int
	part  []byte
}

// NewRing returns a ring that holds n lines.
func NewRing(n int) *Ring { return &Ring{lines: make([]string, 0, n)} }

// Write takes everything.
func (r *Ring) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range b {
		switch {
		case c == '\n':
			r.addLocked(string(r.part))
			r.part = r.part[:0]
		case c != '\r' && len(r.part) < step.MaxLine:
			r.part = append(r.part, c)
		}
	}
	return len(b), nil
}

func (r *Ring) addLocked(line string) {
	if len(r.lines) < cap(r.lines) {
		r.lines = append(r.lines, line)
		return
	}
	if len(r.lines) == 0 {
		return
	}
	r.lines[r.next] = line
	r.next = (r.next + 1) % len(r.lines)
}

// Last returns at most n lines, the oldest first.
func (r *Ring) Last(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := append(append([]string(nil), r.lines[r.next:]...), r.lines[:r.next]...)
	return all[max(0, len(all)-n):]
}

// Collector is the action logs.collect.
type Collector struct {
	// Agent holds what the agent said.
	Agent *Ring
	// Kernel returns the kernel's messages; ReadKernel outside tests.
	Kernel func() ([]string, error)
}

const defaultLines = 1000

// Execute sends the lines. With: lines.
func (c Collector) Execute(_ context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	n := int64(defaultLines)
	if v, ok := req.With["lines"].(int64); ok && v > 0 {
		n = min(v, 1_000_000)
	}
	kernel, err := c.Kernel()
	if err != nil {
		return step.Result{}, err
	}
	kernel = kernel[max(0, len(kernel)-int(n)):]
	agent := c.Agent.Last(int(n))
	for _, l := range kernel {
		rep.Log(step.Agent, "kernel: "+l)
	}
	for _, l := range agent {
		rep.Log(step.Agent, l)
	}
	return step.Result{Outputs: map[string]any{"lines": int64(len(kernel) + len(agent))}}, nil
}

// maxKernelLog bounds what is read of /dev/kmsg.
const maxKernelLog = 16 << 20

// ReadKernel returns what /dev/kmsg has.
func ReadKernel() ([]string, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening kernel messages: %w", err)
	}
	defer unix.Close(fd)
	var lines []string
	buf := make([]byte, 8192) // one record a read
	for total := 0; total < maxKernelLog; {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN), n == 0 && err == nil:
			return lines, nil
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR): // overwritten while we read
			continue
		case err != nil:
			return nil, fmt.Errorf("reading kernel messages: %w", err)
		}
		total += n
		if l, ok := parseKernel(string(buf[:n])); ok {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// parseKernel reads "priority,sequence,microseconds,flags;text\n KEY=VALUE...".
func parseKernel(record string) (string, bool) {
	head, text, ok := strings.Cut(record, ";")
	f := strings.Split(head, ",")
	if !ok || len(f) < 3 {
		return "", false
	}
	us, err := strconv.ParseUint(f[2], 10, 64)
	if err != nil {
		return "", false
	}
	text, _, _ = strings.Cut(text, "\n")
	return fmt.Sprintf("[%5d.%06d] %s", us/1e6, us%1e6, text), true
}
