package resource

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
)

// mustDB returns a database of its own, whose clock moves on by a second with
// every look at it.
func mustDB(t *testing.T, opts bolt.Options) *DB {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "bedplate.db"), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Check(context.Background()), s.Close()); err != nil {
			t.Errorf("the store: %v", err)
		}
	})
	var seconds, uids atomic.Int64
	return &DB{
		Store:  s,
		Now:    func() time.Time { return time.Unix(seconds.Add(1), 0) },
		NewUID: func() string { return fmt.Sprintf("uid-%d", uids.Add(1)) },
	}
}

func newMachine(name string, labels map[string]string) *pb.Machine {
	return &pb.Machine{
		Metadata: &pb.Metadata{Name: name, Labels: labels},
		Spec:     &pb.MachineSpec{Serial: name},
	}
}

func mustCreate[T Object](t *testing.T, db *DB, obj T) T {
	t.Helper()
	out, err := Create(t.Context(), db, obj)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return out
}

func wantErr(t *testing.T, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || err.Error() != text {
		t.Errorf("got error %q, want %q", err, text)
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestCreate(t *testing.T) {
	db := mustDB(t, bolt.Options{})
	in := newMachine("web-1", nil)
	made := mustCreate(t, db, in)
	same(t, "what was made", made, &pb.Machine{
		Metadata: &pb.Metadata{
			Name: "web-1", Uid: "uid-1", ResourceVersion: 1,
			CreateTime: timestamppb.New(time.Unix(1, 0)), UpdateTime: timestamppb.New(time.Unix(1, 0)),
		},
		Spec: &pb.MachineSpec{Serial: "web-1"},
	})
	same(t, "the argument", in, newMachine("web-1", nil))
	got, err := Get[*pb.Machine](t.Context(), db, "web-1")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "what was stored", got, made)

	_, err = Create(t.Context(), db, in)
	wantErr(t, err, ErrExists, "machine/web-1: already exists")
	mustCreate(t, db, &pb.Image{Metadata: &pb.Metadata{Name: "web-1"}})
	for _, name := range []string{"", "a/b", "A", "-a", "a-", strings.Repeat("a", 254)} {
		if _, err := Create(t.Context(), db, newMachine(name, nil)); !errors.Is(err, ErrName) {
			t.Errorf("a machine named %q: %v", name, err)
		}
	}
	_, err = Get[*pb.Machine](t.Context(), db, "web-2")
	wantErr(t, err, store.ErrNotFound, "machine/web-2: not found")
}

func TestUpdate(t *testing.T) {
	db := mustDB(t, bolt.Options{})
	made := mustCreate(t, db, newMachine("web-1", nil))

	t.Run("what the package keeps can't be changed", func(t *testing.T) {
		got, err := Update(t.Context(), db, "web-1", func(m *pb.Machine) error {
			m.Metadata = &pb.Metadata{Name: "other", Uid: "other", ResourceVersion: 99}
			m.Spec.Serial = "new"
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := proto.Clone(made).(*pb.Machine)
		want.Spec.Serial = "new"
		want.Metadata.ResourceVersion, want.Metadata.UpdateTime = 2, timestamppb.New(time.Unix(2, 0))
		same(t, "after the update", got, want)
		stored, err := Get[*pb.Machine](t.Context(), db, "web-1")
		if err != nil {
			t.Fatal(err)
		}
		same(t, "stored", stored, want)
	})
	t.Run("nothing changed is nothing written", func(t *testing.T) {
		for what, err := range map[string]error{"by the error": ErrUnchanged, "by the result": nil} {
			got, err := Update(t.Context(), db, "web-1", func(m *pb.Machine) error {
				if err != nil {
					m.Spec.Serial = "dropped"
				}
				return err
			})
			if err != nil || got.Metadata.ResourceVersion != 2 || got.Spec.Serial != "new" {
				t.Errorf("%s: got %v, %v", what, got, err)
			}
		}
	})
	t.Run("the function's error is returned", func(t *testing.T) {
		broken := errors.New("broken")
		if _, err := Update(t.Context(), db, "web-1", func(*pb.Machine) error { return broken }); err != broken {
			t.Errorf("got %v", err)
		}
	})
	t.Run("what isn't there can't be changed", func(t *testing.T) {
		_, err := Update(t.Context(), db, "none", func(*pb.Machine) error { return nil })
		wantErr(t, err, store.ErrNotFound, "machine/none: not found")
	})
	t.Run("no change is lost among many", func(t *testing.T) {
		mustCreate(t, db, &pb.Image{Metadata: &pb.Metadata{Name: "count"}, Spec: &pb.ImageSpec{}})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 10 {
					if _, err := Update(t.Context(), db, "count", func(i *pb.Image) error { i.Spec.SizeBytes++; return nil }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		got, err := Get[*pb.Image](t.Context(), db, "count")
		if err != nil || got.Spec.SizeBytes != 100 {
			t.Errorf("the count is %d (%v)", got.GetSpec().GetSizeBytes(), err)
		}
	})
}

func TestReplace(t *testing.T) {
	db := mustDB(t, bolt.Options{})
	made := mustCreate(t, db, newMachine("web-1", nil))
	next := newMachine("web-1", map[string]string{"rack": "r1"})
	got, err := Replace(t.Context(), db, next)
	if err != nil {
		t.Fatal(err)
	}
	if got.Metadata.Uid != made.Metadata.Uid || got.Metadata.Labels["rack"] != "r1" || got.Metadata.ResourceVersion != 2 {
		t.Errorf("got %v", got)
	}
	_, err = Replace(t.Context(), db, made)
	wantErr(t, err, store.ErrConflict, "machine/web-1: changed by someone else")
	next.Metadata.Uid = "of another life"
	_, err = Replace(t.Context(), db, next)
	wantErr(t, err, store.ErrConflict, "machine/web-1: changed by someone else")
	_, err = Replace(t.Context(), db, newMachine("none", nil))
	wantErr(t, err, store.ErrNotFound, "machine/none: not found")
}

func TestDelete(t *testing.T) {
	db := mustDB(t, bolt.Options{})
	made := mustCreate(t, db, newMachine("web-1", nil))
	err := Delete[*pb.Machine](t.Context(), db, "web-1", made.Metadata.ResourceVersion+1)
	wantErr(t, err, store.ErrConflict, "machine/web-1: changed by someone else")
	if err := Delete[*pb.Machine](t.Context(), db, "web-1", made.Metadata.ResourceVersion); err != nil {
		t.Error(err)
	}
	err = Delete[*pb.Machine](t.Context(), db, "web-1", 0)
	wantErr(t, err, store.ErrNotFound, "machine/web-1: not found")
	again := mustCreate(t, db, newMachine("web-1", nil))
	if again.Metadata.Uid == made.Metadata.Uid {
		t.Error("a machine made again has the uid of the one before")
	}
	if err := Delete[*pb.Machine](t.Context(), db, "web-1", 0); err != nil {
		t.Error(err)
	}
}

func TestList(t *testing.T) {
	db := mustDB(t, bolt.Options{})
	var all, odd []string
	for i := range 10 {
		name := fmt.Sprintf("m-%d", i)
		mustCreate(t, db, newMachine(name, map[string]string{"odd": fmt.Sprint(i%2 == 1)}))
		all = append(all, name)
		if i%2 == 1 {
			odd = append(odd, name)
		}
	}
	mustCreate(t, db, &pb.Image{Metadata: &pb.Metadata{Name: "m-x"}})
	items, revision, err := All[*pb.Machine](t.Context(), db)
	if err != nil || revision != 11 {
		t.Fatalf("revision %d, %v", revision, err)
	}
	same(t, "all", names(items), all)
	selector, err := ParseSelector("odd=true")
	if err != nil {
		t.Fatal(err)
	}
	for limit := range 7 {
		var got []string
		opts := ListOptions{Selector: selector, Limit: limit}
		for {
			page, err := List[*pb.Machine](t.Context(), db, opts)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, names(page.Items)...)
			if limit > 0 && len(page.Items) > limit {
				t.Errorf("a page of %d has %d", limit, len(page.Items))
			}
			if page.Next == "" {
				break
			}
			opts.After = page.Next
		}
		same(t, fmt.Sprintf("odd ones in pages of %d", limit), got, odd)
	}
}

func names[T Object](items []T) []string {
	var out []string
	for _, i := range items {
		out = append(out, i.GetMetadata().GetName())
	}
	return out
}

func TestTxn(t *testing.T) {
	db := mustDB(t, bolt.Options{})
	m := mustCreate(t, db, newMachine("web-1", nil))
	w := &pb.Workflow{Metadata: &pb.Metadata{Name: "w"}, Spec: &pb.WorkflowSpec{Machine: "web-1"}}
	Stamp(db, w)
	m.Status = &pb.MachineStatus{Workflow: "w"}
	compares := []store.Compare{Unchanged(m), Absent[*pb.Workflow]("w")}
	ops := []store.Op{Put(m), Put(w)}
	rev, err := db.Store.Txn(t.Context(), compares, ops)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Store.Txn(t.Context(), compares, ops); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the second time: %v", err)
	}
	got, err := Get[*pb.Workflow](t.Context(), db, "w")
	if err != nil || got.Metadata.Uid == "" || got.Metadata.CreateTime == nil || got.Metadata.ResourceVersion != rev {
		t.Errorf("got %v, %v", got, err)
	}
	kv, err := db.Store.Get(t.Context(), "/machines/web-1")
	if err != nil {
		t.Fatal(err)
	}
	var stored pb.Machine
	if err := proto.Unmarshal(kv.Value, &stored); err != nil || stored.Metadata.ResourceVersion != 0 {
		t.Errorf("stored as %v, %v", &stored, err)
	}
	for what, op := range map[string]store.Op{
		"without a name":       Put(&pb.Image{}),
		"with text not UTF-8":  Put(&pb.Image{Metadata: &pb.Metadata{Name: "a"}, Spec: &pb.ImageSpec{Os: "\xff"}}),
		"with a name in a way": Put(&pb.Image{Metadata: &pb.Metadata{Name: "../a"}}),
	} {
		if _, err := db.Store.Txn(t.Context(), nil, []store.Op{op}); err == nil {
			t.Errorf("an object %s was stored", what)
		}
	}
	if _, err := db.Store.Txn(t.Context(), nil, []store.Op{Remove[*pb.Workflow]("w")}); err != nil {
		t.Error(err)
	}
}

func TestWatch(t *testing.T) {
	db := mustDB(t, bolt.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := Watch[*pb.Machine](ctx, db, 0)
	if err != nil {
		t.Fatal(err)
	}
	made := mustCreate(t, db, newMachine("web-1", nil))
	mustCreate(t, db, &pb.Image{Metadata: &pb.Metadata{Name: "other"}})
	changed, err := Update(ctx, db, "web-1", func(m *pb.Machine) error { m.Spec.Rack = "r1"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := Delete[*pb.Machine](ctx, db, "web-1", 0); err != nil {
		t.Fatal(err)
	}
	gone := proto.Clone(changed).(*pb.Machine)
	gone.Metadata.ResourceVersion = 4
	for _, want := range []Change[*pb.Machine]{
		{Type: pb.ChangeType_ADDED, Object: made, Revision: 1},
		{Type: pb.ChangeType_MODIFIED, Object: changed, Revision: 3},
		{Type: pb.ChangeType_DELETED, Object: gone, Revision: 4},
	} {
		same(t, want.Type.String(), <-changes, want)
	}
	cancel()
	if c, open := <-changes; open {
		t.Errorf("after the end: %v", c)
	}
}

func TestWatch_UnreadableValue(t *testing.T) {
	db := mustDB(t, bolt.Options{})
	changes, err := Watch[*pb.Machine](t.Context(), db, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Store.Txn(t.Context(), nil, []store.Op{store.Put("/machines/a", []byte("\xff"))}); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c.Err == nil {
		t.Errorf("got %v", c)
	}
	if _, open := <-changes; open {
		t.Error("the watch goes on")
	}
	if _, err := Get[*pb.Machine](t.Context(), db, "a"); err == nil || !strings.Contains(err.Error(), "decoding /machines/a") {
		t.Errorf("Get: %v", err)
	}
}

// A mirror that falls behind the store's history comes to the same state.
func TestFollow(t *testing.T) {
	db := mustDB(t, bolt.Options{HistoryBatches: 4, WatchBuffer: 4})
	mustCreate(t, db, newMachine("stays", nil))
	mustCreate(t, db, newMachine("goes", nil))
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	mirror, syncs := map[string]int64{}, 0
	step := make(chan string)
	ended := make(chan error)
	go func() {
		ended <- Follow(ctx, db, func(m *pb.Machine) {
			mu.Lock()
			mirror[m.Metadata.Name] = m.Metadata.ResourceVersion
			mu.Unlock()
			if strings.HasPrefix(m.Metadata.Name, "wait") {
				step <- m.Metadata.Name
				<-step
			}
		}, func(name string) {
			mu.Lock()
			delete(mirror, name)
			mu.Unlock()
		}, func() {
			syncs++
			step <- "synced"
			<-step
		})
	}()
	if got := <-step; got != "synced" || len(mirror) != 2 {
		t.Errorf("%s with %v", got, mirror)
	}
	step <- ""
	mustCreate(t, db, newMachine("wait-1", nil))
	<-step
	// The mirror stands still while more happens than the history holds.
	if err := Delete[*pb.Machine](ctx, db, "goes", 0); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		mustCreate(t, db, newMachine(fmt.Sprintf("n-%d", i), nil))
	}
	last := mustCreate(t, db, newMachine("wait-2", nil))
	step <- ""
	if got := <-step; got != "wait-2" {
		t.Errorf("got %s", got)
	}
	mu.Lock()
	if len(mirror) != 23 || mirror["goes"] != 0 || mirror["wait-2"] != last.Metadata.ResourceVersion {
		t.Errorf("the mirror has %v", mirror)
	}
	mu.Unlock()
	step <- ""
	cancel()
	if err := <-ended; err != nil || syncs != 1 {
		t.Errorf("ended with %v after %d syncs", err, syncs)
	}
}

func TestKinds(t *testing.T) {
	for _, kind := range Kinds() {
		for _, name := range []string{kind.Name, kind.Plural, kind.Singular, strings.ToUpper(kind.Name)} {
			if got, ok := KindNamed(name); !ok || got.Name != kind.Name {
				t.Errorf("%s is %v", name, got)
			}
		}
		obj := kind.New()
		if got := KindOf(obj); got.Name != kind.Name || !obj.ProtoReflect().IsValid() {
			t.Errorf("New of %s makes a %s", kind.Name, got.Name)
		}
		if want := strings.ToLower(kind.Name); kind.Singular != want || kind.Plural != want+"s" {
			t.Errorf("%s has the names %s and %s", kind.Name, kind.Singular, kind.Plural)
		}
	}
	if k, ok := KindNamed("rack"); ok {
		t.Errorf("rack is %v", k)
	}
}

func TestMachineConflicts(t *testing.T) {
	machine := func(name, mac, address, uuid, serial string) *pb.Machine {
		return &pb.Machine{Metadata: &pb.Metadata{Name: name}, Spec: &pb.MachineSpec{
			Uuid: uuid, Serial: serial, Interfaces: []*pb.Interface{{Mac: "52:54:00:77:ff:" + mac[:2]}, {Mac: mac[2:], Address: address}},
		}}
	}
	const uuid = "8f7c0a3e-52b1-4d0c-9d3c-0a1b2c3d4e5f"
	one := machine("one", "0152:54:00:77:00:aa", "10.77.0.31/24", uuid, "S1")
	others := []*pb.Machine{one, {Metadata: &pb.Metadata{Name: "empty"}}}
	if err := MachineConflicts(one, others); err != nil {
		t.Errorf("with itself: %v", err)
	}
	if err := MachineConflicts(machine("two", "0252:54:00:77:00:ab", "10.77.0.32/24", "", "S2"), others); err != nil {
		t.Errorf("without any: %v", err)
	}
	err := MachineConflicts(machine("two", "0252-54-00-77-00-AA", "10.77.0.31/16", uuid, "S1"), others)
	var fields *FieldErrors
	if !errors.As(err, &fields) {
		t.Fatalf("got %v", err)
	}
	same(t, "conflicts", fields.Errors, []FieldError{
		{"spec.uuid", uuid + " is machine/one's already"},
		{"spec.serial", "S1 is machine/one's already"},
		{"spec.interfaces[1].mac", "52:54:00:77:00:aa is machine/one's already"},
		{"spec.interfaces[1].address", "10.77.0.31 is machine/one's already"},
	})
}
