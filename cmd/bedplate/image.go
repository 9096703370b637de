package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

// uploadChunk is how much of an image one message carries; at most 1 MiB.
const uploadChunk = 512 << 10

func newImageCommand(a *app) *cobra.Command {
	noun := newNounCommand(a, mustKind("Image"), "Operating system images")
	noun.AddCommand(newImportCommand(a), newImageVerifyCommand(a), newImagePruneCommand(a), newImageCatalogCommand(a), newImageBundleCommand(a))
	return noun
}

// importer makes an image of a file or a URL.
type importer struct {
	*app
	file, url string
	oci       string
	secret    string
	insecure  bool
	noConvert bool
	spec      pb.ImageSpec
	from      releaseFlags
}

// sources is how many of the flags that say where the content is were given.
func (im *importer) sources() (n int) {
	for _, s := range []string{im.file, im.url, im.oci} {
		if s != "" {
			n++
		}
	}
	return n
}

func newImportCommand(a *app) *cobra.Command {
	im := &importer{app: a}
	cmd := &cobra.Command{
		Use:   "import NAME[@VERSION|@CHANNEL] | NAME --file FILE | NAME --url URL | NAME --oci REF",
		Short: "Add an operating system of the catalogue, or an image from a file, a URL or an OCI registry",
		Long: `Add an image, or give one that is there new content.

With the name of an entry of the catalogue ("bedplate image catalog") its release
is fetched by this command, from the publisher, a mirror, a folder or a bundle.
Its signature is checked by the keys that the catalogue pins, then its digest; then
it is sent to the server, which checks both again. A transfer that breaks off
goes on where it was. Proxies are those of the environment (HTTPS_PROXY). With
@VERSION or a source, NAME is always an entry's; @CHANNEL/VERSION says both.

A file is sent to the server's image store, from which machines get it. The store
keeps it in compressed chunks, without zeros, and what several images have in common
once; files may be raw, qcow2, VMDK, VHDX or VHD, as they are or compressed. With
--no-convert it is kept as it is. With --oci the server fetches an artefact that has a
disk as a layer, or a container image with one in /disk. With a URL, machines get it from there; give the digest, so that they write nothing else
to their disks. Compression and format are told from the content unless given.`,
		Example: "  bedplate image import debian-13 --file debian-13.raw.zst --os debian --os-version 13\n  bedplate image import flatcar@beta\n  bedplate image import rocky@9.6-20250531.0 --mirror https://mirror.example/rocky\n  bedplate image import ubuntu@24.04/20250805 --dir /media/usb --key ubuntu.asc\n  bedplate image import talos --url https://images.example/metal-amd64.raw.xz --digest sha256:…",
		Args:    args(cobra.ExactArgs(1)),
		ValidArgsFunction: func(_ *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(words) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return catalogNames(im.from.catalog), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			if err := im.check(words[0]); err != nil {
				return usageError{err}
			}
			if im.noConvert {
				im.spec.Storage = "file"
			}
			if im.from.asked(words[0], im.sources()) {
				return a.with(cmd.Context(), func(c *client) error { return im.importRelease(cmd.Context(), c, words[0]) })
			}
			return a.with(cmd.Context(), func(c *client) error { return im.run(cmd.Context(), c, words[0]) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&im.file, "file", "", "`file` to send; - is the standard input")
	flags.StringVar(&im.url, "url", "", "http or https `URL` that machines get it from")
	flags.StringVar(&im.oci, "oci", "", "`reference` of an image or artefact that the server fetches: registry/repository:tag or …@sha256:…")
	flags.StringVar(&im.secret, "oci-secret", "", "`Secret` with username and password for the registry")
	flags.BoolVar(&im.insecure, "oci-insecure", false, "speak to the registry over plain HTTP")
	flags.BoolVar(&im.noConvert, "no-convert", false, "keep the file, and send it to machines, as it is: raw or qcow2 only")
	im.releaseFlags(cmd)
	flags.StringVar(&im.spec.Digest, "digest", "", "sha256: and the digest of the file (compressed, if it is)")
	flags.StringVar(&im.spec.Os, "os", "", "operating system, such as debian")
	flags.StringVar(&im.spec.OsVersion, "os-version", "", "its version")
	flags.StringVar(&im.spec.Architecture, "arch", "", "x86_64 or aarch64")
	flags.StringVar(&im.spec.Format, "format", "", "raw, qcow2, vmdk, vhdx or vhd")
	flags.StringVar(&im.spec.Compression, "compression", "", "none, gzip, bzip2, xz or zstd")
	flags.Uint32Var(&im.spec.RootPartition, "root-partition", 0, "number of the root partition; 0: the largest")
	flags.StringVar(&im.spec.Configuration, "configuration", "", "cloud-init, ignition, talos or none")
	flags.StringVar(&im.from.as, "as", "", "`name` of the image (default: NAME-VERSION)")
	flags.StringVar(&im.from.bundle, "bundle", "", "`file` that \"bedplate image bundle\" has written")
	flags.BoolVar(&im.from.signed, "require-signature", false, "refuse what its publisher hasn't signed, here and on machines")
	completeFlag(cmd, "arch", "x86_64", "aarch64")
	completeFlag(cmd, "format", "raw", "qcow2", "vmdk", "vhdx", "vhd")
	completeFlag(cmd, "compression", "none", "gzip", "bzip2", "xz", "zstd")
	completeFlag(cmd, "configuration", "cloud-init", "ignition", "talos", "none")
	return cmd
}

// releaseFlags are about where releases come from.
func (im *importer) releaseFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&im.from.mirror, "mirror", "", "`URL` that takes the place of scheme and host of the publisher's URLs")
	flags.StringVar(&im.from.dir, "dir", "", "`folder` that has the release's files, under the publisher's names")
	flags.StringVar(&im.from.key, "key", "", "`file` with the publisher's public keys, in place of fetching them; their fingerprints have to be the catalogue's")
	flags.StringVar(&im.from.cache, "cache", "", "`folder` for what is being fetched (default: in the user's cache)")
	catalogFlag(cmd, &im.from.catalog)
}

// check says which flags can't go together.
func (im *importer) check(name string) error {
	fromFile := map[bool]int{true: 1}
	sources := im.sources() + fromFile[im.from.mirror != ""] + fromFile[im.from.dir != ""] + fromFile[im.from.bundle != ""]
	switch {
	case sources > 1:
		return errors.New("give one of --file, --url, --oci, --mirror, --dir and --bundle")
	case im.url+im.oci != "" && im.from.asked(name, im.sources()):
		return errors.New("--url and --oci are for images of your own: leave them out, or the @")
	case im.file == "-" && strings.Contains(name, "@"):
		return errors.New("the standard input has no checksums beside it: give --file a file")
	}
	return nil
}

func (im *importer) run(ctx context.Context, c *client, name string) error {
	content, size, err := im.open()
	if err != nil {
		return err
	}
	if content != nil {
		defer content.Close()
	}
	if err := im.declare(ctx, c, name); err != nil {
		return err
	}
	if im.url != "" {
		fprintf(im.stdout, "image/%s imported\n", name)
		return nil
	}
	var image *pb.Image
	if im.oci != "" {
		image, err = im.pull(ctx, c, name)
	} else {
		image, err = im.upload(ctx, c, name, content, size)
	}
	if err != nil {
		return err
	}
	fprintf(im.stdout, "image/%s imported: %s, %s\n%s", name, table.Bytes(image.GetStatus().GetSizeBytes()), image.GetStatus().GetDigest(), stored(image.GetStatus()))
	return nil
}

// open opens the file, if it is one that is imported.
func (im *importer) open() (io.ReadCloser, int64, error) {
	switch im.file {
	case "":
		if im.oci != "" {
			return nil, 0, nil
		}
		u, err := url.Parse(im.url)
		if err != nil || u.Host == "" || path.Base(u.Path) == "/" {
			return nil, 0, usageError{fmt.Errorf("--url %s: not the URL of a file", im.url)}
		}
		return nil, 0, nil
	case "-":
		return io.NopCloser(im.stdin), 0, nil
	}
	f, err := os.Open(im.file)
	if err != nil {
		return nil, 0, fmt.Errorf("opening the image: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("opening the image: %w", err), f.Close())
	}
	if !info.Mode().IsRegular() {
		return f, 0, nil
	}
	if info.Size() == 0 {
		return nil, 0, errors.Join(fmt.Errorf("%s is empty", im.file), f.Close())
	}
	return f, info.Size(), nil
}

// declare creates the Image, or changes what was asked for of the one there is.
func (im *importer) declare(ctx context.Context, c *client, name string) error {
	kind := mustKind("Image")
	image := &pb.Image{Metadata: &pb.Metadata{Name: name}, Spec: &pb.ImageSpec{}}
	out, err := c.call(ctx, kind, "GetImage", fields{"name": name})
	switch {
	case err == nil:
		image = out.(*pb.Image)
		// What is known of the old content says nothing of the new one.
		image.Spec.Digest, image.Spec.SizeBytes, image.Spec.Format, image.Spec.Compression, image.Spec.Origin = "", 0, "", "", nil
		image.Spec.Storage = ""
	case codeOf(err) != codes.NotFound:
		return err
	}
	image.Status = nil
	if im.spec.Finish != nil {
		image.Spec.Finish = nil
	}
	proto.Merge(image.Spec, &im.spec)
	image.Spec.Url = im.url
	if err := resource.Validate(image); err != nil {
		return usageError{err}
	}
	_, err = c.update(ctx, kind, image, true, false)
	return err
}

// upload sends the content, and compares the digest that the server has made
// of it with its own.
func (im *importer) upload(ctx context.Context, c *client, name string, content io.Reader, size int64) (*pb.Image, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewImageServiceClient(c.conn).UploadImage(ctx)
	if err != nil {
		return nil, err
	}
	header := &pb.UploadImageHeader{Name: name, SizeBytes: size, Digest: im.spec.Digest}
	err = stream.Send(&pb.UploadImageRequest{Part: &pb.UploadImageRequest_Header{Header: header}})
	sum := sha256.New()
	var sent int64
	if err == nil {
		sent, err = im.send(stream.Send, io.TeeReader(content, sum), size)
	}
	// io.EOF: the server has said no; why comes with its answer.
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err == nil && size > 0 && sent != size {
		return nil, fmt.Errorf("%s has changed while it was sent: it had %d bytes, then %d", filepath.Base(im.file), size, sent)
	}
	r, err := stream.CloseAndRecv()
	if err != nil {
		return nil, err
	}
	return r.GetImage(), sameDigest(r.GetImage().GetStatus().GetDigest(), sum)
}

func sameDigest(server string, sum hash.Hash) error {
	sent := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if server != "" && server != sent {
		return hint(fmt.Errorf("the server has received other bytes than were sent: %s, not %s", server, sent), "import it again")
	}
	return nil
}

// send sends the content in pieces, and shows how far it has come.
func (im *importer) send(send func(*pb.UploadImageRequest) error, content io.Reader, size int64) (sent int64, err error) {
	screen := im.screen(im.stderr)
	defer func() { err = errors.Join(err, screen.Close()) }()
	begun := im.now()
	reader := bufio.NewReaderSize(content, uploadChunk)
	for {
		piece := make([]byte, uploadChunk)
		n, readErr := io.ReadFull(reader, piece)
		if n > 0 {
			if err := send(&pb.UploadImageRequest{Part: &pb.UploadImageRequest_Data{Data: piece[:n]}}); err != nil {
				return sent, err
			}
			sent += int64(n)
			bar := table.Bar{Label: "upload", Done: sent, Total: size, Unit: "bytes"}
			if took := im.now().Sub(begun).Seconds(); took > 0.5 {
				bar.Rate = float64(sent) / took
			}
			screen.Set("upload", bar)
		}
		switch {
		case errors.Is(readErr, io.EOF), errors.Is(readErr, io.ErrUnexpectedEOF):
			return sent, nil
		case readErr != nil:
			return sent, fmt.Errorf("reading the image: %w", readErr)
		}
	}
}
