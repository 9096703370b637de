package resource

import (
	"github.com/bedplate/bedplate/network"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// checkMachineNetwork looks at the network of a machine's installed system as
// a whole: names, what lies on what, addresses and gateways.
func checkMachineNetwork(s *pb.MachineNetwork, errs *FieldErrors) {
	if s == nil {
		return
	}
	_, problems := network.Read(s)
	for _, p := range problems {
		errs.add(joinField("spec.network", p.Path), "%s", p.Message)
	}
}
