package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bedplate/bedplate/agent/network"
	domain "github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/medium"
)

func TestInterfaces(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	got := interfaces([]medium.Interface{
		{
			MAC: "52:54:00:77:00:01", Address: prefix("10.9.0.31/24"), Gateway: addr("10.9.0.1"), Nameservers: []netip.Addr{addr("10.9.0.2")},
			Search: []string{"lab.example"}, VLAN: 42, MTU: 1400, Routes: []medium.Route{{To: prefix("10.8.1.1/16"), Via: addr("10.9.0.3")}},
		},
		{MAC: "52:54:00:77:00:02", VLAN: 7},
	})
	want := []network.Interface{
		{MAC: domain.MAC{0x52, 0x54, 0, 0x77, 0, 1}, VLAN: 42, Lease: network.Lease{
			Address: prefix("10.9.0.31/24"), Nameservers: []netip.Addr{addr("10.9.0.2")}, Search: []string{"lab.example"}, MTU: 1400,
			Routes: []network.Route{{To: prefix("0.0.0.0/0"), Via: addr("10.9.0.1")}, {To: prefix("10.8.0.0/16"), Via: addr("10.9.0.3")}},
		}},
		{MAC: domain.MAC{0x52, 0x54, 0, 0x77, 0, 2}, VLAN: 7},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
}
