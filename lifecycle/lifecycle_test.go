package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/discovery"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
)

// rack is a lifecycle with a store, and workflows that a test ends by hand.
type rack struct {
	t   *testing.T
	db  *resource.DB
	ctl *Controller

	hooks Hooks
	// erasure makes records; nil: none are made.
	erasure func(*pb.Machine, *pb.Workflow, string) (ErasureRecord, error)

	mu        sync.Mutex
	cancelled []string
	refuse    error // what Create answers
	ahead     time.Duration
}

// now is the time, and what a test has put it forward by.
func (r *rack) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.ahead)
}

// forward puts the clock forward.
func (r *rack) forward(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ahead += d
}

// words matches rules by a machine's product name.
type words struct{}

func (words) Match(text string, m *pb.Machine) (bool, error) {
	if text == "broken" {
		return false, errors.New("index out of bounds: 3")
	}
	return text == "" || m.GetStatus().GetInventory().GetSystem().GetProduct() == text, nil
}

func (words) Text(text string, _ *pb.Machine) (string, error) { return text, nil }

func newRack(t *testing.T) *rack {
	t.Helper()
	st, err := bolt.Open(t.TempDir()+"/store.db", bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	var n atomic.Int64
	r := &rack{t: t, db: &resource.DB{Store: st, Now: time.Now, NewUID: func() string { return fmt.Sprintf("uid%05d", n.Add(1)) }}}
	r.ctl = r.controller()
	return r
}

func (r *rack) controller() *Controller {
	return New(Config{
		DB: r.db, Workflows: r, Sightings: r, Now: r.now, Hooks: r.hooks, Erasure: r.erasure, Registerer: nil,
		Decide: func(rules []*pb.Rule, m *pb.Machine) (discovery.Decision, error) {
			return discovery.Decide(rules, m, words{})
		}, Logger: slog.New(slog.NewTextHandler(r.t.Output(), nil)),
		Select: func(selector string, m *pb.Machine) (bool, error) {
			if selector == "broken" {
				return false, errors.New("undeclared reference to 'broken'")
			}
			return strings.Contains(m.Metadata.Name, selector), nil
		},
		Event: func(kind, name, reason, message string, warning bool) store.Op {
			return store.Put("/events/"+kind+name+reason+fmt.Sprint(time.Now().UnixNano()), []byte(message))
		},
	})
}

// Create stores a workflow as the workflow service would.
func (r *rack) Create(ctx context.Context, wf *pb.Workflow) (*pb.Workflow, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return nil, r.refuse
	}
	wf = proto.Clone(wf).(*pb.Workflow)
	uses := map[string]string{TemplateInstall: "image.write", TemplateRelease: "disk.wipe"}
	wf.Status = &pb.WorkflowStatus{State: pb.WorkflowState_WAITING_FOR_MACHINE, Template: &pb.TemplateSpec{Steps: []*pb.Step{{Uses: uses[wf.Spec.Template]}}}}
	return resource.Create(ctx, r.db, wf)
}

func (r *rack) Cancel(ctx context.Context, name, _ string) (*pb.Workflow, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancelled = append(r.cancelled, name)
	return r.end(name, pb.WorkflowState_CANCELLED), nil
}

func (r *rack) Sightings(machine.Name) []*pb.Sighting { return nil }

func (r *rack) end(name string, state pb.WorkflowState) *pb.Workflow {
	r.t.Helper()
	wf, err := resource.Update(context.Background(), r.db, name, func(wf *pb.Workflow) error {
		wf.Status.State, wf.Status.EndTime, wf.Status.Cause = state, timestamppb.New(time.Now()), "as the test says"
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return wf
}

// start runs the controller until the test ends or stop is called.
func (r *rack) start() (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.ctl.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

// eventually polls the store until ok; the controller works on it in the background.
func (r *rack) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if ok() {
			return
		}
		waitForChange(r.t, r.db.Store)
	}
	machines, _, err := resource.All[*pb.Machine](r.t.Context(), r.db)
	r.t.Fatalf("never: %s; the machines are %v %v", what, machines, err)
}

// waitForChange returns when the store changes, or after a short while.
func waitForChange(t *testing.T, st store.Store) {
	rev, err := st.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	batches, err := st.Watch(ctx, "/", rev)
	if ctx.Err() != nil {
		return // a busy machine
	}
	if err != nil {
		t.Fatal(err)
	}
	<-batches
}

// records makes a record of each run of a workflow; its error is that of the workflow.
func (r *rack) records(_ *pb.Machine, wf *pb.Workflow, _ string) (ErasureRecord, error) {
	name := recordName(wf)
	record := ErasureRecord{Name: name, Ops: []store.Op{store.Put("/records/"+name, []byte(name))}}
	if wf.Status.State != pb.WorkflowState_SUCCEEDED {
		return record, errors.New(wf.Status.Cause)
	}
	return record, nil
}

func recordName(wf *pb.Workflow) string { return fmt.Sprint(wf.Status.EndTime.AsTime().UnixNano()) }

// recorded counts the records.
func (r *rack) recorded() int {
	r.t.Helper()
	page, err := r.db.Store.List(r.t.Context(), "/records/", "", 100)
	if err != nil {
		r.t.Fatal(err)
	}
	return len(page.KVs)
}

func (r *rack) machineIs(name string, state pb.MachineState) func() bool {
	return func() bool {
		m, err := resource.Get[*pb.Machine](r.t.Context(), r.db, name)
		return err == nil && m.GetStatus().GetState() == state
	}
}

func (r *rack) instanceIs(name string, state pb.InstanceState) func() bool {
	return func() bool {
		i, err := resource.Get[*pb.Instance](r.t.Context(), r.db, name)
		return err == nil && i.GetStatus().GetState() == state
	}
}

func (r *rack) add(obj resource.Object) {
	r.t.Helper()
	var err error
	switch o := obj.(type) {
	case *pb.Machine:
		_, err = resource.Create(r.t.Context(), r.db, o)
	case *pb.Instance:
		_, err = resource.Create(r.t.Context(), r.db, o)
	case *pb.Image:
		_, err = resource.Create(r.t.Context(), r.db, o)
	case *pb.Pool:
		_, err = resource.Create(r.t.Context(), r.db, o)
	case *pb.Rule:
		_, err = resource.Create(r.t.Context(), r.db, o)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rack) addInspected(name string) {
	r.t.Helper()
	r.add(&pb.Machine{Metadata: &pb.Metadata{Name: name}, Spec: &pb.MachineSpec{}, Status: &pb.MachineStatus{Inventory: &pb.Inventory{}}})
	r.eventually(name+" becomes available", r.machineIs(name, pb.MachineState_AVAILABLE))
}

// markDeleting is what the API does when an instance is deleted.
func (r *rack) markDeleting(name string) {
	r.t.Helper()
	_, err := resource.Update(r.t.Context(), r.db, name, func(i *pb.Instance) error {
		i.Status.Deleting = true
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rack) instance(name string) *pb.Instance {
	r.t.Helper()
	i, err := resource.Get[*pb.Instance](r.t.Context(), r.db, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

func TestController_SilentImage(t *testing.T) {
	r := newRack(t)
	r.start()
	r.addInspected("web-1")
	r.add(&pb.Image{Metadata: &pb.Metadata{Name: "talos"}, Spec: &pb.ImageSpec{Configuration: "none"}})
	r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "talos"}})
	r.eventually("provisioning", func() bool { return r.instance("web").GetStatus().GetWorkflow() != "" })
	r.end(r.instance("web").GetStatus().GetWorkflow(), pb.WorkflowState_SUCCEEDED)
	r.eventually("active without a report", r.instanceIs("web", pb.InstanceState_INSTANCE_ACTIVE))
}

func TestController_LiveImage(t *testing.T) {
	r := newRack(t)
	r.start()
	r.addInspected("web-1")
	r.add(&pb.Image{Metadata: &pb.Metadata{Name: "live"}, Spec: &pb.ImageSpec{Live: &pb.ImageLive{Kernel: "k"}}})
	r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "live"}})
	r.eventually("provisioning", func() bool { return r.instance("web").GetStatus().GetWorkflow() != "" })
	name := r.instance("web").GetStatus().GetWorkflow()
	wf, err := resource.Get[*pb.Workflow](t.Context(), r.db, name)
	if err != nil || wf.GetSpec().GetTemplate() != TemplateLive {
		t.Fatalf("it gets the template %q, %v", wf.GetSpec().GetTemplate(), err)
	}
	r.end(name, pb.WorkflowState_SUCCEEDED)
	r.eventually("booting", r.instanceIs("web", pb.InstanceState_INSTANCE_BOOTING))
	if err := r.ctl.PhoneHome(t.Context(), "web", "10.77.0.31"); err != nil {
		t.Fatal(err)
	}
	r.eventually("active", r.instanceIs("web", pb.InstanceState_INSTANCE_ACTIVE))
	r.eventually("machine active", r.machineIs("web-1", pb.MachineState_ACTIVE))
}

func TestController_WholeLife(t *testing.T) {
	r := newRack(t)
	r.start()
	r.add(&pb.Machine{Metadata: &pb.Metadata{Name: "web-1"}, Spec: &pb.MachineSpec{}})
	r.eventually("enrolled", r.machineIs("web-1", pb.MachineState_ENROLLED))

	if err := r.ctl.Inventory(t.Context(), "web-1", &pb.Inventory{Kernel: "6.1"}); err != nil {
		t.Fatal(err)
	}
	r.eventually("available", r.machineIs("web-1", pb.MachineState_AVAILABLE))

	r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1", Image: "debian"}})
	r.eventually("its workflow is on record", func() bool { return r.instance("web").GetStatus().GetWorkflow() != "" })
	r.eventually("provisioning", r.machineIs("web-1", pb.MachineState_PROVISIONING))
	install := r.instance("web").Status.Workflow
	wf, err := resource.Get[*pb.Workflow](t.Context(), r.db, install)
	if err != nil {
		t.Fatal(err)
	}
	if got := wf.Spec.Inputs["image"].GetStringValue(); got != "debian" || wf.Spec.Machine != "web-1" || wf.Spec.Instance != "web" {
		t.Errorf("the workflow is for image %q on %q for %q", got, wf.Spec.Machine, wf.Spec.Instance)
	}

	r.end(install, pb.WorkflowState_SUCCEEDED)
	r.eventually("booting", r.instanceIs("web", pb.InstanceState_INSTANCE_BOOTING))
	if err := r.ctl.PhoneHome(t.Context(), "web", "10.77.0.31"); err != nil {
		t.Fatal(err)
	}
	r.eventually("active", r.instanceIs("web", pb.InstanceState_INSTANCE_ACTIVE))
	r.eventually("machine active", r.machineIs("web-1", pb.MachineState_ACTIVE))

	r.markDeleting("web")
	r.eventually("releasing", r.machineIs("web-1", pb.MachineState_RELEASING))
	r.end(r.instance("web").Status.Workflow, pb.WorkflowState_SUCCEEDED)
	r.eventually("back in the pool", r.machineIs("web-1", pb.MachineState_AVAILABLE))
	if _, err := resource.Get[*pb.Instance](t.Context(), r.db, "web"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the instance is still there: %v", err)
	}
}

func TestController_Claims(t *testing.T) {
	t.Run("two instances can't get one machine, and the second gets it when it is free", func(t *testing.T) {
		r := newRack(t)
		r.start()
		r.addInspected("web-1")
		r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "a"}, Spec: &pb.InstanceSpec{Selector: "web"}})
		r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "b"}, Spec: &pb.InstanceSpec{Selector: "web"}})
		both := func() (claimed int) {
			for _, name := range []string{"a", "b"} {
				if r.instance(name).GetStatus().GetMachine() != "" {
					claimed++
				}
			}
			return claimed
		}
		r.eventually("one is claimed, the other waits", func() bool {
			return both() == 1 && (r.instance("a").GetStatus().GetState() == pb.InstanceState_INSTANCE_PENDING || r.instance("b").GetStatus().GetState() == pb.InstanceState_INSTANCE_PENDING)
		})
		r.add(&pb.Machine{Metadata: &pb.Metadata{Name: "web-2"}, Spec: &pb.MachineSpec{}, Status: &pb.MachineStatus{Inventory: &pb.Inventory{}}})
		r.eventually("both are claimed", func() bool { return both() == 2 })
		if r.instance("a").Status.Machine == r.instance("b").Status.Machine {
			t.Error("both have the same machine")
		}
	})
	t.Run("an instance whose selector is broken says so", func(t *testing.T) {
		r := newRack(t)
		r.start()
		r.addInspected("web-1")
		r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "a"}, Spec: &pb.InstanceSpec{Selector: "broken"}})
		r.eventually("the cause is there", func() bool { return strings.Contains(r.instance("a").GetStatus().GetCause(), "undeclared reference") })
	})
}

func TestController_Failures(t *testing.T) {
	t.Run("a failed install keeps the machine out of the pool until it is retried or deleted", func(t *testing.T) {
		r := newRack(t)
		r.start()
		r.addInspected("web-1")
		r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1"}})
		r.eventually("workflow", func() bool { return r.instance("web").GetStatus().GetWorkflow() != "" })
		install := r.instance("web").Status.Workflow
		r.end(install, pb.WorkflowState_WORKFLOW_FAILED)
		r.eventually("machine failed", r.machineIs("web-1", pb.MachineState_FAILED))
		m, _ := resource.Get[*pb.Machine](t.Context(), r.db, "web-1")
		if !strings.Contains(m.Status.NextAction, "workflow retry "+install) {
			t.Errorf("the next action is %q", m.Status.NextAction)
		}
		r.end(install, pb.WorkflowState_RUNNING)
		r.eventually("a retry provisions it again", r.instanceIs("web", pb.InstanceState_INSTANCE_PROVISIONING))
	})
	t.Run("an instance whose workflow can't be made yet says why and is tried again", func(t *testing.T) {
		r := newRack(t)
		r.refuse = errors.New("image debian has no content")
		r.start()
		r.addInspected("web-1")
		r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1"}})
		r.eventually("the cause is there", func() bool { return strings.Contains(r.instance("web").GetStatus().GetCause(), "no content") })
		r.mu.Lock()
		r.refuse = nil
		r.mu.Unlock()
		r.eventually("workflow", func() bool { return r.instance("web").GetStatus().GetWorkflow() != "" })
	})
	t.Run("deleting an instance that is being installed cancels that first", func(t *testing.T) {
		r := newRack(t)
		r.start()
		r.addInspected("web-1")
		r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1"}})
		r.eventually("workflow", func() bool { return r.instance("web").GetStatus().GetWorkflow() != "" })
		install := r.instance("web").Status.Workflow
		r.markDeleting("web")
		r.eventually("release workflow", func() bool { return strings.Contains(r.instance("web").GetStatus().GetWorkflow(), "-release-") })
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.cancelled) != 1 || r.cancelled[0] != install {
			t.Errorf("cancelled %v, want %s", r.cancelled, install)
		}
	})
	t.Run("a machine whose disks could not be wiped never becomes available", func(t *testing.T) {
		r := newRack(t)
		r.start()
		r.addInspected("web-1")
		r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1"}})
		r.eventually("workflow", func() bool { return r.instance("web").GetStatus().GetWorkflow() != "" })
		r.markDeleting("web")
		r.eventually("releasing", r.instanceIs("web", pb.InstanceState_INSTANCE_RELEASING))
		r.end(r.instance("web").Status.Workflow, pb.WorkflowState_WORKFLOW_FAILED)
		r.eventually("failed", r.machineIs("web-1", pb.MachineState_FAILED))
	})
	t.Run("a release that failed leaves one record for each of its runs", func(t *testing.T) {
		r := newRack(t)
		r.erasure = r.records
		r.ctl = r.controller()
		r.start()
		r.addInspected("web-1")
		r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1"}})
		r.eventually("workflow", func() bool { return r.instance("web").GetStatus().GetWorkflow() != "" })
		r.markDeleting("web")
		r.eventually("releasing", r.instanceIs("web", pb.InstanceState_INSTANCE_RELEASING))
		release := r.instance("web").Status.Workflow
		for run := range 2 {
			failed := r.end(release, pb.WorkflowState_WORKFLOW_FAILED)
			want := recordName(failed)
			r.eventually("failed, with a record", func() bool {
				return r.machineIs("web-1", pb.MachineState_FAILED)() && r.machine("web-1").Status.Erasure == want
			})
			if cause := r.instance("web").Status.Cause; cause != "its disks could not be wiped: as the test says" {
				t.Errorf("the instance's cause is %q", cause)
			}
			if got := r.recorded(); got != run+1 {
				t.Errorf("there are %d records after run %d", got, run+1)
			}
			r.end(release, pb.WorkflowState_RUNNING)
			r.eventually("tried again", r.machineIs("web-1", pb.MachineState_RELEASING))
		}
		r.end(release, pb.WorkflowState_SUCCEEDED)
		r.eventually("available", r.machineIs("web-1", pb.MachineState_AVAILABLE))
		if got := r.recorded(); got != 3 {
			t.Errorf("there are %d records at the end, want 3", got)
		}
	})
	t.Run("a record that doesn't vouch for every disk is kept, and so is the machine", func(t *testing.T) {
		r := newRack(t)
		r.erasure = func(m *pb.Machine, wf *pb.Workflow, operator string) (ErasureRecord, error) {
			record, _ := r.records(m, wf, operator)
			return record, errors.New("vdb: not verified")
		}
		r.ctl = r.controller()
		r.start()
		r.addInspected("web-1")
		r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Machine: "web-1"}})
		r.eventually("workflow", func() bool { return r.instance("web").GetStatus().GetWorkflow() != "" })
		r.markDeleting("web")
		r.eventually("releasing", r.instanceIs("web", pb.InstanceState_INSTANCE_RELEASING))
		r.end(r.instance("web").Status.Workflow, pb.WorkflowState_SUCCEEDED)
		r.eventually("failed, with a record", func() bool {
			return r.machineIs("web-1", pb.MachineState_FAILED)() && r.machine("web-1").Status.Erasure != ""
		})
		if cause := r.instance("web").Status.Cause; cause != "its disks could not be shown to be wiped: vdb: not verified" {
			t.Errorf("the cause is %q", cause)
		}
	})
	t.Run("a controller that is stopped at every stage goes on where it was", func(t *testing.T) {
		r := newRack(t)
		r.add(&pb.Machine{Metadata: &pb.Metadata{Name: "web-1"}, Spec: &pb.MachineSpec{}, Status: &pb.MachineStatus{Inventory: &pb.Inventory{}}})
		r.add(&pb.Instance{Metadata: &pb.Metadata{Name: "web"}, Spec: &pb.InstanceSpec{Selector: "web"}})
		for range 200 {
			r.ctl = r.controller()
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if err := r.ctl.Run(ctx); err != nil && ctx.Err() == nil {
				t.Fatal(err)
			}
			cancel()
			if r.instance("web").GetStatus().GetWorkflow() != "" {
				break
			}
		}
		r.ctl = r.controller()
		r.start()
		r.eventually("workflow", func() bool { return r.instance("web").GetStatus().GetWorkflow() != "" })
		all, _, err := resource.All[*pb.Workflow](t.Context(), r.db)
		if err != nil || len(all) != 1 {
			t.Errorf("there are %d workflows (%v), want 1", len(all), err)
		}
	})
}

func TestController_Discover(t *testing.T) {
	r := newRack(t)
	r.start()
	mac := machine.MAC{0x52, 0x54, 0, 0x77, 0, 9}
	for range 2 { // a machine that boots again stays the same machine
		name, err := r.ctl.Discover(t.Context(), mac, []machine.MAC{mac, {1, 2, 3, 4, 5, 6}}, "11223344-5566-7788-99aa-bbccddeeff00", "SN9")
		if err != nil || name != "m-525400770009" {
			t.Fatalf("got %q, %v", name, err)
		}
	}
	r.eventually("discovered", r.machineIs("m-525400770009", pb.MachineState_DISCOVERED))
	if err := r.ctl.Inventory(t.Context(), "m-525400770009", &pb.Inventory{}); err != nil {
		t.Fatal(err)
	}
	if _, err := resource.Update(t.Context(), r.db, "m-525400770009", func(m *pb.Machine) error {
		delete(m.Metadata.Annotations, AnnotationDiscovered)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	r.eventually("accepted", r.machineIs("m-525400770009", pb.MachineState_AVAILABLE))
}

func TestExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := machineIn(pb.MachineState_ENROLLED)
		for _, tt := range []struct {
			name string
			seen []*pb.Sighting
			want string
		}{
			{"never seen", nil, "powered on"},
			{"stuck after DHCP", []*pb.Sighting{{Source: "dhcp", Detail: "ACK", Time: timestamppb.New(time.Now())}}, "port 69"},
			{"stuck in DHCP", []*pb.Sighting{{Source: "dhcp", Detail: "OFFER", Time: timestamppb.New(time.Now())}}, "another DHCP server"},
			{"stuck after TFTP", []*pb.Sighting{{Source: "tftp", Detail: "complete", Time: timestamppb.New(time.Now())}}, "Secure Boot"},
		} {
			got := strings.Join(explain(m, nil, nil, tt.seen, time.Now()).Advice, "\n")
			if !strings.Contains(got, tt.want) {
				t.Errorf("%s: the advice is %q, want it to speak of %q", tt.name, got, tt.want)
			}
		}
		m.Spec = &pb.MachineSpec{BootMethod: "virtual-media"}
		read := []*pb.Sighting{{Source: "http", Detail: "45541376 bytes", Address: "10.0.0.5", Time: timestamppb.New(time.Now())}}
		if r := explain(m, nil, nil, nil, time.Now()); r.WaitingFor != "the machine to boot from its medium" || !strings.Contains(strings.Join(r.Advice, "\n"), "bedplate machine media") {
			t.Errorf("without a BMC: %v", r)
		}
		m.Spec.Bmc = &pb.BMC{Address: "10.0.0.5"}
		m.Status.State = pb.MachineState_INSPECTING
		for want, seen := range map[string][]*pb.Sighting{"port 8080": nil, "from 10.0.0.5": read} {
			if got := strings.Join(explain(m, nil, nil, seen, time.Now()).Advice, "\n"); !strings.Contains(got, want) || strings.Contains(got, "DHCP") {
				t.Errorf("the advice is %q, want it to speak of %q", got, want)
			}
		}
	})
}
