package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// leaseStatusInterval is how often what the leases say is put on record: a
// packet never waits for it.
const leaseStatusInterval = 5 * time.Second

// reportLeases keeps the status of Networks and the addresses of Machines
// current, until ctx is done.
func (e *Engine) reportLeases(ctx context.Context) error {
	tick := time.NewTicker(leaseStatusInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		for _, n := range e.dhcp.Networks() {
			err := e.reportNetwork(ctx, n.Name, &pb.NetworkStatus{Leases: uint32(n.Leases), PoolSize: uint32(n.PoolSize)})
			e.warnStatus(ctx, err)
		}
		for _, name := range e.takeMoved() {
			e.warnStatus(ctx, e.reportAddresses(ctx, name))
		}
	}
}

func (e *Engine) warnStatus(ctx context.Context, err error) {
	if err != nil && !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil {
		e.log.Warn("storing what leases say", "err", err)
	}
}

func (e *Engine) reportNetwork(ctx context.Context, name string, seen *pb.NetworkStatus) error {
	_, err := resource.Update(ctx, e.db, name, func(n *pb.Network) error {
		if proto.Equal(n.Status, seen) {
			return resource.ErrUnchanged
		}
		n.Status = seen
		return nil
	})
	return err
}

// takeMoved returns the machines whose leases have changed, once.
func (e *Engine) takeMoved() []machine.Name {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []machine.Name
	for name := range e.moved {
		names = append(names, name)
	}
	clear(e.moved)
	return names
}

func (e *Engine) reportAddresses(ctx context.Context, name machine.Name) error {
	var seen []string
	for _, a := range e.index.AddressesOf(name) {
		seen = append(seen, a.String())
	}
	_, err := resource.Update(ctx, e.db, string(name), func(m *pb.Machine) error {
		if slices.Equal(m.GetStatus().GetAddresses(), seen) {
			return resource.ErrUnchanged
		}
		if m.Status == nil {
			m.Status = &pb.MachineStatus{}
		}
		m.Status.Addresses = seen
		return nil
	})
	return err
}
