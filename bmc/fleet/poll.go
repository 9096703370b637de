package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
)

const (
	// pollTimeout bounds one poll: a BMC that takes longer is no use for it.
	pollTimeout = 20 * time.Second
	// healthEvery is after how many polls of the power the health and the event
	// log are read as well: they cost a BMC much more.
	healthEvery = 5
	// newestEntries is how much of the event log a poll reads.
	newestEntries = 32
	// logPrefix is where it is kept up to which entry a log has been read.
	logPrefix = "/bmc/logs/"
)

// firstPoll spreads the machines evenly over the interval, each at a time of its own.
func (f *Fleet) firstPoll(name string) time.Time {
	if f.cfg.PollInterval < 0 {
		return time.Time{}
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	// FNV's high bits are alike for names that differ in their last letter.
	mixed := h.Sum64() * 0x9e3779b97f4a7c15
	return f.cfg.Now().Add(time.Duration(mixed % uint64(f.cfg.PollInterval)))
}

// poll asks each BMC in its turn until ctx is done, and returns when the last has answered.
func (f *Fleet) poll(ctx context.Context) {
	if f.cfg.PollInterval < 0 {
		<-ctx.Done()
		return
	}
	var g sync.WaitGroup
	defer g.Wait()
	free := make(chan struct{}, f.cfg.PollConcurrency)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-timer.C:
		}
		due, next := f.due()
		for _, d := range due {
			select {
			case free <- struct{}{}:
			case <-ctx.Done():
				return
			}
			g.Go(func() {
				defer func() { <-free }()
				f.metrics.overdue.Set(max(0, f.cfg.Now().Sub(d.at)).Seconds())
				f.pollOne(ctx, d)
			})
		}
		timer.Reset(next)
	}
}

// turn is a machine whose poll is due.
type turn struct {
	name   string
	at     time.Time
	health bool
}

// due returns the machines to poll now, in the order of their times, and how
// long it is until the next one.
func (f *Fleet) due() ([]turn, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.cfg.Now()
	wait := f.cfg.PollInterval
	var out []turn
	if !f.synced {
		return nil, wait
	}
	for name, m := range f.members {
		if m.polling || Undecided(m.machine) {
			continue
		}
		if left := m.next.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		m.polling = true
		out = append(out, turn{name: name, at: m.next, health: m.polls%healthEvery == 0})
		m.polls++
	}
	slices.SortFunc(out, func(a, b turn) int { return a.at.Compare(b.at) })
	return out, max(wait, time.Millisecond)
}

// The annotation of a machine that made itself known, and its value for one
// whose BMC was found; package lifecycle gives and takes it.
const (
	annotationDiscovered = "bedplate/discovered"
	foundByBMC           = "bmc"
)

// Undecided reports whether nobody has decided yet to log in to the machine's
// BMC, which was found, or a rule has decided against it. A BMC that isn't
// wanted is sent no password.
func Undecided(m *pb.Machine) bool {
	return m.GetMetadata().GetAnnotations()[annotationDiscovered] == foundByBMC &&
		(m.GetStatus().GetBmcInventory() == nil || m.GetStatus().GetState() == pb.MachineState_QUARANTINED)
}

// pollOne polls one BMC, and says when it is to be polled next.
func (f *Fleet) pollOne(ctx context.Context, t turn) {
	started := f.cfg.Now()
	result := "circuit_open"
	next := started.Add(f.cfg.PollInterval)
	if c := f.pool.Circuit(machine.Name(t.name)); c.State == bmc.CircuitOpen {
		next = c.NextTry
	} else {
		result = f.ask(ctx, t)
		f.metrics.polled(result, f.cfg.Now().Sub(started))
	}
	if result == "ok" {
		f.startListening(ctx, t.name)
	}
	f.mu.Lock()
	if m := f.members[t.name]; m != nil {
		m.polling = false
		if m.next.Equal(t.at) { // nobody has asked for an earlier one
			m.next = next
		}
	}
	f.mu.Unlock()
	f.wakePoller()
}

// reading is what one poll has found.
type reading struct {
	power   bmc.PowerState
	health  bmc.HealthReport
	healthy bool // health was read
	entries []bmc.LogEntry
	// stream is where the BMC tells of changes; empty where it doesn't.
	stream string
}

// ask makes one poll; it returns what became of it for the metrics.
func (f *Fleet) ask(ctx context.Context, t turn) string {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	m, err := f.Machine(t.name)
	if err != nil {
		return "gone"
	}
	var r reading
	// A poll only reads: a session that was idle needs no probe before it.
	err = f.Read(ctx, m, func(ctx context.Context, c *bmc.Client) (err error) {
		if r.power, err = c.PowerState(ctx); err != nil {
			return err
		}
		if !t.health {
			return nil
		}
		r.readHealth(ctx, c)
		return nil
	})
	if err != nil {
		if errors.Is(err, bmc.ErrBusy) {
			return "busy"
		}
		if errors.As(err, new(*RefusedError)) {
			return "refused"
		}
		f.complain(ctx, t.name, err)
		return "failed"
	}
	if err := f.take(ctx, t.name, r); err != nil && ctx.Err() == nil {
		f.cfg.Logger.Warn("recording what a poll found", "machine", t.name, "err", err)
	}
	return "ok"
}

// complain puts an error that isn't the BMC's, such as a missing Secret, into
// the machine's status: no circuit opens for it.
func (f *Fleet) complain(ctx context.Context, name string, err error) {
	if !errors.Is(err, errNoPassword) && !errors.Is(err, store.ErrNotFound) {
		return
	}
	f.mu.Lock()
	if m := f.members[name]; m != nil {
		m.seen.err, m.seen.failed = err.Error(), f.cfg.Now()
	}
	f.mu.Unlock()
	if err := f.Record(ctx, name, func(s *pb.BMCStatus) { s.Error = err.Error() }); err != nil && ctx.Err() == nil {
		f.cfg.Logger.Warn("recording the state of a BMC", "machine", name, "err", err)
	}
}

// readHealth reads what the BMC judges. What it can't say now is no failure of
// the poll: its power is known.
func (r *reading) readHealth(ctx context.Context, c *bmc.Client) {
	var err error
	if r.health, err = c.Health(ctx); err == nil {
		r.healthy = true
	}
	if entries, err := c.EventLog(ctx, newestEntries); err == nil {
		r.entries = entries
	}
	if stream, err := c.EventStream(ctx); err == nil {
		r.stream = stream
	}
}

// take compares a reading with what was known, and writes down what is new.
func (f *Fleet) take(ctx context.Context, name string, r reading) error {
	power := powerProto(r.power)
	f.mu.Lock()
	m := f.members[name]
	if m == nil {
		f.mu.Unlock()
		return nil
	}
	if r.healthy {
		m.stream = r.stream
	}
	was, status := m.seen.power, m.machine.GetStatus().GetBmc()
	if power != pb.PowerState_POWER_STATE_UNSPECIFIED {
		m.seen.power = power
	}
	f.mu.Unlock()
	f.see(name, was, power)
	if err := f.logEntries(ctx, name, r.entries); err != nil {
		return err
	}
	health, causes := status.GetHealth(), status.GetHealthCauses()
	if r.healthy {
		health, causes = healthText(r.health.Overall), r.health.Problems
	}
	if (power == pb.PowerState_POWER_STATE_UNSPECIFIED || power == status.GetPower()) && health == status.GetHealth() && sameCauses(causes, status.GetHealthCauses()) {
		return nil
	}
	f.metrics.writes.Inc()
	if err := f.healthEvent(ctx, name, status, health, causes); err != nil {
		return err
	}
	return f.Record(ctx, name, func(s *pb.BMCStatus) {
		if power != pb.PowerState_POWER_STATE_UNSPECIFIED {
			s.Power = power
		}
		s.Health, s.HealthCauses = health, causes
	})
}

// see puts a change of power that this server didn't make on the timeline.
func (f *Fleet) see(name string, was, power pb.PowerState) {
	if power == was || power == pb.PowerState_POWER_STATE_UNSPECIFIED || was == pb.PowerState_POWER_STATE_UNSPECIFIED {
		return
	}
	event := "power-on"
	if power == pb.PowerState_POWER_OFF {
		event = "power-off"
	}
	f.cfg.Observe(machine.Sighting{Time: f.cfg.Now(), Source: machine.SourceBMC, Machine: machine.Name(name), Event: event, Detail: "seen by the BMC"})
}

// healthEvent writes an event when the health has changed.
func (f *Fleet) healthEvent(ctx context.Context, name string, was *pb.BMCStatus, health string, causes []string) error {
	if health == was.GetHealth() || health == "" || was.GetHealth() == "" && health == "ok" {
		return nil
	}
	text := "its BMC reports health " + health
	if health != "ok" {
		text += ": " + joinSome(causes)
	}
	_, err := f.cfg.DB.Store.Txn(ctx, nil, []store.Op{f.cfg.Event("Machine", name, "HealthChanged", text, health != "ok")})
	return err
}

func healthText(h bmc.Health) string {
	if h == bmc.HealthUnknown {
		return ""
	}
	return h.String()
}

// powerProto is a power state as machine.status has it.
func powerProto(s bmc.PowerState) pb.PowerState {
	switch s {
	case bmc.PowerOn:
		return pb.PowerState_POWER_ON
	case bmc.PowerOff:
		return pb.PowerState_POWER_OFF
	}
	return pb.PowerState_POWER_STATE_UNSPECIFIED
}

// logMark is up to where a BMC's event log has been read.
type logMark struct {
	ID   string
	Time time.Time
}

// logEntries makes events of the entries that are new and not ok. What was in
// the log before the first look is history.
func (f *Fleet) logEntries(ctx context.Context, name string, entries []bmc.LogEntry) error {
	if len(entries) == 0 {
		return nil
	}
	kv, err := f.cfg.DB.Store.Get(ctx, logPrefix+name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("reading the mark of an event log: %w", err)
	}
	var mark logMark
	first := json.Unmarshal(kv.Value, &mark) != nil
	fresh := after(entries, mark)
	last := entries[len(entries)-1]
	if len(fresh) == 0 && !first {
		return nil
	}
	value, err := json.Marshal(logMark{last.ID, last.Time})
	if err != nil {
		return fmt.Errorf("writing the mark of an event log: %w", err)
	}
	ops := []store.Op{store.Put(logPrefix+name, value)}
	for _, e := range fresh {
		if e.Severity >= bmc.HealthWarning && !first {
			ops = append(ops, f.cfg.Event("Machine", name, "HardwareEvent", entryText(e), true))
		}
	}
	_, err = f.cfg.DB.Store.Txn(ctx, []store.Compare{{Key: logPrefix + name, ModRevision: kv.ModRevision}}, ops)
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

// after returns the entries behind the mark: all, if the log was cleared since.
func after(entries []bmc.LogEntry, mark logMark) []bmc.LogEntry {
	i := slices.IndexFunc(entries, func(e bmc.LogEntry) bool { return e.ID == mark.ID && e.Time.Equal(mark.Time) })
	return entries[i+1:]
}

func entryText(e bmc.LogEntry) string {
	if e.Sensor == "" {
		return e.Message
	}
	return e.Sensor + ": " + e.Message
}
