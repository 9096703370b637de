package erase

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// sideBySide bounds the units that are erased at once.
const sideBySide = 64

// run is one disk.erase.
type run struct {
	s        *Service
	want     wish
	rep      step.Reporter
	progress *progress
	units    []*unit
}

func newRun(s *Service, want wish, rep step.Reporter) *run {
	return &run{s: s, want: want, rep: rep, progress: newProgress(rep)}
}

// unit is the disks that have to be taken one after another: the namespaces of
// one NVMe subsystem, the paths to one disk.
type unit struct {
	targets []*target
	// outside are disks of the same subsystem that are not to be erased.
	outside []string
	// shared remembers how methods went that reach every disk of the unit.
	shared map[string]error
}

// target is one disk.
type target struct {
	disk     *pb.Disk
	facts    Facts
	readOnly bool
	medium   Medium
	port     Port
	driver   driver
	at       []int64
	before   prints
	// known: what was there before could be read, so that change can be told.
	known bool
	// resumed is a method of an earlier boot that has ended by now.
	resumed, resumedLevel string
	opened                bool
	result                Result
}

// group makes units of the disks. every is all that the machine has.
func (r *run) group(disks, every []*pb.Disk) {
	units := map[string]*unit{}
	for _, d := range disks {
		t := &target{disk: d, facts: r.s.Facts(d), readOnly: d.GetReadOnly(), result: Result{disk: d, started: r.s.Now()}}
		key := unitKey(d, t.facts)
		u := units[key]
		if u == nil {
			u = &unit{shared: map[string]error{}}
			units[key] = u
			r.units = append(r.units, u)
			for _, other := range every {
				same := other.GetBus() == d.GetBus() && unitKey(other, r.s.Facts(other)) == key
				if same && !slices.ContainsFunc(disks, func(c *pb.Disk) bool { return c.GetPath() == other.GetPath() }) {
					u.outside = append(u.outside, other.GetName())
				}
			}
		}
		u.targets = append(u.targets, t)
		r.progress.add(d)
	}
}

func unitKey(d *pb.Disk, f Facts) string {
	switch {
	case f.Subsystem != "":
		return "subsystem " + f.Subsystem
	case d.GetWwn() != "":
		return "wwn " + d.GetWwn()
	}
	return "path " + d.GetPath()
}

// work erases every unit and returns when all have ended.
func (r *run) work(ctx context.Context) {
	gate := make(chan struct{}, sideBySide)
	var wg sync.WaitGroup
	// What holds one disk may hold another: all are freed before the first is opened.
	for _, t := range r.targets() {
		if err := r.s.Free(ctx, t.disk.GetPath(), func(line string) { r.say(t, line) }); err != nil {
			t.result.err = err
		}
	}
	for _, u := range r.units {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			r.unit(ctx, u)
		})
	}
	wg.Wait()
}

func (r *run) targets() []*target {
	var out []*target
	for _, u := range r.units {
		out = append(out, u.targets...)
	}
	return out
}

func (r *run) say(t *target, line string) { r.rep.Log(step.Agent, t.disk.GetName()+": "+line) }

func (r *run) unit(ctx context.Context, u *unit) {
	for _, t := range u.targets {
		defer t.close()
		if t.result.err == nil {
			t.result.err = r.prepare(ctx, t)
		}
	}
	for _, t := range u.targets {
		if t.result.err == nil {
			t.result.err = r.erase(ctx, u, t)
		}
		t.result.took = r.s.Now().Sub(t.result.started)
		if t.driver != nil {
			t.result.logPage = t.driver.logPage()
		}
		r.progress.end(t.disk)
		r.rep.Log(step.Agent, t.result.line())
	}
}

func (t *target) close() {
	if t.medium != nil {
		_ = t.medium.Close() // Nothing hangs on it: Sync has been called.
	}
	if t.port != nil {
		_ = t.port.Close()
	}
}

// prepare opens a disk, and looks at it as it was.
func (r *run) prepare(ctx context.Context, t *target) error {
	var err error
	if t.medium, err = r.s.Open(t.disk.GetPath(), t.readOnly); err != nil {
		return err
	}
	t.opened = true
	if t.medium.Size() == 0 {
		return errors.New("the disk has no size: it may be locked or broken")
	}
	t.disk.SizeBytes = uint64(t.medium.Size())
	t.driver = r.connect(ctx, t)
	if t.result.hidden, err = t.driver.hidden(ctx); err != nil {
		// What can't be ruled out counts as there.
		t.result.hidden = append(t.result.hidden, fmt.Sprintf("it can't be told whether anything is hidden: %v", err))
	}
	t.resumed, t.resumedLevel, err = t.driver.ongoing(ctx, func(f float64) { r.progress.set(t.disk, "sanitize of an earlier boot", f) })
	if err != nil {
		return fmt.Errorf("waiting for an erasure of an earlier boot: %w", err)
	}
	if err := t.medium.DropCache(); err != nil {
		return err
	}
	t.at = places(t.medium.Size(), r.want.samples, r.want.seed)
	if t.resumed == "" && r.want.verify != verifyNone {
		t.before, t.known = fingerprint(ctx, t.medium, t.at)
	}
	return ctx.Err()
}

// connect finds out what the disk can do by itself.
func (r *run) connect(ctx context.Context, t *target) driver {
	var d driver = blockDriver{}
	port, err := r.s.Port(t.disk)
	if err != nil {
		r.say(t, fmt.Sprintf("can't be sent commands, so it is erased by writing: %v", err))
		return d
	}
	t.port = port
	switch t.disk.GetBus() {
	case "nvme":
		d = &nvmeDisk{port: port, facts: t.facts, poll: r.s.Poll}
	case "sata":
		d = &ataDisk{port: port, poll: r.s.Poll, rotational: t.disk.GetRotational(), now: r.s.Now}
	case "sas", "scsi": // Bridges to USB hang on commands that they don't know.
		d = &scsiDisk{port: port, rotational: t.disk.GetRotational(), poll: r.s.Poll}
	default:
		return d
	}
	if err := d.identify(ctx, &t.result); err != nil {
		r.say(t, fmt.Sprintf("doesn't answer commands, so it is erased by writing: %v", err))
		return blockDriver{}
	}
	return d
}

// erase tries one method after another.
func (r *run) erase(ctx context.Context, u *unit, t *target) error {
	res := &t.result
	offered := slices.Concat(t.driver.methods(), blockMethods(t.medium, fill{kind: r.want.pattern, seed: r.want.seed}, t.readOnly))
	for _, name := range Methods {
		if family(name, t.disk.GetBus()) && !slices.ContainsFunc(offered, func(m method) bool { return m.name == name }) {
			res.notOffered = append(res.notOffered, name)
		}
	}
	todo := r.want.wanted(offered)
	if t.resumed != "" && (len(r.want.methods) == 0 || slices.Contains(r.want.methods, t.resumed)) {
		was := method{name: t.resumed, level: t.resumedLevel, shared: true, deep: true, run: func(context.Context, advance) error { return nil }}
		todo = append([]method{was}, todo...)
		res.resumed = true
	}
	for _, m := range todo {
		err := r.attempt(ctx, u, t, m)
		if err == nil {
			return nil
		}
		res.resumed = false
		if ctx.Err() != nil {
			return err
		}
		if errors.Is(err, errNotOffered) && len(r.want.methods) == 0 {
			res.notOffered = append(res.notOffered, m.name)
			continue
		}
		res.tried = append(res.tried, try{m.name, oneLine(err)})
		r.say(t, fmt.Sprintf("%s: %v", m.name, oneLine(err)))
	}
	res.method, res.level, res.after = "", "", ""
	var reasons []string
	for _, f := range res.tried {
		reasons = append(reasons, f.method+": "+f.reason)
	}
	return fmt.Errorf("no method worked: %s", strings.Join(reasons, "; "))
}

// family reports whether a method is for disks on that bus.
func family(method, bus string) bool {
	prefix, ok := map[string]string{"nvme": "nvme-", "sata": "ata-", "sas": "scsi-", "scsi": "scsi-"}[bus]
	return ok && strings.HasPrefix(method, prefix)
}

// attempt runs one method and reads back what came of it.
func (r *run) attempt(ctx context.Context, u *unit, t *target, m method) error {
	if m.blocked != nil {
		return m.blocked
	}
	if len(t.result.hidden) > 0 && !m.deep && r.want.failHidden {
		return fmt.Errorf("it doesn't reach what the disk hides (%s); use hidden_areas: report if that may stay", strings.Join(t.result.hidden, "; "))
	}
	if err := r.execute(ctx, u, t, m); err != nil {
		return err
	}
	if err := r.check(ctx, t, m); err != nil {
		return err
	}
	return r.finish(ctx, t)
}

// execute runs the method; one that reaches every disk of the unit only once.
func (r *run) execute(ctx context.Context, u *unit, t *target, m method) error {
	step := func(f float64) { r.progress.set(t.disk, m.name, f*r.methodShare()) }
	if !m.shared {
		r.say(t, m.name)
		return m.run(ctx, step)
	}
	if err, ok := u.shared[m.name]; ok {
		return err
	}
	if err := u.reachable(t); err != nil {
		return err
	}
	r.say(t, m.name)
	err := m.run(ctx, step)
	if ctx.Err() == nil {
		u.shared[m.name] = err
	}
	return err
}

// reachable refuses to erase disks along with this one that shall not be, or
// that somebody uses.
func (u *unit) reachable(t *target) error {
	if len(u.outside) > 0 {
		return fmt.Errorf("it would erase %s as well, which the step doesn't name", strings.Join(u.outside, ", "))
	}
	for _, other := range u.targets {
		if other != t && !other.opened {
			return fmt.Errorf("it would erase %s as well, which can't be opened", other.disk.GetName())
		}
	}
	return nil
}

// methodShare is how much of a disk's progress the method is, the rest being
// the reading back.
func (r *run) methodShare() float64 {
	if r.want.verify == verifyFull {
		return 0.5
	}
	return 0.95
}

// check reads back what a method did. Where a disk that has purged itself
// reads as noise or not at all, and every block is to be read, it is
// overwritten for that: the method still counts.
func (r *run) check(ctx context.Context, t *target, m method) error {
	res := &t.result
	if err := settle(t.medium); err != nil {
		return err
	}
	v, err := r.verify(ctx, t, m)
	after := ""
	if err != nil && m.fill == nil && !errors.Is(err, errStillThere) && ctx.Err() == nil && !t.readOnly && r.want.verify != verifyNone {
		r.say(t, fmt.Sprintf("%s left the disk so that it can't be verified (%v): it is overwritten", m.name, err))
		f := fill{kind: fillZeros}
		over := method{name: "overwrite", fill: &f}
		if err = overwrite(ctx, t.medium, f, func(p float64) { r.progress.set(t.disk, over.name, p*r.methodShare()) }); err == nil {
			if err = settle(t.medium); err == nil {
				v, err = r.verify(ctx, t, over)
			}
		}
		after = over.name
	}
	if err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	v.seed = r.want.seed
	res.method, res.level, res.after, res.verified = m.name, m.level, after, v
	return nil
}

func (r *run) verify(ctx context.Context, t *target, m method) (Verification, error) {
	step := func(f float64) { r.progress.set(t.disk, "reading back", r.methodShare()+(1-r.methodShare())*f) }
	switch {
	case m.checked:
		return Verification{kind: verifyFull, bytes: t.medium.Size(), result: m.fill.kind}, nil
	case r.want.verify == verifyNone:
		return Verification{kind: verifyNone}, nil
	case r.want.verify == verifyFull:
		return readAll(ctx, t.medium, m.fill, step)
	}
	return sample(ctx, t.medium, t.at, m.fill, t.before, t.known, step)
}

// finish clears what noise may look like, and has the kernel forget what was
// on the disk.
func (r *run) finish(ctx context.Context, t *target) error {
	if res := t.result.verified.result; !t.readOnly && (res == foundChanged || res == foundNothing) {
		if err := disk.ClearEnds(ctx, t.medium); err != nil {
			return fmt.Errorf("clearing the disk's ends: %w", err)
		}
		if err := settle(t.medium); err != nil {
			return err
		}
	}
	if err := disk.CheckCleared(t.medium); err != nil {
		return err
	}
	if err := t.medium.Reread(ctx); err != nil && !errors.Is(err, disk.ErrNoPartitions) && !t.readOnly {
		return err
	}
	return nil
}

// result is what the step returns: every disk's, and an error if one of them
// is not erased.
func (r *run) result(ctx context.Context) (step.Result, error) {
	var results []any
	var failed []string
	var size int64
	all := r.targets()
	lowest := ""
	for _, t := range all {
		results = append(results, t.result.outputs(roomFor(len(all))))
		if t.result.err != nil {
			failed = append(failed, fmt.Sprintf("%s: %s", describe(t.disk), oneLine(t.result.err)))
			continue
		}
		size += int64(t.disk.GetSizeBytes())
		if lowest == "" || t.result.level == Clear {
			lowest = t.result.level
		}
	}
	if len(failed) > 0 {
		lowest = ""
	}
	out := step.Result{Outputs: map[string]any{"results": results, "disks": int64(len(all)), "bytes": size, "level": lowest}}
	switch {
	case ctx.Err() != nil:
		return out, context.Cause(ctx)
	case len(failed) > 0:
		return out, fmt.Errorf("%d of %d disks not erased: %s", len(failed), len(all), strings.Join(failed, " | "))
	}
	return out, nil
}
