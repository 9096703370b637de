package source

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/bedplate/bedplate/images/catalog"
)

// A bundle is a tar file with an OCI image layout (image-spec v1.1, image-layout.md) of one
// artifact: its layers are the release's files, checksums, signatures and keys, each with
// the URL that it is published at. So registries and their tools can carry it as well.
const (
	releaseType = "application/vnd.bedplate.release.v1+json"
	layerType   = "application/octet-stream"
	urlNote     = "io.bedplate.url"
	titleNote   = "org.opencontainers.image.title"
	maxJSON     = 1 << 20
	maxMembers  = 1000
)

// ErrBundle means that a file isn't a bundle, or is a damaged one.
var ErrBundle = errors.New("not a sound bundle")

// Bundled says which release a bundle has.
type Bundled struct {
	Entry   string `json:"entry"`
	Channel string `json:"channel"`
	Version string `json:"version"`
	Arch    string `json:"architecture"`
}

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// bundler writes members, each blob once.
type bundler struct {
	tar  *tar.Writer
	now  time.Time
	done map[string]bool
}

// WriteBundle writes a release that has been fetched and checked.
func WriteBundle(w io.Writer, r *catalog.Release, files []File, now time.Time) error {
	b := &bundler{tar.NewWriter(w), now, map[string]bool{}}
	if err := b.member("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	config, err := b.json(releaseType, Bundled{r.Entry.Name, r.Channel, r.Version, r.Arch})
	if err != nil {
		return err
	}
	m := manifest{SchemaVersion: 2, MediaType: "application/vnd.oci.image.manifest.v1+json", ArtifactType: releaseType, Config: config}
	for _, f := range files {
		layers, err := b.file(r, f)
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, layers...)
	}
	d, err := b.json(m.MediaType, m)
	if err != nil {
		return err
	}
	d.ArtifactType = releaseType
	text, err := json.Marshal(index{2, "application/vnd.oci.image.index.v1+json", []descriptor{d}})
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	if err := b.member("index.json", text); err != nil {
		return err
	}
	if err := b.tar.Close(); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	return nil
}

// file writes a file of a release and what proves it.
func (b *bundler) file(r *catalog.Release, f File) ([]descriptor, error) {
	content, err := os.Open(f.Path)
	if err != nil {
		return nil, fmt.Errorf("reading the download: %w", err)
	}
	defer content.Close()
	layers := []descriptor{{MediaType: layerType, Digest: f.Digest, Size: f.Size, Annotations: notes(f.URL)}}
	if err := b.blob(f.Digest, f.Size, content); err != nil {
		return nil, err
	}
	small := map[string][]byte{f.ReleaseFile.Checksums: f.Proof.Checksums}
	if f.ReleaseFile.Signature != nil {
		small[f.ReleaseFile.Signature.URL] = f.Proof.Signature
		if len(r.Entry.Keys) > 0 {
			small[r.Entry.Keys[0].URL] = f.Proof.Keys
		}
	}
	for url, data := range small {
		if url == "" || len(data) == 0 {
			continue
		}
		d := descriptor{MediaType: layerType, Digest: digestOf(data), Size: int64(len(data)), Annotations: notes(url)}
		if err := b.blob(d.Digest, d.Size, bytes.NewReader(data)); err != nil {
			return nil, err
		}
		layers = append(layers, d)
	}
	return layers, nil
}

func notes(url string) map[string]string {
	name, err := baseName(url)
	if err != nil {
		name = "file"
	}
	return map[string]string{urlNote: url, titleNote: name}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (b *bundler) json(mediaType string, v any) (descriptor, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, fmt.Errorf("writing the bundle: %w", err)
	}
	d := descriptor{MediaType: mediaType, Digest: digestOf(text), Size: int64(len(text))}
	return d, b.blob(d.Digest, d.Size, bytes.NewReader(text))
}

func (b *bundler) member(name string, data []byte) error {
	return b.write(name, int64(len(data)), bytes.NewReader(data))
}

func (b *bundler) blob(digest string, size int64, r io.Reader) error {
	if b.done[digest] {
		return nil
	}
	b.done[digest] = true
	return b.write("blobs/sha256/"+strings.TrimPrefix(digest, "sha256:"), size, r)
}

func (b *bundler) write(name string, size int64, r io.Reader) error {
	if err := b.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: b.now, Typeflag: tar.TypeReg}); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	if _, err := io.CopyN(b.tar, r, size); err != nil {
		return fmt.Errorf("writing the bundle: %s: %w", name, err)
	}
	return nil
}

// Bundle is a source that has everything in one file. Close it.
type Bundle struct {
	Bundled
	file  *os.File
	blobs map[string]span
	layer map[string]descriptor
}

type span struct{ offset, size int64 }

// OpenBundle opens a bundle and reads what it says of itself. That counts for
// no more than to find things: what it holds is checked as from anywhere else.
func OpenBundle(name string) (*Bundle, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("opening the bundle: %w", err)
	}
	b := &Bundle{file: file, blobs: map[string]span{}, layer: map[string]descriptor{}}
	if err := b.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the bundle %s: %w: %w", name, err, ErrBundle), file.Close())
	}
	return b, nil
}

// Close implements io.Closer.
func (b *Bundle) Close() error { return b.file.Close() }

func (b *Bundle) read() error {
	if err := b.members(); err != nil {
		return err
	}
	var ix index
	if err := b.decode("index.json", &ix); err != nil {
		return err
	}
	if len(ix.Manifests) != 1 {
		return fmt.Errorf("it has %d manifests, not one", len(ix.Manifests))
	}
	var m manifest
	if err := b.decodeBlob(ix.Manifests[0], &m); err != nil {
		return err
	}
	if m.Config.MediaType != releaseType {
		return fmt.Errorf("it is of type %q, not %s", m.Config.MediaType, releaseType)
	}
	if err := b.decodeBlob(m.Config, &b.Bundled); err != nil {
		return err
	}
	for _, d := range m.Layers {
		b.layer[d.Annotations[urlNote]] = d
	}
	return nil
}

// members notes where in the file members are.
func (b *Bundle) members() error {
	r := tar.NewReader(b.file)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n > maxMembers {
			return fmt.Errorf("over %d members", maxMembers)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		at, err := b.file.Seek(0, io.SeekCurrent) // archive/tar reads no further than it has to
		if err != nil {
			return err
		}
		b.blobs[path.Clean(h.Name)] = span{at, h.Size}
	}
}

func (b *Bundle) decode(member string, v any) error {
	s, ok := b.blobs[member]
	if !ok || s.size > maxJSON {
		return fmt.Errorf("%s is missing, or longer than %d bytes", member, maxJSON)
	}
	data := make([]byte, s.size)
	if _, err := io.ReadFull(io.NewSectionReader(b.file, s.offset, s.size), data); err != nil {
		return fmt.Errorf("%s: %w", member, err)
	}
	if digest, ok := strings.CutPrefix(member, "blobs/sha256/"); ok && digestOf(data) != "sha256:"+digest {
		return fmt.Errorf("%s: %w", member, ErrDigest)
	}
	return json.Unmarshal(data, v)
}

func (b *Bundle) decodeBlob(d descriptor, v any) error {
	return b.decode("blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:"), v)
}

// Where implements Source.
func (b *Bundle) Where() string { return "the bundle " + b.file.Name() }

// Open implements Source.
func (b *Bundle) Open(_ context.Context, url string, _ int64, _ string) (*Body, error) {
	d, ok := b.layer[url]
	if !ok {
		return nil, fmt.Errorf("%s in %s: %w", url, b.Where(), ErrNotFound)
	}
	s, ok := b.blobs["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
	if !ok || s.size != d.Size {
		return nil, fmt.Errorf("%s in %s: its content is missing: %w", url, b.Where(), ErrBundle)
	}
	return &Body{ReadCloser: io.NopCloser(&digested{io.NewSectionReader(b.file, s.offset, s.size), sha256.New(), d.Digest}), Size: s.size}, nil
}

// digested ends with an error if what was read hasn't the digest.
type digested struct {
	r    io.Reader
	hash hash.Hash
	want string
}

func (d *digested) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	d.hash.Write(p[:n])
	if errors.Is(err, io.EOF) && "sha256:"+hex.EncodeToString(d.hash.Sum(nil)) != d.want {
		return n, fmt.Errorf("%s: %w: %w", d.want, ErrDigest, ErrBundle)
	}
	return n, err
}
