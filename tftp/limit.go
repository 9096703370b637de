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
	peers  map[netip.Addr]int
}

func newLimiter(max, perPeer int) *limiter {
	return &limiter{max: max, perPeer: perPeer, peers: map[netip.Addr]int{}}
}

// acquire takes a place for peer if there is one. The holder gives it back with release.
func (l *limiter) acquire(peer netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active >= l.max || l.peers[peer] >= l.perPeer {
		return false
	}
	l.active++
	l.peers[peer]++
	return true
}

func (l *limiter) release(peer netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active--
	if l.peers[peer]--; l.peers[peer] == 0 {
		delete(l.peers, peer)
	}
}
