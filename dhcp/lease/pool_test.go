package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/machine"
)

var start = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func cl(n int) Client {
	return ClientOf(machine.MAC{2, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)}, 1, nil, nil)
}

func anyAddr(netip.Addr) bool { return true }

func newTestPool(t testing.TB, from, to string) *Pool {
	t.Helper()
	p := New(Config{Prefix: netip.MustParsePrefix("10.77.0.0/24"), Ranges: []Range{{ip(from), ip(to)}}})
	t.Cleanup(func() {
		if err := p.Check(); err != nil {
			t.Errorf("Check: %v", err)
		}
	})
	return p
}

func offer(t *testing.T, p *Pool, c Client, now time.Time) netip.Addr {
	t.Helper()
	a, _, err := p.Offer(c, netip.Addr{}, anyAddr, now)
	if err != nil {
		t.Fatalf("Offer: %v", err)
	}
	return a
}

func bind(p *Pool, c Client, a netip.Addr, now time.Time) {
	p.Bind(Lease{Network: "lab", Address: a, Client: c, Start: now, Renewed: now, Expires: now.Add(time.Hour)}, now)
}

func TestPool_Offer(t *testing.T) {
	t.Run("a client is offered the same address again", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.110")
		a := offer(t, p, cl(1), start)
		offer(t, p, cl(2), start)
		if got := offer(t, p, cl(1), start.Add(time.Hour)); got != a {
			t.Errorf("got %v, want %v", got, a)
		}
	})
	t.Run("two clients never hold one address", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.101")
		if a, b := offer(t, p, cl(1), start), offer(t, p, cl(2), start); a == b {
			t.Errorf("both got %v", a)
		}
		if _, _, err := p.Offer(cl(3), netip.Addr{}, anyAddr, start); !errors.Is(err, ErrExhausted) {
			t.Errorf("third client: got %v, want ErrExhausted", err)
		}
	})
	t.Run("an offer that nobody takes is free after a while", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.100")
		a := offer(t, p, cl(1), start)
		if got := offer(t, p, cl(2), start.Add(31*time.Second)); got != a {
			t.Errorf("got %v, want %v", got, a)
		}
	})
	t.Run("the address that the client asks for, if it is free", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.110")
		got, _, err := p.Offer(cl(1), ip("10.77.0.107"), anyAddr, start)
		if err != nil || got != ip("10.77.0.107") {
			t.Errorf("got %v, %v", got, err)
		}
		got, _, err = p.Offer(cl(2), ip("10.77.0.107"), anyAddr, start)
		if err != nil || got == ip("10.77.0.107") {
			t.Errorf("taken: got %v, %v", got, err)
		}
		got, _, err = p.Offer(cl(3), ip("10.77.0.7"), anyAddr, start)
		if err != nil || got == ip("10.77.0.7") {
			t.Errorf("outside the range: got %v, %v", got, err)
		}
	})
	t.Run("addresses that aren't usable are passed over", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.102")
		only := func(a netip.Addr) bool { return a == ip("10.77.0.102") }
		if got, _, err := p.Offer(cl(1), netip.Addr{}, only, start); err != nil || got != ip("10.77.0.102") {
			t.Errorf("got %v, %v", got, err)
		}
		if _, _, err := p.Offer(cl(2), netip.Addr{}, only, start); !errors.Is(err, ErrExhausted) {
			t.Errorf("got %v, want ErrExhausted", err)
		}
		// They come back when they are usable again.
		if _, _, err := p.Offer(cl(2), netip.Addr{}, anyAddr, start.Add(skipFor)); err != nil {
			t.Errorf("later: %v", err)
		}
	})
	t.Run("the first and last address of the subnet are never given out", func(t *testing.T) {
		p := New(Config{Prefix: netip.MustParsePrefix("10.77.0.0/30"), Ranges: []Range{{ip("10.77.0.0"), ip("10.77.0.3")}}})
		var got []string
		for n := 0; ; n++ {
			a, _, err := p.Offer(cl(n), netip.Addr{}, anyAddr, start)
			if err != nil {
				break
			}
			got = append(got, a.String())
		}
		if diff := cmp.Diff([]string{"10.77.0.1", "10.77.0.2"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("the address that has been free the longest goes first", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.102")
		for n := range 3 {
			now := start.Add(time.Duration(n) * time.Minute)
			bind(p, cl(n), offer(t, p, cl(n), now), now)
		}
		if got := offer(t, p, cl(9), start.Add(24*time.Hour)); got != ip("10.77.0.100") {
			t.Errorf("got %v, want 10.77.0.100", got)
		}
		if l, ok := p.ByClient(cl(0)); ok {
			t.Errorf("the former client still has %v", l.Address)
		}
	})
	t.Run("an expired lease keeps its client until the address is needed", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.110")
		a := offer(t, p, cl(1), start)
		bind(p, cl(1), a, start)
		week := start.Add(7 * 24 * time.Hour)
		for n := 2; n < 8; n++ {
			offer(t, p, cl(n), week)
		}
		if got := offer(t, p, cl(1), week); got != a {
			t.Errorf("got %v, want %v", got, a)
		}
	})
}

func TestPool_Probe(t *testing.T) {
	p := newTestPool(t, "10.77.0.100", "10.77.0.110")
	probe := func(now time.Time) bool {
		t.Helper()
		_, probe, err := p.Offer(cl(1), netip.Addr{}, anyAddr, now)
		if err != nil {
			t.Fatal(err)
		}
		return probe
	}
	if !probe(start) {
		t.Error("a new address isn't probed")
	}
	a, _ := p.Held(cl(1))
	p.Checked(a, start)
	if probe(start.Add(time.Second)) {
		t.Error("an address that was just probed is probed again")
	}
	if !probe(start.Add(2 * time.Minute)) {
		t.Error("a probe counts for ever")
	}
	bind(p, cl(1), a, start)
	if probe(start.Add(30 * time.Minute)) {
		t.Error("an address in force is probed")
	}
	if !probe(start.Add(2 * time.Hour)) {
		t.Error("an address whose lease ran out isn't probed")
	}
}

func TestPool_Reserved(t *testing.T) {
	a := ip("10.77.0.5")
	t.Run("outside the ranges", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.110")
		if err := p.OfferReserved(cl(1), a, start); err != nil {
			t.Fatal(err)
		}
		bind(p, cl(1), a, start)
		if got, _ := p.ByClient(cl(1)); got.Address != a {
			t.Errorf("got %v", got.Address)
		}
	})
	t.Run("while another has it in force, and after", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.110")
		b := offer(t, p, cl(2), start)
		bind(p, cl(2), b, start)
		if err := p.OfferReserved(cl(1), b, start.Add(time.Minute)); !errors.Is(err, ErrTaken) {
			t.Errorf("got %v, want ErrTaken", err)
		}
		if err := p.OfferReserved(cl(1), b, start.Add(2*time.Hour)); err != nil {
			t.Errorf("after its end: %v", err)
		}
	})
	t.Run("a client that moves leaves its old address free", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.100")
		b := offer(t, p, cl(1), start)
		bind(p, cl(1), b, start)
		if err := p.OfferReserved(cl(1), a, start); err != nil {
			t.Fatal(err)
		}
		former, moved := p.Bind(Lease{Address: a, Client: cl(1), Expires: start.Add(time.Hour)}, start)
		if !moved || former.Address != b {
			t.Errorf("former lease: %v, %v", former.Address, moved)
		}
		if got := offer(t, p, cl(2), start.Add(time.Second)); got != b {
			t.Errorf("the next client got %v", got)
		}
	})
}

func TestPool_End(t *testing.T) {
	t.Run("a released address is free, but its client's first", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.110")
		a := offer(t, p, cl(1), start)
		bind(p, cl(1), a, start)
		if l, ok := p.Release(cl(1), a, start); !ok || l.Address != a {
			t.Fatalf("Release: %v, %v", l, ok)
		}
		if _, ok := p.Release(cl(1), a, start); ok {
			t.Error("released twice")
		}
		if got := offer(t, p, cl(2), start); got == a {
			t.Error("another client got it although others were never used")
		}
		if got := offer(t, p, cl(1), start); got != a {
			t.Errorf("its client got %v", got)
		}
	})
	t.Run("nobody releases or declines another's address", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.110")
		a := offer(t, p, cl(1), start)
		bind(p, cl(1), a, start)
		if _, ok := p.Release(cl(2), a, start); ok {
			t.Error("released")
		}
		if _, ok := p.Decline(cl(2), a, start); ok {
			t.Error("declined")
		}
	})
	t.Run("a declined address isn't given out for a while", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.100")
		a := offer(t, p, cl(1), start)
		bind(p, cl(1), a, start)
		if l, ok := p.Decline(cl(1), a, start); !ok || l.Address != a {
			t.Fatalf("Decline: %v, %v", l, ok)
		}
		if _, _, err := p.Offer(cl(1), a, anyAddr, start.Add(9*time.Minute)); !errors.Is(err, ErrExhausted) {
			t.Errorf("got %v, want ErrExhausted", err)
		}
		if got := offer(t, p, cl(1), start.Add(10*time.Minute)); got != a {
			t.Errorf("after quarantine: %v", got)
		}
	})
	t.Run("a lease that runs out is told of once, and forgotten later", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.110")
		a := offer(t, p, cl(1), start)
		bind(p, cl(1), a, start)
		for _, step := range []struct {
			after              time.Duration
			expired, forgotten int
		}{{time.Minute, 0, 0}, {time.Hour, 1, 0}, {2 * time.Hour, 0, 0}, {26 * time.Hour, 0, 1}, {27 * time.Hour, 0, 0}} {
			expired, forgotten := p.Sweep(start.Add(step.after), 24*time.Hour)
			if len(expired) != step.expired || len(forgotten) != step.forgotten {
				t.Errorf("after %v: %d expired, %d forgotten", step.after, len(expired), len(forgotten))
			}
		}
	})
	t.Run("a lease that is displaced before a sweep is told of too", func(t *testing.T) {
		p := newTestPool(t, "10.77.0.100", "10.77.0.100")
		a := offer(t, p, cl(1), start)
		bind(p, cl(1), a, start)
		offer(t, p, cl(2), start.Add(2*time.Hour))
		if expired, _ := p.Sweep(start.Add(2*time.Hour), time.Hour); len(expired) != 1 || expired[0].Client != cl(1) {
			t.Errorf("got %v", expired)
		}
	})
}

func TestPool_Restore(t *testing.T) {
	p := newTestPool(t, "10.77.0.100", "10.77.0.110")
	l := func(addr string, c Client, renewed time.Time) Lease {
		return Lease{Network: "lab", Address: ip(addr), Client: c, Renewed: renewed, Expires: renewed.Add(time.Hour)}
	}
	rejected := p.Restore([]Lease{
		l("10.77.0.101", cl(1), start),
		l("10.77.0.102", cl(1), start.Add(time.Minute)), // newer: the client moved, and the server died before it deleted the first
		l("10.77.0.103", cl(2), start),
		l("10.99.0.1", cl(3), start), // the subnet was changed
	})
	var got []string
	for _, l := range p.Leases() {
		got = append(got, fmt.Sprint(l.Address, " ", l.Client))
	}
	if diff := cmp.Diff([]string{"10.77.0.102 mac:020000000001", "10.77.0.103 mac:020000000002"}, got); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	if len(rejected) != 2 {
		t.Errorf("rejected %v", rejected)
	}
	if got := p.Active(start.Add(30 * time.Minute)); got != 2 {
		t.Errorf("%d active", got)
	}
	// New clients get what nobody has.
	if a := offer(t, p, cl(7), start); a != ip("10.77.0.100") {
		t.Errorf("next free: %v", a)
	}
	if a := offer(t, p, cl(8), start); a != ip("10.77.0.101") {
		t.Errorf("next free: %v", a)
	}
	if a := offer(t, p, cl(9), start); a != ip("10.77.0.104") {
		t.Errorf("next free: %v", a)
	}
}

func TestPool_Configure(t *testing.T) {
	p := newTestPool(t, "10.77.0.100", "10.77.0.101")
	a := offer(t, p, cl(1), start)
	bind(p, cl(1), a, start)
	p.Configure(Config{Prefix: netip.MustParsePrefix("10.77.0.0/24"), Ranges: []Range{{ip("10.77.0.200"), ip("10.77.0.201")}}})
	if got := offer(t, p, cl(1), start); got != ip("10.77.0.200") {
		t.Errorf("a client of the old range got %v", got)
	}
	if l, ok := p.ByClient(cl(1)); !ok || l.Address != a {
		t.Errorf("its lease is gone: %v", l)
	}
	if got := p.Size(); got != 2 {
		t.Errorf("size %d", got)
	}
}

func TestClient_Parse(t *testing.T) {
	for _, c := range []Client{cl(5), ClientOf(machine.MAC{}, 32, nil, []byte{1, 2}), ClientOf(machine.MAC{}, 32, []byte{9}, nil)} {
		if got, err := ParseClient(c.String()); err != nil || got != c {
			t.Errorf("%v: got %v, %v", c, got, err)
		}
	}
	for _, bad := range []string{"mac:xyz", "525400770001", ""} {
		if _, err := ParseClient(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestLease_JSON(t *testing.T) {
	want := Lease{
		Network: "lab", Address: ip("10.77.0.5"), Client: cl(0xfffefd), MAC: machine.MAC{2}, Identifier: []byte{255, 0},
		Hostname: "web1", Start: start, Renewed: start, Expires: start.Add(time.Hour), Reserved: true,
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Lease
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPool_Random does at random what a network does, and looks after each step
// that no address has two clients.
func TestPool_Random(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := New(Config{Prefix: netip.MustParsePrefix("10.77.0.0/24"), Ranges: []Range{{ip("10.77.0.100"), ip("10.77.0.119")}}})
		now := start
		truth := map[netip.Addr]Lease{} // what clients believe to have
		for step := range 3000 {
			now = now.Add(time.Duration(r.IntN(120)) * time.Second)
			c := cl(r.IntN(30))
			switch r.IntN(12) {
			case 0:
				if l, ok := p.ByClient(c); ok {
					p.Release(c, l.Address, now)
					delete(truth, l.Address)
				}
			case 1:
				if a, ok := p.Held(c); ok {
					if l, ok := p.Decline(c, a, now); ok {
						delete(truth, l.Address)
					}
				}
			case 2:
				p.Sweep(now, time.Hour)
			case 3:
				a := ip("10.77.0.100").As4()
				a[3] += byte(r.IntN(20))
				_ = p.OfferReserved(c, netip.AddrFrom4(a), now)
			default:
				a, _, err := p.Offer(c, netip.Addr{}, anyAddr, now)
				if err != nil {
					continue
				}
				if !p.Hold(c, a, now.Add(10*time.Second), now) {
					t.Fatalf("seed %d step %d: the address just offered can't be held", seed, step)
				}
				if old, ok := truth[a]; ok && old.Client != c && !old.Expired(now) {
					t.Fatalf("seed %d step %d: %v given to %v while %v has it", seed, step, a, c, old.Client)
				}
				l := Lease{Address: a, Client: c, Renewed: now, Expires: now.Add(30 * time.Minute)}
				if former, moved := p.Bind(l, now); moved {
					delete(truth, former.Address)
				}
				truth[a] = l
			}
			if err := p.Check(); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
		}
	}
}

func BenchmarkPool_Renew(b *testing.B) {
	p := New(Config{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Ranges: []Range{{ip("10.0.0.1"), ip("10.1.0.0")}}})
	const n = 20000
	clients := make([]Client, n)
	leases := make([]Lease, n)
	for i := range n {
		clients[i] = cl(i)
		a, _, _ := p.Offer(clients[i], netip.Addr{}, anyAddr, start)
		leases[i] = Lease{Address: a, Client: clients[i], Renewed: start, Expires: start.Add(time.Hour)}
		p.Bind(leases[i], start)
	}
	b.ReportAllocs()
	now := start
	for i := 0; b.Loop(); i++ {
		now = now.Add(time.Millisecond)
		l := leases[i%n]
		p.Hold(l.Client, l.Address, now.Add(10*time.Second), now)
		l.Expires = now.Add(time.Hour)
		p.Bind(l, now)
	}
}

func BenchmarkPool_OfferFull(b *testing.B) {
	p := New(Config{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Ranges: []Range{{ip("10.0.0.1"), ip("10.0.39.16")}}})
	now := start
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		now = now.Add(10 * time.Millisecond)
		_, _, _ = p.Offer(cl(i), netip.Addr{}, anyAddr, now)
	}
}
