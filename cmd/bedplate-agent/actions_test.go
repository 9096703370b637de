package main

import (
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/agent/inventory"
	"github.com/bedplate/bedplate/agent/logs"
	"github.com/bedplate/bedplate/workflow/action"
)

func TestExecutors(t *testing.T) {
	m := &machine{log: slog.New(slog.DiscardHandler), ring: logs.NewRing(1), collector: inventory.New(inventory.Config{Root: t.TempDir(), Now: time.Now}), settled: make(chan struct{})}
	set, err := m.executors()
	if err != nil {
		t.Fatal(err)
	}
	got := slices.Sorted(maps.Keys(set))
	got = append(got, "inventory") // package agent adds it
	slices.Sort(got)
	var want []string
	for _, name := range action.Names() {
		if a, _ := action.Lookup(name); !a.OnServer {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("actions of the agent (-table +agent):\n%s", diff)
	}
}
