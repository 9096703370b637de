package api

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

type poolAPI struct {
	pb.UnimplementedPoolServiceServer
	crud[*pb.Pool]
}

func newPoolAPI(s *Server) *poolAPI {
	a := &poolAPI{crud: newCRUD[*pb.Pool](s)}
	a.check, a.release = a.checkPool, a.releasePool
	return a
}

// checkPool looks for what the policy names.
func (a *poolAPI) checkPool(ctx context.Context, c *change[*pb.Pool]) error {
	if t := c.after.GetSpec().GetTests().GetTemplate(); t != "" {
		if err := exists[*pb.Template](ctx, a.s.cfg.DB, "spec.tests.template", t); err != nil {
			return err
		}
	}
	for i, h := range c.after.GetSpec().GetHooks() {
		if s := h.GetTokenSecret(); s != "" {
			if err := exists[*pb.Secret](ctx, a.s.cfg.DB, fmt.Sprintf("spec.hooks[%d].token_secret", i), s); err != nil {
				return err
			}
		}
	}
	return nil
}

// releasePool keeps a pool that has machines.
func (a *poolAPI) releasePool(ctx context.Context, c *change[*pb.Pool]) error {
	name := c.before.GetMetadata().GetName()
	machines, _, err := resource.All[*pb.Machine](ctx, a.s.cfg.DB)
	if err != nil {
		return err
	}
	var members []string
	for _, m := range machines {
		if m.GetSpec().GetPool() == name {
			members = append(members, m.GetMetadata().GetName())
		}
	}
	if len(members) > 0 {
		return refused("pool/%s has %s: give them another spec.pool first", name, some("machine", members))
	}
	return nil
}

// GetPool implements pb.PoolServiceServer.
func (a *poolAPI) GetPool(ctx context.Context, r *pb.GetPoolRequest) (*pb.Pool, error) {
	return a.get(ctx, r.GetName())
}

// ListPools implements pb.PoolServiceServer.
func (a *poolAPI) ListPools(ctx context.Context, r *pb.ListPoolsRequest) (*pb.ListPoolsResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListPoolsResponse{Pools: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreatePool implements pb.PoolServiceServer.
func (a *poolAPI) CreatePool(ctx context.Context, r *pb.CreatePoolRequest) (*pb.Pool, error) {
	return a.createPlain(ctx, r.GetPool(), r)
}

// UpdatePool implements pb.PoolServiceServer.
func (a *poolAPI) UpdatePool(ctx context.Context, r *pb.UpdatePoolRequest) (*pb.Pool, error) {
	return a.update(ctx, r.GetPool(), r)
}

// DeletePool implements pb.PoolServiceServer.
func (a *poolAPI) DeletePool(ctx context.Context, r *pb.DeletePoolRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, a.remove(ctx, r)
}

// WatchPools implements pb.PoolServiceServer.
func (a *poolAPI) WatchPools(r *pb.WatchPoolsRequest, stream grpc.ServerStreamingServer[pb.WatchPoolsResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Pool, revision int64) error {
		return stream.Send(&pb.WatchPoolsResponse{Type: t, Pool: obj, ResourceVersion: revision})
	})
}
