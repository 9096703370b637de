package agent

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const (
	// logLimit bounds the log lines that wait to be sent.
	logLimit = 8 << 20
	// flightLimit bounds what is sent and not yet acknowledged; more waits.
	flightLimit = 1 << 20
	// batchBytes and batchEvents bound one message.
	batchBytes  = 256 << 10
	batchEvents = 1000
	// eventOverhead is what an event costs beside its text, roughly.
	eventOverhead = 96
)

// outbox holds the events of one run of one workflow until they are
// acknowledged. A number is given to an event only when it is first sent, so
// that dropping one that waits leaves no gap. It may be used by any number of
// goroutines.
type outbox struct {
	now func() time.Time

	// urgent has one element when something should be sent at once, lines when
	// there are log lines that may wait a little.
	urgent, lines chan struct{}

	mu       sync.Mutex
	uid      string
	run      uint32
	next     uint64 // number of the next event to be sent for the first time
	sent     []*pb.StepEvent
	cursor   int // sent[:cursor] went over the present stream
	flight   int // bytes in sent
	queue    []*pb.StepEvent
	logBytes int // of log lines in queue
	dropped  *pb.StepEvent
	drops    int
	acks     map[*pb.StepEvent]chan struct{}
	idle     chan struct{} // closed when nothing waits; nil when nobody asks
	progress map[string]*pb.Progress
}

func newOutbox(now func() time.Time) *outbox {
	o := &outbox{now: now, urgent: make(chan struct{}, 1), lines: make(chan struct{}, 1)}
	o.reset("", 0)
	return o
}

// reset forgets everything and begins at 1 for another run.
func (o *outbox) reset(uid string, run uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.uid, o.run, o.next, o.cursor, o.flight, o.logBytes = uid, run, 1, 0, 0, 0
	o.sent, o.queue, o.dropped, o.drops, o.idle = nil, nil, nil, 0, nil
	o.acks, o.progress = map[*pb.StepEvent]chan struct{}{}, map[string]*pb.Progress{}
}

// current returns which run the events are of.
func (o *outbox) current() (string, uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.uid, o.run
}

// change adds a state change and returns a channel that is closed when the
// server has it on record.
func (o *outbox) change(c *pb.StepChange) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	ev := &pb.StepEvent{Time: timestamppb.New(o.now()), Event: &pb.StepEvent_Change{Change: c}}
	o.queue = append(o.queue, ev)
	acked := make(chan struct{})
	o.acks[ev] = acked
	signal(o.urgent)
	return acked
}

// log adds one line.
func (o *outbox) log(l *pb.LogLine) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := timestamppb.New(o.now())
	l.Time = now
	o.queue = append(o.queue, &pb.StepEvent{Time: now, Event: &pb.StepEvent_Log{Log: l}})
	o.logBytes += len(l.GetText()) + eventOverhead
	if o.logBytes > logLimit {
		o.dropLocked()
	}
	signal(o.lines)
}

// dropLocked drops the oldest lines that wait until a quarter of the room is
// free, and leaves one line in their place that says how many.
func (o *outbox) dropLocked() {
	kept := o.queue[:0]
	for i, ev := range o.queue {
		l := ev.GetLog()
		if l == nil || ev == o.dropped {
			kept = append(kept, ev)
			continue
		}
		if o.logBytes <= logLimit*3/4 {
			kept = append(kept, o.queue[i:]...)
			break
		}
		o.logBytes -= len(l.GetText()) + eventOverhead
		o.drops++
		if o.dropped == nil {
			o.dropped = &pb.StepEvent{Time: ev.GetTime(), Event: &pb.StepEvent_Log{Log: &pb.LogLine{Step: l.GetStep(), Attempt: l.GetAttempt(), Time: l.GetTime(), Stream: step.Agent}}}
			kept = append(kept, o.dropped)
		}
	}
	clear(o.queue[len(kept):])
	o.queue = kept
	if o.dropped != nil {
		o.dropped.GetLog().Text = fmt.Sprintf("[%d lines dropped: they came faster than the server could be reached]", o.drops)
	}
}

// restart begins a stream: what is not acknowledged will be sent again.
func (o *outbox) restart() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cursor = 0
	signal(o.urgent)
}

// batch returns what to send next, or nil. more says that there is more to
// send at once.
func (o *outbox) batch() (b *pb.StepEvents, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b = &pb.StepEvents{WorkflowUid: o.uid, Run: o.run}
	size := 0
	for len(b.Events) < batchEvents && size < batchBytes {
		if o.cursor == len(o.sent) && !o.dispatchLocked() {
			break
		}
		ev := o.sent[o.cursor]
		o.cursor++
		size += eventSize(ev)
		b.Events = append(b.Events, ev)
	}
	if len(b.Events) == 0 {
		return nil, false
	}
	return b, o.cursor < len(o.sent) || (len(o.queue) > 0 && o.flight < flightLimit)
}

// dispatchLocked numbers the first event that waits and reports whether there
// was one and room for it.
func (o *outbox) dispatchLocked() bool {
	if len(o.queue) == 0 || o.flight >= flightLimit {
		return false
	}
	ev := o.queue[0]
	o.queue[0] = nil
	o.queue = o.queue[1:]
	ev.Sequence = o.next
	o.next++
	switch l := ev.GetLog(); {
	case ev == o.dropped:
		o.dropped, o.drops = nil, 0
	case l != nil:
		o.logBytes -= len(l.GetText()) + eventOverhead
	}
	o.sent = append(o.sent, ev)
	o.flight += eventSize(ev)
	return true
}

func eventSize(ev *pb.StepEvent) int {
	if l := ev.GetLog(); l != nil {
		return len(l.GetText()) + eventOverhead
	}
	return proto.Size(ev) + eventOverhead
}

// ack takes up an acknowledgement.
func (o *outbox) ack(a *pb.Ack) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if a.GetWorkflowUid() != o.uid || a.GetRun() != o.run {
		return
	}
	n := 0
	for n < len(o.sent) && o.sent[n].GetSequence() <= a.GetSequence() {
		ev := o.sent[n]
		o.flight -= eventSize(ev)
		if c := o.acks[ev]; c != nil {
			close(c)
			delete(o.acks, ev)
		}
		o.sent[n] = nil
		n++
	}
	o.sent = o.sent[n:]
	o.cursor = max(o.cursor-n, 0)
	if len(o.queue) > 0 {
		signal(o.urgent)
	} else if len(o.sent) == 0 && o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
}

// flushed returns a channel that is closed once everything is acknowledged.
func (o *outbox) flushed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 && len(o.sent) == 0 {
		c := make(chan struct{})
		close(c)
		return c
	}
	if o.idle == nil {
		o.idle = make(chan struct{})
	}
	signal(o.urgent)
	return o.idle
}

// setProgress keeps the newest progress of a step; nil forgets it.
func (o *outbox) setProgress(id string, p *pb.Progress) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p == nil {
		delete(o.progress, id)
		return
	}
	o.progress[id] = p
}

// takeProgress returns what is new since the last call.
func (o *outbox) takeProgress() (workflowUID string, all map[string]*pb.Progress) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.progress) == 0 {
		return o.uid, nil
	}
	all, o.progress = o.progress, map[string]*pb.Progress{}
	return o.uid, all
}
