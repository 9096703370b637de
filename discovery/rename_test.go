package discovery

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
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
	return &resource.DB{Store: st, Now: time.Now, NewUID: func() string { return "uid-1" }}
}

func unchanged(*pb.Machine) error { return nil }

func create(t *testing.T, db *resource.DB, name string, macs ...string) {
	t.Helper()
	m := &pb.Machine{Metadata: &pb.Metadata{Name: name}, Spec: &pb.MachineSpec{}}
	for _, mac := range macs {
		m.Spec.Interfaces = append(m.Spec.Interfaces, &pb.Interface{Mac: mac})
	}
	if _, err := claim.Create(t.Context(), db, m); err != nil {
		t.Fatal(err)
	}
}

func owners(t *testing.T, db *resource.DB, values ...string) (out []string) {
	t.Helper()
	for _, v := range values {
		name, err := claim.Owner(t.Context(), db, v)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, name)
	}
	return out
}

const (
	mac1 = "52:54:00:77:00:01"
	mac2 = "52:54:00:77:00:02"
)

func TestRename(t *testing.T) {
	db := newDB(t)
	ctx := t.Context()
	create(t, db, "m-525400770001", mac1)
	create(t, db, "taken", mac2)
	t.Run("a name that is taken", func(t *testing.T) {
		if err := Rename(ctx, db, "m-525400770001", "taken", unchanged, nil, nil); !errors.Is(err, resource.ErrExists) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("no name at all", func(t *testing.T) {
		if err := Rename(ctx, db, "m-525400770001", "No Name", unchanged, nil, nil); !errors.Is(err, resource.ErrName) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("what another machine has", func(t *testing.T) {
		var fields *resource.FieldErrors
		err := Rename(ctx, db, "m-525400770001", "web-1", func(m *pb.Machine) error {
			m.Spec.Interfaces[0].Mac = mac2
			return nil
		}, nil, nil)
		if !errors.As(err, &fields) || fields.Errors[0].Path != "spec.interfaces[0].mac" {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("a change that fails changes nothing", func(t *testing.T) {
		failed := errors.New("no")
		if err := Rename(ctx, db, "m-525400770001", "web-1", func(*pb.Machine) error { return failed }, nil, nil); !errors.Is(err, failed) {
			t.Errorf("err = %v", err)
		}
	})
	before, err := resource.Get[*pb.Machine](ctx, db, "m-525400770001")
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	err = Rename(ctx, db, "m-525400770001", "web-1", func(m *pb.Machine) error {
		if tries++; tries == 1 { // somebody else is faster
			if _, err := resource.Update(ctx, db, "m-525400770001", func(m *pb.Machine) error {
				m.Spec.Rack = "r1"
				return nil
			}); err != nil {
				return err
			}
		}
		m.Spec.Pool = "compute"
		m.Spec.Bmc = &pb.BMC{Address: "10.0.0.9"}
		return nil
	}, nil, []store.Op{store.Put("/beside", nil)})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("the machine has moved as it was, with what was changed", func(t *testing.T) {
		m, err := resource.Get[*pb.Machine](ctx, db, "web-1")
		if err != nil {
			t.Fatal(err)
		}
		if m.GetSpec().GetRack() != "r1" || m.GetSpec().GetPool() != "compute" || m.GetMetadata().GetUid() != before.GetMetadata().GetUid() ||
			!m.GetMetadata().GetCreateTime().AsTime().Equal(before.GetMetadata().GetCreateTime().AsTime()) {
			t.Errorf("machine = %v", m)
		}
		if _, err := resource.Get[*pb.Machine](ctx, db, "m-525400770001"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the old one: %v", err)
		}
		if _, err := db.Store.Get(ctx, "/beside"); err != nil {
			t.Errorf("the op that went with it: %v", err)
		}
	})
	t.Run("with its claims, and its former name", func(t *testing.T) {
		got := owners(t, db, "mac="+mac1, "bmc=10.0.0.9", "former-name=m-525400770001", "mac="+mac2)
		if diff := cmp.Diff([]string{"web-1", "web-1", "web-1", "taken"}, got); diff != "" {
			t.Errorf("owners (-want +got):\n%s", diff)
		}
		name, ok, err := Renamed(ctx, db, "m-525400770001")
		if name != "web-1" || !ok || err != nil {
			t.Errorf("Renamed = %s, %v, %v", name, ok, err)
		}
	})
	t.Run("but not a second time", func(t *testing.T) {
		if err := Rename(ctx, db, "web-1", "web-2", unchanged, nil, nil); !errors.Is(err, ErrInUse) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("a name that was never another's", func(t *testing.T) {
		for _, name := range []string{"taken", "web-1", "nobody"} {
			if now, ok, err := Renamed(ctx, db, "taken"); ok || err != nil {
				t.Errorf("%s: %s, %v", name, now, err)
			}
		}
	})
	t.Run("the old name is free", func(t *testing.T) {
		create(t, db, "m-525400770001")
		if _, ok, err := Renamed(ctx, db, "m-525400770001"); ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
	})
	t.Run("a machine that is gone has no former name either", func(t *testing.T) {
		for _, name := range []string{"m-525400770001", "web-1"} {
			if err := resource.Delete[*pb.Machine](ctx, db, name, 0); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok, err := Renamed(ctx, db, "m-525400770001"); ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
	})
}

func TestRename_InUse(t *testing.T) {
	for what, status := range map[string]*pb.MachineStatus{
		"a workflow": {Workflow: "w"}, "an instance": {Instance: "i"}, "a job": {Job: "j"}, "an erasure record": {Erasure: "e"},
	} {
		t.Run(what, func(t *testing.T) {
			db := newDB(t)
			if _, err := resource.Create(t.Context(), db, &pb.Machine{Metadata: &pb.Metadata{Name: "a"}, Status: status}); err != nil {
				t.Fatal(err)
			}
			if err := Rename(t.Context(), db, "a", "b", unchanged, nil, nil); !errors.Is(err, ErrInUse) {
				t.Errorf("err = %v", err)
			}
		})
	}
}
