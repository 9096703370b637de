package tftp

import (
	"net/netip"
	"sync"
)

// limiter bounds the transfers under way, in all and per client.
type limiter struct {
	max, perPeer int

	mu     sync.Mutex
	active int
	// refused is set from a refusal until the next transfer ends.
	refused bool
	peers   map[netip.Addr]int
}

func newLimiter(max, perPeer int) *limiter {
	return &limiter{max: max, perPeer: perPeer, peers: map[netip.Addr]int{}}
}

// acquire takes a place for peer if there is one. The holder gives it back with
// release. first marks the first of several refusals: the one to log.
func (l *limiter) acquire(peer netip.Addr) (ok, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active >= l.max || l.peers[peer] >= l.perPeer {
		first = !l.refused
		l.refused = true
		return false, first
	}
	l.active++
	l.peers[peer]++
	return true, false
}

func (l *limiter) release(peer netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active--
	l.refused = false
	if l.peers[peer]--; l.peers[peer] == 0 {
		delete(l.peers, peer)
	}
}
