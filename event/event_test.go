package event

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store/bolt"
)

func newDB(t *testing.T, now func() time.Time) *resource.DB {
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
	n := 0
	return &resource.DB{Store: st, Now: now, NewUID: func() string { n++; return fmt.Sprintf("uid-%d", n) }}
}

func fixed() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func all(t *testing.T, db *resource.DB) []*pb.Event {
	t.Helper()
	out, _, err := resource.All[*pb.Event](t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func reasons(events []*pb.Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, e.GetReason())
	}
	return out
}

func TestLog_Order(t *testing.T) {
	now := fixed()
	db := newDB(t, func() time.Time { return now })
	log := New(db, rand.Reader, 0)
	var want []string
	for i := range 50 {
		switch {
		case i%10 == 0:
			now = now.Add(time.Second)
		case i == 35:
			now = now.Add(-time.Hour) // the clock is set back
		}
		reason := fmt.Sprintf("R%02d", i)
		want = append(want, reason)
		if err := log.Append(t.Context(), Entry{Kind: "Machine", Name: "web-1", Reason: reason}); err != nil {
			t.Fatal(err)
		}
	}
	slices.Reverse(want)
	if diff := cmp.Diff(want, reasons(all(t, db))); diff != "" {
		t.Errorf("newest first (-want +got):\n%s", diff)
	}
}

func TestLog_Entry(t *testing.T) {
	db := newDB(t, fixed)
	m := &pb.Machine{Metadata: &pb.Metadata{Name: "web-1"}}
	log := New(db, bytes.NewReader(nil), 0) // no randomness: names are unique all the same
	entries := []Entry{
		About(m, "Created", "", ""),
		{Kind: "Machine", Name: "web-1", Reason: "Odd", Message: strings.Repeat("ä", 4000) + "\xff", Actor: Agent("web-1"), Warning: true},
	}
	if err := log.Append(t.Context(), entries...); err != nil {
		t.Fatal(err)
	}
	got := all(t, db)
	if len(got) != 2 {
		t.Fatalf("%d events, want 2", len(got))
	}
	odd, created := got[0], got[1]
	if created.GetActor() != "system" || created.GetType() != "normal" || created.GetSubjectKind() != "Machine" || !created.GetTime().AsTime().Equal(fixed()) {
		t.Errorf("event = %v", created)
	}
	if odd.GetActor() != "agent/web-1" || odd.GetType() != "warning" || len(odd.GetMessage()) > maxMessageBytes+8 || !strings.HasSuffix(odd.GetMessage(), "…") {
		t.Errorf("event = %.100v", odd)
	}
	for _, e := range got {
		if err := resource.Validate(e); err != nil {
			t.Error(err)
		}
	}
}

func TestLog_Run(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := newDB(t, time.Now)
		log := New(db, rand.Reader, 200)
		write := func(from, to int) {
			for i := from; i < to; i++ {
				if err := log.Append(t.Context(), Entry{Kind: "Machine", Name: "m", Reason: fmt.Sprintf("R%04d", i)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		check := func(newest string) {
			t.Helper()
			synctest.Wait()
			got := reasons(all(t, db))
			if len(got) < 200 || len(got) >= 200+trimBatch || got[0] != newest {
				t.Errorf("%d events, the newest is %s; want 200 to %d and %s", len(got), got[0], 200+trimBatch, newest)
			}
		}
		write(0, 750)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- log.Run(ctx) }()
		check("R0749")
		write(750, 1200)
		check("R1199")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
