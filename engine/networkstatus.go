package engine

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// networkStatusInterval is how often the leases of networks are counted.
const networkStatusInterval = 15 * time.Second

// reportNetworks keeps the status of Networks current, until ctx is done.
func (e *Engine) reportNetworks(ctx context.Context) error {
	tick := time.NewTicker(networkStatusInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		for _, n := range e.dhcp.Networks() {
			seen := &pb.NetworkStatus{Leases: uint32(n.Leases), PoolSize: uint32(n.PoolSize)}
			_, err := resource.Update(ctx, e.db, n.Name, func(r *pb.Network) error {
				if proto.Equal(r.Status, seen) {
					return resource.ErrUnchanged
				}
				r.Status = seen
				return nil
			})
			if err != nil && !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil {
				e.log.Warn("storing a network's status", "err", err)
			}
		}
	}
}
