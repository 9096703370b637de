package dhcp

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/bedplate/bedplate/dhcp/lease"
)

// maintain follows the host's interfaces, ends leases that ran out, and deletes
// what no network has a place for.
func (s *Server) maintain(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-s.stopping:
			return
		case <-look.C:
			s.look()
		case <-sweep.C:
			s.sweep(ctx)
		case <-s.tidy:
			s.deleteRefused(ctx)
		}
	}
}

// look opens and closes sockets after interfaces have changed.
func (s *Server) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	links, err := s.sys.links()
	if err != nil {
		s.cfg.Log.Warn("listing network interfaces", "err", err)
		return
	}
	if slices.EqualFunc(links, s.links, link.equal) && len(s.failed) == 0 {
		return
	}
	said := ""
	if err := s.refreshLocked(); err != nil {
		said = err.Error()
		if said != s.lookErr {
			s.cfg.Log.Warn("following network interfaces", "err", err)
		}
	}
	s.lookErr = said
}

func (l link) equal(o link) bool {
	return l.name == o.name && l.index == o.index && l.up == o.up && slices.Equal(l.addrs, o.addrs)
}

// sweep tells of leases that ran out, and deletes those that did long ago.
func (s *Server) sweep(ctx context.Context) {
	now := s.cfg.Now()
	s.mu.Lock()
	states := make([]*state, 0, len(s.states))
	for _, st := range s.states {
		states = append(states, st)
	}
	for name, leases := range s.waiting {
		old := func(l lease.Lease) bool { return now.Sub(l.Expires) > keepExpired }
		for _, l := range leases {
			if old(l) {
				s.refused = append(s.refused, l)
			}
		}
		s.waiting[name] = slices.DeleteFunc(leases, old)
	}
	s.mu.Unlock()
	for _, st := range states {
		st.mu.Lock()
		expired, forgotten := st.pool.Sweep(now, keepExpired)
		for _, l := range expired {
			s.changed(l, true)
		}
		st.mu.Unlock()
		for _, l := range forgotten {
			s.delete(ctx, st, l)
		}
	}
	s.deleteRefused(ctx)
}

// deleteRefused deletes the leases that no network has a place for.
func (s *Server) deleteRefused(ctx context.Context) {
	s.mu.Lock()
	refused := s.refused
	s.refused = nil
	states := maps.Clone(s.states)
	s.mu.Unlock()
	for _, l := range refused {
		s.delete(ctx, states[l.Network], l)
	}
}
