package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// BootMedia makes boot media of machines. The machine exists when it is asked.
type BootMedia interface {
	// Copy makes a medium that is good for so long (0: a day) and returns its
	// image, of that size, and until when it is good.
	Copy(ctx context.Context, name string, validity time.Duration, actor string) (image io.ReadCloser, size int64, expires time.Time, err error)
	// Revoke makes every medium of the machine useless.
	Revoke(ctx context.Context, name, actor string) error
}

// mediumChunk is how much of an image goes into one message.
const mediumChunk = 256 << 10

// MakeMachineMedium implements pb.MachineServiceServer.
func (a *machineAPI) MakeMachineMedium(r *pb.MakeMachineMediumRequest, stream grpc.ServerStreamingServer[pb.MakeMachineMediumResponse]) error {
	ctx := stream.Context()
	if a.s.cfg.Media == nil {
		return unavailable("boot media")
	}
	if _, err := a.get(ctx, r.GetName()); err != nil {
		return err
	}
	if err := r.GetValidity().CheckValid(); r.GetValidity() != nil && (err != nil || r.GetValidity().AsDuration() <= 0) {
		return fieldError("validity", "not a time that a boot medium can be good for")
	}
	image, size, expires, err := a.s.cfg.Media.Copy(ctx, r.GetName(), r.GetValidity().AsDuration(), caller(ctx).name)
	if err != nil {
		return hookError(err)
	}
	defer image.Close() //nolint:errcheck // read only
	medium := &pb.MachineMedium{SizeBytes: size, ExpireTime: timestamppb.New(expires)}
	if err := stream.Send(&pb.MakeMachineMediumResponse{Part: &pb.MakeMachineMediumResponse_Medium{Medium: medium}}); err != nil {
		return err
	}
	return sendImage(image, stream)
}

// sendImage sends an image in pieces. Flow control keeps what is under way bounded.
func sendImage(image io.Reader, stream grpc.ServerStreamingServer[pb.MakeMachineMediumResponse]) error {
	for {
		data := make([]byte, mediumChunk)
		n, err := io.ReadFull(image, data)
		if n > 0 {
			if err := stream.Send(&pb.MakeMachineMediumResponse{Part: &pb.MakeMachineMediumResponse_Data{Data: data[:n]}}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading the boot medium: %w", err)
		}
	}
}

// RevokeMachineMedia implements pb.MachineServiceServer.
func (a *machineAPI) RevokeMachineMedia(ctx context.Context, r *pb.RevokeMachineMediaRequest) (*emptypb.Empty, error) {
	if a.s.cfg.Media == nil {
		return nil, unavailable("boot media")
	}
	if _, err := a.get(ctx, r.GetName()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, hookError(a.s.cfg.Media.Revoke(ctx, r.GetName(), caller(ctx).name))
}
