package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/layout"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

// parseSize reads a number of bytes as people write it.
func parseSize(text string) (int64, error) {
	s, err := layout.ParseSize(text)
	if err == nil && s.Bytes <= 0 {
		err = fmt.Errorf("%q: not a size such as 200GiB", text)
	}
	return s.Bytes, err
}

// stored says what an import has put into the image store.
func stored(s *pb.ImageStatus) string {
	if s.GetIndexDigest() == "" {
		return ""
	}
	text := fmt.Sprintf("  disk of %s (%s): %s of data in %d chunks, stored in %s", table.Bytes(s.GetDiskBytes()), s.GetSource(), table.Bytes(s.GetDataBytes()), s.GetChunks(), table.Bytes(s.GetStoredBytes()))
	if s.GetStoredBytes() > s.GetNewBytes() {
		text += fmt.Sprintf(", of which the store had %s already", table.Bytes(s.GetStoredBytes()-s.GetNewBytes()))
	}
	return text + "\n"
}

// pull has the server fetch the content from a registry.
func (im *importer) pull(ctx context.Context, c *client, name string) (image *pb.Image, err error) {
	stream, err := pb.NewImageServiceClient(c.conn).ImportImage(ctx, &pb.ImportImageRequest{Name: name, Oci: im.oci, Secret: im.secret, Insecure: im.insecure})
	if err != nil {
		return nil, err
	}
	screen := im.screen(im.stderr)
	defer func() { err = errors.Join(err, screen.Close()) }()
	begun := im.now()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the server ended the import without a result: see its log")
		}
		if err != nil {
			return nil, err
		}
		if m.GetImage() != nil {
			fprintf(im.stdout, "%s\n", m.GetPinned())
			return m.GetImage(), nil
		}
		bar := table.Bar{Label: "import", Done: m.GetReceivedBytes(), Total: m.GetTotalBytes(), Unit: "bytes"}
		if took := im.now().Sub(begun).Seconds(); took > 0.5 {
			bar.Rate = float64(m.GetReceivedBytes()) / took
		}
		screen.Set("import", bar)
	}
}

func newImageVerifyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "verify NAME...",
		Short: "Compare images in the server's store with their digests",
		Long: `Have the server read all of each image's content, and compare it with the digests
that it was imported with. What is damaged isn't given to machines any more: the
image is failed, says which part, and importing it again writes that part anew.`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.completeNames(mustKind("Image")),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				var failed error
				for _, name := range names {
					damage, err := a.verifyImage(cmd.Context(), c, name)
					switch {
					case err != nil && (fatal(err) || len(names) == 1):
						return err
					case err != nil:
						a.report(err)
						failed = errReported
					case damage:
						failed = errReported
					}
				}
				return failed
			})
		},
	}
}

func (a *app) verifyImage(ctx context.Context, c *client, name string) (damage bool, err error) {
	stream, err := pb.NewImageServiceClient(c.conn).VerifyImage(ctx, &pb.VerifyImageRequest{Name: name})
	if err != nil {
		return false, err
	}
	var image *pb.Image
	screen := a.screen(a.stderr)
	for image == nil && err == nil {
		var m *pb.VerifyImageResponse
		if m, err = stream.Recv(); err == nil {
			screen.Set(name, table.Bar{Label: "verify " + name, Done: m.GetChunksDone(), Total: m.GetChunksTotal()})
			image = m.GetImage()
		}
	}
	if err = errors.Join(err, screen.Close()); err != nil {
		return false, err
	}
	s := image.GetStatus()
	if s.GetDamage() != "" {
		fprintf(a.stdout, "image/%s is damaged: %s\n", name, s.GetDamage())
		return true, nil
	}
	if s.GetIndexDigest() == "" {
		fprintf(a.stdout, "image/%s is as it was imported: %s, %s\n", name, table.Bytes(s.GetSizeBytes()), s.GetDigest())
	} else {
		fprintf(a.stdout, "image/%s is as it was imported: %d chunks, %s of data\n", name, s.GetChunks(), table.Bytes(s.GetDataBytes()))
	}
	return false, nil
}

func newImagePruneCommand(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Free what no image needs any more, and say what the image store takes",
		Long: `Free content of images that were deleted or got other content. The server does that
by itself when an image is deleted, and every hour. What a machine has asked for in
the last two hours stays, as it may still be writing it, unless --now is given.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				r, err := pb.NewImageServiceClient(c.conn).PruneImages(cmd.Context(), &pb.PruneImagesRequest{All: all})
				if err != nil {
					return err
				}
				fprintf(a.stdout, "freed %s\n", table.Bytes(r.GetFreedBytes()))
				if r.GetKeptBytes() > 0 {
					fprintf(a.stdout, "up to %s stay for now: a machine may still be writing them (--now frees them)\n", table.Bytes(r.GetKeptBytes()))
				}
				used := table.Bytes(r.GetUsedBytes())
				if r.GetLimitBytes() > 0 {
					used += " of " + table.Bytes(r.GetLimitBytes())
				}
				fprintf(a.stdout, "the store takes %s, with %d chunks\n", used, r.GetChunks())
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&all, "now", false, "free also what a machine has asked for in the last two hours")
	return cmd
}
