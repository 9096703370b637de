package artifact

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer is a file system's layer with one file.
func layer(t *testing.T, file string, content []byte) mutate.Addendum {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return mutate.Addendum{Layer: static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)}
}

// blob is an artefact's layer.
func blob(title, media string, content []byte) mutate.Addendum {
	a := mutate.Addendum{Layer: static.NewLayer(content, types.MediaType(media)), MediaType: types.MediaType(media)}
	if title != "" {
		a.Annotations = map[string]string{titleAnnotation: title}
	}
	return a
}

func push(t *testing.T, ref string, layers ...mutate.Addendum) v1.Hash {
	t.Helper()
	img, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOpen(t *testing.T) {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	disk := bytes.Repeat([]byte("disk"), 1000)
	for what, c := range map[string]struct {
		layers []mutate.Addendum
		want   string // The file's name; empty: ErrNoDisk.
	}{
		"an artefact with one file":               {[]mutate.Addendum{blob("debian.raw.zst", "application/octet-stream", disk)}, "debian.raw.zst"},
		"one without a title":                     {[]mutate.Addendum{blob("", "application/vnd.example.disk", disk)}, "application/vnd.example.disk"},
		"a disk beside its checksums":             {[]mutate.Addendum{blob("SHA256SUMS", "text/plain", []byte("x")), blob("debian.qcow2", "application/octet-stream", disk)}, "debian.qcow2"},
		"two disks":                               {[]mutate.Addendum{blob("a.raw", "a/b", disk), blob("b.raw", "a/b", []byte("y"))}, ""},
		"a containerDisk":                         {[]mutate.Addendum{layer(t, "etc/passwd", []byte("root")), layer(t, "disk/debian.img", disk)}, "/disk/debian.img"},
		"a root file system":                      {[]mutate.Addendum{layer(t, "etc/passwd", []byte("root"))}, ""},
		"a path that only looks like one in disk": {[]mutate.Addendum{layer(t, "disk/../etc/disk.img", disk)}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			ref := host + "/os/disk:1"
			digest := push(t, ref, c.layers...)
			d, err := Open(t.Context(), Source{Ref: ref, Insecure: true})
			if c.want == "" {
				if !errors.Is(err, ErrNoDisk) {
					t.Fatalf("got %v, want ErrNoDisk", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			got, err := io.ReadAll(d)
			if err != nil || !bytes.Equal(got, disk) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if d.Name != c.want || d.Size != int64(len(disk)) || d.Pinned != host+"/os/disk@"+digest.String() {
				t.Errorf("got %s of %d bytes, %s", d.Name, d.Size, d.Pinned)
			}
		})
	}
	t.Run("a reference to nothing", func(t *testing.T) {
		if _, err := Open(t.Context(), Source{Ref: host + "/os/none:1", Insecure: true}); err == nil {
			t.Error("it was found")
		}
	})
}
