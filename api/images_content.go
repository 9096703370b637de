package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// reportEvery is how often a call that takes long says how far it has come.
const reportEvery = 500 * time.Millisecond

// throttled passes on at most one message in reportEvery.
func throttled[M any](now func() time.Time, send func(M) error) func(M) error {
	var last time.Time
	return func(m M) error {
		if t := now(); t.Sub(last) >= reportEvery {
			last = t
			return send(m)
		}
		return nil
	}
}

// ImportImage implements pb.ImageServiceServer.
func (a *imageAPI) ImportImage(r *pb.ImportImageRequest, stream grpc.ServerStreamingServer[pb.ImportImageResponse]) error {
	if a.s.cfg.Images == nil {
		return unavailable("an image store")
	}
	if r.GetOci() == "" {
		return fieldError("oci", "missing: the reference of an image in a registry, such as registry.example/os/debian:12")
	}
	ctx := stream.Context()
	image, err := a.uploadable(ctx, &pb.UploadImageHeader{Name: r.GetName()})
	if err != nil {
		return err
	}
	if err := a.s.mayBeUnsigned(image); err != nil {
		return hookError(fmt.Errorf("importing image/%s: %w", r.GetName(), err))
	}
	got, pinned, err := a.s.cfg.Images.Fetch(ctx, image, r, throttled(a.s.cfg.DB.Now, stream.Send))
	if err != nil {
		return hookError(fmt.Errorf("importing image/%s: %w", r.GetName(), err))
	}
	if image, err = a.uploaded(ctx, r.GetName(), got); err != nil {
		return err
	}
	return stream.Send(&pb.ImportImageResponse{ReceivedBytes: got.GetSizeBytes(), TotalBytes: got.GetSizeBytes(), DataBytes: got.GetDataBytes(), StoredBytes: got.GetStoredBytes(), Image: image, Pinned: pinned})
}

// VerifyImage implements pb.ImageServiceServer.
func (a *imageAPI) VerifyImage(r *pb.VerifyImageRequest, stream grpc.ServerStreamingServer[pb.VerifyImageResponse]) error {
	if a.s.cfg.Images == nil {
		return unavailable("an image store")
	}
	ctx := stream.Context()
	image, err := a.get(ctx, r.GetName())
	if err != nil {
		return err
	}
	if image.GetStatus().GetDigest() == "" {
		return refused("image/%s has no content in the image store", r.GetName())
	}
	send := throttled(a.s.cfg.DB.Now, stream.Send)
	var last *pb.VerifyImageResponse
	damage, err := a.s.cfg.Images.Verify(ctx, image, func(done, total int) error {
		last = &pb.VerifyImageResponse{ChunksDone: int64(done), ChunksTotal: int64(total)}
		return send(last)
	})
	if err != nil {
		return hookError(fmt.Errorf("verifying image/%s: %w", r.GetName(), err))
	}
	if image, err = a.verified(ctx, image, damage); err != nil {
		return err
	}
	if last == nil {
		last = &pb.VerifyImageResponse{}
	}
	last.Image = image
	return stream.Send(last)
}

// verified records what was found, unless the content is another one meanwhile.
func (a *imageAPI) verified(ctx context.Context, image *pb.Image, damage string) (*pb.Image, error) {
	name := image.GetMetadata().GetName()
	for range attempts {
		before, err := resource.Get[*pb.Image](ctx, a.s.cfg.DB, name)
		if err != nil {
			return nil, err
		}
		if s := before.GetStatus(); s.GetDigest() != image.GetStatus().GetDigest() || s.GetIndexDigest() != image.GetStatus().GetIndexDigest() {
			return nil, refused("image/%s got other content while it was verified: verify it again", name)
		}
		c := &change[*pb.Image]{before: before, after: cloneOf(before), actor: caller(ctx).name}
		c.after.Status.Damage, c.after.Status.VerifyTime = damage, timestamppb.New(a.s.cfg.DB.Now())
		if err := a.checkImage(ctx, c); err != nil {
			return nil, err
		}
		resource.Stamp(a.s.cfg.DB, c.after)
		reason, message := "Verified", "nothing is damaged"
		if damage != "" {
			reason, message = "Damaged", damage
		}
		e := event.About(before, reason, message, c.actor)
		e.Warning = damage != ""
		c.add([]store.Compare{resource.Unchanged(before)}, resource.Put(c.after), a.s.cfg.Events.Op(e))
		if err = a.commit(ctx, c); !errors.Is(err, store.ErrConflict) {
			return c.after, err
		}
	}
	return nil, a.busy(name)
}

// PruneImages implements pb.ImageServiceServer.
func (a *imageAPI) PruneImages(ctx context.Context, r *pb.PruneImagesRequest) (*pb.PruneImagesResponse, error) {
	if a.s.cfg.Images == nil {
		return nil, unavailable("an image store")
	}
	out, err := a.s.cfg.Images.Prune(ctx, r.GetAll())
	return out, hookError(err)
}
