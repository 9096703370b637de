package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

const (
	maxUploadChunk = 1 << 20
	// uploadIdle is how long an upload may stand still.
	uploadIdle = 2 * time.Minute
)

// ImageContent is where the bytes of images are kept.
type ImageContent interface {
	// Put reads content to its end, and returns the fields of a status that are
	// about content once it is durable. With a size that isn't 0, or a digest
	// that isn't empty, it accepts just that content.
	Put(ctx context.Context, image *pb.Image, size int64, digest string, content io.Reader) (*pb.ImageStatus, error)
	// Fetch does the same with content from a registry. It returns the pinned reference as well.
	Fetch(ctx context.Context, image *pb.Image, r *pb.ImportImageRequest, report func(*pb.ImportImageResponse) error) (*pb.ImageStatus, string, error)
	// Verify reads the content again and says what is damaged; empty: nothing.
	Verify(ctx context.Context, image *pb.Image, report func(done, total int) error) (damage string, err error)
	// Prune frees what no image needs.
	Prune(ctx context.Context, all bool) (*pb.PruneImagesResponse, error)
	// Remove deletes the content of that name; that there is none is no error.
	Remove(ctx context.Context, name string) error
}

type imageAPI struct {
	pb.UnimplementedImageServiceServer
	crud[*pb.Image]
}

func newImageAPI(s *Server) *imageAPI {
	a := &imageAPI{crud: newCRUD[*pb.Image](s)}
	a.check, a.release, a.removed = a.checkImage, a.releaseImage, a.removeContent
	a.deleteLock = &s.uses.lock
	// A new image of the same name waits until the old one's content is gone.
	a.changeLock = s.uses.lock.RLocker()
	return a
}

// checkImage says whether the image can be used, as far as that follows from
// its spec and what was uploaded.
func (a *imageAPI) checkImage(_ context.Context, c *change[*pb.Image]) error {
	spec := c.after.GetSpec()
	if c.after.Status == nil {
		c.after.Status = &pb.ImageStatus{}
	}
	s := c.after.Status
	if f := spec.GetFormat(); (spec.GetUrl() != "" || spec.GetStorage() == "file") && f != "" && f != "raw" && f != "qcow2" {
		return fieldError("spec.format", "%q is only for content that the server's image store keeps in chunks: machines read raw and qcow2", f)
	}
	switch {
	case spec.GetUrl() != "":
		s.State, s.Message = pb.ImageState_IMAGE_READY, ""
	case s.GetDigest() == "":
		s.State = pb.ImageState_IMAGE_PENDING
		s.Message = fmt.Sprintf("waits for its content: `bedplate image import %s --file FILE`", c.after.GetMetadata().GetName())
	case spec.GetDigest() != "" && spec.GetDigest() != s.GetDigest():
		s.State = pb.ImageState_IMAGE_FAILED
		s.Message = fmt.Sprintf("the content that was uploaded has the digest %s, not the one in the spec: upload it again, or correct the spec", s.GetDigest())
	case s.GetDamage() != "":
		s.State, s.Message = pb.ImageState_IMAGE_FAILED, s.GetDamage()
	default:
		s.State, s.Message = pb.ImageState_IMAGE_READY, ""
	}
	return nil
}

func (a *imageAPI) releaseImage(_ context.Context, c *change[*pb.Image]) error {
	name := c.before.GetMetadata().GetName()
	used := a.s.uses.instancesWith(func(i *pb.Instance) bool { return i.GetSpec().GetImage() == name })
	if len(used) > 0 {
		return refused("image/%s is used by %s: delete that first (`bedplate delete instance %s`)", name, some("instance", used), used[0])
	}
	return nil
}

// removeContent frees the disk that a deleted image took.
func (a *imageAPI) removeContent(name string) {
	if a.s.cfg.Images == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), unaryTimeout)
	defer cancel()
	if err := a.s.cfg.Images.Remove(ctx, name); err != nil {
		a.s.log.Error("removing the content of a deleted image", "image", name, "err", err)
	}
}

// UploadImage implements pb.ImageServiceServer.
func (a *imageAPI) UploadImage(stream grpc.ClientStreamingServer[pb.UploadImageRequest, pb.UploadImageResponse]) error {
	if a.s.cfg.Images == nil {
		return unavailable("an image store")
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	content := a.s.receive(ctx, cancel, stream)
	header, err := content.header()
	if err != nil {
		return err
	}
	image, err := a.uploadable(ctx, header)
	if err != nil {
		return err
	}
	digest := header.GetDigest()
	if digest == "" {
		digest = image.GetSpec().GetDigest()
	}
	checked := a.s.checkContent(image, content)
	defer checked.Close()
	got, err := a.s.cfg.Images.Put(ctx, image, header.GetSizeBytes(), digest, checked)
	if err == nil {
		err = checked.finish()
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return hookError(fmt.Errorf("storing image/%s: %w", header.GetName(), err))
	}
	got.Signature = checked.signature(got.GetDigest(), a.s)
	if image, err = a.uploaded(ctx, header.GetName(), got); err != nil {
		return err
	}
	return stream.SendAndClose(&pb.UploadImageResponse{Image: image})
}

// uploadable returns the image that an upload is for.
func (a *imageAPI) uploadable(ctx context.Context, h *pb.UploadImageHeader) (*pb.Image, error) {
	if h.GetSizeBytes() < 0 {
		return nil, fieldError("size_bytes", "%d: not a length", h.GetSizeBytes())
	}
	image, err := a.get(ctx, h.GetName())
	if err != nil {
		return nil, err
	}
	if image.GetSpec().GetUrl() != "" {
		return nil, refused("machines fetch image/%s from %s: take spec.url out first", h.GetName(), image.GetSpec().GetUrl())
	}
	if want := image.GetSpec().GetDigest(); want != "" && h.GetDigest() != "" && h.GetDigest() != want {
		return nil, fieldError("digest", "%s is not the one in the image's spec, %s", h.GetDigest(), want)
	}
	return image, nil
}

// uploaded records that the content is there.
func (a *imageAPI) uploaded(ctx context.Context, name string, got *pb.ImageStatus) (*pb.Image, error) {
	for range attempts {
		before, err := resource.Get[*pb.Image](ctx, a.s.cfg.DB, name)
		if err != nil {
			if errors.Is(err, store.ErrNotFound) {
				a.removeContent(name)
			}
			return nil, err
		}
		c := &change[*pb.Image]{before: before, after: cloneOf(before), actor: caller(ctx).name}
		c.after.Status = withContent(c.after.Status, got)
		c.after.Status.ImportTime = timestamppb.New(a.s.cfg.DB.Now())
		if err := a.checkImage(ctx, c); err != nil {
			return nil, err
		}
		resource.Stamp(a.s.cfg.DB, c.after)
		c.add([]store.Compare{resource.Unchanged(before)}, resource.Put(c.after),
			a.s.cfg.Events.Op(event.About(before, "Uploaded", fmt.Sprintf("%d bytes, %s", got.GetSizeBytes(), got.GetDigest()), c.actor)))
		err = a.commit(ctx, c)
		if !errors.Is(err, store.ErrConflict) {
			return c.after, err
		}
	}
	return nil, a.busy(name)
}

// withContent replaces what a status says about content.
func withContent(s, got *pb.ImageStatus) *pb.ImageStatus {
	if s == nil {
		s = &pb.ImageStatus{}
	}
	s.Digest, s.SizeBytes, s.Source = got.GetDigest(), got.GetSizeBytes(), got.GetSource()
	s.IndexDigest, s.DiskBytes, s.Chunks = got.GetIndexDigest(), got.GetDiskBytes(), got.GetChunks()
	s.DataBytes, s.StoredBytes, s.NewBytes = got.GetDataBytes(), got.GetStoredBytes(), got.GetNewBytes()
	s.Damage, s.VerifyTime, s.Signature = "", nil, got.GetSignature()
	return s
}

// uploadStream is what receive needs of the gRPC stream.
type uploadStream interface {
	Recv() (*pb.UploadImageRequest, error)
}

// upload is the content of an upload as a reader.
type upload struct {
	ctx  context.Context
	next chan received
	rest []byte
	end  error
	idle *time.Timer
}

type received struct {
	msg *pb.UploadImageRequest
	err error
}

// receive reads the stream in a goroutine of its own, because Recv has no
// deadline: it ends with the stream, which ends with the handler. An upload
// that stands still is cancelled.
func (s *Server) receive(ctx context.Context, cancel context.CancelCauseFunc, stream uploadStream) *upload {
	u := &upload{ctx: ctx, next: make(chan received)}
	u.idle = time.AfterFunc(uploadIdle, func() {
		cancel(status.Errorf(codes.DeadlineExceeded, "nothing was received for %s: upload it again", uploadIdle))
	})
	s.receivers.Go(func() {
		defer u.idle.Stop()
		for {
			msg, err := stream.Recv()
			select {
			case u.next <- received{msg, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	return u
}

// message returns the next message. io.EOF means that the client has sent all.
func (u *upload) message() (*pb.UploadImageRequest, error) {
	select {
	case r := <-u.next:
		u.idle.Reset(uploadIdle)
		return r.msg, r.err
	case <-u.ctx.Done():
		return nil, context.Cause(u.ctx)
	}
}

func (u *upload) header() (*pb.UploadImageHeader, error) {
	msg, err := u.message()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if msg.GetHeader() == nil {
		return nil, fieldError("header", "missing: the first message names the image")
	}
	return msg.GetHeader(), nil
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	for len(u.rest) == 0 {
		if u.end != nil {
			return 0, u.end
		}
		msg, err := u.message()
		switch {
		case err != nil:
			u.end = err
		case msg.GetHeader() != nil:
			u.end = fieldError("header", "came twice: it is the first message only")
		case len(msg.GetData()) > maxUploadChunk:
			u.end = fieldError("data", "%d bytes, at most %d in one message", len(msg.GetData()), maxUploadChunk)
		default:
			u.rest = msg.GetData()
		}
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

// GetImage implements pb.ImageServiceServer.
func (a *imageAPI) GetImage(ctx context.Context, r *pb.GetImageRequest) (*pb.Image, error) {
	return a.get(ctx, r.GetName())
}

// ListImages implements pb.ImageServiceServer.
func (a *imageAPI) ListImages(ctx context.Context, r *pb.ListImagesRequest) (*pb.ListImagesResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListImagesResponse{Images: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateImage implements pb.ImageServiceServer.
func (a *imageAPI) CreateImage(ctx context.Context, r *pb.CreateImageRequest) (*pb.Image, error) {
	return a.createPlain(ctx, r.GetImage(), r)
}

// UpdateImage implements pb.ImageServiceServer.
func (a *imageAPI) UpdateImage(ctx context.Context, r *pb.UpdateImageRequest) (*pb.Image, error) {
	return a.update(ctx, r.GetImage(), r)
}

// DeleteImage implements pb.ImageServiceServer.
func (a *imageAPI) DeleteImage(ctx context.Context, r *pb.DeleteImageRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, a.remove(ctx, r)
}

// WatchImages implements pb.ImageServiceServer.
func (a *imageAPI) WatchImages(r *pb.WatchImagesRequest, stream grpc.ServerStreamingServer[pb.WatchImagesResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Image, revision int64) error {
		return stream.Send(&pb.WatchImagesResponse{Type: t, Image: obj, ResourceVersion: revision})
	})
}
