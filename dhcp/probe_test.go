package dhcp

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeICMP is an ICMP socket with some hosts behind it.
type fakeICMP struct {
	net.PacketConn
	up      map[netip.Addr]bool
	replies chan netip.Addr
	closed  chan struct{}
	mu      sync.Mutex
	sent    int
	full    bool
}

func (f *fakeICMP) SetWriteDeadline(time.Time) error { return nil }

func (f *fakeICMP) WriteTo(b []byte, to net.Addr) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full {
		return 0, errors.New("no buffer space available")
	}
	f.sent++
	addr, _ := netip.AddrFromSlice(to.(*net.IPAddr).IP)
	if f.up[addr] {
		f.replies <- addr
	}
	return len(b), nil
}

func (f *fakeICMP) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case a := <-f.replies:
		m := appendEcho(nil, 7, 0)
		m[0] = icmpEchoReply
		m[2], m[3] = 0, 0
		sum := checksum(0, m)
		m[2], m[3] = byte(sum>>8), byte(sum)
		return copy(b, m), &net.IPAddr{IP: a.AsSlice()}, nil
	case <-f.closed:
		return 0, nil, net.ErrClosed
	}
}

func (f *fakeICMP) Close() error {
	close(f.closed)
	return nil
}

func TestEchoProber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &fakeICMP{
			up:      map[netip.Addr]bool{ip("10.77.0.7"): true},
			replies: make(chan netip.Addr, 10), closed: make(chan struct{}),
		}
		p := &echoProber{conn: conn, now: time.Now, timeout: 250 * time.Millisecond, id: 7, pending: map[netip.Addr]*echo{}, wake: make(chan struct{}, 1)}
		stop := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() { p.run(stop) })

		var mu sync.Mutex
		results := map[string][]time.Duration{}
		ask := func(a string) bool {
			begin := time.Now()
			return p.probe(ip(a), func(used bool) {
				mu.Lock()
				defer mu.Unlock()
				key := a + " free"
				if used {
					key = a + " used"
				}
				results[key] = append(results[key], time.Since(begin))
			})
		}
		ask("10.77.0.5")
		ask("10.77.0.7")
		time.Sleep(100 * time.Millisecond)
		ask("10.77.0.5") // joins the first
		ask("10.77.0.6")
		time.Sleep(time.Second)

		mu.Lock()
		ms := time.Millisecond
		for key, want := range map[string][]time.Duration{
			"10.77.0.5 free": {250 * ms, 150 * ms}, "10.77.0.7 used": {0}, "10.77.0.6 free": {250 * ms},
		} {
			if !slices.Equal(results[key], want) {
				t.Errorf("%s: after %v, want %v", key, results[key], want)
			}
		}
		mu.Unlock()
		if conn.sent != 3 {
			t.Errorf("%d echoes sent", conn.sent)
		}

		// There is a bound on how many are asked at once, and no waiting for a buffer.
		for i := range maxProbes {
			if !p.probe(netip.AddrFrom4([4]byte{10, 78, 0, byte(i)}), func(bool) {}) {
				t.Fatalf("probe %d of %d was refused", i, maxProbes)
			}
		}
		if ask("10.77.0.9") {
			t.Error("one more than the bound")
		}
		time.Sleep(time.Second)
		conn.mu.Lock()
		conn.full = true
		conn.mu.Unlock()
		if ask("10.77.0.9") {
			t.Error("asked although nothing could be sent")
		}
		close(stop)
		running.Wait()
	})
}
