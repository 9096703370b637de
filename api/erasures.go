package api

import (
	"context"

	"google.golang.org/grpc"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// erasureAPI only reads: a record that could be changed or deleted would
// prove nothing.
type erasureAPI struct {
	pb.UnimplementedErasureServiceServer
	crud[*pb.Erasure]
}

func newErasureAPI(s *Server) *erasureAPI { return &erasureAPI{crud: newCRUD[*pb.Erasure](s)} }

// GetErasure implements pb.ErasureServiceServer.
func (a *erasureAPI) GetErasure(ctx context.Context, r *pb.GetErasureRequest) (*pb.Erasure, error) {
	return a.get(ctx, r.GetName())
}

// ListErasures implements pb.ErasureServiceServer.
func (a *erasureAPI) ListErasures(ctx context.Context, r *pb.ListErasuresRequest) (*pb.ListErasuresResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListErasuresResponse{Erasures: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// WatchErasures implements pb.ErasureServiceServer.
func (a *erasureAPI) WatchErasures(r *pb.WatchErasuresRequest, stream grpc.ServerStreamingServer[pb.WatchErasuresResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Erasure, revision int64) error {
		return stream.Send(&pb.WatchErasuresResponse{Type: t, Erasure: obj, ResourceVersion: revision})
	})
}
