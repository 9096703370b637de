package lldp

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// capture is a frame's payload as a switch sends it.
var capture = []byte{
	0x02, 0x07, 0x04, 0x00, 0x1b, 0x21, 0xaa, 0xbb, 0xcc, // chassis id, 7 bytes, subtype 4: MAC 00:1b:21:aa:bb:cc
	0x04, 0x09, 0x05, 'g', 'e', '-', '0', '/', '0', '/', '1', // port id, 9 bytes, subtype 5: interface name
	0x06, 0x02, 0x00, 0x78, // time to live, 120 s
	0x08, 0x03, 'u', 'p', '1', // port description
	0x0a, 0x05, 's', 'w', '-', '0', '1', // system name
	0xfe, 0x06, 0x00, 0x80, 0xc2, 0x01, 0x00, 0x2a, // IEEE 802.1, port VLAN 42
	0x00, 0x00, // end
}

func TestParse(t *testing.T) {
	got, err := Parse(capture)
	if err != nil {
		t.Fatal(err)
	}
	want := Neighbour{ChassisID: "00:1b:21:aa:bb:cc", PortID: "ge-0/0/1", PortDescription: "up1", SystemName: "sw-01", VLAN: 42, TTL: 120}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("neighbour (-want +got):\n%s", diff)
	}
	t.Run("without an end it is taken as it is", func(t *testing.T) {
		if got, err := Parse(capture[:len(capture)-2]); err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("an address as the chassis id", func(t *testing.T) {
		b := append([]byte{0x02, 0x06, 0x05, 0x01, 10, 0, 0, 1}, capture[9:]...)
		if got, err := Parse(b); err != nil || got.ChassisID != "10.0.0.1" {
			t.Errorf("%+v, %v", got, err)
		}
	})
	for name, b := range map[string][]byte{
		"nothing":                    nil,
		"no port id":                 capture[:9],
		"port id first":              capture[9:],
		"cut in the chassis id":      capture[:5],
		"a chassis id of one byte":   {0x02, 0x01, 0x04},
		"a time to live of one byte": append(append([]byte(nil), capture[:20]...), 0x06, 0x01, 0x00),
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			if got, err := Parse(b); !errors.Is(err, ErrFrame) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(capture)
	f.Add(Append(nil, Neighbour{ChassisID: "c", PortID: "p", SystemName: "s", PortDescription: "d", VLAN: 7, TTL: 9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(Append(nil, n))
		if err != nil || len(n.ChassisID) > 0 && len(n.ChassisID) < 500 && again.ChassisID != text([]byte(n.ChassisID)) {
			// Ids that have nothing to print come back shorter than §8.5 allows.
			if n.ChassisID != "" && n.PortID != "" {
				t.Errorf("%+v came back as %+v, %v", n, again, err)
			}
		}
	})
}
