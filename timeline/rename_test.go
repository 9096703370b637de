package timeline

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/index"
	"github.com/bedplate/bedplate/store/bolt"
)

func TestRecorder_Rename(t *testing.T) {
	st, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	cfg := Config{Store: st, Machines: index.New(), Now: func() time.Time { return start }, Logger: slog.New(slog.DiscardHandler)}
	r, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	see := func(name machine.Name, second float64, source machine.Source, event string) {
		s := seen(second, source, event, "")
		s.Machine = name
		r.Observe(s)
	}
	see("m-1", 0, machine.SourceLab, "power-on")
	see("m-1", 3, machine.SourceDHCP, "DISCOVER")
	see("web-1", 5, machine.SourceAgent, "connected")
	see("web-1", 6, machine.SourceLab, "reset")
	r.Rename("m-1", "web-1")
	r.Rename("nobody", "web-1")
	if err := r.Forget(t.Context(), "m-1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil { // writes once more
		t.Fatal(err)
	}
	if got := r.Sightings("web-1"); len(got) != 3 {
		t.Errorf("sightings = %v", got)
	}
	again, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range again.Phases("web-1") {
		names = append(names, p.GetName())
	}
	if diff := cmp.Diff([]string{PhaseFirmware, PhaseDHCP, PhaseFirmware}, names); diff != "" || len(again.Phases("m-1")) != 0 {
		t.Errorf("phases after a restart (-want +got):\n%s\nof the old name: %v", diff, again.Phases("m-1"))
	}
}
