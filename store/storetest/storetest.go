// Package storetest is the conformance suite of package store: what every
// store must do, whatever it is made of. A store's own tests call Run.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/store"
)

// Driver is how the suite gets at a store.
type Driver struct {
	// New makes a store of its own for one test. What it returns opens that
	// store, empty at first; called again after Close, with what was in it.
	New func(t *testing.T) (open func() store.Store)
	// Compact makes the history before the newest revision go away.
	Compact func(t *testing.T, s store.Store)
}

// Checker is what a store may implement to have its consistency looked at
// when a test ends.
type Checker interface {
	Check(ctx context.Context) error
}

// wait bounds how long a test waits for what should come at once.
const wait = 10 * time.Second

// Run runs the suite.
func Run(t *testing.T, d Driver) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, fixture)
	}{
		{"Get", testGet},
		{"List", testList},
		{"Txn", testTxn},
		{"Txn limits", testLimits},
		{"Txn under contention", testContention},
		{"Watch", testWatch},
		{"Watch under concurrency", testWatchOrder},
		{"Watch and compaction", testCompaction},
		{"Close", testClose},
		{"Durability", testDurability},
	} {
		t.Run(test.name, func(t *testing.T) {
			open := d.New(t)
			s := open()
			f := fixture{driver: d, open: open, s: s}
			t.Cleanup(func() { finish(t, s) })
			test.run(t, f)
		})
	}
}

// finish checks the store, unless the test has closed it, and looks for
// goroutines that it has left.
func finish(t *testing.T, s store.Store) {
	if c, ok := s.(Checker); ok {
		if err := c.Check(context.Background()); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Errorf("the store is not consistent: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	NoGoroutines(t, "bedplate/store/")
}

// NoGoroutines fails the test if a goroutine with that text in its stack, other
// than the caller's, is still there after it was given the time to end.
func NoGoroutines(t *testing.T, text string) {
	t.Helper()
	var left string
	for range 100_000 {
		left = ""
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		for i, stack := range strings.Split(string(buf), "\n\n") {
			if i > 0 && strings.Contains(stack, text) && !strings.Contains(stack, "testing.(*T).Run") && !strings.Contains(stack, "testing.tRunner") {
				left = stack
			}
		}
		if left == "" {
			return
		}
		runtime.Gosched()
	}
	t.Errorf("a goroutine is left:\n%s", left)
}

type fixture struct {
	driver Driver
	open   func() store.Store
	s      store.Store
}

func (f fixture) put(t *testing.T, key, value string) int64 {
	t.Helper()
	rev, err := f.s.Txn(t.Context(), nil, []store.Op{store.Put(key, []byte(value))})
	if err != nil {
		t.Fatalf("Txn: %v", err)
	}
	return rev
}

func (f fixture) get(t *testing.T, key string) store.KV {
	t.Helper()
	kv, err := f.s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get(%s): %v", key, err)
	}
	return kv
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func diff(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func testGet(t *testing.T, f fixture) {
	_, err := f.s.Get(t.Context(), "/machines/none")
	wantErr(t, err, store.ErrNotFound)

	first := f.put(t, "/machines/a", "one")
	diff(t, "a new key", f.get(t, "/machines/a"), store.KV{Key: "/machines/a", Value: []byte("one"), CreateRevision: first, ModRevision: first})

	second := f.put(t, "/machines/a", "two")
	if second <= first {
		t.Errorf("the second revision, %d, is not after the first, %d", second, first)
	}
	kv := f.get(t, "/machines/a")
	diff(t, "a changed key", kv, store.KV{Key: "/machines/a", Value: []byte("two"), CreateRevision: first, ModRevision: second})
	kv.Value[0] = 'X'
	diff(t, "after the caller altered what it got", string(f.get(t, "/machines/a").Value), "two")

	f.put(t, "/machines/empty", "")
	if got := f.get(t, "/machines/empty"); len(got.Value) != 0 {
		t.Errorf("an empty value came back as %q", got.Value)
	}
	rev, err := f.s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "Revision", rev, f.get(t, "/machines/empty").ModRevision)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.s.Get(ctx, "/machines/a")
	wantErr(t, err, context.Canceled)
}

func testList(t *testing.T, f fixture) {
	page, err := f.s.List(t.Context(), "/machines/", "", 0)
	if err != nil || len(page.KVs) != 0 || page.More {
		t.Fatalf("an empty store lists %v, %v", page, err)
	}
	var want []string
	for i := range 25 {
		key := fmt.Sprintf("/machines/m%02d", i)
		f.put(t, key, key)
		want = append(want, key)
	}
	f.put(t, "/machine", "before")
	last := f.put(t, "/machinesx/m00", "after")

	page, err = f.s.List(t.Context(), "/machines/", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "all keys", keys(page), want)
	diff(t, "revision", page.Revision, last)
	if page.More {
		t.Error("a list of all says that there is more")
	}
	for _, limit := range []int{1, 7, 24, 25, 26} {
		var got []string
		after := ""
		for {
			page, err := f.s.List(t.Context(), "/machines/", after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page.KVs) > limit {
				t.Fatalf("a page of %d has %d", limit, len(page.KVs))
			}
			got = append(got, keys(page)...)
			if !page.More {
				break
			}
			after = got[len(got)-1]
		}
		diff(t, fmt.Sprintf("pages of %d", limit), got, want)
	}
	page, err = f.s.List(t.Context(), "/machines/", "/machines/m20x", 0)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "after a key that isn't there", keys(page), want[21:])
	page, err = f.s.List(t.Context(), "/machines/", "/a", 2)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "after a key before the prefix", keys(page), want[:2])
}

func keys(p store.Page) []string {
	var out []string
	for _, kv := range p.KVs {
		out = append(out, kv.Key)
	}
	return out
}
