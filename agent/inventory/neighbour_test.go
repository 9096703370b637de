package inventory

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bedplate/bedplate/agent/inventory/lldp"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// TestNeighbours runs itself again in a network namespace with the two ends of
// a cable.
func TestNeighbours(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") == "" && os.Getenv("BEDPLATE_IN_NAMESPACE") == "" {
		t.Skip("needs a network namespace: run with BEDPLATE_E2E=1")
	}
	if os.Getenv("BEDPLATE_IN_NAMESPACE") == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "-Urnm", os.Args[0], "-test.run=^TestNeighbours$", "-test.v")
		cmd.Env = append(os.Environ(), "BEDPLATE_IN_NAMESPACE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	ip := func(args string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	ip("link add eth0 type veth peer name switch0")
	ip("link set switch0 up")
	inv := &pb.Inventory{Nics: []*pb.NIC{{Name: "eth0"}, {Name: "eth9"}}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		heard, err := Neighbours(ctx, inv, 3*time.Second)
		if err == nil && !heard {
			err = os.ErrDeadlineExceeded
		}
		done <- err
	}()
	// The link comes up only when listening has begun.
	ip("link set eth0 up")
	frame := lldp.Append(nil, lldp.Neighbour{ChassisID: "leaf-1", PortID: "Ethernet7", TTL: 120, VLAN: 30})
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		sendLLDP(t, "switch0", frame)
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			want := []*pb.NIC{{Name: "eth0", Link: true, Lldp: &pb.LLDPNeighbour{ChassisId: "leaf-1", PortId: "Ethernet7", Vlan: 30}}, {Name: "eth9"}}
			if diff := cmp.Diff(want, inv.Nics, protocmp.Transform()); diff != "" {
				t.Errorf("NICs (-want +got):\n%s", diff)
			}
			return
		case <-tick.C:
		}
	}
}

// sendLLDP is what a switch does every 30 s.
func sendLLDP(t *testing.T, link string, payload []byte) {
	t.Helper()
	ifc, err := net.InterfaceByName(link)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Protocol: lldp.EtherType>>8 | lldp.EtherType&0xff<<8, Ifindex: ifc.Index, Halen: 6}
	group := lldp.Multicast()
	copy(to.Addr[:], group[:])
	if err := unix.Sendto(fd, payload, 0, to); err != nil {
		t.Fatal(err)
	}
}
