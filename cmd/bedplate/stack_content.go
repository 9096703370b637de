package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack/content"
)

// uploadPiece is how much goes in one message.
const uploadPiece = 512 << 10

// localFiles is one place of a Stack that names files beside its own.
type localFiles struct {
	path    *string
	content *string
	where   string
}

// localPaths lists the files and directories that a stack names.
func localPaths(s *pb.Stack) []localFiles {
	var out []localFiles
	for i, l := range s.GetSpec().GetLayers() {
		at := fmt.Sprintf("spec.layers[%d].", i)
		if c := l.GetChart(); c.GetPath() != "" {
			out = append(out, localFiles{&c.Path, &c.Content, at + "chart.path"})
		}
		if m := l.GetManifests(); m.GetPath() != "" {
			out = append(out, localFiles{&m.Path, &m.Content, at + "manifests.path"})
		}
		if k := l.GetKustomization(); k.GetPath() != "" {
			out = append(out, localFiles{&k.Path, &k.Content, at + "kustomization.path"})
		}
	}
	return out
}

// packStack packs what a stack names and puts the digests into it. Paths are
// relative to the file that the stack was read from.
func packStack(s *pb.Stack, file string) (map[string][]byte, error) {
	packed := map[string][]byte{}
	for _, f := range localPaths(s) {
		name := *f.path
		if !filepath.IsAbs(name) {
			if file == "-" || file == "stdin" {
				file = "."
			}
			name = filepath.Join(filepath.Dir(file), name)
		}
		if _, err := os.Stat(name); err != nil {
			return nil, fmt.Errorf("%s: %w", f.where, err)
		}
		data, err := content.Pack(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.where, err)
		}
		*f.content = content.Digest(data)
		packed[*f.content] = data
	}
	return packed, nil
}

// uploadStack sends the server what a stack is made of, so that the stack can
// name it by digest.
func (a *app) uploadStack(ctx context.Context, c *client, it resource.Item) error {
	s, ok := it.Object.(*pb.Stack)
	if !ok {
		return nil
	}
	packed, err := packStack(s, it.File)
	if err != nil {
		return placed(it, err)
	}
	for digest, data := range packed {
		if err := c.putStackContent(ctx, digest, data); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) putStackContent(ctx context.Context, digest string, data []byte) error {
	stream, err := pb.NewStackServiceClient(c.conn).PutStackContent(ctx)
	if err != nil {
		return err
	}
	for rest := data; len(rest) > 0; {
		n := min(uploadPiece, len(rest))
		if err := stream.Send(&pb.PutStackContentRequest{Data: rest[:n]}); err != nil {
			break // CloseAndRecv says why.
		}
		rest = rest[n:]
	}
	out, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if out.GetDigest() != digest {
		return fmt.Errorf("the server has got %s (%s), %s was sent", out.GetDigest(), table.Bytes(out.GetSizeBytes()), digest)
	}
	return nil
}
