package engine

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/bedplate/bedplate/images"
	"github.com/bedplate/bedplate/images/artifact"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// pruneEvery is how often what no image needs any more is looked for.
const pruneEvery = time.Hour

// imageContent lets the API fill the image store.
type imageContent struct{ e *Engine }

// Put implements api.ImageContent.
func (c imageContent) Put(ctx context.Context, image *pb.Image, size int64, digest string, content io.Reader) (*pb.ImageStatus, error) {
	want := images.Expect{Size: size, Digest: digest, Format: image.GetSpec().GetFormat(), Compression: image.GetSpec().GetCompression()}
	name := image.GetMetadata().GetName()
	if image.GetSpec().GetStorage() == "file" {
		got, err := c.e.images.Put(ctx, content, want)
		if err != nil {
			return nil, err
		}
		c.e.catalogue.expect(name, got.Digest)
		return &pb.ImageStatus{Digest: got.Digest, SizeBytes: got.Size, Source: sourceText(got.Type)}, nil
	}
	got, err := c.e.images.Import(ctx, content, want)
	if err != nil {
		return nil, err
	}
	c.e.catalogue.expect(name, got.Index)
	return chunkStatus(got), nil
}

func chunkStatus(got images.Imported) *pb.ImageStatus {
	return &pb.ImageStatus{
		Digest: got.Digest, SizeBytes: got.Size, Source: sourceText(got.Type), IndexDigest: got.Index, DiskBytes: got.DiskSize,
		Chunks: got.Chunks, DataBytes: got.Data, StoredBytes: got.Stored, NewBytes: got.New,
	}
}

func sourceText(t images.Type) string {
	if t.Compression == "" || t.Compression == "none" {
		return t.Format
	}
	return t.Format + ", " + t.Compression
}

// Fetch implements api.ImageContent.
func (c imageContent) Fetch(ctx context.Context, image *pb.Image, r *pb.ImportImageRequest, report func(*pb.ImportImageResponse) error) (*pb.ImageStatus, string, error) {
	source := artifact.Source{Ref: r.GetOci(), Insecure: r.GetInsecure(), Architecture: ociArchitecture(image.GetSpec().GetArchitecture())}
	if r.GetSecret() != "" {
		values, err := secrets{c.e.db, c.e.sealer}.Secret(ctx, r.GetSecret())
		if err != nil {
			return nil, "", err
		}
		source.Username, source.Password = values["username"], values["password"]
	}
	disk, err := artifact.Open(ctx, source)
	if err != nil {
		return nil, "", err
	}
	defer disk.Close() // All that counts has been read and compared.
	in := &reported{r: disk, report: func(n int64) error {
		return report(&pb.ImportImageResponse{ReceivedBytes: n, TotalBytes: disk.Size})
	}}
	status, err := c.Put(ctx, image, disk.Size, image.GetSpec().GetDigest(), in)
	return status, disk.Pinned, err
}

// ociArchitecture is OCI's word for an image's architecture.
func ociArchitecture(arch string) string {
	if arch == "aarch64" {
		return "arm64"
	}
	return "amd64"
}

// reported tells how much of a reader has been read.
type reported struct {
	r      io.Reader
	n      int64
	report func(int64) error
}

func (r *reported) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	if rerr := r.report(r.n); rerr != nil && err == nil {
		err = rerr
	}
	return n, err
}

// Verify implements api.ImageContent.
func (c imageContent) Verify(ctx context.Context, image *pb.Image, report func(done, total int) error) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	v, err := c.e.images.Verify(ctx, image.GetStatus().GetDigest(), image.GetStatus().GetIndexDigest(), func(done, total int) {
		if err := report(done, total); err != nil {
			cancel(err)
		}
	})
	if err != nil {
		return "", err
	}
	if err := v.Err(); err != nil {
		return err.Error(), nil
	}
	return "", nil
}

// Prune implements api.ImageContent.
func (c imageContent) Prune(_ context.Context, all bool) (*pb.PruneImagesResponse, error) {
	if !c.e.knows("images") {
		return nil, fmt.Errorf("the server is starting: try again in a moment")
	}
	p, err := c.e.images.Prune(c.e.catalogue.holds, all)
	return &pb.PruneImagesResponse{FreedBytes: p.Freed, KeptBytes: p.Kept, UsedBytes: p.Used, LimitBytes: p.Limit, Chunks: int64(p.Chunks)}, err
}

// Remove implements api.ImageContent: content goes when no image has it any more.
func (c imageContent) Remove(_ context.Context, name string) error {
	c.e.catalogue.remove(name)
	if !c.e.knows("images") {
		return nil // pruneImages does it.
	}
	_, err := c.e.images.Prune(c.e.catalogue.holds, false)
	return err
}

// knows reports whether all that is fed from the store under that name has come.
func (e *Engine) knows(what string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fed[what]
}

// pruneImages frees what images had that were replaced or deleted.
func (e *Engine) pruneImages(ctx context.Context) error {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if !e.knows("images") {
			continue
		}
		p, err := e.images.Prune(e.catalogue.holds, false)
		if err != nil {
			e.log.Error("freeing images", "err", err)
		} else if p.Freed > 0 {
			e.log.Info("freed images that nothing needs", "image", fmt.Sprintf("%d bytes", p.Freed))
		}
	}
}
