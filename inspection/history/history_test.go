package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
)

var start = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

// rig is a machine whose status is changed with its history.
type rig struct {
	t   *testing.T
	db  *resource.DB
	h   *History
	now time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	st, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, now: start}
	uids := 0
	r.db = &resource.DB{Store: st, Now: func() time.Time { return r.now }, NewUID: func() string { uids++; return fmt.Sprint("uid-", uids) }}
	r.h = New(r.db)
	return r
}

func (r *rig) create(name string) {
	r.t.Helper()
	if _, err := resource.Create(r.t.Context(), r.db, &pb.Machine{Metadata: &pb.Metadata{Name: name}, Status: &pb.MachineStatus{}}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) get(name string) *pb.Machine {
	r.t.Helper()
	m, err := resource.Get[*pb.Machine](r.t.Context(), r.db, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// change alters the machine an hour later, and returns how many ops were recorded with it.
func (r *rig) change(name string, edit func(*pb.MachineStatus)) int {
	r.t.Helper()
	r.now = r.now.Add(time.Hour)
	before := r.get(name)
	after := proto.Clone(before).(*pb.Machine)
	edit(after.Status)
	ops, err := r.h.Ops(r.t.Context(), before, after)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.db.Store.Txn(r.t.Context(), []store.Compare{resource.Unchanged(before)}, append(ops, resource.Put(after))); err != nil {
		r.t.Fatal(err)
	}
	return len(ops)
}

// product sets an inventory that has one word in it.
func product(word string) func(*pb.MachineStatus) {
	return func(s *pb.MachineStatus) { s.Inventory = &pb.Inventory{System: &pb.System{Product: word}} }
}

func (r *rig) lines(name string) (out []string) {
	r.t.Helper()
	all, err := r.h.Inventories(r.t.Context(), r.get(name))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, rec := range all {
		line := fmt.Sprintf("%d %s %s", rec.GetNumber(), rec.GetTime().AsTime().Format("15:04"), rec.GetInventory().GetSystem().GetProduct())
		for _, d := range rec.GetChanges() {
			line += fmt.Sprintf(" (%s: %s → %s)", d.GetPath(), d.GetWant(), d.GetGot())
		}
		out = append(out, line)
	}
	return out
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHistory_Inventories(t *testing.T) {
	r := newRig(t)
	r.create("a")
	r.create("b")
	t.Run("the first inventory is a record", func(t *testing.T) {
		r.change("a", product("R650"))
		want(t, r.lines("a"), "1 04:00 R650")
	})
	t.Run("the same hardware is none", func(t *testing.T) {
		n := r.change("a", func(s *pb.MachineStatus) {
			s.Inventory = &pb.Inventory{System: &pb.System{Product: "R650"}, Kernel: "6.12", CollectTime: timestamppb.New(start)}
		})
		n += r.change("a", func(s *pb.MachineStatus) { s.Cause = "something else" })
		if n != 0 {
			t.Errorf("%d ops", n)
		}
	})
	t.Run("also when it was to be read again", func(t *testing.T) {
		if n := r.change("a", func(s *pb.MachineStatus) { s.Inventory = nil }) + r.change("a", product("R650")); n != 0 {
			t.Errorf("%d ops", n)
		}
	})
	t.Run("another is, with the time at which it was read", func(t *testing.T) {
		r.change("a", func(s *pb.MachineStatus) {
			s.Inventory = &pb.Inventory{System: &pb.System{Product: "R750"}, CollectTime: timestamppb.New(start.Add(310 * time.Minute))}
		})
		want(t, r.lines("a"), "2 08:10 R750 (system.product: R650 → R750)", "1 04:00 R650")
	})
	t.Run("a clock that is ahead is not believed", func(t *testing.T) {
		r.change("b", func(s *pb.MachineStatus) {
			s.Inventory = &pb.Inventory{System: &pb.System{Product: "X"}, CollectTime: timestamppb.New(start.AddDate(9, 0, 0))}
		})
		want(t, r.lines("b"), "1 10:00 X")
	})
	t.Run("a machine from before there was a history", func(t *testing.T) {
		if _, err := resource.Create(t.Context(), r.db, &pb.Machine{Metadata: &pb.Metadata{Name: "c"}, Status: &pb.MachineStatus{Inventory: &pb.Inventory{System: &pb.System{Product: "old"}}}}); err != nil {
			t.Fatal(err)
		}
		r.change("c", product("new"))
		want(t, r.lines("c"), "2 11:00 new (system.product: old → new)", "1 11:00 old")
	})
	t.Run("only the newest are kept", func(t *testing.T) {
		for i := range Keep + 5 {
			r.change("b", product(fmt.Sprint(i)))
		}
		all := r.lines("b")
		if len(all) != Keep {
			t.Fatalf("%d records", len(all))
		}
		want(t, []string{all[Keep-1]}, "7 17:00 5")
	})
	t.Run("a machine without a uid has no history", func(t *testing.T) {
		ops, err := r.h.Ops(t.Context(), nil, &pb.Machine{Status: &pb.MachineStatus{Inventory: &pb.Inventory{}}})
		if len(ops) != 0 || err != nil {
			t.Errorf("%v, %v", ops, err)
		}
	})
}

func TestHistory_Diff(t *testing.T) {
	r := newRig(t)
	r.create("a")
	if _, err := r.h.Diff(t.Context(), r.get("a"), "", ""); err == nil {
		t.Error("no error for a machine without records")
	}
	for _, word := range []string{"one", "two", "three"} {
		r.change("a", product(word))
	}
	for _, tt := range []struct{ from, to, want string }{
		{"", "", "2 3 two three"}, {"1", "", "1 3 one three"}, {"", "2", "1 2 one two"}, {"3", "1", "3 1 three one"},
		{"", "1", "1 1"}, {"2026-01-02T04:30:00Z", "2026-01-02T07:00:00+01:00", "1 3 one three"}, {"2", "2026-01-02", "2 3 two three"},
	} {
		d, err := r.h.Diff(t.Context(), r.get("a"), tt.from, tt.to)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(d.GetFrom().GetNumber(), " ", d.GetTo().GetNumber())
		for _, x := range d.GetDifferences() {
			got += " " + x.GetWant() + " " + x.GetGot()
		}
		if got != tt.want || d.GetFrom().GetInventory() != nil {
			t.Errorf("Diff(%q, %q) = %s, want %s", tt.from, tt.to, got, tt.want)
		}
	}
	for _, tt := range []struct{ from, to, path, want string }{
		{"9", "", "from", "machine/a has no record 9: it has 1 to 3"},
		{"", "0", "to", "machine/a has no record 0: it has 1 to 3"},
		{"yesterday", "", "from", `"yesterday": neither a record's number nor a time such as 2026-01-02 or 2026-01-02T15:04:05Z`},
		{"", "2025-12-31", "to", "nothing is on record of machine/a at that time: its oldest record is 1, of 2026-01-02T04:00:00Z"},
	} {
		_, err := r.h.Diff(t.Context(), r.get("a"), tt.from, tt.to)
		var fields *resource.FieldErrors
		if !errors.As(err, &fields) || fields.Errors[0].Path != tt.path || fields.Errors[0].Message != tt.want {
			t.Errorf("Diff(%q, %q): %v, want %s", tt.from, tt.to, err, tt.want)
		}
	}
}

func TestHistory_Tests(t *testing.T) {
	r := newRig(t)
	r.create("a")
	for i := range Keep + 2 {
		r.change("a", func(s *pb.MachineStatus) {
			s.TestTime = timestamppb.New(r.now)
			s.Tests = []*pb.TestResult{{Test: "cpu", Measure: "throughput", Value: float64(i), Ok: true, Workflow: fmt.Sprint("w-", i)}}
		})
	}
	r.change("a", func(s *pb.MachineStatus) { s.Tests[0].Verdict = "pass" }) // judged again, not run again
	runs, err := r.h.Tests(t.Context(), r.get("a"))
	if err != nil {
		t.Fatal(err)
	}
	if len(runs) != Keep || runs[0].GetNumber() != Keep+2 || runs[0].GetWorkflow() != fmt.Sprint("w-", Keep+1) || runs[0].GetResults()[0].GetValue() != Keep+1 {
		t.Errorf("%d runs, the newest %v", len(runs), runs[0])
	}
}

func TestHistory_Run(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for _, name := range []string{"gone", "deleted", "kept"} {
			r.create(name)
			r.change(name, product("x"))
			r.change(name, func(s *pb.MachineStatus) { s.TestTime = timestamppb.New(r.now) })
		}
		remove := func(name string) {
			if err := resource.Delete[*pb.Machine](t.Context(), r.db, name, 0); err != nil {
				t.Fatal(err)
			}
		}
		remove("gone")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.h.Run(ctx, slog.New(slog.DiscardHandler)) }()
		keys := func() (out []string) {
			synctest.Wait()
			for _, prefix := range []string{inventoryPrefix, testPrefix} {
				page, err := r.db.Store.List(t.Context(), prefix, "", 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, kv := range page.KVs {
					out = append(out, kv.Key[:len(kv.Key)-20])
				}
			}
			return out
		}
		want(t, keys(), inventoryPrefix+"uid-2", inventoryPrefix+"uid-3", testPrefix+"uid-2", testPrefix+"uid-3")
		remove("deleted")
		want(t, keys(), inventoryPrefix+"uid-3", testPrefix+"uid-3")
		// Another name is no reason to forget.
		kept := r.get("kept")
		next := proto.Clone(kept).(*pb.Machine)
		next.Metadata.Name = "web-1"
		next.Metadata.Annotations = map[string]string{resource.AnnotationFormerName: "kept"}
		if _, err := r.db.Store.Txn(t.Context(), nil, []store.Op{
			resource.Remove[*pb.Machine]("kept"), resource.Put(next), store.Put("/index/claims/former-name=kept", []byte("web-1")),
		}); err != nil {
			t.Fatal(err)
		}
		want(t, keys(), inventoryPrefix+"uid-3", testPrefix+"uid-3")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
