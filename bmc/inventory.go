package bmc

import (
	"context"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Identity is what tells a machine from every other, as its BMC knows it.
type Identity struct {
	// UUID and Serial are the system's, empty where the BMC doesn't know them or
	// has a placeholder there.
	UUID   machine.UUID
	Serial string
	// AssetTag is what a person has written into the BMC.
	AssetTag     string
	Manufacturer string
	Product      string
	// MACs are the machine's own interfaces', never the BMC's.
	MACs  []machine.MAC
	Power PowerState
}

// Inventory is what a BMC knows of its machine's hardware.
type Inventory interface {
	// Identity asks for as little as it can: it is what a new BMC is asked first.
	Identity(ctx context.Context) (Identity, error)
	// Inventory returns everything that the BMC has, in the form in which the
	// agent reports hardware as well. What it has not is empty; what could not be
	// read is in Warnings. It may take a minute and hundreds of requests.
	Inventory(ctx context.Context) (*pb.Inventory, error)
}
