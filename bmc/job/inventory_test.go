package job

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func TestFillIdentity(t *testing.T) {
	id := bmc.Identity{MACs: []machine.MAC{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, {1, 0, 0, 0, 0, 3}}}
	for _, tt := range []struct {
		name string
		nics []*pb.Interface
		want []string
	}{
		{"a machine that nothing is said of gets every port", nil, []string{"02:00:00:00:00:01 ", "02:00:00:00:00:02 "}},
		{"an address without a port is the first port's", []*pb.Interface{{Address: "10.78.0.31/24"}}, []string{"02:00:00:00:00:01 10.78.0.31/24", "02:00:00:00:00:02 "}},
		{"a port that a person has named stays the only one", []*pb.Interface{{Mac: "02:00:00:00:00:02"}}, []string{"02:00:00:00:00:02 "}},
		{"beside it an address is the next port's", []*pb.Interface{{Mac: "02:00:00:00:00:01"}, {Address: "10.78.0.32/24"}}, []string{"02:00:00:00:00:01 ", "02:00:00:00:00:02 10.78.0.32/24"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &pb.Machine{Spec: &pb.MachineSpec{Interfaces: tt.nics}}
			fillIdentity(m, id)
			var got []string
			for _, nic := range m.Spec.Interfaces {
				got = append(got, nic.Mac+" "+nic.Address)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again := fillIdentity(m, id); len(again) > 0 {
				t.Errorf("a second time it fills in %q", again)
			}
		})
	}
}
