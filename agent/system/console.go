package system

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Console writes to every console that the kernel has (a monitor and a serial
// line, say), for whoever looks at either. A serial line that stands still
// (flow control without a peer) loses text and never holds up the agent.
//
// It is an io.Writer whose Write always takes everything. The zero value is
// not usable; see NewConsole.
type Console struct {
	mu     sync.Mutex
	outs   []chan []byte
	wg     sync.WaitGroup
	closed bool

	pending atomic.Int64 // writes handed over and not done
}

// consoleBacklog is how many writes a console may be behind before text for
// it is dropped.
const consoleBacklog = 256

// NewConsole writes to each of outs in a goroutine of its own until Close.
func NewConsole(outs ...io.Writer) *Console {
	c := &Console{}
	for _, w := range outs {
		ch := make(chan []byte, consoleBacklog)
		c.outs = append(c.outs, ch)
		c.wg.Go(func() {
			for b := range ch {
				_, _ = w.Write(b) // there is nobody to tell
				c.pending.Add(-1)
			}
		})
	}
	return c
}

// Write hands b to every console and returns at once.
func (c *Console) Write(b []byte) (int, error) {
	line := append([]byte(nil), b...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return len(b), nil
	}
	for _, ch := range c.outs {
		c.pending.Add(1)
		select {
		case ch <- line:
		default:
			c.pending.Add(-1)
		}
	}
	return len(b), nil
}

// Flush gives the consoles at most wait to write what they were given.
func (c *Console) Flush(wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if c.pending.Load() <= 0 {
			return
		}
		select {
		case <-timer.C:
			return
		case <-tick.C:
		}
	}
}

// Close lets the consoles finish for at most wait. Later writes go nowhere.
func (c *Console) Close(wait time.Duration) {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		for _, ch := range c.outs {
			close(ch)
		}
	}
	c.mu.Unlock()
	done := make(chan struct{})
	go func() { c.wg.Wait(); close(done) }() // ends with the last write; a console that never takes it dies with the process
	select {
	case <-done:
	case <-time.After(wait):
	}
}

// OpenConsoles opens the consoles named in active (/sys/class/tty/console/active)
// below dev, or dev/console if none of them can be.
func OpenConsoles(active, dev string) ([]io.Writer, error) {
	var outs []io.Writer
	for _, path := range Consoles(active, dev) {
		f, err := os.OpenFile(path, os.O_WRONLY|noControllingTTY, 0)
		if err == nil {
			outs = append(outs, f)
		}
	}
	if len(outs) > 0 {
		return outs, nil
	}
	f, err := os.OpenFile(filepath.Join(dev, "console"), os.O_WRONLY|noControllingTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening console: %w", err)
	}
	return []io.Writer{f}, nil
}

// Consoles returns the paths of the consoles named in active, below dev.
func Consoles(active, dev string) []string {
	b, _ := os.ReadFile(active) // absent without sysfs: /dev/console will do
	var paths []string
	for _, name := range strings.Fields(string(b)) {
		if name == "tty0" {
			name = "tty1" // tty0 is whichever is in front; the same text must not come twice
		}
		paths = append(paths, filepath.Join(dev, name))
	}
	return paths
}

// AttachConsole makes the file (/dev/console) standard input, output and error,
// where Go prints why a program panicked.
func AttachConsole(file string) error {
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("opening console: %w", err)
	}
	for std := range 3 {
		if err := unix.Dup3(fd, std, 0); err != nil && fd != std {
			return fmt.Errorf("attaching console: %w", err)
		}
	}
	if fd > 2 {
		return unix.Close(fd)
	}
	return nil
}

// Printer says things to people: one line each, with the seconds since the
// kernel started.
type Printer struct {
	mu     sync.Mutex
	w      io.Writer
	uptime func() time.Duration
}

// NewPrinter writes to w; uptime is Uptime outside tests.
func NewPrinter(w io.Writer, uptime func() time.Duration) *Printer {
	return &Printer{w: w, uptime: uptime}
}

// Say writes one line.
func (p *Printer) Say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(p.w, "[%9.3f] bedplate: %s\n", p.uptime().Seconds(), line)
	}
}
