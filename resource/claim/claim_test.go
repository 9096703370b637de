package claim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
)

func newDB(t *testing.T) *resource.DB {
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
	return &resource.DB{Store: st, Now: time.Now, NewUID: func() string { return "uid" }}
}

func machine(name string, macs ...string) *pb.Machine {
	m := &pb.Machine{Metadata: &pb.Metadata{Name: name}, Spec: &pb.MachineSpec{}}
	for _, mac := range macs {
		m.Spec.Interfaces = append(m.Spec.Interfaces, &pb.Interface{Mac: mac})
	}
	return m
}

// claims returns who has what.
func claims(t *testing.T, db *resource.DB) map[string]string {
	t.Helper()
	page, err := db.Store.List(t.Context(), prefix, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range page.KVs {
		out[strings.TrimPrefix(kv.Key, prefix)] = string(kv.Value)
	}
	return out
}

const (
	mac1 = "52:54:00:77:00:01"
	mac2 = "52:54:00:77:00:02"
	key1 = "mac=" + mac1
	key2 = "mac=" + mac2
)

func TestCreate(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	if _, err := Create(ctx, db, machine("a", mac1)); err != nil {
		t.Fatal(err)
	}
	t.Run("a name that is taken", func(t *testing.T) {
		if _, err := Create(ctx, db, machine("a", mac2)); !errors.Is(err, resource.ErrExists) {
			t.Errorf("err = %v, want ErrExists", err)
		}
	})
	t.Run("an address that is taken", func(t *testing.T) {
		_, err := Create(ctx, db, machine("b", mac2, mac1))
		var fields *resource.FieldErrors
		if !errors.As(err, &fields) || fields.Errors[0].Path != "spec.interfaces[1].mac" {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("a discovered machine's says what to do", func(t *testing.T) {
		if _, err := resource.Update(ctx, db, "a", func(m *pb.Machine) error {
			m.Status = &pb.MachineStatus{State: pb.MachineState_DISCOVERED}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		_, err := Create(ctx, db, machine("b", mac1))
		if err == nil || !strings.Contains(err.Error(), "delete it first") {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("of many at once one gets it", func(t *testing.T) {
		var wg sync.WaitGroup
		errs := make([]error, 16)
		for i := range errs {
			wg.Go(func() { _, errs[i] = Create(ctx, db, machine(fmt.Sprintf("m-%d", i), mac2)) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			}
		}
		if won != 1 {
			t.Errorf("%d got it", won)
		}
	})
	t.Run("more than one Txn can hold is refused", func(t *testing.T) {
		m := machine("large")
		for i := range 64 {
			m.Spec.Interfaces = append(m.Spec.Interfaces, &pb.Interface{
				Mac: fmt.Sprintf("52:54:01:00:00:%02x", i), Address: fmt.Sprintf("10.0.0.%d/16", i+1),
			})
		}
		var fields *resource.FieldErrors
		if _, err := Create(ctx, db, m); !errors.As(err, &fields) || fields.Errors[0].Path != "spec.interfaces" {
			t.Errorf("err = %v", err)
		}
	})
}

func TestPlan_Abandoned(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	_, err := Create(ctx, db, machine("a", mac1))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a claim that was dropped without notice is taken over", func(t *testing.T) {
		if _, err := resource.Update(ctx, db, "a", func(m *pb.Machine) error {
			m.Spec.Interfaces[0].Mac = mac2
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := Create(ctx, db, machine("b", mac1)); err != nil {
			t.Error(err)
		}
	})
	t.Run("and so is one whose machine has gone", func(t *testing.T) {
		if err := resource.Delete[*pb.Machine](ctx, db, "b", 0); err != nil {
			t.Fatal(err)
		}
		change, err := Plan(ctx, db, nil, machine("c", mac1))
		if err != nil {
			t.Fatal(err)
		}
		// The owner comes back before the Txn: it doesn't hold.
		if _, err := resource.Create(ctx, db, machine("b", mac1)); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Store.Txn(ctx, change.Compares, change.Ops); !errors.Is(err, store.ErrConflict) {
			t.Errorf("err = %v, want ErrConflict", err)
		}
	})
}

func TestPlan_Shared(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	for _, name := range []string{"a", "b"} {
		m := machine(name)
		m.Spec.Serial = "To be filled by O.E.M."
		if _, err := resource.Create(ctx, db, m); err != nil {
			t.Fatal(err)
		}
		change, err := Plan(ctx, db, m, m)
		if err != nil {
			t.Fatal(err)
		}
		if name == "a" {
			if _, err := db.Store.Txn(ctx, change.Compares, change.Ops); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if len(change.Shared) != 1 || change.Shared[0].Path != "spec.serial" || len(change.Ops) != 0 {
			t.Errorf("change = %+v", change)
		}
	}
}

func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t)
		if _, err := resource.Create(t.Context(), db, machine("before", mac1)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Keep(ctx, db, slog.New(slog.DiscardHandler)) }()
		want := func(what string, want map[string]string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, claims(t, db)); diff != "" {
				t.Errorf("%s: claims (-want +got):\n%s", what, diff)
			}
		}
		want("at start", map[string]string{key1: "before"})
		if _, err := resource.Create(t.Context(), db, machine("after", mac2)); err != nil {
			t.Fatal(err)
		}
		want("a machine made without claims", map[string]string{key1: "before", key2: "after"})
		if err := resource.Delete[*pb.Machine](t.Context(), db, "before", 0); err != nil {
			t.Fatal(err)
		}
		want("a machine deleted without them", map[string]string{key2: "after"})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
