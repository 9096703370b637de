package job_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/bmc/fleet"
	"github.com/bedplate/bedplate/bmc/job"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
)

// rack is the job service over real sessions with BMCs in memory.
type rack struct {
	t     *testing.T
	db    *resource.DB
	store *crashing
	cfg   job.Config
	seen  func(machine.Name, time.Time) bool

	mu        sync.Mutex
	fakes     map[string]*bmctest.Fake // by address
	sightings []machine.Sighting
	ejected   []string
	events    []string
}

// inBubble runs a test whose clock stands still while it waits.
func inBubble(t *testing.T, test func(t *testing.T, r *rack)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st, err := bolt.Open(t.TempDir()+"/store.db", bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		r := &rack{t: t, store: &crashing{Store: st}, fakes: map[string]*bmctest.Fake{}}
		var n atomic.Int64
		r.db = &resource.DB{Store: r.store, Now: time.Now, NewUID: func() string { return fmt.Sprintf("uid%05d", n.Add(1)) }}
		test(t, r)
	})
}

// machine adds a machine with a BMC that knows the password secret.
func (r *rack) machine(name string, changes ...func(*pb.Machine)) *bmctest.Fake {
	r.t.Helper()
	m := &pb.Machine{Metadata: &pb.Metadata{Name: name}, Spec: &pb.MachineSpec{
		Bmc: &pb.BMC{Address: name + ".bmc", Username: "root", PasswordSecret: "bmc", Tls: "insecure"},
	}}
	for _, change := range changes {
		change(m)
	}
	if _, err := claim.Create(r.t.Context(), r.db, m); err != nil {
		r.t.Fatal(err)
	}
	f := bmctest.NewFake("root", "secret")
	f.SetIdentity(bmc.Identity{Serial: "SN-" + name, Manufacturer: "Bedplate", Product: "Fake"})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fakes[name+".bmc"] = f
	return f
}

func (r *rack) dial(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	r.mu.Lock()
	f := r.fakes[t.Address]
	r.mu.Unlock()
	if f == nil {
		return nil, bmc.ErrUnreachable
	}
	return f.Dial(ctx, t)
}

// start runs the services until stop, as a server would that is then killed.
func (r *rack) start() (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	r.store.crashed(cancel)
	log := slog.New(slog.DiscardHandler)
	event := func(kind, name, reason, message string, _ bool) store.Op {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, reason+" "+kind+"/"+name+": "+message)
		return store.Put("/events/"+fmt.Sprint(len(r.events)), []byte(message))
	}
	fl, err := fleet.New(ctx, fleet.Config{
		DB: r.db, Sealer: plainSealer{}, Event: event, PollInterval: -1, Now: time.Now, Rand: rand.Reader, Logger: log,
		Secret: func(context.Context, string) (map[string]string, int64, error) {
			return map[string]string{"password": "secret"}, 1, nil
		},
		Observe: func(s machine.Sighting) { r.mu.Lock(); r.sightings = append(r.sightings, s); r.mu.Unlock() },
	}, func(pinned func(bmc.Target, bmc.Pin)) (*bmc.Pool, error) {
		return bmc.NewPool(bmc.Config{Dial: r.dial, Now: time.Now, Rand: func() float64 { return .5 }, Pinned: pinned})
	})
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := r.cfg
	cfg.DB, cfg.BMCs, cfg.Event, cfg.Now, cfg.Logger = r.db, fl, event, time.Now, log
	cfg.Booted = r.seen
	if cfg.MediaURL == nil {
		cfg.MediaURL = func(_ context.Context, m *pb.Machine) (string, error) {
			return "http://server/media/t0ken/" + m.Metadata.Name + ".iso", nil
		}
	}
	cfg.MediaEjected = func(_ context.Context, m *pb.Machine) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ejected = append(r.ejected, m.Metadata.Name)
		return nil
	}
	ctl, err := job.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	var g sync.WaitGroup
	g.Go(func() { _ = fl.Run(ctx) })
	g.Go(func() { _ = ctl.Run(ctx) })
	return func() {
		cancel()
		g.Wait()
	}
}

// job creates a job of the operations.
func (r *rack) job(name, on string, operations ...*pb.Operation) {
	r.t.Helper()
	j := &pb.Job{Metadata: &pb.Metadata{Name: name}, Spec: &pb.JobSpec{Machine: on, Operations: operations}}
	if _, err := resource.Create(r.t.Context(), r.db, j); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rack) get(name string) *pb.Job {
	r.t.Helper()
	j, err := resource.Get[*pb.Job](context.Background(), r.db, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return j
}

func (r *rack) status(name string) *pb.BMCStatus {
	r.t.Helper()
	m, err := resource.Get[*pb.Machine](context.Background(), r.db, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return m.GetStatus().GetBmc()
}

// ended waits for the end of a job and returns it.
func (r *rack) ended(name string) *pb.Job {
	r.t.Helper()
	for range 20000 {
		synctest.Wait()
		if j := r.get(name); j.GetStatus().GetEndTime() != nil {
			return j
		}
		time.Sleep(time.Second)
	}
	r.t.Fatalf("job %s never ended: %v", name, r.get(name).GetStatus())
	return nil
}

// succeeded waits for the end of a job, which must be a good one.
func (r *rack) succeeded(name string) *pb.Job {
	r.t.Helper()
	j := r.ended(name)
	if j.Status.State != pb.JobState_JOB_SUCCEEDED {
		r.t.Fatalf("job %s is %s: %s", name, j.Status.State, j.Status.Cause)
	}
	return j
}

func (r *rack) sightingsOf(name string) (events []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sightings {
		if string(s.Machine) == name {
			events = append(events, s.Event)
		}
	}
	return events
}

func power(action string) *pb.Operation {
	return &pb.Operation{Operation: &pb.Operation_Power{Power: &pb.PowerOperation{Action: action}}}
}

func boot(device string) *pb.Operation {
	return &pb.Operation{Operation: &pb.Operation_BootDevice{BootDevice: &pb.BootDeviceOperation{Device: device}}}
}

// plainSealer seals nothing: the tests look at what would be sealed.
type plainSealer struct{}

func (plainSealer) Seal(_ string, plain []byte) ([]byte, error)  { return plain, nil }
func (plainSealer) Open(_ string, sealed []byte) ([]byte, error) { return sealed, nil }

// crashing is a store whose server dies at a transaction of choice.
type crashing struct {
	store.Store
	mu    sync.Mutex
	left  int  // transactions until the crash; 0: none
	apply bool // the last one is durable, but nobody hears of it
	die   func()
}

var errCrash = errors.New("the server was killed")

func (c *crashing) crashed(die func()) { c.mu.Lock(); c.die = die; c.mu.Unlock() }

func (c *crashing) crashAt(n int, apply bool) { c.mu.Lock(); c.left, c.apply = n, apply; c.mu.Unlock() }

func (c *crashing) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	c.mu.Lock()
	now, apply := false, c.apply
	if c.left > 0 {
		c.left--
		now = c.left == 0
	}
	die := c.die
	c.mu.Unlock()
	if !now {
		return c.Store.Txn(ctx, compares, ops)
	}
	defer die()
	if apply {
		_, _ = c.Store.Txn(ctx, compares, ops)
	}
	return 0, errCrash
}
