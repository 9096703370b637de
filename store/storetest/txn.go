package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/bedplate/bedplate/store"
)

func testTxn(t *testing.T, f fixture) {
	ctx := t.Context()
	op := []store.Op{store.Put("/a", []byte("1"))}

	first, err := f.s.Txn(ctx, []store.Compare{{Key: "/a"}}, op)
	if err != nil {
		t.Fatalf("creating what isn't there: %v", err)
	}
	_, err = f.s.Txn(ctx, []store.Compare{{Key: "/a"}}, op)
	wantErr(t, err, store.ErrConflict)
	_, err = f.s.Txn(ctx, []store.Compare{{Key: "/b", ModRevision: first}}, op)
	wantErr(t, err, store.ErrConflict)

	second, err := f.s.Txn(ctx, []store.Compare{{Key: "/a", ModRevision: first}}, []store.Op{
		store.Put("/a", []byte("2")), store.Put("/b", []byte("2")), store.Delete("/none"),
	})
	if err != nil {
		t.Fatalf("changing two keys: %v", err)
	}
	diff(t, "one revision for both", []int64{f.get(t, "/a").ModRevision, f.get(t, "/b").ModRevision}, []int64{second, second})

	// All or nothing.
	_, err = f.s.Txn(ctx, []store.Compare{{Key: "/a", ModRevision: second}, {Key: "/b", ModRevision: first}}, []store.Op{
		store.Put("/a", []byte("3")), store.Delete("/b"),
	})
	wantErr(t, err, store.ErrConflict)
	diff(t, "after a conflict", string(f.get(t, "/a").Value)+string(f.get(t, "/b").Value), "22")

	// What changes nothing has no revision of its own.
	for what, ops := range map[string][]store.Op{"no operations": nil, "deleting what isn't there": {store.Delete("/none")}} {
		rev, err := f.s.Txn(ctx, []store.Compare{{Key: "/a", ModRevision: second}}, ops)
		if err != nil || rev != second {
			t.Errorf("%s: revision %d, %v; want %d", what, rev, err, second)
		}
	}
	_, err = f.s.Txn(ctx, []store.Compare{{Key: "/a", ModRevision: first}}, nil)
	wantErr(t, err, store.ErrConflict)

	if _, err := f.s.Txn(ctx, nil, []store.Op{store.Delete("/a")}); err != nil {
		t.Fatal(err)
	}
	_, err = f.s.Get(ctx, "/a")
	wantErr(t, err, store.ErrNotFound)
	again := f.put(t, "/a", "4")
	diff(t, "a key made again", f.get(t, "/a").CreateRevision, again)

	value := []byte("mine")
	if _, err := f.s.Txn(ctx, nil, []store.Op{store.Put("/c", value)}); err != nil {
		t.Fatal(err)
	}
	copy(value, "your")
	diff(t, "after the caller altered what it gave", string(f.get(t, "/c").Value), "mine")
}

func testLimits(t *testing.T, f fixture) {
	ctx := t.Context()
	long := "/" + strings.Repeat("k", store.MaxKeyBytes)
	big := make([]byte, store.MaxValueBytes+1)
	many := make([]store.Op, store.MaxTxnOps+1)
	for i := range many {
		many[i] = store.Put(fmt.Sprintf("/many/%d", i), nil)
	}
	for what, ops := range map[string][]store.Op{
		"a key":         {store.Put(long, nil)},
		"a value":       {store.Put("/a", big)},
		"a transaction": many,
	} {
		_, err := f.s.Txn(ctx, nil, ops)
		if !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%s that is too large: %v", what, err)
		}
	}
	if _, err := f.s.Txn(ctx, nil, []store.Op{store.Put(long[:store.MaxKeyBytes], big[1:])}); err != nil {
		t.Errorf("the longest key with the longest value: %v", err)
	}
	if _, err := f.s.Txn(ctx, nil, many[1:]); err != nil {
		t.Errorf("the most operations: %v", err)
	}
	before, err := f.s.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for what, ops := range map[string][]store.Op{
		"no key":                     {{}},
		"a key that ends in a slash": {store.Put("/machines/", nil)},
		"a key without a slash":      {store.Put("machines", nil)},
		"the same key twice":         {store.Put("/a", nil), store.Delete("/a")},
	} {
		if _, err := f.s.Txn(ctx, nil, ops); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	after, err := f.s.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "revision after refusals", after, before)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err = f.s.Txn(cancelled, nil, []store.Op{store.Put("/a", nil)})
	wantErr(t, err, context.Canceled)
}

// testContention counts up one key from many goroutines: no count may be lost.
func testContention(t *testing.T, f fixture) {
	const writers, each = 8, 25
	f.put(t, "/counter", string(make([]byte, 8)))
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if err := increment(t.Context(), f.s); err != nil {
					t.Errorf("counting: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	diff(t, "the count", int(binary.BigEndian.Uint64(f.get(t, "/counter").Value)), writers*each)
}

func increment(ctx context.Context, s store.Store) error {
	for {
		kv, err := s.Get(ctx, "/counter")
		if err != nil {
			return err
		}
		next := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(kv.Value)+1)
		_, err = s.Txn(ctx, []store.Compare{{Key: kv.Key, ModRevision: kv.ModRevision}}, []store.Op{store.Put(kv.Key, next)})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

func testClose(t *testing.T, f fixture) {
	rev := f.put(t, "/a", "1")
	watch, err := f.s.Watch(t.Context(), "/", rev)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if b, open := receive(t, watch); !open || !errors.Is(b.Err, store.ErrClosed) {
		t.Errorf("a watch ends with %+v, want ErrClosed", b)
	}
	if _, open := receive(t, watch); open {
		t.Error("the watch's channel is still open")
	}
	ctx := t.Context()
	_, err = f.s.Get(ctx, "/a")
	wantErr(t, err, store.ErrClosed)
	_, err = f.s.List(ctx, "/", "", 0)
	wantErr(t, err, store.ErrClosed)
	_, err = f.s.Txn(ctx, nil, []store.Op{store.Put("/a", nil)})
	wantErr(t, err, store.ErrClosed)
	_, err = f.s.Watch(ctx, "/", rev)
	wantErr(t, err, store.ErrClosed)
	_, err = f.s.Revision(ctx)
	wantErr(t, err, store.ErrClosed)
	if err := f.s.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

// testDurability closes in the midst of writers; what was acknowledged stays.
func testDurability(t *testing.T, f fixture) {
	const writers = 4
	acked := make([][]string, writers)
	var wg sync.WaitGroup
	started := make(chan struct{}, writers)
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("/w%d/%06d", w, i)
				if _, err := f.s.Txn(context.Background(), nil, []store.Op{store.Put(key, []byte(key))}); err != nil {
					return
				}
				acked[w] = append(acked[w], key)
				if i == 10 {
					started <- struct{}{}
				}
			}
		})
	}
	for range writers {
		<-started
	}
	before, err := f.s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.s.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	s := f.open()
	defer finish(t, s)
	rev, err := s.Revision(t.Context())
	if err != nil || rev < before {
		t.Errorf("the revision is %d (%v) after %d", rev, err, before)
	}
	for _, list := range acked {
		for _, key := range list {
			if kv, err := s.Get(t.Context(), key); err != nil || string(kv.Value) != key {
				t.Fatalf("%s was acknowledged, but is %q (%v)", key, kv.Value, err)
			}
		}
	}
	next, err := s.Txn(t.Context(), nil, []store.Op{store.Put("/next", nil)})
	if err != nil || next <= rev {
		t.Errorf("the next revision is %d (%v) after %d", next, err, rev)
	}
	if rev > 1 {
		if _, err := firstOf(t, s, 0); !errors.Is(err, store.ErrCompacted) {
			// A store with a durable history may still have it all.
			if err != nil {
				t.Errorf("watching from the beginning: %v", err)
			}
		}
	}
}
