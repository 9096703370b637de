package workflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
	"github.com/bedplate/bedplate/workflow/action"
	"github.com/bedplate/bedplate/workflow/plan"
)

// TestMain fails if a goroutine of this package outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	buf := make([]byte, 1<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] {
		if strings.Contains(g, "bedplate/workflow.") {
			fmt.Fprintf(os.Stderr, "leaked goroutine:\n%s\n", g)
			code = 1
		}
	}
	os.Exit(code)
}

var errCrash = errors.New("the server was killed")

// crashStore is a store of which a server can be killed: from the Nth
// transaction on nothing works any more. late says that the Nth is still
// durable, but nobody hears of it.
type crashStore struct {
	store.Store
	mu    sync.Mutex
	txns  int
	crash int // 0: never
	late  bool
	dead  bool
}

func (s *crashStore) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	s.mu.Lock()
	s.txns++
	now := s.crash != 0 && s.txns == s.crash
	if s.dead || now && !s.late {
		s.dead = true
		s.mu.Unlock()
		return 0, errCrash
	}
	if now {
		s.dead = true
	}
	s.mu.Unlock()
	rev, err := s.Store.Txn(ctx, compares, ops)
	if now {
		return 0, errCrash
	}
	return rev, err
}

func (s *crashStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.txns
}

// world is a store with one server on it.
type world struct {
	t     *testing.T
	bolt  store.Store
	store *crashStore
	db    *resource.DB
	c     *Controller
	stop  func()

	mu      sync.Mutex
	secrets map[string]map[string]string
	images  map[string]map[string]any
	sights  []machine.Sighting
	uid     int
}

// inWorld runs a test in a world whose time is its own.
func inWorld(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b, err := bolt.Open(filepath.Join(t.TempDir(), "store"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, bolt: b, secrets: map[string]map[string]string{}, images: map[string]map[string]any{}}
		w.boot(0, false)
		defer func() {
			w.stop()
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}()
		fn(t, w)
	})
}

// boot starts a server that is killed at its crash-th transaction.
func (w *world) boot(crash int, late bool) {
	w.t.Helper()
	w.store = &crashStore{Store: w.bolt, crash: crash, late: late}
	w.db = &resource.DB{Store: w.store, Now: time.Now, NewUID: w.newUID}
	c, err := New(Config{
		DB: w.db, Observer: w, Secrets: w, Images: w, Exclusive: true, Now: time.Now,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Server: func(context.Context, *pb.Machine, *pb.Instance) map[string]string {
			return map[string]string{"http_url": "http://server"}
		},
		Event: w.event,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.c = c
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, errCrash) {
			w.t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
}

// restart kills the server and starts another on the same store.
func (w *world) restart() {
	w.stop()
	w.boot(0, false)
}

func (w *world) newUID() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.uid++
	return fmt.Sprintf("uid-%d", w.uid)
}

func (w *world) Observe(s machine.Sighting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sights = append(w.sights, s)
}

func (w *world) Secret(_ context.Context, name string) (map[string]string, error) {
	if s, ok := w.secrets[name]; ok {
		return s, nil
	}
	return nil, fmt.Errorf("secret %s: %w", name, store.ErrNotFound)
}

func (w *world) ImageFacts(_ context.Context, name string, _ *pb.Machine) (map[string]any, error) {
	if i, ok := w.images[name]; ok {
		return i, nil
	}
	return nil, fmt.Errorf("image %s: %w", name, store.ErrNotFound)
}

func (w *world) event(kind, name, reason, message, actor string, warning bool) store.Op {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.uid++
	return store.Put(fmt.Sprintf("/events/%s-%d", strings.ToLower(kind), w.uid), []byte(reason+" "+name+": "+message))
}

// machine adds a machine whose agent has enrolled with that boot; "": none.
func (w *world) machine(name, boot string) {
	w.t.Helper()
	m := &pb.Machine{Metadata: &pb.Metadata{Name: name, Labels: map[string]string{"rack": "r1"}}, Spec: &pb.MachineSpec{}, Status: &pb.MachineStatus{}}
	if boot != "" {
		m.Status.Agent = &pb.AgentStatus{BootId: boot}
	}
	if _, err := resource.Create(w.t.Context(), w.db, m); err != nil {
		w.t.Fatal(err)
	}
}

// enrol records that the machine has booted anew.
func (w *world) enrol(name, boot string) {
	w.t.Helper()
	_, err := resource.Update(w.t.Context(), &resource.DB{Store: w.bolt, Now: time.Now, NewUID: w.newUID}, name, func(m *pb.Machine) error {
		m.Status.Agent = &pb.AgentStatus{BootId: boot}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.c.Fence(name, boot)
	synctest.Wait()
}

func (w *world) template(name string, spec *pb.TemplateSpec) {
	w.t.Helper()
	if _, err := resource.Create(w.t.Context(), w.db, &pb.Template{Metadata: &pb.Metadata{Name: name}, Spec: spec}); err != nil {
		w.t.Fatal(err)
	}
}

func noops(ids ...string) *pb.TemplateSpec {
	t := &pb.TemplateSpec{}
	for _, id := range ids {
		t.Steps = append(t.Steps, &pb.Step{Id: id, Uses: "noop"})
	}
	return t
}

func workflowFor(name, template, machine string) *pb.Workflow {
	return &pb.Workflow{Metadata: &pb.Metadata{Name: name}, Spec: &pb.WorkflowSpec{Template: template, Machine: machine}}
}

func (w *world) create(name, template, machine string) *pb.Workflow {
	w.t.Helper()
	wf, err := w.c.Create(w.t.Context(), workflowFor(name, template, machine))
	if err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
	return wf
}

// get reads a workflow from the store, whatever the server thinks.
func (w *world) get(name string) *pb.Workflow {
	w.t.Helper()
	wf, err := resource.Get[*pb.Workflow](w.t.Context(), &resource.DB{Store: w.bolt}, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return wf
}

func (w *world) getMachine(name string) *pb.Machine {
	w.t.Helper()
	m, err := resource.Get[*pb.Machine](w.t.Context(), &resource.DB{Store: w.bolt}, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// want fails unless the workflow is in that state with that in its cause.
func (w *world) want(name string, state pb.WorkflowState, cause string) {
	w.t.Helper()
	synctest.Wait()
	wf := w.get(name)
	if wf.Status.State != state || !strings.Contains(wf.Status.Cause, cause) {
		w.t.Errorf("workflow %s is %v: %q; want %v: %q\n%s", name, wf.Status.State, wf.Status.Cause, state, cause, summary(wf))
	}
}

func summary(wf *pb.Workflow) string {
	var out []string
	for _, s := range wf.GetStatus().GetSteps() {
		out = append(out, fmt.Sprintf("%s:%s/%d", s.GetId(), strings.ToLower(strings.TrimPrefix(s.GetState().String(), "STEP_")), len(s.Attempts)))
	}
	return strings.Join(out, " ")
}

// agent is a simulated agent that follows the protocol.
type agent struct {
	w       *world
	machine string
	boot    string
	session *Session

	uid     string
	number  uint32
	run     *plan.Run
	plan    *pb.Plan
	seq     uint64
	unacked []*pb.StepEvent
	acked   uint64
	cancel  string
	// ran counts how often each step was really carried out.
	ran map[string]int
	// outcome says how an attempt of a step ends; nil: it succeeds.
	outcome func(step string, attempt uint32) *pb.StepChange
	// started is the step that has begun and is yet to be carried out.
	started string
	// hold lets no step of this id end.
	hold string
}

func (w *world) agent(machine, boot string) *agent {
	return &agent{w: w, machine: machine, boot: boot, ran: map[string]int{}}
}

func (a *agent) connect() error {
	s, err := a.w.c.Attach(a.w.t.Context(), Arrival{Machine: a.machine, BootID: a.boot, Hello: &pb.Hello{BootId: a.boot, WorkflowUid: a.uid, Run: a.number}})
	if err != nil {
		return err
	}
	a.session = s
	for _, ack := range s.Acks() {
		a.ack(ack)
	}
	return nil
}

func (a *agent) mustConnect() {
	a.w.t.Helper()
	if err := a.connect(); err != nil {
		a.w.t.Fatal(err)
	}
	a.mustListen()
}

func (a *agent) disconnect() {
	if a.session != nil {
		a.w.c.Detach(a.w.t.Context(), a.session)
		a.session = nil
		synctest.Wait()
	}
}

// listen takes what the server has to say, until it has no more.
func (a *agent) listen() error {
	for {
		synctest.Wait()
		select {
		case <-a.session.Fenced():
			return ErrFenced
		case <-a.session.Wake():
		default:
			return nil
		}
		messages, err := a.session.Next(a.w.t.Context())
		if err != nil {
			return err
		}
		for _, m := range messages {
			if err := a.hear(m); err != nil {
				return err
			}
		}
	}
}

func (a *agent) mustListen() {
	a.w.t.Helper()
	if err := a.listen(); err != nil {
		a.w.t.Fatal(err)
	}
}

func (a *agent) hear(m *pb.ConnectResponse) error {
	switch m := m.Message.(type) {
	case *pb.ConnectResponse_Plan:
		g, err := plan.NewGraph(m.Plan.Template)
		if err != nil {
			return err
		}
		a.run, err = plan.Resume(g, m.Plan.Run, m.Plan.Steps, false, time.Now())
		if err != nil {
			return err
		}
		a.plan, a.uid, a.number, a.seq, a.acked, a.unacked, a.cancel = m.Plan, m.Plan.WorkflowUid, m.Plan.Run, 0, 0, nil, ""
	case *pb.ConnectResponse_Ack:
		a.ack(m.Ack)
	case *pb.ConnectResponse_Cancel:
		if m.Cancel.WorkflowUid == a.uid && m.Cancel.Run == a.number {
			a.cancel = m.Cancel.Reason
		}
	case *pb.ConnectResponse_Approval:
		if err := a.run.Approve(m.Approval.Step, m.Approval.Actor, m.Approval.Reject, time.Now()); err != nil && !errors.Is(err, plan.ErrMisfit) {
			return err
		}
	}
	return nil
}

func (a *agent) ack(ack *pb.Ack) {
	if ack.WorkflowUid != a.uid || ack.Run != a.number {
		return
	}
	a.acked = max(a.acked, ack.Sequence)
	a.unacked = slices.DeleteFunc(a.unacked, func(e *pb.StepEvent) bool { return e.Sequence <= ack.Sequence })
}

func (a *agent) say(e *pb.StepEvent) {
	a.seq++
	e.Sequence = a.seq
	e.Time = nil
	a.unacked = append(a.unacked, e)
}

// change applies a change to the agent's own run and says it.
func (a *agent) change(c *pb.StepChange) {
	a.w.t.Helper()
	if err := a.run.Apply(c, a.boot, time.Now()); err != nil {
		a.w.t.Fatalf("agent's own change %v: %v", c, err)
	}
	a.say(&pb.StepEvent{Event: &pb.StepEvent_Change{Change: c}})
}

func (a *agent) log(step, text string) {
	a.say(&pb.StepEvent{Event: &pb.StepEvent_Log{Log: &pb.LogLine{Step: step, Text: text, Stream: "stdout", Attempt: 1}}})
}

// flush sends what is not acknowledged; again, if it was sent before.
func (a *agent) flush() error {
	if len(a.unacked) == 0 {
		return nil
	}
	acks, err := a.w.c.Report(a.w.t.Context(), a.session, []*pb.StepEvents{{WorkflowUid: a.uid, Run: a.number, Events: slices.Clone(a.unacked)}})
	for _, ack := range acks {
		a.ack(ack)
	}
	return err
}

func (a *agent) mustFlush() {
	a.w.t.Helper()
	if err := a.flush(); err != nil {
		a.w.t.Fatal(err)
	}
	a.mustListen()
}

// start starts a step that is ready.
func (a *agent) start(id string) {
	a.w.t.Helper()
	if !slices.Contains(a.run.Ready(time.Now()), id) {
		a.w.t.Fatalf("step %s is not ready; ready are %v", id, a.run.Ready(time.Now()))
	}
	a.change(a.run.Start(id))
}

// end ends the running attempt of a step.
func (a *agent) end(id string, state pb.StepState, text string) {
	a.w.t.Helper()
	a.change(&pb.StepChange{Step: id, State: state, Attempt: uint32(len(a.run.Step(id).Attempts)), Error: text})
}

// work carries out the plan until nothing is ready. It reports whether the
// machine left, and stops at the first error of the server.
func (a *agent) work() (left string, err error) {
	if err := a.listen(); err != nil {
		return "", err
	}
	for a.run != nil {
		if err := a.flush(); err != nil {
			return "", err
		}
		if a.started == "" {
			ready := a.run.Ready(time.Now())
			if len(ready) == 0 || a.cancel != "" {
				return "", a.listen()
			}
			a.started = ready[0]
			a.change(a.run.Start(a.started))
		}
		left, err := a.proceed(a.started)
		if err != nil || left != "" {
			return left, err
		}
	}
	return "", nil
}

// proceed carries out a step that has started; one that mustn't run twice
// only when that is on record.
func (a *agent) proceed(id string) (left string, err error) {
	node, _ := a.run.Graph().Node(id)
	if node.MustNotRunTwice() {
		if err := a.flush(); err != nil {
			return "", err
		}
	}
	a.started = ""
	if node.Action.Name == action.Approval {
		return "", a.flush()
	}
	if id == a.hold {
		return "held", a.flush()
	}
	attempt := uint32(len(a.run.Step(id).Attempts))
	a.ran[id]++
	if node.Action.Name == "machine.reboot" {
		boot := node.Step.GetWith()["boot"].GetStringValue()
		if boot == "" {
			boot = "agent"
		}
		a.change(&pb.StepChange{Step: id, State: pb.StepState_STEP_RUNNING, Attempt: attempt, Leaving: true, NextBoot: boot})
		return boot, a.flush()
	}
	end := &pb.StepChange{State: pb.StepState_STEP_SUCCEEDED}
	if a.outcome != nil {
		if o := a.outcome(id, attempt); o != nil {
			end = o
		}
	}
	end.Step, end.Attempt = id, attempt
	a.change(end)
	return "", nil
}

func mustValue(v any) *structpb.Value {
	out, err := structpb.NewValue(v)
	if err != nil {
		panic(err)
	}
	return out
}
