package hardware

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/inventory"
	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const (
	// diskDuration is how long each disk is read if the step doesn't say.
	diskDuration = 30 * time.Second
	// diskParallel is how many disks are tested side by side: more would be
	// measuring the controller that they share.
	diskParallel = 4
	// selfTestLimit bounds the wait for a short self-test; two minutes are usual.
	selfTestLimit = 10 * time.Minute
	selfTestPoll  = 5 * time.Second
)

// diskTest is the test of one disk.
type diskTest struct {
	s        *Service
	disk     *pb.Disk
	report   *report
	rep      step.Reporter
	duration time.Duration
	seed     uint64
	surface  bool
	selfTest bool
	write    bool
}

// disk is the action test.disk. With: disks, duration, parallel, self_test,
// surface, write, seed, fail_on.
func (s *Service) disk(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	t := diskTest{s: s, rep: rep}
	var err error
	if t.duration, err = duration(req, "duration", diskDuration); err != nil {
		return step.Result{}, err
	}
	parallel, err := number(req, "parallel", diskParallel, 1, 64)
	if err != nil {
		return step.Result{}, err
	}
	if t.seed, err = s.seed(req); err != nil {
		return step.Result{}, err
	}
	t.surface, _ = req.With["surface"].(bool)
	asked, given := req.With["self_test"].(bool)
	t.selfTest = asked || !given
	t.write = text(req, "write") != "never"
	disks, err := s.chooseDisks(ctx, texts(req, "disks"))
	if err != nil {
		return step.Result{}, err
	}
	t.report = s.newReport("disk", t.seed)
	rep.Log(step.Agent, fmt.Sprintf("testing %d disks, %d side by side, seed %d", len(disks), parallel, t.seed))
	watch := s.watch()
	err = t.all(ctx, disks, int(parallel))
	t.report.add(watch.stop(rep)...)
	if err != nil {
		return step.Result{}, err
	}
	return t.report.finish(req, rep)
}

// chooseDisks returns the disks that are named, or all that are fixed.
func (s *Service) chooseDisks(ctx context.Context, names []string) ([]*pb.Disk, error) {
	all, err := s.Disks(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		fixed := slices.DeleteFunc(slices.Clone(all), (*pb.Disk).GetRemovable)
		if len(fixed) == 0 {
			return nil, errors.New("there is no disk to test")
		}
		return fixed, nil
	}
	var chosen []*pb.Disk
	for _, name := range names {
		path, err := disk.Path(name)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(d *pb.Disk) bool { return d.GetPath() == path })
		if i < 0 {
			return nil, fmt.Errorf("%s is no disk of this machine; leave out disks to test all", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// all tests every disk. It fails only if none could be tested at all.
func (t diskTest) all(ctx context.Context, disks []*pb.Disk, parallel int) error {
	turn := make(chan struct{}, parallel)
	errs := make([]error, len(disks))
	var mu sync.Mutex
	done := 0
	var wg sync.WaitGroup
	for i, d := range disks {
		wg.Go(func() {
			select {
			case turn <- struct{}{}:
				defer func() { <-turn }()
			case <-ctx.Done():
				return
			}
			one := t
			one.disk = d
			errs[i] = one.run(ctx)
			mu.Lock()
			defer mu.Unlock()
			done++
			t.rep.Progress(int64(done), int64(len(disks)), "disks", "tested")
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	failed := 0
	for i, err := range errs {
		if err == nil {
			continue
		}
		failed++
		t.report.add(result{subject: subjectOf(disks[i]), measure: "testable", unit: unitBool, bad: true, message: err.Error()})
	}
	if failed == len(disks) {
		return fmt.Errorf("no disk could be tested: %w", errors.Join(errs...))
	}
	return nil
}

// subjectOf is what a disk is called in results: its serial number, which stays
// the same wherever it is plugged in, or its name if it has none.
func subjectOf(d *pb.Disk) string {
	if d.GetSerial() != "" {
		return d.GetSerial()
	}
	return d.GetName()
}

func (t diskTest) add(r result) {
	r.subject = subjectOf(t.disk)
	t.report.add(r)
}

func (t diskTest) log(format string, args ...any) {
	t.rep.Log(step.Agent, t.disk.GetName()+": "+fmt.Sprintf(format, args...))
}

func (t diskTest) run(ctx context.Context) error {
	r, err := openReader(t.disk.GetPath())
	if err != nil {
		return err
	}
	defer r.Close()
	before := t.health(ctx)
	if t.selfTest {
		t.runSelfTest(ctx)
	}
	if t.surface {
		t.readAll(ctx, r)
	} else {
		t.readSamples(ctx, r)
	}
	t.readRandom(ctx, r)
	t.reportBad(r)
	if t.write && ctx.Err() == nil {
		t.writeTest(ctx, r)
	}
	t.compareHealth(ctx, before)
	return nil
}

// health asks for SMART; nil if there is none.
func (t diskTest) health(ctx context.Context) *pb.SMART {
	if t.s.Devices == nil {
		return nil
	}
	smart, err := t.s.Devices.Health(ctx, t.disk.GetName(), t.disk.GetBus())
	if err != nil {
		t.log("no SMART: %v", err)
	}
	return smart
}

// compareHealth reports what the disk says of itself after the test, and what
// the test has changed.
func (t diskTest) compareHealth(ctx context.Context, before *pb.SMART) {
	if before == nil {
		return
	}
	after := t.health(ctx)
	if after == nil {
		return
	}
	row := result{measure: "smart_healthy", value: 1, unit: unitBool}
	if !after.GetHealthy() {
		row.value, row.bad, row.message = 0, true, "the disk says that it is failing (SMART)"
	}
	t.add(row)
	if c := after.GetTemperatureCelsius(); c != 0 {
		t.add(result{measure: "temperature", value: float64(c), unit: unitCelsius})
	}
	t.add(result{measure: "media_errors", value: float64(after.GetMediaErrors()), unit: unitCount})
	t.add(result{measure: "reallocated_sectors", value: float64(after.GetReallocatedSectors()), unit: unitCount})
	t.add(result{measure: "power_on", value: float64(after.GetPowerOnHours()) * 3600, unit: unitSeconds})
	if grown := int64(after.GetMediaErrors()) - int64(before.GetMediaErrors()); grown > 0 {
		t.add(result{measure: "new_media_errors", value: float64(grown), unit: unitCount, bad: true, message: "the disk counted them while it was tested"})
	}
}

// runSelfTest has the disk test itself, and waits.
func (t diskTest) runSelfTest(ctx context.Context) {
	if t.s.Devices == nil {
		return
	}
	name, bus := t.disk.GetName(), t.disk.GetBus()
	err := t.s.Devices.StartSelfTest(ctx, name, bus)
	if errors.Is(err, inventory.ErrNoSelfTest) {
		return
	}
	if err != nil {
		t.log("self-test not started: %v", err)
		return
	}
	began := t.s.Now()
	got, err := t.awaitSelfTest(ctx)
	if err != nil {
		t.log("self-test: %v", err)
		// The disk goes on by itself otherwise, into the next test's time.
		if err := t.s.Devices.StopSelfTest(context.WithoutCancel(ctx), name, bus); err != nil {
			t.log("self-test not stopped: %v", err)
		}
		return
	}
	row := result{measure: "self_test", unit: unitBool, message: got.Message, took: t.s.Now().Sub(began)}
	if got.Passed {
		row.value = 1
	}
	row.bad = !got.Passed && !got.Aborted
	if got.HasLBA {
		row.message += fmt.Sprintf(", first bad block %d", got.LBA)
	}
	t.add(row)
}

func (t diskTest) awaitSelfTest(ctx context.Context) (inventory.SelfTest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, selfTestLimit, errors.New("it did not end within "+selfTestLimit.String()))
	defer cancel()
	tick := time.NewTicker(selfTestPoll)
	defer tick.Stop()
	for {
		got, err := t.s.Devices.SelfTest(ctx, t.disk.GetName(), t.disk.GetBus())
		if err != nil || !got.Running {
			return got, err
		}
		t.rep.Progress(int64(got.Percent), 100, "percent", t.disk.GetName()+": self-test")
		select {
		case <-ctx.Done():
			return got, context.Cause(ctx)
		case <-tick.C:
		}
	}
}
