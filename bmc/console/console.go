// Package console shares machines' serial consoles: one session with each BMC,
// any number of people who watch, those who may type, and a recording that never
// grows beyond its bound.
//
// A console is open while somebody watches or it is to be recorded. One that
// is lost is opened again, with growing pauses; that shows in what is watched
// as a notice, not as an end. What a viewer is too slow for is left out, and
// said: nobody slows the recording or the others down.
//
// What this package does not do: it doesn't interpret what consoles say, except
// that Tail takes the control characters out for people to read. All methods
// may be called by any number of goroutines.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The bounds of a Hub.
const (
	// MaxViewers bounds those of one console, MaxAllViewers those of all.
	MaxViewers    = 16
	MaxAllViewers = 256
	// MaxHistory is how much of a recording a viewer may begin with.
	MaxHistory = 1 << 20
	// maxInput bounds what is typed at once.
	maxInput = 64 << 10
	// inputTimeout is how long a BMC may take to accept what was typed.
	inputTimeout = 10 * time.Second
)

// Config is what a Hub needs.
type Config struct {
	// Open opens a machine's console. errors.Is(err, Unsupported) means that it has none.
	Open func(ctx context.Context, machine string) (io.ReadWriteCloser, error)
	// Unsupported is the error of a BMC that has no console at all.
	Unsupported error
	// Dir is where recordings are kept.
	Dir string
	// Keep is how many bytes are kept of each console. 0 or less: consoles are
	// recorded only while somebody watches, and 1 MiB of each is kept.
	Keep     int64
	Now      func() time.Time
	Logger   *slog.Logger
	Registry prometheus.Registerer
}

// defaultKeep is what is kept of a console that is not to be recorded always.
const defaultKeep = 1 << 20

// ErrTooMany means that a console, or the server, has as many viewers as it may have.
var ErrTooMany = errors.New("too many viewers: close one of the others")

// Hub is the service.
type Hub struct {
	cfg    Config
	always bool
	lines  prometheus.Gauge
	bytes  prometheus.Counter

	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // it is Run's: what viewers start ends with it
	all     map[string]*line
	viewers int
	running sync.WaitGroup
	ended   bool
}

// New returns a Hub. Its folder is made.
func New(cfg Config) (*Hub, error) {
	h := &Hub{cfg: cfg, always: cfg.Keep > 0, all: map[string]*line{}}
	if cfg.Keep <= 0 {
		h.cfg.Keep = defaultKeep
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder for recordings of consoles: %w", err)
	}
	h.lines = prometheus.NewGauge(prometheus.GaugeOpts{Name: "bedplate_bmc_consoles_open", Help: "Serial consoles that are open, watched or recorded."})
	h.bytes = prometheus.NewCounter(prometheus.CounterOpts{Name: "bedplate_bmc_console_bytes_total", Help: "Bytes that serial consoles have said."})
	if cfg.Registry == nil {
		return h, nil
	}
	for _, c := range []prometheus.Collector{h.lines, h.bytes} {
		if err := cfg.Registry.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics of consoles: %w", err)
		}
	}
	return h, nil
}

// Run keeps consoles open until ctx is done, and returns when all are closed.
func (h *Hub) Run(ctx context.Context) error {
	h.mu.Lock()
	h.ctx = ctx
	for _, l := range h.all {
		h.startLocked(l)
	}
	h.mu.Unlock()
	<-ctx.Done()
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	h.running.Wait()
	return nil
}

// Set says that the machine has a BMC, or that something about it has changed:
// a console that could not be opened is tried again at once.
func (h *Hub) Set(machine string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.lineLocked(machine)
	if h.always {
		l.wanted = true
		h.startLocked(l)
	}
	l.poke()
}

// Forget ends a machine's console. Its recording is deleted.
func (h *Hub) Forget(machine string) error {
	h.mu.Lock()
	l := h.all[machine]
	delete(h.all, machine)
	if l != nil && l.stop != nil {
		l.stop()
	}
	h.mu.Unlock()
	if l == nil {
		return nil
	}
	return l.tape.remove()
}

func (h *Hub) lineLocked(machine string) *line {
	l := h.all[machine]
	if l == nil {
		l = &line{
			hub: h, machine: machine, tape: newTape(filepath.Join(h.cfg.Dir, machine), h.cfg.Keep),
			viewers: map[*Viewer]bool{}, again: make(chan struct{}, 1),
		}
		h.all[machine] = l
	}
	return l
}

// startLocked starts the goroutine that keeps a line open, if it isn't running.
func (h *Hub) startLocked(l *line) {
	if h.ctx == nil || h.ended || l.started {
		return
	}
	l.started = true
	var ctx context.Context
	ctx, l.stop = context.WithCancel(h.ctx)
	h.running.Go(func() { l.run(ctx) })
}

// Attach lets somebody watch a machine's console, beginning with the last bytes
// of its recording. Close the viewer.
func (h *Hub) Attach(machine string, history int) (*Viewer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || h.ctx == nil {
		return nil, errors.New("the server is stopping")
	}
	l := h.lineLocked(machine)
	l.mu.Lock()
	if len(l.viewers) >= MaxViewers || h.viewers >= MaxAllViewers {
		l.mu.Unlock()
		return nil, fmt.Errorf("console of machine/%s: %w", machine, ErrTooMany)
	}
	v := newViewer(l)
	if history > 0 {
		past, _ := l.tape.last(min(history, MaxHistory)) // a recording that can't be read is no reason not to watch
		v.pending = append(v.pending, Chunk{Data: past})
	}
	if l.notice != "" {
		v.pending = append(v.pending, Chunk{Notice: l.notice})
	}
	l.viewers[v] = true
	l.mu.Unlock()
	h.viewers++
	h.startLocked(l)
	l.poke()
	return v, nil
}

func (h *Hub) left() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.viewers--
}

// State is whether a console is open, and what is recorded of it.
type State struct {
	Open bool
	// Reason is why it isn't open.
	Reason string
	// Last is when it said something last; zero if not since the server started.
	Last time.Time
}

// Log returns the last bytes of a machine's recording, at most MaxHistory, and
// the state of its console.
func (h *Hub) Log(machine string, bytes int) ([]byte, State, error) {
	h.mu.Lock()
	l := h.all[machine]
	h.mu.Unlock()
	if l == nil {
		return nil, State{Reason: "nobody has watched it yet"}, nil
	}
	data, err := l.tape.last(min(bytes, MaxHistory))
	return data, l.state(), err
}

// Tail returns the last lines that the console has said since then, as text
// without control characters; none where nothing is recorded.
func (h *Hub) Tail(machine string, lines int, since time.Time) []string {
	data, state, err := h.Log(machine, tailBytes)
	if err != nil || state.Last.IsZero() || state.Last.Before(since) {
		return nil
	}
	all := Lines(data)
	return all[max(0, len(all)-lines):]
}

// tailBytes is where Tail looks for lines.
const tailBytes = 8 << 10
