package bolt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/storetest"
)

// writeUntilKilled makes the test binary a program that writes to the store
// at this path until it is killed; see TestStore_Kill.
const writeUntilKilled = "BEDPLATE_TEST_WRITE_UNTIL_KILLED"

func TestMain(m *testing.M) {
	if path := os.Getenv(writeUntilKilled); path != "" {
		fmt.Fprintln(os.Stderr, runWriters(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func mustOpen(t *testing.T, path string, opts Options) *Store {
	t.Helper()
	s, err := Open(path, opts)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

func mustClose(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Check(context.Background()); err != nil {
		t.Errorf("Check: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func mustPut(t *testing.T, s store.Store, key, value string) int64 {
	t.Helper()
	rev, err := s.Txn(t.Context(), nil, []store.Op{store.Put(key, []byte(value))})
	if err != nil {
		t.Fatalf("Txn: %v", err)
	}
	return rev
}

func TestStore_Conformance(t *testing.T) {
	const history = 500
	storetest.Run(t, storetest.Driver{
		New: func(t *testing.T) func() store.Store {
			path := filepath.Join(t.TempDir(), "data", "bedplate.db")
			return func() store.Store { return mustOpen(t, path, Options{HistoryBatches: history}) }
		},
		Compact: func(t *testing.T, s store.Store) {
			var wg sync.WaitGroup
			for i := range history {
				wg.Go(func() { mustPut(t, s, fmt.Sprintf("/compact/%d", i), "") })
			}
			wg.Wait()
		},
	})
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "bedplate.db")
	s := mustOpen(t, path, Options{})

	t.Run("file and folder are for the owner only", func(t *testing.T) {
		for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != want {
				t.Errorf("%s has mode %o, want %o", filepath.Base(name), got, want)
			}
		}
	})
	t.Run("a second process is told what to do", func(t *testing.T) {
		_, err := Open(path, Options{LockTimeout: time.Millisecond})
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "stop it or use --data-dir") {
			t.Errorf("got %v", err)
		}
	})
	mustClose(t, s)
	t.Run("what was left by a crash in the midst of the first start is no harm", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "bedplate.db")
		if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		mustClose(t, mustOpen(t, path, Options{}))
	})
	t.Run("another file is refused", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "bedplate.db")
		if err := os.WriteFile(path, []byte(strings.Repeat("not a store", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, Options{}); err == nil {
			t.Error("it was opened")
		}
	})
}

func TestStore_HistoryAfterRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bedplate.db")
	s := mustOpen(t, path, Options{})
	first := mustPut(t, s, "/a", "1")
	last := mustPut(t, s, "/a", "2")
	mustClose(t, s)

	s = mustOpen(t, path, Options{})
	defer mustClose(t, s)
	if _, err := s.Watch(t.Context(), "/", first); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watching from before the restart: %v", err)
	}
	if _, err := s.Watch(t.Context(), "/", last); err != nil {
		t.Errorf("watching from the newest revision: %v", err)
	}
	if next := mustPut(t, s, "/a", "3"); next != last+1 {
		t.Errorf("the next revision is %d, want %d", next, last+1)
	}
}

func TestStore_SlowWatcher(t *testing.T) {
	const buffer = 4
	s := mustOpen(t, filepath.Join(t.TempDir(), "bedplate.db"), Options{WatchBuffer: buffer})
	defer mustClose(t, s)
	slow, err := s.Watch(t.Context(), "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 * buffer {
		mustPut(t, s, "/a", "1")
	}
	var batches []store.Batch
	for b := range slow {
		batches = append(batches, b)
	}
	if len(batches) != buffer+1 || !errors.Is(batches[buffer].Err, store.ErrCompacted) {
		t.Errorf("got %d batches, the last with %v; want %d and ErrCompacted", len(batches), batches[len(batches)-1].Err, buffer+1)
	}
}

func TestStore_HistoryIsBoundedInBytes(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "bedplate.db"), Options{HistoryBytes: 10_000})
	defer mustClose(t, s)
	for range 20 {
		mustPut(t, s, "/a", strings.Repeat("x", 1000))
	}
	if s.hub.bytes > 10_000 || len(s.hub.history) == 0 || len(s.hub.history) > 10 {
		t.Errorf("%d batches of %d bytes are kept", len(s.hub.history), s.hub.bytes)
	}
}

// A disk that fails must cost what was asked of it meanwhile, and nothing else.
func TestStore_Faults(t *testing.T) {
	for _, op := range []string{"apply", "commit"} {
		t.Run("an error in "+op+" changes nothing and doesn't last", func(t *testing.T) {
			broken := errors.New("the disk is on fire")
			var mu sync.Mutex
			failing := false
			s := mustOpen(t, filepath.Join(t.TempDir(), "bedplate.db"), Options{fault: func(o string) error {
				mu.Lock()
				defer mu.Unlock()
				if failing && o == op {
					return broken
				}
				return nil
			}})
			defer mustClose(t, s)
			set := func(v bool) {
				mu.Lock()
				defer mu.Unlock()
				failing = v
			}
			before := mustPut(t, s, "/a", "before")
			watch, err := s.Watch(t.Context(), "/", before)
			if err != nil {
				t.Fatal(err)
			}
			set(true)
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					_, err := s.Txn(t.Context(), nil, []store.Op{store.Put("/a", []byte(strconv.Itoa(i)))})
					if !errors.Is(err, broken) {
						t.Errorf("got %v, want the disk's error", err)
					}
				})
			}
			wg.Wait()
			set(false)
			if kv, err := s.Get(t.Context(), "/a"); err != nil || string(kv.Value) != "before" {
				t.Errorf("the key is %q (%v)", kv.Value, err)
			}
			after := mustPut(t, s, "/a", "after")
			if after != before+1 {
				t.Errorf("the next revision is %d, want %d", after, before+1)
			}
			if b := <-watch; b.Revision != after {
				t.Errorf("the watch saw %+v first", b)
			}
		})
	}
}

// A commit whose last flush failed may hold all the same; then nobody has
// been told of the change.
func TestStore_UnknownCommit(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "bedplate.db"), Options{})
	defer mustClose(t, s)
	rev := mustPut(t, s, "/a", "1")
	watch, err := s.Watch(t.Context(), "/", rev)
	if err != nil {
		t.Fatal(err)
	}
	// The same change behind the hub's back.
	r := &request{gone: t.Context().Err, ops: []store.Op{store.Put("/a", []byte("2"))}}
	if err := s.update([]*request{r}); err != nil {
		t.Fatal(err)
	}
	if next := mustPut(t, s, "/b", "3"); next != rev+2 {
		t.Errorf("the next revision is %d, want %d", next, rev+2)
	}
	if b := <-watch; !errors.Is(b.Err, store.ErrCompacted) {
		t.Errorf("the watch saw %+v, want ErrCompacted", b)
	}
}

func TestStore_Metrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	opts := Options{Registerer: registry, Now: func() time.Time { return time.Unix(0, 0) }}
	path := filepath.Join(t.TempDir(), "bedplate.db")
	for range 2 { // a store opened again registers again
		s := mustOpen(t, path, opts)
		mustPut(t, s, "/a", "1")
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if len(families) != 5 {
			t.Errorf("%d metrics, want 5", len(families))
		}
		mustClose(t, s)
	}
}

// runWriters writes from several goroutines and prints each key once its
// transaction is acknowledged.
func runWriters(path string) error {
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	failed := make(chan error)
	var out sync.Mutex
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("/%d/%d-%d", os.Getpid(), w, i)
				if _, err := s.Txn(context.Background(), nil, []store.Op{store.Put(key, []byte(key))}); err != nil {
					failed <- err
					return
				}
				out.Lock()
				fmt.Println(key)
				out.Unlock()
			}
		}()
	}
	return <-failed
}

// Killed at any instant, the store has everything that it has acknowledged.
func TestStore_Kill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bedplate.db")
	var acked []string
	for round := range 5 {
		acked = append(acked, writeAndKill(t, path, 20+round*37)...)
		s := mustOpen(t, path, Options{})
		for _, key := range acked {
			if kv, err := s.Get(t.Context(), key); err != nil || string(kv.Value) != key {
				t.Fatalf("%s was acknowledged, but is %q (%v)", key, kv.Value, err)
			}
		}
		mustClose(t, s)
	}
}

// writeAndKill runs writers in another process, kills it after some
// acknowledgements, and returns all that came.
func writeAndKill(t *testing.T, path string, after int) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), writeUntilKilled+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var acked []string
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadString('\n')
		if err != nil { // a line cut short was not acknowledged
			break
		}
		acked = append(acked, strings.TrimSuffix(line, "\n"))
		if len(acked) == after {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || len(acked) < after {
		t.Fatalf("the writer ended by itself after %d keys", len(acked))
	}
	return acked
}

// BenchmarkTxn shows what group commit is worth: ns/op with many writers
// against one.
func BenchmarkTxn(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s, err := Open(filepath.Join(b.TempDir(), "bedplate.db"), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			value := make([]byte, 1024)
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for i := w; i < b.N; i += writers {
						if _, err := s.Txn(b.Context(), nil, []store.Op{store.Put(fmt.Sprintf("/k/%d", i%1000), value)}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
