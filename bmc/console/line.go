package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// The pauses between tries to open a console.
const (
	firstPause = 2 * time.Second
	mostPause  = 2 * time.Minute
	// neverPause is for a BMC that has no console at all: it may get one by an update.
	neverPause = time.Hour
	// openTimeout bounds one try.
	openTimeout = time.Minute
	// lingerTime is how long a console that nobody watches any more stays open.
	lingerTime = 30 * time.Second
)

// line is one machine's console.
type line struct {
	hub     *Hub
	machine string
	tape    *tape
	// wanted, started and stop are guarded by hub.mu. stop ends the goroutine.
	wanted, started bool
	stop            context.CancelFunc
	// again wakes the line up: somebody watches, or something has changed.
	again chan struct{}

	mu       sync.Mutex
	viewers  map[*Viewer]bool
	upstream io.ReadWriteCloser // nil while it isn't open
	notice   string             // what whoever comes is told first
	last     time.Time
}

func (l *line) poke() {
	select {
	case l.again <- struct{}{}:
	default:
	}
}

// run keeps the console open while it is wanted.
func (l *line) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, l.hangUp)
	defer stop()
	defer l.dropViewers()
	defer l.tape.close()
	pause := firstPause
	for ctx.Err() == nil {
		if !l.isWanted() {
			l.wait(ctx, time.Hour)
			continue
		}
		select { // whoever came until now is served by this try
		case <-l.again:
		default:
		}
		opened := l.hub.cfg.Now()
		err := l.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if l.hub.cfg.Now().Sub(opened) > mostPause {
			pause = firstPause // it was well for a while
		}
		wait := pause
		if errors.Is(err, l.hub.cfg.Unsupported) {
			wait = neverPause
		}
		l.tell(fmt.Sprintf("console of %s is not open: %v; it is tried again in %s", l.machine, err, wait))
		l.wait(ctx, wait)
		pause = min(2*pause, mostPause)
	}
}

// wait waits for d, or until somebody comes.
func (l *line) wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.again:
	case <-ctx.Done():
	}
}

// isWanted reports whether the console is to be open.
func (l *line) isWanted() bool {
	l.hub.mu.Lock()
	wanted := l.wanted
	l.hub.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	return wanted || len(l.viewers) > 0
}

// errUnwatched ends the session of a console that nobody watches any more.
var errUnwatched = errors.New("nobody watches it")

// session opens the console and passes on what it says until it is lost.
func (l *line) session(ctx context.Context) error {
	open, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	c, err := l.hub.cfg.Open(open, l.machine)
	if err != nil {
		return err
	}
	l.hub.lines.Inc()
	defer l.hub.lines.Dec()
	l.connected(c)
	defer l.hangUp()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var idle idleWatch
	idle.start(l, c)
	defer idle.stop()
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			l.heard(buf[:n])
		}
		if err == nil {
			continue
		}
		if idle.fired() {
			return errUnwatched
		}
		if errors.Is(err, io.EOF) {
			return errors.New("the BMC has ended it: another program has opened it, or the BMC was restarted")
		}
		return err
	}
}

// connected makes c the line's console.
func (l *line) connected(c io.ReadWriteCloser) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.upstream, l.notice = c, ""
	for v := range l.viewers {
		v.give(Chunk{Notice: "console of " + l.machine + " is open"})
	}
}

// hangUp closes the console, which ends its session.
func (l *line) hangUp() {
	l.mu.Lock()
	c := l.upstream
	l.upstream = nil
	l.mu.Unlock()
	if c != nil {
		_ = c.Close() // it is over, whatever the BMC says
	}
}

// heard records what the console said, and passes it on.
func (l *line) heard(data []byte) {
	now := l.hub.cfg.Now()
	l.hub.bytes.Add(float64(len(data)))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = now
	if err := l.tape.write(data); err != nil && l.tape.complain() {
		l.hub.cfg.Logger.Warn("recording a console", "machine", l.machine, "err", err)
	}
	shared := append([]byte(nil), data...)
	for v := range l.viewers {
		v.give(Chunk{Data: shared})
	}
}

// tell gives every viewer a notice, and whoever comes later.
func (l *line) tell(notice string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notice = notice
	for v := range l.viewers {
		v.give(Chunk{Notice: notice})
	}
}

// send types something.
func (l *line) send(data []byte) error {
	l.mu.Lock()
	c, notice := l.upstream, l.notice
	l.mu.Unlock()
	if c == nil {
		if notice == "" {
			notice = "it is being opened"
		}
		return errors.New(notice)
	}
	// A BMC that doesn't take it is hung up on: Write has no deadline of its own.
	timer := time.AfterFunc(inputTimeout, func() { _ = c.Close() })
	defer timer.Stop()
	_, err := c.Write(data)
	return err
}

func (l *line) state() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return State{Open: l.upstream != nil, Reason: l.notice, Last: l.last}
}

func (l *line) leave(v *Viewer) {
	l.mu.Lock()
	delete(l.viewers, v)
	l.mu.Unlock()
	l.poke()
}

// dropViewers ends every viewer: the server stops, or the machine is gone.
func (l *line) dropViewers() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for v := range l.viewers {
		v.end()
	}
}

// idleWatch closes a console that nobody has watched for a while.
type idleWatch struct {
	timer *time.Timer
	mu    sync.Mutex
	done  bool
	shut  bool
}

func (w *idleWatch) start(l *line, c io.Closer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(lingerTime, func() {
		wanted := l.isWanted()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.shut {
			return
		}
		if wanted {
			w.timer.Reset(lingerTime)
			return
		}
		w.done = true
		_ = c.Close() // ends the Read of the session
	})
}

func (w *idleWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shut = true
	w.timer.Stop()
}

func (w *idleWatch) fired() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done
}
