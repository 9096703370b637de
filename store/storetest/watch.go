package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/bedplate/bedplate/store"
)

// receive waits for the next batch.
func receive(t *testing.T, ch <-chan store.Batch) (store.Batch, bool) {
	t.Helper()
	select {
	case b, open := <-ch:
		return b, open
	case <-time.After(wait):
		t.Fatal("nothing came from the watch")
		return store.Batch{}, false
	}
}

// firstOf returns the error that a watch from a revision gives, at once or in
// its first batch.
func firstOf(t *testing.T, s store.Store, from int64) (store.Batch, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch, err := s.Watch(ctx, "/", from)
	if err != nil {
		return store.Batch{}, err
	}
	b, _ := receive(t, ch)
	return b, b.Err
}

func testWatch(t *testing.T, f fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	zero := f.put(t, "/machines/a", "0")
	first := f.put(t, "/machines/a", "1")
	f.put(t, "/images/i", "other")
	past, err := f.s.Watch(ctx, "/machines/", zero)
	if err != nil {
		t.Fatal(err)
	}
	now, err := f.s.Watch(ctx, "/machines/", first)
	if err != nil {
		t.Fatal(err)
	}

	b, _ := receive(t, past)
	diff(t, "a change from before the watch", b, store.Batch{Revision: first, Changes: []store.Change{
		{KV: store.KV{Key: "/machines/a", Value: []byte("1"), CreateRevision: zero, ModRevision: first}, Prev: []byte("0")},
	}})
	second, err := f.s.Txn(ctx, nil, []store.Op{
		store.Put("/machines/b", []byte("2")), store.Put("/images/i", []byte("2")), store.Delete("/machines/a"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, ch := range map[string]<-chan store.Batch{"past": past, "now": now} {
		b, _ := receive(t, ch)
		if b.Revision != second || len(b.Changes) != 2 {
			t.Fatalf("%s: got %+v, want two changes at %d", name, b, second)
		}
		made, gone := b.Changes[0], b.Changes[1]
		if made.Deleted {
			made, gone = gone, made
		}
		if made.KV.Key != "/machines/b" || made.Prev != nil || string(made.KV.Value) != "2" {
			t.Errorf("%s: a new key came as %+v", name, made)
		}
		if gone.KV.Key != "/machines/a" || !gone.Deleted || string(gone.Prev) != "1" || gone.KV.ModRevision != second {
			t.Errorf("%s: a deleted key came as %+v", name, gone)
		}
		// Each watcher has a copy of its own.
		made.KV.Value[0], gone.Prev[0] = 'X', 'X'
	}
	// What doesn't touch the prefix doesn't come; what is not changed neither.
	f.put(t, "/images/i", "3")
	if _, err := f.s.Txn(ctx, nil, []store.Op{store.Delete("/machines/none")}); err != nil {
		t.Fatal(err)
	}
	third := f.put(t, "/machines/c", "3")
	if b, _ := receive(t, now); b.Revision != third {
		t.Errorf("got %+v, want the change at %d", b, third)
	}
	cancel()
	for _, ch := range []<-chan store.Batch{past, now} {
		for {
			b, open := receive(t, ch)
			if !open {
				break
			}
			if b.Err != nil {
				t.Errorf("a watch that its caller ended says %v", b.Err)
			}
		}
	}
}

// testWatchOrder lists and then watches, from many goroutines while many
// write: each must end up with exactly what is in the store, having seen every
// revision once and in order.
func testWatchOrder(t *testing.T, f fixture) {
	const writers, watchers, each = 4, 4, 50
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var watching, writing sync.WaitGroup
	for range watchers {
		watching.Go(func() {
			if err := mirror(ctx, f.s, writers*each); err != nil {
				t.Error(err)
			}
		})
	}
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				key := fmt.Sprintf("/w/%d-%d", w, i)
				if _, err := f.s.Txn(ctx, nil, []store.Op{store.Put(key, []byte(key)), store.Put(fmt.Sprintf("/last/%d", w), []byte(key))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	watching.Wait()
}

// mirror returns when it has seen `want` keys below /w/.
func mirror(ctx context.Context, s store.Store, want int) error {
	page, err := s.List(ctx, "/w/", "", 0)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, kv := range page.KVs {
		seen[kv.Key] = true
	}
	ch, err := s.Watch(ctx, "/", page.Revision)
	if err != nil {
		return err
	}
	last := page.Revision
	deadline := time.After(wait)
	for len(seen) < want {
		select {
		case <-deadline:
			return fmt.Errorf("only %d of %d keys have come", len(seen), want)
		case b := <-ch:
			if b.Err != nil {
				return b.Err
			}
			if b.Revision != last+1 {
				return fmt.Errorf("revision %d came after %d", b.Revision, last)
			}
			last = b.Revision
			for _, c := range b.Changes {
				if c.KV.Key[:3] != "/w/" {
					continue
				}
				if seen[c.KV.Key] {
					return fmt.Errorf("%s came twice", c.KV.Key)
				}
				seen[c.KV.Key] = true
			}
		}
	}
	return nil
}

func testCompaction(t *testing.T, f fixture) {
	old := f.put(t, "/a", "1")
	f.put(t, "/a", "2")
	f.driver.Compact(t, f.s)
	if _, err := firstOf(t, f.s, old); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watching from revision %d, which is gone: %v", old, err)
	}
	rev, err := f.s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch, err := f.s.Watch(ctx, "/", rev)
	if err != nil {
		t.Fatalf("watching from the newest revision: %v", err)
	}
	next := f.put(t, "/a", "3")
	if b, _ := receive(t, ch); b.Revision != next {
		t.Errorf("got %+v, want revision %d", b, next)
	}
	diff(t, "reads are not touched", string(f.get(t, "/a").Value), "3")
}
