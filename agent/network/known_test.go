package network

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/machine"
)

// silent is a network without a DHCP server.
func silent(*world, string, *dhcpv4.DHCPv4, net.Addr) []*dhcpv4.DHCPv4 { return nil }

// knowing runs a manager that knows interfaces beforehand.
func (w *world) knowing(t *testing.T, d time.Duration, known ...Interface) *Manager {
	t.Helper()
	m := w.manager(t)
	m.cfg.Prefer, m.cfg.Interfaces, m.cfg.Advice = machine.MAC{}, known, " Look at the medium."
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	_ = m.Run(ctx)
	return m
}

func TestManager_Known(t *testing.T) {
	lease := Static(netip.MustParsePrefix("10.9.0.5/24"), netip.MustParseAddr("10.9.0.1"), nil)
	other := Static(netip.MustParsePrefix("10.8.0.5/24"), netip.Addr{}, nil)
	macs := []machine.MAC{two()[0].MAC, two()[1].MAC}
	t.Run("each interface gets the address that is given for it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), dhcp: silent, reaches: map[string]bool{"eth1": true}}
			m := w.knowing(t, 5*time.Second, Interface{MAC: macs[0], Lease: other}, Interface{MAC: macs[1], Lease: lease})
			all := strings.Join(w.configs, "\n")
			for _, want := range []string{"eth0 10.8.0.5/24 metric 302", "eth1 10.9.0.5/24 metric 100"} {
				if !strings.Contains(all, want) {
					t.Errorf("no %q in:\n%s", want, all)
				}
			}
			if len(w.served) > 0 {
				t.Errorf("DHCP was asked: %q", w.served)
			}
			if got := m.Address().String(); got != "10.9.0.5" {
				t.Errorf("address %s", got)
			}
		})
	})
	t.Run("an interface that no address is given for is left alone beside one with", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), dhcp: answer, reaches: map[string]bool{"eth1": true}}
			w.knowing(t, 5*time.Second, Interface{MAC: macs[1], Lease: lease})
			if len(w.served) > 0 {
				t.Errorf("DHCP was asked: %q", w.served)
			}
		})
	})
	t.Run("an interface that is listed without one asks DHCP, also beside one with", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), dhcp: answer, reaches: map[string]bool{"eth0": true}}
			m := w.knowing(t, 5*time.Second, Interface{MAC: macs[0]}, Interface{MAC: macs[1], Lease: lease})
			if got := m.Address().String(); got != "10.0.0.5" {
				t.Errorf("address %s", got)
			}
		})
	})
	t.Run("without any address every interface asks DHCP, and silence comes with advice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), dhcp: silent}
			w.knowing(t, 30*time.Second, Interface{MAC: macs[0]})
			all := strings.Join(w.said, "\n")
			for _, want := range []string{"eth0 (52:54:00:77:00:09): no DHCP offer", "eth1 (52:54:00:77:00:01): no DHCP offer", "Look at the medium."} {
				if !strings.Contains(all, want) {
					t.Errorf("no %q in:\n%s", want, all)
				}
			}
		})
	})
	t.Run("an address that another host has is used, and said to be in use", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), dhcp: silent, reaches: map[string]bool{"eth1": true}}
			m := w.manager(t)
			m.cfg.Interfaces = []Interface{{MAC: macs[1], Lease: lease}}
			m.cfg.Holder = func(_ context.Context, link Link, addr netip.Addr) (machine.MAC, bool, error) {
				return machine.MAC{2, 0, 0, 0, 0, 9}, link.Name == "eth1" && addr == lease.Address.Addr(), nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_ = m.Run(ctx)
			if all := strings.Join(w.said, "\n"); !strings.Contains(all, "eth1: 02:00:00:00:00:09 answers for the address 10.9.0.5") {
				t.Errorf("said %q", all)
			}
			if m.Address() != lease.Address.Addr() {
				t.Errorf("address %s", m.Address())
			}
		})
	})
	t.Run("on a VLAN the VLAN's link is configured and probed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), dhcp: silent, reaches: map[string]bool{"eth1.42": true}}
			w.knowing(t, 5*time.Second, Interface{MAC: macs[1], Lease: lease, VLAN: 42})
			if diff := cmp.Diff([]string{"eth1.42 10.9.0.5/24 metric 303", "eth1.42 10.9.0.5/24 metric 100"}, w.configs); diff != "" {
				t.Errorf("configurations (-want +got):\n%s", diff)
			}
		})
	})
	t.Run("DHCP is asked on the VLAN", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two()[1:], dhcp: answer, reaches: map[string]bool{"eth1.42": true}}
			w.knowing(t, 5*time.Second, Interface{MAC: macs[1], VLAN: 42})
			if len(w.served) != 2 || !strings.HasPrefix(w.served[0], "eth1.42 raw DISCOVER") {
				t.Errorf("requests %q", w.served)
			}
		})
	})
	t.Run("another machine's addresses are said to be so", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{links: two(), dhcp: answer}
			w.knowing(t, time.Minute, Interface{MAC: machine.MAC{2, 0, 0, 0, 0, 1}, Lease: lease})
			if len(w.configs) > 0 {
				t.Errorf("configured %q", w.configs)
			}
			want := "this machine has the interfaces 52:54:00:77:00:09, 52:54:00:77:00:01; addresses are given for 02:00:00:00:00:01"
			if len(w.said) != 1 || !strings.Contains(w.said[0], want) {
				t.Errorf("said %q, want %q", w.said, want)
			}
		})
	})
}
