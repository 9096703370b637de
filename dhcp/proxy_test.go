package dhcp

import (
	"net/netip"
	"testing"

	"github.com/bedplate/bedplate/machine"
)

func proxyNetwork() Network {
	n := labNetwork()
	n.Mode, n.Pools, n.Unknown = Proxy, nil, Discover
	return n
}

// onBootPort is a message that came to port 4011 from a client with an address.
func onBootPort(t testing.TB, m message, source string) *request {
	t.Helper()
	return mustParseFrom(t, m, arrival{iface: "eth1", source: netip.MustParseAddrPort(source), local: server, bootServer: true})
}

func TestPolicy_Proxy(t *testing.T) {
	biosROM := message{kind: msgDiscover, mac: macA, broadcast: true, options: [][]byte{
		opt(93, 0, 0), optString(60, "PXEClient:Arch:00000:UNDI:002001"), opt(97, wireUUID...),
	}}
	t.Run("boot information without an address", func(t *testing.T) {
		for name, tc := range map[string]struct {
			message    message
			file       string
			class, v43 string
		}{
			"BIOS":      {biosROM, "undionly.kpxe", "PXEClient", "\x06\x01\x08\xff"},
			"UEFI":      {ovmfPXE(msgDiscover, macA), "snponly.efi", "PXEClient", ""},
			"UEFI HTTP": {ovmfHTTP(msgDiscover, macA), "http://10.77.0.1:8080/boot/snponly.efi", "HTTPClient", ""},
			"iPXE":      {romIPXE(msgDiscover, macA), "http://10.77.0.1:8080/ipxe/boot.ipxe", "PXEClient", ""},
		} {
			g := newRig(t, nil, proxyNetwork())
			out := g.send(tc.message)
			if a := g.yiaddr(out, msgOffer); a.IsValid() {
				t.Errorf("%s: yiaddr %v", name, a)
			}
			p := out.reply
			if got := p.BootFileNameOption(); got != tc.file {
				t.Errorf("%s: file %q", name, got)
			}
			if p.ClassIdentifier() != tc.class || string(p.Options[43]) != tc.v43 {
				t.Errorf("%s: class %q, option 43 % x", name, p.ClassIdentifier(), p.Options[43])
			}
			if specified(p.Options[54]) != server || specified(p.ServerIPAddr) != server || len(p.Options[97]) != 17 {
				t.Errorf("%s: server %v, siaddr %v, option 97 % x", name, p.Options[54], p.ServerIPAddr, p.Options[97])
			}
			for _, code := range []uint8{1, 3, 6, 15, 51, 58, 59} {
				if _, ok := p.Options[code]; ok {
					t.Errorf("%s: option %d, which is the other server's business", name, code)
				}
			}
			if out.to.addr.Addr() != broadcastAddr {
				t.Errorf("%s: sent to %v", name, out.to.addr)
			}
		}
	})
	t.Run("an installed system is left to the other server", func(t *testing.T) {
		g := newRig(t, nil, proxyNetwork())
		g.silent(g.send(networkd(msgDiscover, macA)), notBootClient)
		g.silent(g.send(dhclient(msgRequest, macA).with(opt(50, 10, 77, 0, 100))), notBootClient)
	})
	t.Run("REQUEST, DECLINE and RELEASE are left to the other server", func(t *testing.T) {
		g := newRig(t, nil, proxyNetwork())
		for _, kind := range []byte{msgRequest, msgDecline, msgRelease, msgInform} {
			g.silent(g.send(ovmfPXE(kind, macA).with(opt(54, 10, 77, 0, 9), opt(50, 10, 77, 0, 100))), proxyOnly)
		}
	})
	t.Run("an unknown machine is ignored unless policy says otherwise", func(t *testing.T) {
		n := proxyNetwork()
		n.Unknown = UnknownDefault
		g := newRig(t, fakeMachines{host("web1", macA, "")}, n)
		g.silent(g.send(ovmfPXE(msgDiscover, macB)), ignoredUnknown)
		g.yiaddr(g.send(ovmfPXE(msgDiscover, macA)), msgOffer)
	})
	t.Run("what has nothing to boot is left alone", func(t *testing.T) {
		m := host("web1", macA, "")
		m.Interfaces[0].DisableNetboot = true
		g := newRig(t, fakeMachines{m}, proxyNetwork())
		g.silent(g.send(ovmfPXE(msgDiscover, macA)), disabled)
		odd := ovmfPXE(msgDiscover, macB)
		odd.options[4] = opt(93, 0, 99)
		g.silent(g.send(odd), noBootFile)
	})
	t.Run("through a relay agent", func(t *testing.T) {
		n := rackNetwork(Proxy)
		n.Pools, n.Unknown = nil, Discover
		g := newRig(t, nil, n)
		out := g.do(relayed(t, ovmfPXE(msgDiscover, macA), "10.88.0.1"))
		g.yiaddr(out, msgOffer)
		if out.to.addr.Addr() != ip("10.88.0.1") {
			t.Errorf("sent to %v", out.to.addr)
		}
	})
}

func TestPolicy_BootServer(t *testing.T) {
	asking := func(mac machine.MAC) message {
		m := ovmfPXE(msgRequest, mac)
		m.ciaddr, m.broadcast = "10.77.0.77", false
		return m
	}
	t.Run("a REQUEST on port 4011 is acknowledged where it came from", func(t *testing.T) {
		for _, n := range []Network{proxyNetwork(), labNetwork()} {
			g := newRig(t, nil, n)
			out := g.do(onBootPort(t, asking(macA), "10.77.0.77:4011"))
			if a := g.yiaddr(out, msgAck); a.IsValid() || out.bind.Address.IsValid() {
				t.Errorf("%v: yiaddr %v", n.Mode, a)
			}
			if out.to.addr != netip.MustParseAddrPort("10.77.0.77:4011") || out.reply.BootFileNameOption() != "snponly.efi" {
				t.Errorf("%v: file %q to %v", n.Mode, out.reply.BootFileNameOption(), out.to.addr)
			}
		}
	})
	t.Run("the boot item that was asked for comes back", func(t *testing.T) {
		g := newRig(t, nil, proxyNetwork())
		out := g.do(onBootPort(t, asking(macA).with(opt(43, 71, 4, 0, 0, 0, 0, 255)), "10.77.0.77:68"))
		if got := string(out.reply.Options[43]); got != "\x47\x04\x00\x00\x00\x00\xff" {
			t.Errorf("option 43 % x", got)
		}
	})
	t.Run("port 4011 rejects DHCPDISCOVER", func(t *testing.T) {
		g := newRig(t, nil, proxyNetwork())
		g.silent(g.do(onBootPort(t, ovmfPXE(msgDiscover, macA), "10.77.0.77:68")), badPort)
	})
	t.Run("a sender of another network isn't answered", func(t *testing.T) {
		g := newRig(t, nil, proxyNetwork())
		g.silent(g.do(onBootPort(t, asking(macA), "198.51.100.7:53")), badAddress)
	})
	t.Run("an installed system isn't answered", func(t *testing.T) {
		g := newRig(t, nil, proxyNetwork())
		g.silent(g.do(onBootPort(t, networkd(msgRequest, macA), "10.77.0.77:68")), notBootClient)
	})
}
