package lab

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"
	"testing"
)

var testMAC = net.HardwareAddr{0x52, 0x54, 0x0a, 0x4d, 0x00, 0x01}

// solicitation is one of iPXE 1.0.0+git-20190125, seen on a lab's bridge.
func solicitation() []byte {
	b, err := hex.DecodeString(strings.Join([]string{
		"333300000002", "525400770001", "86dd", // to all routers
		"60000000", "0010", "3a", "ff", // 16 bytes of ICMPv6, hop limit 255
		"fe80000000000000505400fffe770001", "ff020000000000000000000000000002",
		"85", "00", "0000", "00000000", // router solicitation
		"0101525400770001", // source link-layer address
	}, ""))
	if err != nil {
		panic(err)
	}
	return b
}

func TestIsSolicitation(t *testing.T) {
	with := func(at int, v byte) []byte {
		b := solicitation()
		b[at] = v
		return b
	}
	for name, test := range map[string]struct {
		frame []byte
		want  bool
	}{
		"a solicitation is one":                      {solicitation(), true},
		"one that passed a router is none":           {with(etherHeader+7, 254), false},
		"a neighbour solicitation is none":           {with(icmpAt, 135), false},
		"another code is none":                       {with(icmpAt+1, 1), false},
		"UDP is none":                                {with(etherHeader+6, 17), false},
		"a payload longer than the frame is refused": {with(etherHeader+5, 200), false},
		"a short frame is none":                      {solicitation()[:icmpAt+7], false},
		"nothing is none":                            {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := isSolicitation(test.frame); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}

func FuzzIsSolicitation(f *testing.F) {
	f.Add(solicitation())
	f.Add(appendAdvertisement(nil, testMAC))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if isSolicitation(frame) && frame[icmpAt] != routerSolicitation {
			t.Error("something else was taken for a solicitation")
		}
	})
}

func TestAppendAdvertisement(t *testing.T) {
	prefix := []byte("before")
	frame := appendAdvertisement(prefix, testMAC)
	if !bytes.HasPrefix(frame, prefix) {
		t.Fatal("the caller's bytes are gone")
	}
	frame = frame[len(prefix):]
	if got, want := len(frame), advertSize; got != want {
		t.Fatalf("frame has %d bytes, want %d", got, want)
	}
	// A receiver sums everything with the checksum in it and gets zero.
	if got := checksum(frame[etherHeader:]); got != 0 {
		t.Errorf("checksum is off by %#x", got)
	}
	if got := binary.BigEndian.Uint16(frame[icmpAt+6:]); got != 0 {
		t.Errorf("router lifetime is %d: machines would take the lab for a default router", got)
	}
	if got, want := hex.EncodeToString(frame[22:38]), "fe80000000000000"+"50540afffe4d0001"; got != want {
		t.Errorf("source is %s, want %s", got, want)
	}
}
