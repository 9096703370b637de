package dhcp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/machine"
)

// openLoopback opens a socket on a port of the kernel's choice.
func openLoopback(t *testing.T) (*udpSocket, uint16) {
	t.Helper()
	s, err := osSystem{now: time.Now}.open(loopback(t), 0)
	if err != nil {
		t.Skipf("this host doesn't let us bind to an interface: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	u := s.(*udpSocket)
	return u, u.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

func loopback(t *testing.T) link {
	t.Helper()
	links, err := osSystem{now: time.Now}.links()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.name == "lo" && len(l.addrs) > 0 {
			return l
		}
	}
	t.Skip("no loopback interface")
	return link{}
}

func TestSocket_ReadSend(t *testing.T) {
	s, port := openLoopback(t)
	if err := s.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	local := ip("127.0.0.1")
	if err := s.Send([]byte("hello"), destination{source: local, addr: netip.AddrPortFrom(local, port)}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, source, to, err := s.Read(b)
	if err != nil || string(b[:n]) != "hello" || source != netip.AddrPortFrom(local, port) || to != local {
		t.Errorf("read %q from %v to %v: %v", b[:n], source, to, err)
	}
	// What is cut off isn't read as if it were whole.
	if err := s.Send(make([]byte, 200), destination{source: local, addr: netip.AddrPortFrom(local, port)}); err != nil {
		t.Fatal(err)
	}
	if n, _, _, err := s.Read(b); n != 0 || err != nil {
		t.Errorf("read %d octets of a longer packet: %v", n, err)
	}
}

func TestSocket_PortTaken(t *testing.T) {
	_, port := openLoopback(t)
	_, err := osSystem{now: time.Now}.open(loopback(t), port)
	if err == nil {
		t.Fatal("the port was given out twice")
	}
	for _, want := range []string{
		fmt.Sprintf("port %d on lo is already in use by ", port), fmt.Sprintf("(pid %d)", os.Getpid()),
		"another DHCP server runs here: stop it, or set dhcp_mode of the networks on lo to off",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q doesn't say %q", err, want)
		}
	}
}

func TestHolders(t *testing.T) {
	proc := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		file := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("self/net/udp", `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  12: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 48213 2 0000000000000000 0
  13: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 48214 2 0000000000000000 0
  junk
`)
	write("812/comm", "dnsmasq\n")
	write("812/fd/readme", "")
	for _, link := range [][2]string{{"socket:[48213]", "812/fd/4"}, {"socket:[48213]", "812/fd/5"}, {"socket:[48214]", "812/fd/6"}} {
		if err := os.Symlink(link[0], filepath.Join(proc, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := holders(proc, 67), " by dnsmasq (pid 812)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := holders(proc, 69); got != "" {
		t.Errorf("a port that nobody has: %q", got)
	}
}

func TestAppendUDP(t *testing.T) {
	from, to := netip.MustParseAddrPort("10.77.0.1:67"), netip.MustParseAddrPort("10.77.0.100:68")
	for _, payload := range []string{"", "x", "hello, client"} {
		b := appendUDP(nil, from, to, []byte(payload))
		if len(b) != udpHeaders+len(payload) || int(binary.BigEndian.Uint16(b[2:])) != len(b) || string(b[28:]) != payload {
			t.Fatalf("packet % x", b)
		}
		if sum := checksum(0, b[:20]); sum != 0 {
			t.Errorf("IP checksum is off by %x", sum)
		}
		pseudo := append(append([]byte{}, b[12:20]...), 0, 17, b[24], b[25])
		if sum := checksum(partial(0, pseudo), b[20:]); sum != 0 {
			t.Errorf("UDP checksum is off by %x", sum)
		}
	}
	// RFC 1071 §3's example.
	if got := checksum(0, []byte{0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("checksum %x", got)
	}
}

func TestSocket_NoPacketSocket(t *testing.T) {
	s, port := openLoopback(t)
	s.mu.Lock()
	if s.frames >= 0 {
		s.mu.Unlock()
		t.Skip("there is a packet socket here; interop tests show that it works")
	}
	s.mu.Unlock()
	err := s.sendFrame(nil, destination{source: ip("127.0.0.1"), hardware: machine.MAC{2}, addr: netip.AddrPortFrom(ip("127.0.0.1"), port)})
	if err == nil {
		t.Error("a frame went out without a packet socket")
	}
}
