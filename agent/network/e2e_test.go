package network

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/machine"
)

// inNamespace runs the rest of a test in a network of its own. The thread ends
// with the test, and the network with the thread.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Getenv("BEDPLATE_E2E") == "" {
		t.Skip("SKIPPED: needs a network namespace: run `make e2e`")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("making a network namespace (are you root?): %v", err)
	}
}

// cable makes two links that are connected with each other.
func cable(t *testing.T) (ours, theirs netlink.Link) {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ours"}, PeerName: "theirs"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*netlink.Link{"ours": &ours, "theirs": &theirs} {
		found, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(found)
		}
		if err != nil {
			t.Fatal(err)
		}
		*l = found
	}
	return ours, theirs
}

// TestE2E_Holder asks another host's kernel by ARP.
func TestE2E_Holder(t *testing.T) {
	inNamespace(t)
	ours, theirs := cable(t)
	if err := netlink.AddrAdd(theirs, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 77, 0, 31), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	link := Link{Name: "ours", Index: ours.Attrs().Index, MAC: machine.MAC(ours.Attrs().HardwareAddr)}
	mac, taken, err := Holder(t.Context(), link, netip.MustParseAddr("10.77.0.31"))
	if err != nil || !taken || mac != machine.MAC(theirs.Attrs().HardwareAddr) {
		t.Errorf("10.77.0.31: %s, %t, %v; want %s", mac, taken, err, theirs.Attrs().HardwareAddr)
	}
	if mac, taken, err := Holder(t.Context(), link, netip.MustParseAddr("10.77.0.32")); taken || err != nil {
		t.Errorf("10.77.0.32: %s, %t, %v; want nobody", mac, taken, err)
	}
}
