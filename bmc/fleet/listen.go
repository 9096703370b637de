package fleet

import (
	"context"
	"errors"
	"time"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const (
	// firstSilence is the wait before a stream that has ended is opened again,
	// doubled up to maxSilence.
	firstSilence = 15 * time.Second
	maxSilence   = 15 * time.Minute
	// calmTime is how long a stream must have lasted for the next wait to be short again.
	calmTime = 10 * time.Minute
	// hintPause is the least time between two polls that events ask for: a BMC
	// that tells much costs no more than one that is asked often.
	hintPause = 2 * time.Second
)

// startListening opens the stream of a BMC's events, unless it is open or was
// lost just now. A poll that has succeeded calls it, so that no BMC which isn't
// well is bothered with it.
func (f *Fleet) startListening(ctx context.Context, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[name]
	if m == nil || m.stream == "" || m.listening || f.cfg.Now().Before(m.listen) || ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	m.listening, m.hush = true, cancel
	f.streams.Go(func() {
		defer cancel()
		f.listen(ctx, name, m)
	})
}

// hushLocked ends the stream of events.
func (m *member) hushLocked() {
	if m.hush != nil {
		m.hush()
	}
}

// listen follows one stream to its end. An event says that something has
// changed; what, the poll that it asks for finds out.
func (f *Fleet) listen(ctx context.Context, name string, m *member) {
	start := f.cfg.Now()
	t, err := f.Target(ctx, f.newest(m.machineNow(f)))
	if err == nil {
		err = f.pool.Watch(ctx, t, func() { f.noteEvents(ctx, name, true) }, func(bmc.Event) { f.hint(name) })
	}
	f.mu.Lock()
	m.listening, m.hush = false, nil
	m.silence = min(max(2*m.silence, firstSilence), maxSilence)
	if f.cfg.Now().Sub(start) >= calmTime {
		m.silence = firstSilence
	}
	if errors.Is(err, bmc.ErrUnsupported) {
		m.silence = maxSilence
	}
	m.listen = f.cfg.Now().Add(m.silence)
	f.mu.Unlock()
	if ctx.Err() != nil {
		return // the server stops, or the machine is another's
	}
	f.cfg.Logger.Debug("a BMC's stream of events has ended", "machine", name, "err", err)
	f.noteEvents(ctx, name, false)
}

// machineNow returns the member's machine.
func (m *member) machineNow(f *Fleet) *pb.Machine {
	f.mu.Lock()
	defer f.mu.Unlock()
	return m.machine
}

// noteEvents puts on record whether the BMC is listened to.
func (f *Fleet) noteEvents(ctx context.Context, name string, on bool) {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	f.warn("recording that a BMC tells of events", name, f.Record(ctx, name, func(s *pb.BMCStatus) { s.Events = on }))
}

// hint has a BMC polled at once, health and event log included.
func (f *Fleet) hint(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[name]
	if m == nil {
		return
	}
	at := f.cfg.Now()
	if soonest := m.hinted.Add(hintPause); soonest.After(at) {
		at = soonest
	}
	if m.next.After(at) || m.polling {
		m.next, m.hinted = at, at
		m.polls = 0 // the next one reads health, too
		f.wakePoller()
	}
}
