package lifecycle

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// countInterval is the least time between two counts: a rack that is powered
// on changes state a hundred times a second.
const countInterval = 2 * time.Second

// countPools brings the status of every pool in line with its machines.
func (c *Controller) countPools(ctx context.Context) {
	if len(c.pools) == 0 {
		return
	}
	now := c.cfg.Now()
	if wait := c.counted.Add(countInterval).Sub(now); wait > 0 {
		c.lookAgain("p ", c.counted.Add(countInterval))
		return
	}
	c.counted = now
	counts := map[string]*pb.PoolStatus{}
	for _, m := range c.machines {
		name := orText(m.GetSpec().GetPool(), DefaultPool)
		if counts[name] == nil {
			counts[name] = &pb.PoolStatus{}
		}
		count(counts[name], m.GetStatus().GetState())
	}
	for name, p := range c.pools {
		want := counts[name]
		if want == nil {
			want = &pb.PoolStatus{}
		}
		if proto.Equal(want, orStatus(p.GetStatus())) {
			continue
		}
		next := cloneOf(p)
		next.Status = want
		err := c.commit(ctx, []store.Compare{resource.Unchanged(p)}, resource.Put(next))
		if err != nil && !errors.Is(err, store.ErrConflict) && ctx.Err() == nil {
			c.cfg.Logger.Error("counting a pool's machines", "err", err)
		}
	}
}

func orStatus(s *pb.PoolStatus) *pb.PoolStatus {
	if s == nil {
		return &pb.PoolStatus{}
	}
	return s
}

func count(s *pb.PoolStatus, state pb.MachineState) {
	s.Machines++
	switch state {
	case pb.MachineState_AVAILABLE:
		s.Available++
	case pb.MachineState_ACTIVE:
		s.Active++
	case pb.MachineState_FAILED, pb.MachineState_QUARANTINED:
		s.Failed++
	}
}
