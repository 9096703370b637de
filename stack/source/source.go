// Package source fetches what layers are made of: charts from repositories and
// registries, manifests from URLs, and what was uploaded. What was fetched is
// kept by its digest, so that a stack can be applied again when the network
// is gone. Every answer is bounded in size and every request in time.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"sigs.k8s.io/yaml"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/stack/content"
	"github.com/bedplate/bedplate/stack/layer"
)

const (
	requestTime   = 2 * time.Minute
	maxIndexBytes = 64 << 20
	// mediaChart is the layer of an OCI artifact that has the chart
	// (https://helm.sh/docs/topics/registries).
	mediaChart = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// Fetcher fetches. It may be used by any number of goroutines.
type Fetcher struct {
	store *content.Store
	// dir remembers which digest something that was fetched has.
	dir    string
	client *http.Client
}

// New returns a Fetcher that keeps what it has fetched in store, and what that was in dir.
func New(store *content.Store, dir string) (*Fetcher, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of fetched sources: %w", err)
	}
	return &Fetcher{store: store, dir: dir, client: &http.Client{Timeout: requestTime}}, nil
}

// Fetch returns what a layer is made of.
func (f *Fetcher) Fetch(ctx context.Context, l *layer.Layer) ([]byte, error) {
	switch {
	case l.Chart != nil:
		return f.chart(ctx, l.Chart)
	case l.Manifests.GetInline() != "":
		return []byte(l.Manifests.GetInline()), nil
	case l.Manifests.GetContent() != "":
		return f.store.Get(l.Manifests.GetContent())
	case l.Manifests.GetUrl() != "":
		u := l.Manifests.GetUrl()
		return f.kept(ctx, u, l.Manifests.GetDigest(), false, func(ctx context.Context) ([]byte, error) { return f.get(ctx, u, content.MaxBytes) })
	case l.Kustomization != nil:
		return f.store.Get(l.Kustomization.GetContent())
	}
	return nil, fmt.Errorf("layer %s has no source", l.Name)
}

func (f *Fetcher) chart(ctx context.Context, c *pb.StackChart) ([]byte, error) {
	if c.GetContent() != "" {
		return f.store.Get(c.GetContent())
	}
	key := c.GetRepository() + " " + c.GetName() + " " + c.GetVersion()
	return f.kept(ctx, key, c.GetDigest(), true, func(ctx context.Context) ([]byte, error) {
		if strings.HasPrefix(c.GetRepository(), "oci://") {
			return f.fromRegistry(ctx, c)
		}
		return f.fromRepository(ctx, c)
	})
}

// kept returns what is there already, or fetches and keeps it. What is
// pinned is never fetched twice; what isn't is kept for when the network fails.
func (f *Fetcher) kept(ctx context.Context, key, digest string, pinned bool, fetch func(context.Context) ([]byte, error)) ([]byte, error) {
	note := f.note(key)
	if digest != "" {
		if data, err := f.store.Get(digest); err == nil {
			return data, nil
		}
	}
	had, _ := os.ReadFile(note)
	if pinned || digest != "" {
		if data, err := f.store.Get(string(had)); err == nil && (digest == "" || digest == string(had)) {
			return data, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	data, err := fetch(ctx)
	if err != nil {
		if kept, e := f.store.Get(string(had)); e == nil && digest == "" {
			return kept, nil
		}
		return nil, err
	}
	got, err := f.store.PutBytes(ctx, data)
	if err != nil {
		return nil, err
	}
	if digest != "" && got != digest {
		return nil, fmt.Errorf("%s is %s, not %s as the stack says: it was changed, or the digest is that of another version", key, got, digest)
	}
	return data, os.WriteFile(note, []byte(got), 0o600)
}

func (f *Fetcher) note(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(f.dir, hex.EncodeToString(sum[:]))
}

// get fetches a URL.
func (f *Fetcher) get(ctx context.Context, u string, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", u, err)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetching: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching %s: the server answers %s", u, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", u, err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("fetching %s: more than %d MiB", u, most>>20)
	}
	return data, nil
}

// index is what is read of a repository's index.yaml
// (https://helm.sh/docs/topics/chart_repository).
type index struct {
	Entries map[string][]struct {
		Version string   `json:"version"`
		URLs    []string `json:"urls"`
		Digest  string   `json:"digest"`
	} `json:"entries"`
}

func (f *Fetcher) fromRepository(ctx context.Context, c *pb.StackChart) ([]byte, error) {
	base := strings.TrimSuffix(c.GetRepository(), "/")
	text, err := f.get(ctx, base+"/index.yaml", maxIndexBytes)
	if err != nil {
		return nil, err
	}
	location, digest, err := findChart(text, c.GetName(), c.GetVersion())
	if err != nil {
		return nil, fmt.Errorf("looking in %s: %w", base, err)
	}
	at, err := url.Parse(base + "/")
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", base, err)
	}
	ref, err := at.Parse(location)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", location, err)
	}
	data, err := f.get(ctx, ref.String(), content.MaxBytes)
	if err != nil {
		return nil, err
	}
	if digest != "" && "sha256:"+strings.TrimPrefix(digest, "sha256:") != content.Digest(data) {
		return nil, fmt.Errorf("%s is not what the repository's index says: it was cut or changed", ref)
	}
	return data, nil
}

// findChart finds a chart's version in an index. A leading v makes no difference.
func findChart(text []byte, chart, version string) (location, digest string, err error) {
	var in index
	if err := yaml.Unmarshal(text, &in); err != nil {
		return "", "", fmt.Errorf("reading the index: %w", err)
	}
	list, ok := in.Entries[chart]
	if !ok {
		return "", "", fmt.Errorf("there is no chart %s", chart)
	}
	for _, e := range list {
		if strings.TrimPrefix(e.Version, "v") == strings.TrimPrefix(version, "v") && len(e.URLs) > 0 {
			return e.URLs[0], e.Digest, nil
		}
	}
	newest := "none"
	if len(list) > 0 {
		newest = list[0].Version
	}
	return "", "", fmt.Errorf("there is no version %s of %s; the first that is listed is %s", version, chart, newest)
}

func (f *Fetcher) fromRegistry(ctx context.Context, c *pb.StackChart) ([]byte, error) {
	text := strings.TrimPrefix(c.GetRepository(), "oci://") + "/" + c.GetName() + ":" + strings.ReplaceAll(c.GetVersion(), "+", "_")
	ref, err := name.ParseReference(text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", text, err)
	}
	img, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("fetching the chart %s: %w", ref, err)
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("fetching the chart %s: %w", ref, err)
	}
	for _, l := range layers {
		if t, err := l.MediaType(); err != nil || string(t) != mediaChart {
			continue
		}
		r, err := l.Compressed()
		if err != nil {
			return nil, fmt.Errorf("fetching the chart %s: %w", ref, err)
		}
		data, err := io.ReadAll(io.LimitReader(r, content.MaxBytes+1))
		if err = errors.Join(err, r.Close()); err != nil {
			return nil, fmt.Errorf("fetching the chart %s: %w", ref, err)
		}
		if len(data) > content.MaxBytes {
			return nil, fmt.Errorf("fetching the chart %s: more than %d MiB", ref, content.MaxBytes>>20)
		}
		return data, nil
	}
	return nil, fmt.Errorf("fetching %s: it has no layer with a chart: it is another kind of artifact", ref)
}
