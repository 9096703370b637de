package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// world plays everything around the lifecycle: BMCs that carry out jobs,
// machines that boot the agent when they are told to, workflows that succeed.
type world struct {
	*rack
	mu   sync.Mutex
	did  []string // operations of BMCs, such as "web-1 power cycle"
	dead bool     // BMCs fail every job
	deaf bool     // machines don't boot the agent
	// secure is whether Secure Boot is on; unable is why BMCs can't change that.
	secure bool
	unable string
}

func newWorld(t *testing.T) *world { return &world{rack: newRack(t)} }

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// play runs the world until ctx is done.
func (w *world) play(ctx context.Context) {
	for ctx.Err() == nil {
		w.jobs(ctx)
		w.workflows(ctx)
		watch, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		<-watch.Done()
		cancel()
	}
}

func (w *world) jobs(ctx context.Context) {
	all, _, err := resource.All[*pb.Job](ctx, w.db)
	if err != nil {
		return
	}
	for _, j := range all {
		if jobEnded(j) {
			continue
		}
		w.mu.Lock()
		dead, deaf := w.dead, w.deaf
		for _, o := range j.Spec.Operations {
			w.did = append(w.did, j.Spec.Machine+" "+operationText(o))
		}
		w.mu.Unlock()
		off := slices.ContainsFunc(j.Spec.Operations, func(o *pb.Operation) bool { return o.GetPower().GetAction() == "off" })
		boots := slices.ContainsFunc(j.Spec.Operations, func(o *pb.Operation) bool {
			return o.GetPower().GetAction() == "cycle" || o.GetPower().GetAction() == "on"
		})
		cause := ""
		if slices.ContainsFunc(j.Spec.Operations, func(o *pb.Operation) bool { return o.GetSecureBoot() != nil }) {
			w.mu.Lock()
			if cause = w.unable; cause == "" {
				w.secure = j.Spec.Operations[0].GetSecureBoot().GetState() == "enable"
			}
			w.mu.Unlock()
		}
		_, _ = resource.Update(ctx, w.db, j.Metadata.Name, func(j *pb.Job) error {
			j.Status = &pb.JobStatus{State: pb.JobState_JOB_SUCCEEDED, EndTime: timestamppb.New(w.now())}
			if cause != "" {
				j.Status.State, j.Status.Cause = pb.JobState_JOB_FAILED, cause
			}
			if dead {
				j.Status.State, j.Status.Cause = pb.JobState_JOB_FAILED, "no answer from 10.0.0.1:443 within 10s"
			}
			return nil
		})
		if dead || cause != "" {
			continue
		}
		_, _ = resource.Update(ctx, w.db, j.Spec.Machine, func(m *pb.Machine) error {
			if m.Status.Bmc == nil {
				m.Status.Bmc = &pb.BMCStatus{}
			}
			m.Status.Bmc.ContactTime = timestamppb.New(w.now())
			if slices.ContainsFunc(j.Spec.Operations, func(o *pb.Operation) bool { return o.GetInventory() != nil }) {
				m.Status.BmcInventory = &pb.Inventory{}
			}
			if off {
				m.Status.Agent = nil
			}
			if boots && !deaf {
				m.Status.Agent = &pb.AgentStatus{Connected: m.Status.NextBoot == pb.NextBoot_AGENT, ConnectTime: timestamppb.New(w.now())}
			}
			return nil
		})
		if m, err := resource.Get[*pb.Machine](ctx, w.db, j.Spec.Machine); err == nil && m.GetStatus().GetAgent().GetConnected() {
			_ = w.ctl.Inventory(ctx, "web-1", w.inventory())
		}
	}
}

// inventory is what the agent reports.
func (w *world) inventory() *pb.Inventory {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &pb.Inventory{Kernel: "6.1", System: &pb.System{Product: "R1"}, Firmware: &pb.FirmwareInfo{Mode: "uefi", SecureBoot: w.secure}}
}

func operationText(o *pb.Operation) string {
	switch op := o.Operation.(type) {
	case *pb.Operation_Power:
		return "power " + op.Power.Action
	case *pb.Operation_BootDevice:
		return "boot " + op.BootDevice.Device
	}
	return jobOperationName(o)
}

func jobOperationName(o *pb.Operation) string {
	m := o.ProtoReflect()
	return string(m.WhichOneof(m.Descriptor().Oneofs().ByName("operation")).Name())
}

func (w *world) workflows(ctx context.Context) {
	all, _, err := resource.All[*pb.Workflow](ctx, w.db)
	if err != nil {
		return
	}
	for _, wf := range all {
		m, err := resource.Get[*pb.Machine](ctx, w.db, wf.Spec.Machine)
		if err != nil || ended(wf) {
			continue
		}
		// The machine boots the agent for the workflow that has it.
		if m.GetStatus().GetWorkflow() == "" {
			_, _ = resource.Update(ctx, w.db, wf.Spec.Machine, func(m *pb.Machine) error {
				m.Status.Workflow, m.Status.NextBoot = wf.Metadata.Name, pb.NextBoot_AGENT
				return nil
			})
			continue
		}
		if m.GetStatus().GetAgent().GetConnected() && wf.Spec.Template != TemplateRescue {
			w.finish(ctx, wf)
		}
	}
}

// finish ends a workflow as it would be by its agent.
func (w *world) finish(ctx context.Context, wf *pb.Workflow) {
	_, _ = resource.Update(ctx, w.db, wf.Metadata.Name, func(wf *pb.Workflow) error {
		wf.Status.State, wf.Status.EndTime = pb.WorkflowState_SUCCEEDED, timestamppb.New(w.now())
		return nil
	})
	disk := wf.Spec.Template == TemplateInstall || wf.Spec.Template == TemplateReturn
	_, _ = resource.Update(ctx, w.db, wf.Spec.Machine, func(m *pb.Machine) error {
		m.Status.Workflow = ""
		m.Status.Agent = &pb.AgentStatus{Connected: !disk, ConnectTime: timestamppb.New(w.now())}
		return nil
	})
	if wf.Spec.Template == TemplateInspect {
		_ = w.ctl.Inventory(ctx, "web-1", &pb.Inventory{Kernel: "6.1"})
	}
	if wf.Spec.Template == TemplateInstall {
		_ = w.ctl.PhoneHome(ctx, wf.Spec.Instance, "10.77.0.31")
	}
}

// run starts the lifecycle and the world for the rest of the test.
func (w *world) run() {
	w.start()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.play(ctx) }()
	w.t.Cleanup(func() { cancel(); <-done })
}

// pass lets time pass, and has the machine looked at.
func (w *world) pass(d time.Duration) {
	w.forward(d)
	w.ctl.send(w.t.Context(), func(dirty map[string]bool) { dirty["m web-1"] = true })
}

func (w *world) done(ops ...string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, op := range ops {
		if !slices.Contains(w.did, op) {
			return false
		}
	}
	return true
}

func knownByBMC(change ...func(*pb.MachineSpec)) *pb.Machine {
	m := &pb.Machine{Metadata: &pb.Metadata{Name: "web-1"}, Spec: &pb.MachineSpec{Bmc: &pb.BMC{Address: "10.0.0.1"}}}
	for _, c := range change {
		c(m.Spec)
	}
	return m
}

func (r *rack) machine(name string) *pb.Machine {
	r.t.Helper()
	m, err := resource.Get[*pb.Machine](r.t.Context(), r.db, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func TestLife_HandsOff(t *testing.T) {
	t.Run("a machine known by its BMC's address alone goes round and round", func(t *testing.T) {
		w := newWorld(t)
		w.add(knownByBMC(func(s *pb.MachineSpec) { s.Bmc.RotatePassword = true }))
		w.run()
		w.eventually("available", w.machineIs("web-1", pb.MachineState_AVAILABLE))
		if !w.done("web-1 inventory", "web-1 password", "web-1 boot network", "web-1 power cycle") {
			t.Errorf("its BMC did %q", w.did)
		}
		for i := range 2 {
			name := fmt.Sprintf("web-%d", i)
			w.add(&pb.Instance{Metadata: &pb.Metadata{Name: name}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "debian"}})
			w.eventually("active", w.machineIs("web-1", pb.MachineState_ACTIVE))
			w.markDeleting(name)
			w.eventually("wiped and available", func() bool {
				return w.machineIs("web-1", pb.MachineState_AVAILABLE)() && w.machine("web-1").Status.Instance == ""
			})
			if !w.done("web-1 boot none") || w.done("web-1 eject_media") {
				t.Errorf("after a release its BMC has done %q", w.did)
			}
		}
	})
	t.Run("a machine of a network without DHCP boots from virtual media", func(t *testing.T) {
		w := newWorld(t)
		w.add(knownByBMC(func(s *pb.MachineSpec) { s.BootMethod = "virtual-media" }))
		w.run()
		w.eventually("available", w.machineIs("web-1", pb.MachineState_AVAILABLE))
		if !w.done("web-1 insert_media", "web-1 boot cdrom") || w.done("web-1 boot network") {
			t.Errorf("its BMC did %q", w.did)
		}
	})
	t.Run("a poll that the BMC answers is no contact", func(t *testing.T) {
		w := newWorld(t)
		m := knownByBMC()
		m.Status = &pb.MachineStatus{Bmc: &pb.BMCStatus{ContactTime: timestamppb.New(time.Now())}}
		w.add(m)
		w.run()
		w.eventually("available", w.machineIs("web-1", pb.MachineState_AVAILABLE))
		if !w.done("web-1 inventory") {
			t.Errorf("its BMC was not asked what it is: %q", w.did)
		}
	})
	t.Run("an idle machine is switched off where its pool says so, and booted when it is wanted", func(t *testing.T) {
		w := newWorld(t)
		w.add(&pb.Pool{Metadata: &pb.Metadata{Name: DefaultPool}, Spec: &pb.PoolSpec{Idle: "off"}})
		w.add(knownByBMC())
		w.run()
		w.eventually("switched off", func() bool { return w.done("web-1 power off") })
		_, err := resource.Update(t.Context(), w.db, "web-1", func(m *pb.Machine) error {
			m.Status.Bmc.Power = pb.PowerState_POWER_OFF
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "debian"}})
		w.eventually("active", w.machineIs("web-1", pb.MachineState_ACTIVE))
	})
	t.Run("a reinstall lets the running system shut down first", func(t *testing.T) {
		w := newWorld(t)
		w.add(knownByBMC())
		w.run()
		w.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "debian"}})
		w.eventually("active", w.instanceIs("web", pb.InstanceState_INSTANCE_ACTIVE))
		first := w.instance("web").Status.Workflow
		if _, err := resource.Update(t.Context(), w.db, "web", func(i *pb.Instance) error { i.Status.Reinstalls++; return nil }); err != nil {
			t.Fatal(err)
		}
		w.eventually("shut down and started", func() bool { return w.done("web-1 power soft", "web-1 power on") })
		w.eventually("active again", func() bool {
			i := w.instance("web")
			return i.Status.Workflow != first && i.Status.State == pb.InstanceState_INSTANCE_ACTIVE
		})
	})
}

func TestLife_KilledAtEveryState(t *testing.T) {
	w := newWorld(t)
	w.add(knownByBMC(func(s *pb.MachineSpec) { s.Bmc.RotatePassword = true }))
	w.add(&pb.Pool{Metadata: &pb.Metadata{Name: DefaultPool}, Spec: &pb.PoolSpec{Tests: &pb.TestPolicy{OnFailure: "report"}}})
	w.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Selector: "web", Image: "debian"}})
	ctx, cancel := context.WithCancel(t.Context())
	played := make(chan struct{})
	go func() { defer close(played); w.play(ctx) }()
	defer func() { cancel(); <-played }()
	seen := map[pb.MachineState]bool{}
	// Each controller lives for a moment only.
	live := func(until func() bool) {
		for range 5000 {
			short, stop := context.WithTimeout(t.Context(), 3*time.Millisecond)
			ctl := w.controller()
			if err := ctl.Run(short); err != nil && short.Err() == nil {
				t.Fatal(err)
			}
			stop()
			seen[w.machine("web-1").GetStatus().GetState()] = true
			if until() {
				return
			}
		}
		t.Fatalf("it did not come this far; the machine is %v: %s", w.machine("web-1").Status.State, w.machine("web-1").Status.Cause)
	}
	live(w.instanceIs("web", pb.InstanceState_INSTANCE_ACTIVE))
	w.markDeleting("web")
	live(func() bool {
		_, err := resource.Get[*pb.Instance](t.Context(), w.db, "web")
		return errors.Is(err, store.ErrNotFound) && w.machineIs("web-1", pb.MachineState_AVAILABLE)()
	})
	for template, want := range map[string]int{TemplateInstall: 1, TemplateRelease: 1, TemplateTest: 1} {
		all, _, err := resource.All[*pb.Workflow](t.Context(), w.db)
		if err != nil {
			t.Fatal(err)
		}
		all = slices.DeleteFunc(all, func(wf *pb.Workflow) bool { return wf.Spec.Template != template })
		if len(all) != want {
			t.Errorf("%d workflows of template %s were made, want %d", len(all), template, want)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(slices.DeleteFunc(slices.Clone(w.did), func(s string) bool { return s != "web-1 password" })); n != 2 {
		t.Errorf("the password was changed %d times, want once at enrolment and once at release: %q", n, w.did)
	}
}

func TestLife_Faults(t *testing.T) {
	t.Run("a dead BMC fails its machine with the cause, and the machine goes on when it is back", func(t *testing.T) {
		w := newWorld(t)
		w.dead = true
		w.add(knownByBMC())
		w.run()
		w.eventually("the cause is there", func() bool {
			return strings.Contains(w.machine("web-1").GetStatus().GetCause(), "no answer from 10.0.0.1:443")
		})
		w.eventually("failed", func() bool {
			w.pass(time.Second)
			return w.machineIs("web-1", pb.MachineState_FAILED)()
		})
		if at := w.machine("web-1").Status.Deadline; at == nil {
			t.Error("it doesn't say when it is tried again")
		}
		w.set(func() { w.dead = false })
		w.pass(maxJobRetry)
		w.eventually("available", w.machineIs("web-1", pb.MachineState_AVAILABLE))
	})
	t.Run("a machine that never boots the agent is started anew, then failed, and can be retried", func(t *testing.T) {
		w := newWorld(t)
		w.deaf = true
		w.add(knownByBMC())
		w.run()
		w.eventually("failed", func() bool {
			w.pass(time.Minute)
			return w.machineIs("web-1", pb.MachineState_FAILED)()
		})
		s := w.machine("web-1").Status
		if !strings.Contains(s.Cause, "did not connect within 15m0s of being started, 3 times") || !strings.Contains(s.NextAction, "machine retry web-1") {
			t.Errorf("it says %q, then %q", s.Cause, s.NextAction)
		}
		w.set(func() { w.deaf = false })
		if _, err := w.ctl.Retry(t.Context(), "web-1"); err != nil {
			t.Fatal(err)
		}
		w.eventually("available", w.machineIs("web-1", pb.MachineState_AVAILABLE))
		if _, err := w.ctl.Retry(t.Context(), "web-1"); !errors.Is(err, ErrNotFailed) {
			t.Errorf("retrying an available machine: %v", err)
		}
	})
	t.Run("an instance whose machine never boots fails with the cause", func(t *testing.T) {
		w := newWorld(t)
		w.add(&pb.Pool{Metadata: &pb.Metadata{Name: DefaultPool}, Spec: &pb.PoolSpec{BootAttempts: 1, BootTimeout: "1m"}})
		w.add(knownByBMC())
		w.run()
		w.eventually("available", w.machineIs("web-1", pb.MachineState_AVAILABLE))
		w.set(func() { w.deaf = true })
		if _, err := resource.Update(t.Context(), w.db, "web-1", func(m *pb.Machine) error { m.Status.Agent.Connected = false; return nil }); err != nil {
			t.Fatal(err)
		}
		w.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "debian"}})
		w.eventually("it waits", func() bool { return strings.Contains(w.machine("web-1").Status.Cause, "has not connected yet") })
		w.pass(2 * time.Minute)
		w.eventually("failed", w.instanceIs("web", pb.InstanceState_INSTANCE_FAILED))
		if !slices.Contains(w.cancelled, w.instance("web").Status.Workflow) {
			t.Errorf("cancelled %q", w.cancelled)
		}
	})
}

func TestLife_Rules(t *testing.T) {
	discovered := func(w *world) {
		w.add(&pb.Machine{
			Metadata: &pb.Metadata{Name: "m-1", Annotations: map[string]string{AnnotationDiscovered: "true"}}, Spec: &pb.MachineSpec{},
			Status: &pb.MachineStatus{Inventory: &pb.Inventory{System: &pb.System{Product: "R1"}}},
		})
	}
	t.Run("a rule accepts a discovered machine into its pool", func(t *testing.T) {
		w := newWorld(t)
		w.run()
		discovered(w)
		w.eventually("discovered", w.machineIs("m-1", pb.MachineState_DISCOVERED))
		w.add(&pb.Rule{Metadata: &pb.Metadata{Name: "r1"}, Spec: &pb.RuleSpec{Match: "R1", Action: "accept", Pool: "compute", Rack: "r7", Labels: map[string]string{"kind": "r1"}}})
		w.eventually("available", w.machineIs("m-1", pb.MachineState_AVAILABLE))
		m := w.machine("m-1")
		if m.Spec.Pool != "compute" || m.Spec.Rack != "r7" || m.Metadata.Labels["kind"] != "r1" || m.Status.Rule != "r1" {
			t.Errorf("the machine is %v", m)
		}
	})
	t.Run("a rule gives a discovered machine its name, unless another has it", func(t *testing.T) {
		w := newWorld(t)
		w.run()
		w.add(&pb.Rule{Metadata: &pb.Metadata{Name: "r1"}, Spec: &pb.RuleSpec{Match: "R1", Action: "accept", Name: "node-1"}})
		discovered(w)
		w.eventually("available under its name", func() bool {
			m, err := resource.Get[*pb.Machine](t.Context(), w.db, "node-1")
			return err == nil && m.Status.State == pb.MachineState_AVAILABLE
		})
		discovered(w)
		w.eventually("the second keeps its own", w.machineIs("m-1", pb.MachineState_AVAILABLE))
	})
	t.Run("a rule refuses a discovered machine", func(t *testing.T) {
		w := newWorld(t)
		w.run()
		w.add(&pb.Rule{Metadata: &pb.Metadata{Name: "r1"}, Spec: &pb.RuleSpec{Match: "R1", Action: "refuse", Reason: "old"}})
		discovered(w)
		w.eventually("quarantined", w.machineIs("m-1", pb.MachineState_QUARANTINED))
		if got := w.machine("m-1").Status.Cause; !strings.Contains(got, "refused by rule r1: old") {
			t.Errorf("the cause is %q", got)
		}
	})
}

// asked is a hook that answers what the test says.
type asked struct {
	mu    sync.Mutex
	calls []string
	again bool
	err   error
}

func (a *asked) Call(_ context.Context, h *pb.Hook, m *pb.Machine, before string) (bool, string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, h.Name+" "+before+" "+m.Metadata.Name)
	return a.again, "as the test says", a.err
}

func TestLife_Hooks(t *testing.T) {
	active := func(t *testing.T, a *asked) *world {
		w := newWorld(t)
		w.hooks = a
		w.ctl = w.controller()
		w.add(&pb.Pool{Metadata: &pb.Metadata{Name: DefaultPool}, Spec: &pb.PoolSpec{Hooks: []*pb.Hook{{Name: "drain", Url: "http://drain", Before: []string{"release", "maintenance"}}}}})
		w.add(knownByBMC())
		w.run()
		w.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "debian"}})
		w.eventually("active", w.instanceIs("web", pb.InstanceState_INSTANCE_ACTIVE))
		return w
	}
	gone := func(w *world) func() bool {
		return func() bool {
			_, err := resource.Get[*pb.Instance](w.t.Context(), w.db, "web")
			return errors.Is(err, store.ErrNotFound)
		}
	}
	t.Run("nothing is wiped before every hook has consented", func(t *testing.T) {
		a := &asked{err: errors.New("pods can't be moved")}
		w := active(t, a)
		w.markDeleting("web")
		w.eventually("it says why not", func() bool { return strings.Contains(w.machine("web-1").Status.Cause, "pods can't be moved") })
		if wf := w.instance("web").Status.Workflow; strings.Contains(wf, "release") {
			t.Fatalf("workflow %s was made all the same", wf)
		}
		a.mu.Lock()
		a.err = nil
		a.mu.Unlock()
		if _, err := w.ctl.Retry(t.Context(), "web-1"); err != nil {
			t.Fatal(err)
		}
		w.eventually("released", gone(w))
	})
	t.Run("a change that is wanted again is asked about again", func(t *testing.T) {
		a := &asked{}
		w := active(t, a)
		for range 2 {
			for _, on := range []bool{true, false} {
				if _, err := resource.Update(t.Context(), w.db, "web-1", func(m *pb.Machine) error { m.Spec.Maintenance = on; return nil }); err != nil {
					t.Fatal(err)
				}
				want := map[bool]pb.MachineState{true: pb.MachineState_MAINTENANCE, false: pb.MachineState_ACTIVE}[on]
				w.eventually(want.String(), w.machineIs("web-1", want))
			}
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if n := len(a.calls); n != 2 {
			t.Errorf("the hook was called %d times, want 2: %q", n, a.calls)
		}
	})
}

func TestLife_Rescue(t *testing.T) {
	w := newWorld(t)
	w.add(knownByBMC())
	w.run()
	w.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "debian"}})
	w.eventually("active", w.instanceIs("web", pb.InstanceState_INSTANCE_ACTIVE))
	rescue := func(r *pb.Rescue) {
		if _, err := resource.Update(t.Context(), w.db, "web-1", func(m *pb.Machine) error { m.Spec.Rescue = r; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	rescue(&pb.Rescue{AuthorizedKeys: []string{"ssh-ed25519 AAAA me"}})
	w.eventually("its agent is there for the rescue", func() bool {
		m := w.machine("web-1")
		return m.Status.State == pb.MachineState_RESCUE && m.Status.GetAgent().GetConnected() && m.Status.LifeWorkflow != ""
	})
	wf, err := resource.Get[*pb.Workflow](t.Context(), w.db, w.machine("web-1").Status.LifeWorkflow)
	if err != nil || wf.Spec.Template != TemplateRescue {
		t.Fatalf("the workflow is %v, %v", wf, err)
	}
	rescue(nil)
	w.eventually("back on its own disk", func() bool {
		m := w.machine("web-1")
		return m.Status.State == pb.MachineState_ACTIVE && !m.Status.GetAgent().GetConnected()
	})
}

func TestLife_Retire(t *testing.T) {
	w := newWorld(t)
	w.add(knownByBMC())
	w.run()
	w.eventually("available", w.machineIs("web-1", pb.MachineState_AVAILABLE))
	retire := func(on bool) {
		if _, err := resource.Update(t.Context(), w.db, "web-1", func(m *pb.Machine) error { m.Spec.Retired = on; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	retire(true)
	w.eventually("retired", w.machineIs("web-1", pb.MachineState_RETIRED))
	if !w.done("web-1 power off") {
		t.Errorf("its BMC did %q", w.did)
	}
	retire(false)
	w.eventually("available again", w.machineIs("web-1", pb.MachineState_AVAILABLE))
}
