package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
)

// room is a fleet over BMCs in memory.
type room struct {
	t       *testing.T
	db      *resource.DB
	txns    *counting
	fleet   *Fleet
	secrets map[string]map[string]string
	// versions are those of the secrets.
	versions map[string]int64

	mu        sync.Mutex
	fakes     map[string]*bmctest.Fake
	wrap      func(bmc.Driver) bmc.Driver
	sightings []machine.Sighting
	events    []string
}

// counting is a store that counts what is written.
type counting struct {
	store.Store
	n atomic.Int64
}

func (c *counting) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	c.n.Add(1)
	return c.Store.Txn(ctx, compares, ops)
}

func inBubble(t *testing.T, test func(t *testing.T, r *room)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st, err := bolt.Open(t.TempDir()+"/store.db", bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		r := &room{t: t, txns: &counting{Store: st}, fakes: map[string]*bmctest.Fake{}, secrets: map[string]map[string]string{"bmc": {"password": "secret"}}, versions: map[string]int64{}}
		var n atomic.Int64
		r.db = &resource.DB{Store: r.txns, Now: time.Now, NewUID: func() string { return fmt.Sprintf("uid%05d", n.Add(1)) }}
		test(t, r)
	})
}

func (r *room) machine(name string, changes ...func(*pb.Machine)) *bmctest.Fake {
	r.t.Helper()
	m := &pb.Machine{Metadata: &pb.Metadata{Name: name}, Spec: &pb.MachineSpec{
		Bmc: &pb.BMC{Address: name + ".bmc", Username: "root", PasswordSecret: "bmc"},
	}}
	for _, change := range changes {
		change(m)
	}
	if _, err := resource.Create(r.t.Context(), r.db, m); err != nil {
		r.t.Fatal(err)
	}
	f := bmctest.NewFake("root", "secret")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fakes[m.Spec.Bmc.Address] = f
	return f
}

func (r *room) dial(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	r.mu.Lock()
	f, wrap := r.fakes[t.Address], r.wrap
	r.mu.Unlock()
	d, err := f.Dial(ctx, t)
	if err == nil && wrap != nil {
		d = wrap(d)
	}
	return d, err
}

func (r *room) start(changes ...func(*Config)) (stop func()) {
	r.t.Helper()
	cfg := Config{
		DB: r.db, Sealer: plainSealer{}, Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler),
		Secret: func(_ context.Context, name string) (map[string]string, int64, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if s, ok := r.secrets[name]; ok {
				return s, r.versions[name], nil
			}
			return nil, 0, fmt.Errorf("secret/%s: %w", name, store.ErrNotFound)
		},
		Observe: func(s machine.Sighting) { r.mu.Lock(); r.sightings = append(r.sightings, s); r.mu.Unlock() },
		Event: func(kind, name, reason, message string, _ bool) store.Op {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, reason+" "+name+": "+message)
			return store.Put("/events/"+fmt.Sprint(len(r.events)), []byte(message))
		},
	}
	for _, change := range changes {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	var err error
	r.fleet, err = New(ctx, cfg, func(pinned func(bmc.Target, bmc.Pin)) (*bmc.Pool, error) {
		return bmc.NewPool(bmc.Config{Dial: r.dial, Now: time.Now, Rand: func() float64 { return .5 }, Pinned: pinned})
	})
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.fleet.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	}
}

func (r *room) get(name string) *pb.Machine {
	r.t.Helper()
	m, err := resource.Get[*pb.Machine](context.Background(), r.db, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r *room) told(word string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.events, func(e string) bool { return strings.Contains(e, word) })
}

type plainSealer struct{}

func (plainSealer) Seal(_ string, plain []byte) ([]byte, error)  { return plain, nil }
func (plainSealer) Open(_ string, sealed []byte) ([]byte, error) { return sealed, nil }

func ask(ctx context.Context, c *bmc.Client) error {
	_, err := c.PowerState(ctx)
	return err
}

func TestFleet_Poll(t *testing.T) {
	t.Run("a change of power is on record and on the timeline, and nothing is written while nothing changes", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			f := r.machine("web-1")
			defer r.start()()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if got := r.get("web-1").Status.Bmc; got.GetPower() != pb.PowerState_POWER_OFF || got.GetHealth() != "ok" || got.GetContactTime() == nil {
				t.Errorf("after two minutes: %v", got)
			}
			before := r.txns.n.Load()
			time.Sleep(30 * time.Minute)
			if n := r.txns.n.Load() - before; n != 0 {
				t.Errorf("%d writes in half an hour without change", n)
			}
			f.SetPower(bmc.PowerOn)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if got := r.get("web-1").Status.Bmc.GetPower(); got != pb.PowerState_POWER_ON {
				t.Errorf("it was switched on by hand and is %s", got)
			}
			if len(r.sightings) != 1 || r.sightings[0].Event != "power-on" || r.sightings[0].Machine != "web-1" {
				t.Errorf("sightings: %v", r.sightings)
			}
		})
	})
	t.Run("what the server itself asks for is seen once, at once", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			r.machine("web-1")
			defer r.start()()
			time.Sleep(2 * time.Minute)
			err := r.fleet.Do(t.Context(), r.get("web-1"), func(ctx context.Context, c *bmc.Client) error {
				_, err := c.SetPower(ctx, bmc.ActionOn)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if len(r.sightings) != 1 {
				t.Errorf("sightings: %v", r.sightings)
			}
			if got := r.get("web-1").Status.Bmc.GetPower(); got != pb.PowerState_POWER_ON {
				t.Errorf("its status says %s", got)
			}
		})
	})
	t.Run("new critical entries of the event log are events, old ones are not", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			r.machine("web-1")
			entries := []bmc.LogEntry{{ID: "1", Severity: bmc.HealthCritical, Message: "fan 1 failed long ago"}}
			var mu sync.Mutex
			r.wrap = func(d bmc.Driver) bmc.Driver {
				return logging{d, func() []bmc.LogEntry { mu.Lock(); defer mu.Unlock(); return slices.Clone(entries) }}
			}
			defer r.start()()
			time.Sleep(10 * time.Minute)
			mu.Lock()
			entries = append(entries, bmc.LogEntry{ID: "2", Severity: bmc.HealthOK, Message: "door closed"}, bmc.LogEntry{ID: "3", Severity: bmc.HealthCritical, Sensor: "PSU 2", Message: "power supply failed"})
			mu.Unlock()
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if !r.told("PSU 2: power supply failed") || r.told("long ago") || r.told("door closed") {
				t.Errorf("events: %q", r.events)
			}
		})
	})
	t.Run("health that changes is an event", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			r.machine("web-1")
			var sick atomic.Bool
			r.wrap = func(d bmc.Driver) bmc.Driver { return ailing{d, &sick} }
			defer r.start()()
			time.Sleep(2 * time.Minute)
			sick.Store(true)
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if got := r.get("web-1").Status.Bmc; got.GetHealth() != "critical" || !r.told("health critical: fan 3 stands still") {
				t.Errorf("status %v, events %q", got, r.events)
			}
			if e := r.fleet.Explain("web-1"); !strings.Contains(strings.Join(e.Advice, "\n"), "fan 3 stands still") {
				t.Errorf("explain says %q", e.Advice)
			}
		})
	})
	t.Run("a BMC without a password says what is missing", func(t *testing.T) {
		inBubble(t, func(t *testing.T, r *room) {
			r.machine("web-1", func(m *pb.Machine) { m.Spec.Bmc.PasswordSecret = "" })
			defer r.start()()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if got := r.get("web-1").GetStatus().GetBmc().GetError(); !strings.Contains(got, "spec.bmc.password_secret") {
				t.Errorf("the status says %q", got)
			}
		})
	})
}

// logging is a driver with an event log of the test's.
type logging struct {
	bmc.Driver
	entries func() []bmc.LogEntry
}

func (l logging) EventLog(context.Context, int) ([]bmc.LogEntry, error) { return l.entries(), nil }

// ailing is a driver that reports bad health when told so.
type ailing struct {
	bmc.Driver
	sick *atomic.Bool
}

func (a ailing) Health(context.Context) (bmc.HealthReport, error) {
	if a.sick.Load() {
		return bmc.HealthReport{Overall: bmc.HealthCritical, Problems: []string{"fan 3 stands still"}}, nil
	}
	return bmc.HealthReport{Overall: bmc.HealthOK}, nil
}

// TestFleet_500 polls 500 BMCs of which one in ten is dead: the others are
// polled each minute all the same, nothing is written that hasn't changed, and
// sessions and goroutines stay bounded.
func TestFleet_500(t *testing.T) {
	inBubble(t, func(t *testing.T, r *room) {
		const all, minutes = 500, 30
		for i := range all {
			f := r.machine(fmt.Sprintf("m-%03d", i))
			f.SetFaults(bmctest.Faults{Delay: 50 * time.Millisecond, Dead: i%10 == 0})
		}
		defer r.start()()
		time.Sleep(5 * time.Minute) // circuits open, first states are written
		synctest.Wait()
		calls := func() (out []int) {
			for i := range all {
				_, _, n, _ := r.fakes[fmt.Sprintf("m-%03d.bmc", i)].Counts()
				out = append(out, n)
			}
			return out
		}
		before, writes := calls(), r.txns.n.Load()
		most := 0
		for range minutes {
			time.Sleep(time.Minute)
			most = max(most, runtime.NumGoroutine())
		}
		synctest.Wait()
		open := 0
		for i, n := range calls() {
			_, o, _, _ := r.fakes[fmt.Sprintf("m-%03d.bmc", i)].Counts()
			open += o
			// Power each minute; health and event log each fifth.
			if got := n - before[i]; i%10 != 0 && (got < minutes+2*minutes/5-4 || got > minutes+2*minutes/5+4) {
				t.Errorf("machine %d was asked %d times in %d minutes", i, got, minutes)
			}
		}
		if open > all-all/10 {
			t.Errorf("%d sessions are open", open)
		}
		// Only the dead ones' circuits, whose next try moves by up to a quarter of an hour.
		if n := r.txns.n.Load() - writes; n > 50*8 {
			t.Errorf("%d writes in %d minutes", n, minutes)
		}
		if most > 200 {
			t.Errorf("%d goroutines at once", most)
		}
		if s := r.get("m-010").GetStatus().GetBmc(); !s.GetCircuitOpen() {
			t.Errorf("a dead one's status is %v", s)
		}
		if e := r.fleet.Explain("m-010"); len(e.Advice) == 0 || !strings.Contains(e.Advice[0], "has not answered properly since") {
			t.Errorf("explain says %q", e.Advice)
		}
		t.Logf("%d writes, %d sessions, %d goroutines at most in %d minutes", r.txns.n.Load()-writes, open, most, minutes)
	})
}

func TestFleet_Pin(t *testing.T) {
	inBubble(t, func(t *testing.T, r *room) {
		r.machine("web-1")
		pin := bmc.Pin("sha256:" + strings.Repeat("ab", 32))
		r.wrap = func(d bmc.Driver) bmc.Driver { return pinning{d, pin} }
		stop := r.start(func(c *Config) { c.PollInterval = -1 })
		if err := r.fleet.Do(t.Context(), r.get("web-1"), ask); err != nil {
			t.Fatal(err)
		}
		m := r.get("web-1")
		if got := m.Status.Bmc; got.GetCertificateDigest() != string(pin) || got.GetContactTime() == nil {
			t.Errorf("after the first contact the status is %v", got)
		}
		stop()
		defer r.start(func(c *Config) { c.PollInterval = -1 })()
		target, err := r.fleet.Target(t.Context(), m)
		if err != nil || target.TLS.Pin != pin {
			t.Errorf("the pin that is wanted from then on is %q, %v", target.TLS.Pin, err)
		}
	})
}

type pinning struct {
	bmc.Driver
	pin bmc.Pin
}

func (p pinning) Pin() bmc.Pin { return p.pin }

func TestPick(t *testing.T) {
	m := &pb.Machine{
		Metadata: &pb.Metadata{Name: "web-1", Annotations: map[string]string{AnnotationBMCMAC: "52:54:00:aa:bb:cc"}},
		Spec:     &pb.MachineSpec{Serial: "7XK1", Bmc: &pb.BMC{Address: "10.0.0.9"}, Interfaces: []*pb.Interface{{Mac: "52:54:00:77:00:01"}}},
	}
	for _, tt := range []struct {
		name   string
		values map[string]string
		want   string
	}{
		{"one for all", map[string]string{"password": "all"}, "all"},
		{"its own before the one for all", map[string]string{"password": "all", "WEB-1": "own"}, "own"},
		{"by serial number, in any case", map[string]string{"7xk1": "own"}, "own"},
		{"by its BMC's MAC address, however it is divided", map[string]string{"525400AABBCC": "own"}, "own"},
		{"by an interface's MAC address", map[string]string{"52_54_00_77_00_01": "own"}, "own"},
		{"by its BMC's address", map[string]string{"10.0.0.9": "own"}, "own"},
		{"another's is not taken", map[string]string{"web-2": "other"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, _ := pick(tt.values, m); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestGenerate(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		p, err := generate(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if len(p) != passwordLength || seen[p] {
			t.Fatalf("got %q", p)
		}
		seen[p] = true
		for _, a := range passwordAlphabets {
			if !strings.ContainsAny(p, a) {
				t.Errorf("%q has none of %q", p, a)
			}
		}
		if !strings.ContainsAny(p[:1], passwordAlphabets[0]) {
			t.Errorf("%q doesn't begin with a letter", p)
		}
	}
	if _, err := generate(strings.NewReader("too short")); err == nil {
		t.Error("a password was made without randomness")
	}
}

func TestFleet_PasswordMoves(t *testing.T) {
	inBubble(t, func(t *testing.T, r *room) {
		f := r.machine("web-1")
		stop := r.start(func(c *Config) { c.PollInterval = -1 })
		if err := r.fleet.RotatePassword(t.Context(), r.get("web-1")); err != nil {
			t.Fatal(err)
		}
		if err := resource.Delete[*pb.Machine](t.Context(), r.db, "web-1", 0); err != nil {
			t.Fatal(err)
		}
		stop()
		// The machine comes back under another name, at the same BMC.
		m := &pb.Machine{Metadata: &pb.Metadata{Name: "db-1"}, Spec: &pb.MachineSpec{Bmc: &pb.BMC{Address: "web-1.bmc", Username: "root", PasswordSecret: "bmc"}}}
		if _, err := resource.Create(t.Context(), r.db, m); err != nil {
			t.Fatal(err)
		}
		defer r.start(func(c *Config) { c.PollInterval = -1 })()
		if err := r.fleet.Do(t.Context(), r.get("db-1"), ask); err != nil {
			t.Errorf("its password is %q: %v", f.Password(), err)
		}
	})
}

func TestFleet_NeitherPassword(t *testing.T) {
	inBubble(t, func(t *testing.T, r *room) {
		f := r.machine("web-1")
		defer r.start(func(c *Config) { c.PollInterval = -1 })()
		m := r.get("web-1")
		if err := r.fleet.vault.put(t.Context(), "web-1", record{Address: "web-1.bmc", Current: "old", Pending: "new"}); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if err := r.fleet.Do(t.Context(), m, ask); !errors.Is(err, bmc.ErrAuth) {
				t.Fatalf("err = %v", err)
			}
		}
		if logins, _, _, _ := f.Counts(); logins != 2 {
			t.Errorf("%d logins with wrong passwords: accounts get locked", logins)
		}
		if err := r.fleet.ForgetPassword(t.Context(), "web-1"); err != nil {
			t.Fatal(err)
		}
		if err := r.fleet.Do(t.Context(), m, ask); err != nil {
			t.Errorf("after the account was reset by hand: %v", err)
		}
	})
}

func TestAfter(t *testing.T) {
	at := time.Unix(1e9, 0)
	entries := []bmc.LogEntry{{ID: "1", Time: at}, {ID: "2", Time: at}, {ID: "3", Time: at}}
	for _, tt := range []struct {
		name string
		mark logMark
		want []bmc.LogEntry
	}{
		{"what is behind the mark", logMark{"2", at}, entries[2:]},
		{"nothing behind the last", logMark{"3", at}, []bmc.LogEntry{}},
		{"all when the log was cleared since", logMark{"2", at.Add(-time.Hour)}, entries},
	} {
		if diff := cmp.Diff(tt.want, after(entries, tt.mark)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}
