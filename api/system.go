package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

type systemAPI struct {
	pb.UnimplementedSystemServiceServer
	version string
	started time.Time
}

// GetServerInfo implements pb.SystemServiceServer.
func (a *systemAPI) GetServerInfo(ctx context.Context, _ *pb.GetServerInfoRequest) (*pb.GetServerInfoResponse, error) {
	p := caller(ctx)
	return &pb.GetServerInfoResponse{
		Version: a.version, Token: p.name, Role: p.role, StartTime: timestamppb.New(a.started),
	}, nil
}
