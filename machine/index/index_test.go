package index_test

import (
	"net/netip"
	"testing"

	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/index"
)

func mac(last byte) machine.MAC { return machine.MAC{0x52, 0x54, 0, 0x77, 0, last} }

func web(name string, last byte) machine.Machine {
	return machine.Machine{
		Name: machine.Name(name), UUID: machine.UUID("11223344-5566-7788-99aa-bbccddeeff0" + string('0'+last)), Serial: "SN" + string('0'+last),
		Interfaces: []machine.Interface{{MAC: mac(last), Address: netip.MustParsePrefix("10.77.0.3" + string('0'+last) + "/24")}},
	}
}

func TestIndex(t *testing.T) {
	t.Run("a machine is found by everything that identifies it", func(t *testing.T) {
		x := index.New()
		x.Set(web("web-1", 1))
		x.Set(web("web-2", 2))
		lookups := map[string]func() (machine.Machine, bool){
			"name":    func() (machine.Machine, bool) { return x.ByName("web-1") },
			"MAC":     func() (machine.Machine, bool) { return x.ByMAC(mac(1)) },
			"UUID":    func() (machine.Machine, bool) { return x.ByUUID("11223344-5566-7788-99aa-bbccddeeff01") },
			"serial":  func() (machine.Machine, bool) { return x.BySerial("sn1") },
			"address": func() (machine.Machine, bool) { return x.ByAddress(netip.MustParseAddr("::ffff:10.77.0.31")) },
		}
		for by, find := range lookups {
			if m, ok := find(); !ok || m.Name != "web-1" {
				t.Errorf("by %s: got %q, %v", by, m.Name, ok)
			}
		}
	})
	t.Run("what a machine no longer has finds nothing", func(t *testing.T) {
		x := index.New()
		x.Set(web("web-1", 1))
		x.Set(machine.Machine{Name: "web-1", Interfaces: []machine.Interface{{MAC: mac(9)}}})
		if m, ok := x.ByMAC(mac(1)); ok {
			t.Errorf("old MAC still finds %q", m.Name)
		}
		if m, ok := x.BySerial("SN1"); ok {
			t.Errorf("old serial still finds %q", m.Name)
		}
		if _, ok := x.ByMAC(mac(9)); !ok {
			t.Error("new MAC finds nothing")
		}
	})
	t.Run("an address that moved to another machine stays with it when the first goes", func(t *testing.T) {
		x := index.New()
		x.Set(web("web-1", 1))
		taken := web("web-2", 2)
		taken.Interfaces[0].Address = netip.MustParsePrefix("10.77.0.31/24")
		x.Set(taken)
		x.Remove("web-1")
		if m, ok := x.ByAddress(netip.MustParseAddr("10.77.0.31")); !ok || m.Name != "web-2" {
			t.Errorf("got %q, %v", m.Name, ok)
		}
	})
	t.Run("a leased address finds the machine of its holder only", func(t *testing.T) {
		x := index.New()
		x.Set(web("web-1", 1))
		a := netip.MustParseAddr("10.77.0.100")
		x.SetLease(a, mac(1))
		if m, _ := x.ByAddress(a); m.Name != "web-1" {
			t.Errorf("got %q", m.Name)
		}
		if got := x.AddressesOf("web-1"); len(got) != 1 || got[0] != a {
			t.Errorf("its addresses are %v", got)
		}
		x.RemoveLease(a, mac(2))
		if _, ok := x.HolderOf(a); !ok {
			t.Error("somebody else's release took the lease away")
		}
		x.RemoveLease(a, mac(1))
		if m, ok := x.ByAddress(a); ok {
			t.Errorf("released address still finds %q", m.Name)
		}
	})
	t.Run("machines without a serial or UUID do not find each other", func(t *testing.T) {
		x := index.New()
		x.Set(machine.Machine{Name: "a"})
		x.Set(machine.Machine{Name: "b"})
		if _, ok := x.BySerial(""); ok {
			t.Error("the empty serial finds a machine")
		}
		if _, ok := x.ByUUID(""); ok {
			t.Error("the empty UUID finds a machine")
		}
	})
}

func BenchmarkByMAC(b *testing.B) {
	x := index.New()
	for i := range 10000 {
		x.Set(machine.Machine{Name: machine.Name(string(rune(i))), Interfaces: []machine.Interface{{MAC: machine.MAC{1, 2, 3, 4, byte(i >> 8), byte(i)}}}})
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			x.ByMAC(machine.MAC{1, 2, 3, 4, 5, 6})
		}
	})
}
