package network

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/bedplate/bedplate/machine"
)

// known returns what is known of a link beforehand, and whether it is to be
// used at all.
func (m *Manager) known(link Link) (Interface, bool) {
	if m.cfg.Static.Address.IsValid() {
		return Interface{MAC: link.MAC, Lease: m.cfg.Static}, m.cfg.Prefer.IsZero() || m.cfg.Prefer == link.MAC
	}
	static := false
	for _, i := range m.cfg.Interfaces {
		if i.MAC == link.MAC {
			return i, true
		}
		static = static || i.Lease.Address.IsValid()
	}
	return Interface{MAC: link.MAC}, !static
}

// device returns the link to configure: the link itself, or the VLAN on it. It
// tries until ctx is done.
func (m *Manager) device(ctx context.Context, link Link, vlan int) (Link, bool) {
	if vlan == 0 {
		return link, true
	}
	for said := ""; ; {
		on, err := m.cfg.Kernel.VLAN(link, vlan)
		if err == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			s := m.links[link.Name]
			if s == nil || s.link.Index != link.Index {
				return Link{}, false
			}
			s.on = on
			return on, true
		}
		if text := err.Error(); text != said {
			said = text
			m.cfg.Say("%s (%s): %v", link.Name, link.MAC, err)
		}
		if !sleep(ctx, time.Second) {
			return Link{}, false
		}
	}
}

// sayTaken tells people that another host has the address that was given. It is
// used all the same: a router that answers for everybody (proxy ARP) isn't one.
func (m *Manager) sayTaken(ctx context.Context, on Link, addr netip.Addr) {
	if m.cfg.Holder == nil {
		return
	}
	mac, taken, err := m.cfg.Holder(ctx, on, addr)
	switch {
	case taken:
		m.cfg.Say("%s: %s answers for the address %s that is given to this machine: is it in use twice?", on.Name, mac, addr)
	case err != nil && ctx.Err() == nil:
		m.cfg.Log.Warn("asking whether an address is in use", "iface", on.Name, "err", err)
	}
}

// strangerWait is how long the interfaces that addresses are given for may take
// to appear: their drivers are being loaded.
const strangerWait = 15 * time.Second

// sayStrangers tells people that none of the interfaces that addresses are
// given for is there.
func (m *Manager) sayStrangers() {
	var want []string
	for _, i := range m.cfg.Interfaces {
		if i.Lease.Address.IsValid() {
			want = append(want, i.MAC.String())
		}
	}
	if len(want) == 0 || m.cfg.Static.Address.IsValid() {
		return
	}
	links, err := m.cfg.Kernel.Links()
	if err != nil {
		return
	}
	var have []string
	for _, l := range links {
		if m.given(l.MAC) {
			return
		}
		have = append(have, l.MAC.String())
	}
	m.cfg.Say("this machine has the interfaces %s; addresses are given for %s: is this another machine's boot medium, or spec.interfaces wrong?",
		strings.Join(have, ", "), strings.Join(want, ", "))
}

// given reports whether an address is given for the interface.
func (m *Manager) given(mac machine.MAC) bool {
	for _, i := range m.cfg.Interfaces {
		if i.MAC == mac && i.Lease.Address.IsValid() {
			return true
		}
	}
	return false
}
