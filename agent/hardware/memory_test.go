package hardware

import (
	"strings"
	"testing"

	"github.com/bedplate/bedplate/agent/step"
)

// ram is memory that a test can break: harm is called after every pass.
type ram struct {
	walker
	faults []fault
}

func newRAM(pages int) *ram {
	r := &ram{walker: walker{pages: make([]page, pages), pause: func(int64) bool { return true }}}
	r.found = func(f fault) { r.faults = append(r.faults, f) }
	return r
}

func (r *ram) run(all []pass, harm func(after int)) {
	for i, p := range all {
		r.walk(p)
		if harm != nil {
			harm(i)
		}
	}
}

func TestRound(t *testing.T) {
	t.Run("good memory has no faults", func(t *testing.T) {
		r := newRAM(20)
		for n := range int64(3) {
			r.run(round(n, 42), nil)
		}
		if len(r.faults) > 0 {
			t.Errorf("%d faults, the first: %s", len(r.faults), r.faults[0])
		}
	})
	t.Run("a bit that is stuck is found in both states", func(t *testing.T) {
		for _, high := range []bool{false, true} {
			r := newRAM(8)
			r.run(round(0, 42), func(int) {
				if high {
					r.pages[5][17] |= 1 << 13
				} else {
					r.pages[5][17] &^= 1 << 13
				}
			})
			if len(r.faults) == 0 {
				t.Fatalf("stuck high %v: nothing found", high)
			}
			for _, f := range r.faults {
				if f.Want^f.Got != 1<<13 {
					t.Errorf("%s: not the bit that is stuck", f)
				}
			}
		}
	})
	t.Run("two addresses that lead to the same word are found", func(t *testing.T) {
		r := newRAM(8)
		r.run(round(0, 42)[:2], func(i int) {
			if i == 0 {
				r.pages[2][7] = r.pages[6][7]
			}
		})
		if len(r.faults) != 1 || r.faults[0].Pattern != "address" {
			t.Errorf("faults: %v", r.faults)
		}
	})
	t.Run("a neighbour that flips while memory is walked upwards is found", func(t *testing.T) {
		var seen []string
		r := newRAM(4)
		passes := inversions(constant(0))
		r.run(passes[:1], nil)
		// Writing page 1 disturbs page 3, which is walked after it.
		r.pause = func(int64) bool { return true }
		q := passes[1]
		r.visit(q, 0)
		r.visit(q, 1)
		r.pages[3][0] ^= 1
		r.visit(q, 2)
		r.visit(q, 3)
		for _, f := range r.faults {
			seen = append(seen, f.Pattern)
		}
		if len(seen) != 1 || seen[0] != "constant 0000000000000000" {
			t.Errorf("found by %q", seen)
		}
	})
	t.Run("walking bits come by every place of every word within 16 rounds", func(t *testing.T) {
		var places [words]uint64
		for n := range int64(64 / shifts) {
			for i := range shifts {
				var p page
				walking(int(n)*shifts+i, false).fill(&p, 0, 0)
				for w := range p {
					places[w] |= p[w]
				}
			}
		}
		for w, v := range places {
			if v != ^uint64(0) {
				t.Fatalf("word %d: only bits %x", w, v)
			}
		}
	})
}

func TestWalker_Stops(t *testing.T) {
	r := newRAM(3 * piece)
	r.pause = func(int64) bool { return false }
	p := constant(1)
	if n := r.walk(pass{fill: &p}); n != piece {
		t.Errorf("walked %d pages after it was to stop, want %d", n, piece)
	}
}

func TestService_Memory(t *testing.T) {
	root := kernel(t, map[string]string{"proc/meminfo": "MemTotal: 999999 kB\nMemAvailable:   81920 kB\n"})
	s, rep := newService(t, Config{Root: root}), &recorder{}
	r, err := s.memory(t.Context(), step.Request{With: map[string]any{"share": 0.05, "seed": int64(99)}}, rep)
	if err != nil {
		t.Fatal(err)
	}
	got := rows(t, r)
	if v := got["memory tested"]["value"]; v != float64(4<<20) {
		t.Errorf("tested %v bytes of 4 MiB", v)
	}
	for _, measure := range []string{"write", "read", "rounds"} {
		if v, _ := got["memory "+measure]["value"].(float64); v <= 0 {
			t.Errorf("%s: %v", measure, got["memory "+measure])
		}
	}
	if v := got["memory faults"]; v["value"] != float64(0) || v["ok"] != true || v["seed"] != float64(99) {
		t.Errorf("faults: %v", v)
	}
}

func TestService_Memory_Duration(t *testing.T) {
	root := kernel(t, map[string]string{"proc/meminfo": "MemAvailable:   131072 kB\n"})
	s := newService(t, Config{Root: root})
	r, err := s.memory(t.Context(), step.Request{With: map[string]any{"share": 0.05, "duration": "300ms", "passes": int64(1000)}}, &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := rows(t, r)["memory rounds"]["value"].(float64); v >= 1000 {
		t.Errorf("a test of 300 ms went through all %v rounds", v)
	}
	if m, _ := rows(t, r)["memory rounds"]["message"].(string); !strings.Contains(m, "the time was over") {
		t.Errorf("nothing says that the time was over: %q", m)
	}
}

func TestTestable(t *testing.T) {
	for _, tt := range []struct {
		free  int64
		share float64
		want  int64
		fails bool
	}{
		{1 << 30, 0.5, 512 << 20, false},
		{200 << 20, 0.9, 136 << 20, false}, // 64 MiB are left in any case
		{64 << 20, 0.9, 0, true},
	} {
		got, err := testable(tt.free, tt.share)
		if got != tt.want || (err != nil) != tt.fails {
			t.Errorf("of %d bytes %g: %d, %v; want %d", tt.free, tt.share, got, err, tt.want)
		}
	}
}

func TestPhysical(t *testing.T) {
	if got := physical(0); got != 0 {
		t.Errorf("address 0 is at %#x", got)
	}
}
