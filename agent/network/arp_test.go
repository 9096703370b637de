package network

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/bedplate/bedplate/machine"
)

func TestARP(t *testing.T) {
	mac := machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}
	probe := appendProbe(nil, mac, netip.MustParseAddr("10.77.0.31"))
	want := []byte{
		0, 1, 8, 0, 6, 4, 0, 1, // Ethernet, IPv4, their lengths, request
		0x52, 0x54, 0, 0x77, 0, 1, 0, 0, 0, 0, // from: no address yet
		0, 0, 0, 0, 0, 0, 10, 77, 0, 31, // for
	}
	t.Run("a probe lays claim to nothing", func(t *testing.T) {
		if !bytes.Equal(probe, want) {
			t.Errorf("probe % x\n want % x", probe, want)
		}
		if from, addr, ok := parseARP(probe); !ok || from != mac || addr.String() != "0.0.0.0" {
			t.Errorf("%s %s %t", from, addr, ok)
		}
	})
	t.Run("an answer says who has the address", func(t *testing.T) {
		answer := append([]byte{0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 9, 10, 77, 0, 31}, make([]byte, 28)...)
		if from, addr, ok := parseARP(answer); !ok || from.String() != "02:00:00:00:00:09" || addr.String() != "10.77.0.31" {
			t.Errorf("%s %s %t", from, addr, ok)
		}
	})
	t.Run("what is short, or ARP for something else, is nothing", func(t *testing.T) {
		for _, bad := range [][]byte{nil, probe[:27], append([]byte{0, 6}, probe[2:]...), append([]byte{0, 1, 8, 6}, probe[4:]...)} {
			if _, _, ok := parseARP(bad); ok {
				t.Errorf("% x was taken", bad)
			}
		}
	})
}

func FuzzParseARP(f *testing.F) {
	f.Add(appendProbe(nil, machine.MAC{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.0.0.1")))
	f.Add([]byte{0, 1, 8, 0, 6, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, addr, ok := parseARP(b); ok && (len(b) < arpSize || !addr.Is4()) {
			t.Errorf("% x: %s", b, addr)
		}
	})
}
