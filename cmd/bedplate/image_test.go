package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// upload answers UploadImage, and keeps what came.
func upload(f *fakeServer, got *bytes.Buffer, answer func(*pb.UploadImageHeader) error) {
	f.handlers["UploadImage"] = func(s grpc.ServerStream) error {
		var header *pb.UploadImageHeader
		for {
			var m pb.UploadImageRequest
			err := s.RecvMsg(&m)
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			if m.GetHeader() != nil {
				header = m.GetHeader()
				if err := answer(header); err != nil {
					return err
				}
			}
			got.Write(m.GetData())
		}
		sum := sha256.Sum256(got.Bytes())
		return s.SendMsg(&pb.UploadImageResponse{Image: &pb.Image{
			Metadata: &pb.Metadata{Name: header.Name},
			Status:   &pb.ImageStatus{State: pb.ImageState_IMAGE_READY, SizeBytes: int64(got.Len()), Digest: "sha256:" + hex.EncodeToString(sum[:])},
		}})
	}
}

func TestImage_Import(t *testing.T) {
	f := newFakeServer(t)
	f.load(t, filepath.Join("testdata", "fixtures.yaml"))
	var got bytes.Buffer
	var header *pb.UploadImageHeader
	upload(f, &got, func(h *pb.UploadImageHeader) error { header = h; return nil })
	t.Chdir(t.TempDir())
	content := bytes.Repeat([]byte("0123456789abcdef"), 5<<16) // 5 MiB
	if err := os.WriteFile("disk.raw", content, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	a := newTestApp(f, nil, nil)
	mustPrint(t, a, "image import debian-13 --file disk.raw --os-version 13.1", `
image/debian-13 imported: 5 MiB, `+digest+`
[stderr]
  upload   10%  512 KiB of 5 MiB
`)
	if !bytes.Equal(got.Bytes(), content) || header.SizeBytes != int64(len(content)) || header.Name != "debian-13" {
		t.Errorf("%d bytes came, with %v", got.Len(), header)
	}
	if s := f.objects["image/debian-13"].(*pb.Image).Spec; s.Os != "debian" || s.OsVersion != "13.1" || s.Format != "" {
		t.Errorf("the image is declared as %v", s)
	}

	got.Reset()
	mustPrint(t, a, "image import new --file - < disk.raw", `
image/new imported: 5 MiB, `+digest+`
[stderr]
  upload  512 KiB
`)
	f.handlers["UploadImage"] = nil
	delete(f.handlers, "UploadImage")
	upload(f, &got, func(*pb.UploadImageHeader) error {
		return status.Error(codes.FailedPrecondition, "there is no room for it: 3 MiB are free")
	})
	// How much was sent before the server said no is a matter of luck.
	if out := command(t.Context(), a, "image import new --file disk.raw"); !strings.HasSuffix(out, "error: there is no room for it: 3 MiB are free\n[exit code 1]\n") {
		t.Errorf("without room: %s", out)
	}
	upload(f, bytes.NewBufferString("x"), func(*pb.UploadImageHeader) error { return nil })
	if out := command(t.Context(), a, "image import new --file disk.raw"); !strings.Contains(out, "the server has received other bytes than were sent") {
		t.Errorf("with a wrong digest: %s", out)
	}
	mustPrint(t, a, "image import talos --url https://images.example/talos.raw.xz --digest sha256:12", `
error: image/talos: spec.digest: "sha256:12": not a digest: sha256: and 64 hexadecimal digits in lower case
hint: `+"`bedplate image import --help` says how it is used"+`
[exit code 2]
`)
	mustPrint(t, a, "image import talos --url https://images.example/talos.raw.xz --digest "+digest, "image/talos imported\n")
	mustPrint(t, a, "image import talos --url https://images.example/", `
error: --url https://images.example/: not the URL of a file
hint: `+"`bedplate image import --help` says how it is used"+`
[exit code 2]
`)
	mustPrint(t, a, "image import talos --file nowhere.raw", `
error: opening the image: open nowhere.raw: no such file or directory
[exit code 1]
`)
	mustPrint(t, a, "image import my-image", `
error: "my-image" is not in the image catalogue
hint: `+"`bedplate image catalog` lists what is; an image of your own needs --file or --url"+`
[exit code 2]
`)
}
