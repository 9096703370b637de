package rpc

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// fakeMedia has one medium of every machine, a key in the store.
type fakeMedia struct {
	r *rig
	// before is called when a medium has been found good.
	before func()

	mu       sync.Mutex
	reserved machine.Name
}

func mediumKey(name machine.Name) string { return "/media/" + string(name) }

func (f *fakeMedia) Enrolment(ctx context.Context, name machine.Name, uid, id string) ([]store.Compare, error) {
	kv, err := f.r.db.Store.Get(ctx, mediumKey(name))
	if err != nil || string(kv.Value) != uid || id != "medium-of-"+string(name) {
		return nil, errors.New("the medium was taken out")
	}
	if f.before != nil {
		f.before()
	}
	return []store.Compare{{Key: kv.Key, ModRevision: kv.ModRevision}}, nil
}

func (f *fakeMedia) Reserved(netip.Addr) (machine.Name, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reserved, f.reserved != ""
}

// parseMedium reads the tokens of these tests: medium:NAME or expired:NAME.
func parseMedium(token string) (name machine.Name, expired, ok bool) {
	kind, rest, _ := strings.Cut(token, ":")
	return machine.Name(rest), kind == "expired", kind == "medium" || kind == "expired"
}

// insert makes a machine with these identities and puts its medium in.
func (r *rig) insert(name string, spec *pb.MachineSpec) {
	r.t.Helper()
	m, err := resource.Create(r.t.Context(), r.db, &pb.Machine{Metadata: &pb.Metadata{Name: name}, Spec: spec, Status: &pb.MachineStatus{}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.txn(store.Put(mediumKey(machine.Name(name)), []byte(m.Metadata.Uid)))
}

func (r *rig) txn(op store.Op) {
	r.t.Helper()
	if _, err := r.db.Store.Txn(context.Background(), nil, []store.Op{op}); err != nil {
		r.t.Error(err)
	}
}

// ours are identities that the agents of these tests have.
func ours() *pb.MachineSpec {
	return &pb.MachineSpec{Interfaces: []*pb.Interface{{Mac: "52-54-00-00-00-02"}}}
}

func TestServer_EnrollMedium(t *testing.T) {
	r := newRig(t)
	r.insert("m", ours())
	t.Run("a medium is good for every boot, and the newest wins", func(t *testing.T) {
		first := r.client("a")
		if name, err := first.enrol("medium:m"); err != nil || name != "m" {
			t.Fatalf("%q, %v", name, err)
		}
		stream, err := first.connect("", 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.client("b").enrol("medium:m"); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		wantCode(t, err, codes.Aborted, "")
		m, err := resource.Get[*pb.Machine](t.Context(), r.db, "m")
		if err != nil || m.GetStatus().GetAgent().GetTokenId() != "medium-of-m" || m.GetStatus().GetAgent().GetBootId() != strings.Repeat("b", 16) {
			t.Errorf("agent %v, %v", m.GetStatus().GetAgent(), err)
		}
	})
	t.Run("a boot that is in stays in when it asks again, also without the medium", func(t *testing.T) {
		r.insert("again", ours())
		c := r.client("c")
		if _, err := c.enrol("medium:again"); err != nil {
			t.Fatal(err)
		}
		r.txn(store.Delete(mediumKey("again")))
		if _, err := c.enrol("medium:again"); err != nil {
			t.Error(err)
		}
		_, err := r.client("d").enrol("medium:again")
		wantCode(t, err, codes.Unauthenticated, "taken out")
	})
	t.Run("a boot can't be taken over with another key", func(t *testing.T) {
		c := r.client("e")
		if _, err := c.enrol("medium:m"); err != nil {
			t.Fatal(err)
		}
		_, err := r.client("e").enrol("medium:m")
		wantCode(t, err, codes.Unauthenticated, "another key")
	})
	t.Run("an expired one is refused and says what to do", func(t *testing.T) {
		_, err := r.client("f").enrol("expired:m")
		wantCode(t, err, codes.Unauthenticated, "bedplate machine media")
	})
	t.Run("in another machine it is refused, and the agent goes on trying", func(t *testing.T) {
		r.insert("other", &pb.MachineSpec{Uuid: "00000000-0000-0000-0000-000000000001", Interfaces: []*pb.Interface{{Mac: "52:54:00:00:00:99"}}})
		_, err := r.client("1").enrol("medium:other")
		wantCode(t, err, codes.FailedPrecondition, "is for machine other")
	})
	for name, spec := range map[string]*pb.MachineSpec{
		"by-uuid":    {Uuid: "4c4c4544-0000-1000-8000-000000000001", Interfaces: []*pb.Interface{{Mac: "52:54:00:00:00:99"}}},
		"by-serial":  {Serial: "s1"},
		"by-nothing": {},
	} {
		t.Run("known "+name+" it is taken", func(t *testing.T) {
			r.insert(name, spec)
			if _, err := r.client("2").enrol("medium:" + name); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("from an address that is reserved for another machine it is refused", func(t *testing.T) {
		r.media.mu.Lock()
		r.media.reserved = "other"
		r.media.mu.Unlock()
		_, err := r.client("3").enrol("medium:m")
		wantCode(t, err, codes.FailedPrecondition, "an address of machine other")
		r.media.mu.Lock()
		r.media.reserved = "m"
		r.media.mu.Unlock()
		if _, err := r.client("3").enrol("medium:m"); err != nil {
			t.Errorf("from its own: %v", err)
		}
		r.media.mu.Lock()
		r.media.reserved = ""
		r.media.mu.Unlock()
	})
	t.Run("taken out while it is redeemed, it enrols nobody", func(t *testing.T) {
		r.insert("race", ours())
		r.media.before = sync.OnceFunc(func() { r.txn(store.Delete(mediumKey("race"))) })
		defer func() { r.media.before = nil }()
		_, err := r.client("4").enrol("medium:race")
		wantCode(t, err, codes.Unauthenticated, "taken out")
	})
	t.Run("a machine that is not known any more", func(t *testing.T) {
		_, err := r.client("5").enrol("medium:nobody")
		wantCode(t, err, codes.Unauthenticated, "not known")
	})
}
