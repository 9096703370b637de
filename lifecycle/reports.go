package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/inspection"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
	"github.com/bedplate/bedplate/store"
)

// maxDiscovered bounds how many machines may make themselves known before a
// person has looked at any of them.
const maxDiscovered = 10000

// ErrTooManyDiscovered means that so many unknown machines have booted that
// something is wrong; the usual cause is a client that changes its address.
var ErrTooManyDiscovered = errors.New("too many discovered machines wait to be accepted: accept or delete some, or set the network's unknown_machines to ignore")

// Discover returns the name of the machine with that identity, and makes one
// if nobody has described it.
func (c *Controller) Discover(ctx context.Context, mac machine.MAC, others []machine.MAC, uuid machine.UUID, serial string) (machine.Name, error) {
	m := &pb.Machine{
		Metadata: &pb.Metadata{
			Name:        "m-" + strings.ReplaceAll(mac.String(), ":", ""),
			Annotations: map[string]string{AnnotationDiscovered: "true"},
		},
		Spec:   &pb.MachineSpec{Uuid: string(uuid), Serial: serial, Interfaces: []*pb.Interface{{Mac: mac.String()}}},
		Status: &pb.MachineStatus{NextBoot: pb.NextBoot_AGENT},
	}
	for _, o := range others {
		if o != mac {
			m.Spec.Interfaces = append(m.Spec.Interfaces, &pb.Interface{Mac: o.String()})
		}
	}
	if err := c.boundDiscovered(ctx); err != nil {
		return "", err
	}
	created, err := claim.Create(ctx, c.cfg.DB, m)
	if errors.Is(err, resource.ErrExists) {
		return machine.Name(m.Metadata.Name), nil
	}
	if err != nil {
		return "", fmt.Errorf("recording a discovered machine: %w", err)
	}
	return machine.Name(created.Metadata.Name), nil
}

func (c *Controller) boundDiscovered(ctx context.Context) error {
	all, _, err := resource.All[*pb.Machine](ctx, c.cfg.DB)
	if err != nil {
		return err
	}
	n := 0
	for _, m := range all {
		if m.GetMetadata().GetAnnotations()[AnnotationDiscovered] != "" {
			n++
		}
	}
	if n >= maxDiscovered {
		return ErrTooManyDiscovered
	}
	return nil
}

// inventoryAttempts bounds how often an inventory is stored again after
// somebody else has changed the machine.
const inventoryAttempts = 64

// Inventory stores what the agent read of a machine's hardware, and puts on
// record what has changed.
func (c *Controller) Inventory(ctx context.Context, name machine.Name, inv *pb.Inventory) error {
	for range inventoryAttempts {
		if err := c.storeInventory(ctx, string(name), inv); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("storing the inventory of machine/%s: %w", name, store.ErrConflict)
}

func (c *Controller) storeInventory(ctx context.Context, name string, inv *pb.Inventory) error {
	m, err := resource.Get[*pb.Machine](ctx, c.cfg.DB, name)
	if err != nil {
		return err
	}
	merged, _ := inspection.Merge(inv, m.GetStatus().GetBmcInventory())
	if sameHardware(m.GetStatus().GetInventory(), merged) {
		return nil
	}
	next := cloneOf(m)
	if next.Status == nil {
		next.Status = &pb.MachineStatus{}
	}
	next.Status.Inventory, next.Status.InspectTime = merged, timestamppb.New(c.cfg.Now())
	resource.Stamp(c.cfg.DB, next)
	ops, err := c.history(ctx, m, next)
	if err != nil {
		return err
	}
	return c.commit(ctx, []store.Compare{resource.Unchanged(m)}, append(ops, resource.Put(next))...)
}

// history returns what goes on record of a change of a machine.
func (c *Controller) history(ctx context.Context, before, after *pb.Machine) ([]store.Op, error) {
	if c.cfg.Record == nil {
		return nil, nil
	}
	return c.cfg.Record(ctx, before, after)
}

// sameHardware compares two inventories without the time they were read at.
func sameHardware(a, b *pb.Inventory) bool {
	if a == nil || b == nil {
		return a == b
	}
	a, b = proto.Clone(a).(*pb.Inventory), proto.Clone(b).(*pb.Inventory)
	a.CollectTime, b.CollectTime = nil, nil
	return proto.Equal(a, b)
}

// PhoneHome records that the instance's installed system is up.
func (c *Controller) PhoneHome(ctx context.Context, instance, address string) error {
	_, err := resource.Update(ctx, c.cfg.DB, instance, func(i *pb.Instance) error {
		if i.Status == nil {
			i.Status = &pb.InstanceStatus{}
		}
		i.Status.PhoneHomeTime = timestamppb.New(c.cfg.Now())
		if address != "" {
			i.Status.Addresses = []string{address}
		}
		return nil
	})
	return err
}
