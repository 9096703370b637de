// Package timeline keeps what was seen of every machine: the newest sighting
// by each service, and the phases that a boot goes through, from power-on to
// a running operating system, with the time that each took.
//
// Sightings arrive from packet loops, so Observe only takes a short lock;
// records are written to the store in the background. They are for people to
// read: a crash may lose the last second of them, never a decision.
package timeline

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sort"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
)

const (
	prefix        = "/timelines/"
	flushInterval = time.Second
	// maxPhases bounds one machine's record; the oldest go first.
	maxPhases = 64
	// maxUnknown bounds the records of machines that nobody has described.
	maxUnknown = 1024
	// followBuffer is how far a follower may lag before it misses sightings.
	followBuffer = 256
)

// Resolver says which machine a sighting is of.
type Resolver interface {
	ByMAC(machine.MAC) (machine.Machine, bool)
	ByAddress(netip.Addr) (machine.Machine, bool)
}

// Config is what a Recorder needs.
type Config struct {
	Store    store.Store
	Machines Resolver
	Now      func() time.Time
	Logger   *slog.Logger
}

// Recorder keeps the timelines of all machines.
type Recorder struct {
	cfg Config

	mu        sync.Mutex
	tracks    map[string]*track
	unknown   []string // keys of tracks of unknown machines, oldest first
	followers map[machine.Name]map[*follower]bool
}

type follower struct{ items chan Item }

// Item is one thing that a follower is told: a sighting, or a phase that
// began or ended.
type Item struct {
	Sighting *pb.Sighting
	Phase    *pb.Phase
}

// New returns a Recorder with what the store has.
func New(ctx context.Context, cfg Config) (*Recorder, error) {
	r := &Recorder{cfg: cfg, tracks: map[string]*track{}, followers: map[machine.Name]map[*follower]bool{}}
	page, err := cfg.Store.List(ctx, prefix, "", 0)
	if err != nil {
		return nil, fmt.Errorf("reading timelines: %w", err)
	}
	for _, kv := range page.KVs {
		var saved pb.GetMachineTimelineResponse
		if err := proto.Unmarshal(kv.Value, &saved); err != nil {
			cfg.Logger.Warn("passing over an unreadable timeline", "machine", kv.Key[len(prefix):], "err", err)
			continue
		}
		r.tracks[kv.Key[len(prefix):]] = &track{phases: saved.Phases, last: map[machine.Source]machine.Sighting{}}
	}
	return r, nil
}

// Observe records one sighting. It never blocks on anything slow.
func (r *Recorder) Observe(s machine.Sighting) {
	if s.Time.IsZero() {
		s.Time = r.cfg.Now()
	}
	name := r.resolve(s)
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.trackLocked(name, s)
	if t == nil {
		return
	}
	changed := t.apply(s)
	if name == "" {
		return
	}
	r.tellLocked(name, Item{Sighting: sightingProto(s)})
	for _, p := range changed {
		r.tellLocked(name, Item{Phase: proto.Clone(p).(*pb.Phase)})
	}
}

func (r *Recorder) resolve(s machine.Sighting) machine.Name {
	if s.Machine != "" {
		return s.Machine
	}
	if !s.MAC.IsZero() {
		if m, ok := r.cfg.Machines.ByMAC(s.MAC); ok {
			return m.Name
		}
	}
	if s.Address.IsValid() {
		if m, ok := r.cfg.Machines.ByAddress(s.Address); ok {
			return m.Name
		}
	}
	return ""
}

// trackLocked returns the record that s belongs to. The record of an unknown
// machine is kept by its MAC address and handed on when the machine gets a name.
func (r *Recorder) trackLocked(name machine.Name, s machine.Sighting) *track {
	byMAC := "mac " + s.MAC.String()
	key := string(name)
	if name == "" {
		if s.MAC.IsZero() {
			return nil
		}
		key = byMAC
	}
	if t, ok := r.tracks[key]; ok {
		return t
	}
	if t, ok := r.tracks[byMAC]; ok && !s.MAC.IsZero() {
		delete(r.tracks, byMAC)
		r.tracks[key] = t
		return t
	}
	t := &track{last: map[machine.Source]machine.Sighting{}}
	r.tracks[key] = t
	if name == "" {
		r.boundUnknownLocked(key)
	}
	return t
}

func (r *Recorder) boundUnknownLocked(key string) {
	r.unknown = append(r.unknown, key)
	if len(r.unknown) > maxUnknown {
		delete(r.tracks, r.unknown[0])
		r.unknown = r.unknown[1:]
	}
}

func (r *Recorder) tellLocked(name machine.Name, item Item) {
	for f := range r.followers[name] {
		select {
		case f.items <- item:
		default: // a follower this slow reads the timeline afterwards
		}
	}
}

// Sightings returns the newest sighting by each source, newest first.
func (r *Recorder) Sightings(name machine.Name) []*pb.Sighting {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tracks[string(name)]
	if !ok {
		return nil
	}
	out := make([]*pb.Sighting, 0, len(t.last))
	for _, s := range t.last {
		out = append(out, sightingProto(s))
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Time.AsTime().After(out[j].Time.AsTime()) })
	return out
}

// Phases returns the machine's phases, oldest first.
func (r *Recorder) Phases(name machine.Name) []*pb.Phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tracks[string(name)]
	if !ok {
		return nil
	}
	out := make([]*pb.Phase, len(t.phases))
	for i, p := range t.phases {
		out[i] = proto.Clone(p).(*pb.Phase)
	}
	return out
}

// Follow sends every sighting and phase of the machine from now on, until ctx
// is done. A reader that doesn't keep up misses some.
func (r *Recorder) Follow(ctx context.Context, name machine.Name) <-chan Item {
	f := &follower{items: make(chan Item, followBuffer)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.followers[name] == nil {
		r.followers[name] = map[*follower]bool{}
	}
	r.followers[name][f] = true
	context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.followers[name], f)
		if len(r.followers[name]) == 0 {
			delete(r.followers, name)
		}
		close(f.items)
	})
	return f.items
}

// Rename hands on the record of a machine that has another name now. What was
// seen of it under that name already comes after.
func (r *Recorder) Rename(from, to machine.Name) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.tracks[string(from)]
	if !ok {
		return
	}
	delete(r.tracks, string(from))
	if newer := r.tracks[string(to)]; newer != nil {
		t.phases = append(t.phases, newer.phases...)
		t.phases = t.phases[max(0, len(t.phases)-maxPhases):]
		for source, s := range newer.last {
			t.last[source] = s
		}
	}
	t.dirty = true
	r.tracks[string(to)] = t
}

// Forget drops the record of a machine that was deleted.
func (r *Recorder) Forget(ctx context.Context, name machine.Name) error {
	r.mu.Lock()
	delete(r.tracks, string(name))
	r.mu.Unlock()
	_, err := r.cfg.Store.Txn(ctx, nil, []store.Op{store.Delete(prefix + string(name))})
	return err
}

// Run writes changed records to the store until ctx is done, and once more then.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.flush(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			r.flush(last)
			return nil
		}
	}
}

func (r *Recorder) flush(ctx context.Context) {
	ops := r.changes()
	for len(ops) > 0 {
		n := min(len(ops), store.MaxTxnOps)
		if _, err := r.cfg.Store.Txn(ctx, nil, ops[:n]); err != nil {
			r.cfg.Logger.Warn("writing timelines", "err", err)
			return
		}
		ops = ops[n:]
	}
}

func (r *Recorder) changes() []store.Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ops []store.Op
	for key, t := range r.tracks {
		if !t.dirty {
			continue
		}
		t.dirty = false
		value, err := proto.Marshal(&pb.GetMachineTimelineResponse{Phases: t.phases})
		if err != nil {
			r.cfg.Logger.Warn("encoding a timeline", "machine", key, "err", err)
			continue
		}
		ops = append(ops, store.Put(prefix+key, value))
	}
	return ops
}

func sightingProto(s machine.Sighting) *pb.Sighting {
	p := &pb.Sighting{Source: string(s.Source), Time: timestamppb.New(s.Time), Detail: s.Event}
	if s.Detail != "" {
		p.Detail += " " + s.Detail
	}
	if s.Address.IsValid() {
		p.Address = s.Address.String()
	}
	return p
}

func finish(p *pb.Phase, at time.Time) {
	p.EndTime = timestamppb.New(at)
	p.Duration = durationpb.New(at.Sub(p.StartTime.AsTime()))
}
