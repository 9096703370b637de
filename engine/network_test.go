package engine

import (
	"testing"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func TestMissingInterface(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	s := start(t, cfg)
	_, err := pb.NewNetworkServiceClient(s.conn).CreateNetwork(s.ctx(), &pb.CreateNetworkRequest{Network: &pb.Network{
		Metadata: &pb.Metadata{Name: "gone"},
		Spec:     &pb.NetworkSpec{Cidr: "192.0.2.0/24", DhcpMode: pb.DHCPMode_FULL, Interfaces: []string{"nosuch0"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	// start fails the test if the server doesn't come up, from where the network can be put right.
	again := start(t, cfg)
	if _, err := pb.NewNetworkServiceClient(again.conn).GetNetwork(s.ctx(), &pb.GetNetworkRequest{Name: "gone"}); err != nil {
		t.Fatal(err)
	}
}
