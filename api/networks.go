package api

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// networksKey is written by every change of any network, on the condition
// that nobody else has: two networks made at once can't overlap unseen.
const networksKey = "/index/networks"

type networkAPI struct {
	pb.UnimplementedNetworkServiceServer
	crud[*pb.Network]
}

func newNetworkAPI(s *Server) *networkAPI {
	a := &networkAPI{crud: newCRUD[*pb.Network](s)}
	a.check = a.checkNetwork
	return a
}

// checkNetwork refuses a subnet that overlaps another network's.
func (a *networkAPI) checkNetwork(ctx context.Context, c *change[*pb.Network]) error {
	db := a.s.cfg.DB
	if name := c.after.GetSpec().GetBmcPasswordSecret(); name != "" {
		if err := exists[*pb.Secret](ctx, db, "spec.bmc_password_secret", name); err != nil {
			return err
		}
	}
	kv, err := db.Store.Get(ctx, networksKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("reading %s: %w", networksKey, err)
	}
	others, _, err := resource.All[*pb.Network](ctx, db)
	if err != nil {
		return err
	}
	cidr, err := netip.ParsePrefix(c.after.GetSpec().GetCidr())
	if err != nil {
		return fieldError("spec.cidr", "%q: not a subnet such as 10.77.0.0/24", c.after.GetSpec().GetCidr())
	}
	for _, other := range others {
		name := other.GetMetadata().GetName()
		theirs, err := netip.ParsePrefix(other.GetSpec().GetCidr())
		if err != nil || name == c.after.GetMetadata().GetName() {
			continue
		}
		if cidr.Overlaps(theirs) {
			return fieldError("spec.cidr", "%s overlaps %s of network/%s: give each network its own addresses", cidr, theirs, name)
		}
	}
	c.add([]store.Compare{{Key: networksKey, ModRevision: kv.ModRevision}}, store.Put(networksKey, []byte(c.after.GetMetadata().GetName())))
	return nil
}

// GetNetwork implements pb.NetworkServiceServer.
func (a *networkAPI) GetNetwork(ctx context.Context, r *pb.GetNetworkRequest) (*pb.Network, error) {
	return a.get(ctx, r.GetName())
}

// ListNetworks implements pb.NetworkServiceServer.
func (a *networkAPI) ListNetworks(ctx context.Context, r *pb.ListNetworksRequest) (*pb.ListNetworksResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListNetworksResponse{Networks: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateNetwork implements pb.NetworkServiceServer.
func (a *networkAPI) CreateNetwork(ctx context.Context, r *pb.CreateNetworkRequest) (*pb.Network, error) {
	return a.createPlain(ctx, r.GetNetwork(), r)
}

// UpdateNetwork implements pb.NetworkServiceServer.
func (a *networkAPI) UpdateNetwork(ctx context.Context, r *pb.UpdateNetworkRequest) (*pb.Network, error) {
	return a.update(ctx, r.GetNetwork(), r)
}

// DeleteNetwork implements pb.NetworkServiceServer.
func (a *networkAPI) DeleteNetwork(ctx context.Context, r *pb.DeleteNetworkRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, a.remove(ctx, r)
}

// WatchNetworks implements pb.NetworkServiceServer.
func (a *networkAPI) WatchNetworks(r *pb.WatchNetworksRequest, stream grpc.ServerStreamingServer[pb.WatchNetworksResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Network, revision int64) error {
		return stream.Send(&pb.WatchNetworksResponse{Type: t, Network: obj, ResourceVersion: revision})
	})
}
