// Package artifact finds the disk in an OCI image or artefact of a registry
// (OCI image specification 1.1; OCI distribution specification 1.1), and streams
// it. Known are
//
//   - artefacts with the disk's file as a layer, as `oras push` makes them: the
//     one layer that isn't a file system's, or the one with the title (annotation
//     org.opencontainers.image.title) of a disk image;
//   - KubeVirt's containerDisk: a container image with one file in /disk.
//
// Everything that is read is compared with the digests of manifest and layers;
// the stream ends with an error if they differ. A root file system is no disk.
package artifact

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// ErrNoDisk means that there is no disk in it.
var ErrNoDisk = errors.New("no disk image in it: want an artefact with the disk's file as a layer, or a container image with one file in /disk; a root file system isn't made into a disk")

const (
	titleAnnotation = "org.opencontainers.image.title"
	maxLayers       = 128
	// maxFiles bounds how many files of a layer are passed over.
	maxFiles = 1 << 20
)

// Source says where the artefact is.
type Source struct {
	// Ref is registry/repository:tag or …@sha256:….
	Ref string
	// Username and Password may be empty.
	Username, Password string
	// Insecure speaks plain HTTP.
	Insecure bool
	// Architecture is OCI's, such as amd64, for an index of several.
	Architecture string
	// Transport may be nil.
	Transport http.RoundTripper
}

// Disk is a disk's file on its way.
type Disk struct {
	io.Reader
	// Size of the file in bytes.
	Size int64
	// Name is the file's, or the layer's media type.
	Name string
	// Pinned is the reference with the manifest's digest.
	Pinned string
	layer  io.Closer
}

// Close ends the transfer.
func (d *Disk) Close() error { return d.layer.Close() }

// Open finds the disk. Errors: ErrNoDisk, and what the registry says.
func Open(ctx context.Context, s Source) (*Disk, error) {
	var opts []name.Option
	if s.Insecure {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.ParseReference(s.Ref, opts...)
	if err != nil {
		return nil, fmt.Errorf("reading the reference: %w", err)
	}
	img, err := remote.Image(ref, s.options(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("fetching the manifest of %s: %w", s.Ref, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("fetching the manifest of %s: %w", s.Ref, err)
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("reading the manifest of %s: %w", s.Ref, err)
	}
	if len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("%s has %d layers, at most %d are looked at", s.Ref, len(m.Layers), maxLayers)
	}
	d, err := find(img, m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Ref, err)
	}
	d.Pinned = ref.Context().Digest(digest.String()).String()
	return d, nil
}

func (s Source) options(ctx context.Context) []remote.Option {
	arch := s.Architecture
	if arch == "" {
		arch = "amd64"
	}
	opts := []remote.Option{remote.WithContext(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch})}
	if s.Username != "" || s.Password != "" {
		opts = append(opts, remote.WithAuth(&authn.Basic{Username: s.Username, Password: s.Password}))
	}
	if s.Transport != nil {
		opts = append(opts, remote.WithTransport(s.Transport))
	}
	return opts
}

func find(img v1.Image, m *v1.Manifest) (*Disk, error) {
	var files []v1.Descriptor
	for _, l := range m.Layers {
		if !isFileSystem(l) || isDiskName(l.Annotations[titleAnnotation]) {
			files = append(files, l)
		}
	}
	if len(files) > 1 {
		files = named(files)
	}
	switch {
	case len(files) == 1:
		return openLayer(img, files[0])
	case len(files) > 1:
		return nil, fmt.Errorf("%d of its layers may be the disk (%s): %w", len(files), titles(files), ErrNoDisk)
	}
	for i := len(m.Layers) - 1; i >= 0; i-- { // What a later layer holds goes before.
		d, err := inLayer(img, m.Layers[i])
		if d != nil || err != nil {
			return d, err
		}
	}
	return nil, ErrNoDisk
}

// isFileSystem reports whether a layer is one of a container image.
func isFileSystem(l v1.Descriptor) bool {
	return l.MediaType.IsLayer() || strings.HasSuffix(string(l.MediaType), ".tar") || strings.Contains(string(l.MediaType), ".tar+")
}

// isDiskName reports whether a file is called like a disk image.
func isDiskName(file string) bool {
	for _, packed := range []string{".gz", ".xz", ".bz2", ".zst"} {
		file = strings.TrimSuffix(file, packed)
	}
	switch path.Ext(file) {
	case ".raw", ".img", ".qcow2", ".vmdk", ".vhdx", ".vhd":
		return true
	}
	return false
}

func named(files []v1.Descriptor) []v1.Descriptor {
	var out []v1.Descriptor
	for _, f := range files {
		if isDiskName(f.Annotations[titleAnnotation]) {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return files
	}
	return out
}

func titles(files []v1.Descriptor) string {
	var out []string
	for _, f := range files {
		out = append(out, orType(f))
	}
	return strings.Join(out, ", ")
}

func orType(l v1.Descriptor) string {
	if t := l.Annotations[titleAnnotation]; t != "" {
		return t
	}
	return string(l.MediaType)
}

// openLayer streams a layer that is the disk's file, as it is stored.
func openLayer(img v1.Image, l v1.Descriptor) (*Disk, error) {
	layer, err := img.LayerByDigest(l.Digest)
	if err != nil {
		return nil, fmt.Errorf("fetching layer %s: %w", l.Digest, err)
	}
	r, err := layer.Compressed()
	if err != nil {
		return nil, fmt.Errorf("fetching layer %s: %w", l.Digest, err)
	}
	return &Disk{Reader: r, Size: l.Size, Name: orType(l), layer: r}, nil
}

// inLayer looks for a file in /disk of a layer; nil if there is none.
func inLayer(img v1.Image, l v1.Descriptor) (*Disk, error) {
	layer, err := img.LayerByDigest(l.Digest)
	if err != nil {
		return nil, fmt.Errorf("fetching layer %s: %w", l.Digest, err)
	}
	r, err := layer.Uncompressed()
	if err != nil {
		return nil, fmt.Errorf("fetching layer %s: %w", l.Digest, err)
	}
	t := tar.NewReader(r)
	for range maxFiles {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil, r.Close()
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reading layer %s: %w", l.Digest, err), r.Close())
		}
		if path.Dir(path.Clean("/"+h.Name)) == "/disk" && h.Typeflag == tar.TypeReg && h.Size > 0 {
			return &Disk{Reader: &entry{t, r}, Size: h.Size, Name: path.Clean("/" + h.Name), layer: r}, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("layer %s has more than %d files", l.Digest, maxFiles), r.Close())
}

// entry is a file of a layer. The layer's digest is known to be right only at its end.
type entry struct {
	file  io.Reader
	layer io.Reader
}

func (e *entry) Read(p []byte) (int, error) {
	n, err := e.file.Read(p)
	if errors.Is(err, io.EOF) {
		if _, lerr := io.Copy(io.Discard, e.layer); lerr != nil {
			return n, fmt.Errorf("reading the rest of the layer: %w", lerr)
		}
	}
	return n, err
}
