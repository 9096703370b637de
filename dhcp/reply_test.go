package dhcp

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/bedplate/bedplate/machine"
)

// options returns a reply's options as hexadecimal, or as text where that is what they are.
func readable(o dhcpv4.Options) map[uint8]string {
	m := map[uint8]string{}
	for code, v := range o {
		switch code {
		case 12, 15, 56, 60, 66, 67:
			m[code] = string(v)
		default:
			m[code] = hex.EncodeToString(v)
		}
	}
	return m
}

func TestReply_Options(t *testing.T) {
	for name, tc := range map[string]struct {
		message message
		machine machine.Machine
		change  func(*Network)
		want    map[uint8]string
		file    string
		siaddr  netip.Addr
	}{
		"iPXE in a NIC's ROM": {
			message: romIPXE(msgDiscover, macA),
			want: map[uint8]string{
				1: "ffffff00", 3: "0a4d0001", 6: "0a4d0035", 15: "lab.example", 26: "2328",
				51: "00000e10", 53: "02", 54: "0a4d0001", 58: "00000708", 59: "00000c4e",
				61: "01525400770001", 67: "http://10.77.0.1:8080/ipxe/boot.ipxe",
				97: "004433221166558877" + "99aabbccddeeff00", 175: "b00101",
				119: "036c6162076578616d706c6500" + "076578616d706c6500",
			},
			file: "http://10.77.0.1:8080/ipxe/boot.ipxe", siaddr: server,
		},
		"OVMF PXE": {
			message: ovmfPXE(msgDiscover, macA),
			machine: host("web1", macA, ""),
			want: map[uint8]string{
				1: "ffffff00", 3: "0a4d0001", 6: "0a4d0035", 12: "web1", 15: "lab.example", 28: "0a4d00ff", 42: "0a4d007b",
				43: "060108ff", 51: "00000e10", 53: "02", 54: "0a4d0001", 58: "00000708", 59: "00000c4e",
				60: "PXEClient", 66: "10.77.0.1", 67: "snponly.efi", 97: "00443322116655887799aabbccddeeff00",
			},
			file: "snponly.efi", siaddr: server,
		},
		"OVMF HTTP": {
			message: ovmfHTTP(msgDiscover, macA),
			want: map[uint8]string{
				1: "ffffff00", 3: "0a4d0001", 6: "0a4d0035", 15: "lab.example", 28: "0a4d00ff", 42: "0a4d007b",
				51: "00000e10", 53: "02", 54: "0a4d0001", 58: "00000708", 59: "00000c4e",
				60: "HTTPClient", 67: "http://10.77.0.1:8080/boot/snponly.efi", 97: "00443322116655887799aabbccddeeff00",
			},
			file: "http://10.77.0.1:8080/boot/snponly.efi", siaddr: server,
		},
		"dhclient, with routes": {
			message: dhclient(msgDiscover, macA),
			change: func(n *Network) {
				n.Routes = []Route{{netip.MustParsePrefix("10.99.128.0/17"), ip("10.77.0.254")}}
				n.LeaseTime = 10 * time.Minute
			},
			want: map[uint8]string{
				1: "ffffff00", 3: "0a4d0001", 6: "0a4d0035", 15: "lab.example", 26: "2328", 28: "0a4d00ff", 42: "0a4d007b",
				51: "00000258", 53: "02", 54: "0a4d0001", 58: "0000012c", 59: "0000020d",
				119: "036c6162076578616d706c6500" + "076578616d706c6500",
				// 10.99.128/17 via 10.77.0.254, and the default route via 10.77.0.1
				121: "110a63800a4d00fe" + "000a4d0001",
			},
		},
		"a machine's own gateway and nameserver": {
			message: udhcpc(msgDiscover, macA),
			machine: machine.Machine{Name: "web1", Interfaces: []machine.Interface{{
				MAC: macA, Gateway: ip("10.77.0.2"), Nameservers: []netip.Addr{ip("10.77.0.8"), ip("10.77.0.9")},
			}}},
			want: map[uint8]string{
				1: "ffffff00", 3: "0a4d0002", 6: "0a4d00080a4d0009", 15: "lab.example", 28: "0a4d00ff", 42: "0a4d007b",
				51: "00000e10", 53: "02", 54: "0a4d0001", 58: "00000708", 59: "00000c4e", 61: "01525400770001",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := labNetwork()
			if tc.change != nil {
				tc.change(&n)
			}
			var inventory fakeMachines
			if tc.machine.Name != "" {
				inventory = fakeMachines{tc.machine}
			}
			g := newRig(t, inventory, n)
			out := g.send(tc.message)
			g.yiaddr(out, msgOffer)
			if diff := cmp.Diff(tc.want, readable(out.reply.Options)); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
			if out.reply.BootFileName != tc.file || specified(out.reply.ServerIPAddr) != tc.siaddr {
				t.Errorf("file %q, siaddr %v", out.reply.BootFileName, out.reply.ServerIPAddr)
			}
		})
	}
}

func TestReply_Boot(t *testing.T) {
	t.Run("an unknown architecture gets an address and no boot file, and it is said", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		m := ovmfPXE(msgDiscover, macA)
		m.options[4] = opt(93, 0, 99)
		out := g.send(m)
		if a := g.yiaddr(out, msgOffer); !a.IsValid() || out.file != "" || !strings.Contains(out.detail, "99") {
			t.Errorf("address %v, file %q, detail %q", a, out.file, out.detail)
		}
		if _, ok := out.reply.Options[67]; ok {
			t.Error("option 67 is there")
		}
	})
	t.Run("an interface with network boot disabled gets an address alone", func(t *testing.T) {
		m := host("web1", macA, "10.77.0.5/24")
		m.Interfaces[0].DisableNetboot = true
		g := newRig(t, fakeMachines{m}, labNetwork())
		for name, m := range fingerprints(msgDiscover, macA) {
			out := g.send(m)
			g.yiaddr(out, msgOffer)
			for _, code := range []uint8{43, 60, 66, 67} {
				if _, ok := out.reply.Options[code]; ok {
					t.Errorf("%s: option %d is there", name, code)
				}
			}
		}
	})
	t.Run("a machine that is to boot its disk is sent there by the script", func(t *testing.T) {
		g := newRig(t, fakeMachines{host("web1", macA, "10.77.0.5/24")}, labNetwork())
		if out := g.send(ovmfPXE(msgDiscover, macA)); out.file != "snponly.efi" {
			t.Errorf("file %q", out.file)
		}
		if out := g.send(romIPXE(msgDiscover, macA)); out.file != "http://10.77.0.1:8080/ipxe/boot.ipxe" {
			t.Errorf("file %q", out.file)
		}
	})
	t.Run("a server address other than the interface's is the one in every option", func(t *testing.T) {
		n := labNetwork()
		n.ServerAddress = ip("10.77.0.200")
		g := newRig(t, nil, n)
		out := g.send(romIPXE(msgDiscover, macA))
		if out.file != "http://10.77.0.200:8080/ipxe/boot.ipxe" || specified(out.reply.Options[54]) != n.ServerAddress {
			t.Errorf("file %q, server %v", out.file, out.reply.Options[54])
		}
		if out.to.source != server {
			t.Errorf("sent from %v", out.to.source)
		}
	})
	t.Run("a URL too long for the file field is in option 67", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		long := "http://" + strings.Repeat("boot.", 40) + "example"
		g.policy.httpBase = func(netip.Addr) string { return long }
		out := g.send(romIPXE(msgDiscover, macA))
		if out.reply.BootFileName != "" || out.reply.BootFileNameOption() != long+"/ipxe/boot.ipxe" {
			t.Errorf("field %q, option %q", out.reply.BootFileName, out.reply.BootFileNameOption())
		}
	})
}

func TestReply_Size(t *testing.T) {
	n := labNetwork()
	n.SearchDomains = nil
	for range 15 {
		n.SearchDomains = append(n.SearchDomains, strings.Repeat("long-label.", 5)+"example")
	}
	t.Run("a client that says nothing gets no more than 576 octets with headers", func(t *testing.T) {
		g := newRig(t, nil, n)
		out := g.send(dhclient(msgDiscover, macA))
		if got := len(out.reply.ToBytes()) + 28; got > 576 {
			t.Errorf("%d octets", got)
		}
		for _, code := range []uint8{1, 3, 6, 51, 54} {
			if _, ok := out.reply.Options[code]; !ok {
				t.Errorf("option %d was dropped", code)
			}
		}
	})
	t.Run("a client that takes more gets all", func(t *testing.T) {
		g := newRig(t, nil, n)
		out := g.send(networkd(msgDiscover, macA))
		if got, want := len(out.reply.Options[119]), len(g.table.byName["lab"].options[119]); got != want {
			t.Errorf("option 119 has %d octets, want %d", got, want)
		}
		if back, err := dhcpv4.FromBytes(out.reply.ToBytes()); err != nil || !bytes.Equal(back.Options[119], out.reply.Options[119]) {
			t.Errorf("it doesn't come back whole: %v", err)
		}
	})
	t.Run("nothing is shorter than 300 octets", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		m := dhclient(msgRequest, macA).with(opt(50, 192, 168, 1, 1))
		out := g.send(m)
		g.yiaddr(out, msgNak)
		if got := len(out.reply.ToBytes()); got != 300 {
			t.Errorf("%d octets", got)
		}
	})
	t.Run("size says what the codec writes", func(t *testing.T) {
		g := newRig(t, nil, n)
		out := g.send(networkd(msgDiscover, macA))
		if got, want := options(out.reply.Options).size(), len(out.reply.ToBytes()); got != want {
			t.Errorf("size %d, written %d", got, want)
		}
	})
}

func TestOptions_LeaseTimes(t *testing.T) {
	for d, want := range map[time.Duration]options{
		time.Hour:                  {51: {0, 0, 0x0e, 0x10}, 58: {0, 0, 0x07, 0x08}, 59: {0, 0, 0x0c, 0x4e}},
		200 * 365 * 24 * time.Hour: {51: {255, 255, 255, 255}}, // for ever
	} {
		got := options{}
		got.leaseTimes(d)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", d, diff)
		}
	}
}

func TestReply_Destination(t *testing.T) {
	broadcast := netip.AddrPortFrom(broadcastAddr, 0)
	t.Run("a client that asks for it gets a broadcast", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		if out := g.send(ovmfPXE(msgDiscover, macA)); out.to.addr != broadcast || !out.to.hardware.IsZero() {
			t.Errorf("sent to %+v", out.to)
		}
	})
	t.Run("a client without an address gets a frame of its own", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		out := g.send(dhclient(msgDiscover, macA))
		if out.to.addr.Addr() != ip("10.77.0.100") || out.to.hardware != macA || out.to.iface != "eth1" || out.to.source != server {
			t.Errorf("sent to %+v", out.to)
		}
	})
	t.Run("a client without an Ethernet address gets a broadcast", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		m := networkd(msgDiscover, macA)
		m.htype = 32 // InfiniBand (RFC 4390)
		out := g.send(m)
		g.yiaddr(out, msgOffer)
		if out.to.addr != broadcast {
			t.Errorf("sent to %+v", out.to)
		}
	})
	t.Run("a forged ciaddr doesn't send us to strangers", func(t *testing.T) {
		g := newRig(t, nil, labNetwork())
		m := dhclient(msgRequest, macA).with(opt(54, server.AsSlice()...), opt(50, 10, 77, 0, 101))
		m.ciaddr = "198.51.100.7"
		out := g.do(mustParse(t, m))
		g.yiaddr(out, msgAck)
		if out.to.addr.Addr() != ip("10.77.0.101") {
			t.Errorf("sent to %v", out.to.addr)
		}
	})
}
