package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"

	"crypto/sha256"
	"encoding/hex"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/bedplate/bedplate/agent/step"
)

const (
	maxManifest = 4 << 20 // what the distribution specification asks registries to allow
	maxConfig   = 8 << 20
	maxLayers   = 512
	// readTries is how often a cut transfer is resumed without getting any further.
	readTries = 5
)

// mirror is the server's read-only registry.
type mirror struct {
	base *url.URL
	http *http.Client
}

func newMirror(registry string, client *http.Client) (*mirror, error) {
	if registry == "" {
		return nil, errors.New("the server offers no registry mirror to pull images through")
	}
	if !strings.Contains(registry, "://") {
		registry = "http://" + registry
	}
	base, err := url.Parse(registry)
	if err != nil {
		return nil, fmt.Errorf("reading the registry's address: %w", err)
	}
	return &mirror{base: base, http: httpClient(client)}, nil
}

// get asks for what ("manifests/latest", "blobs/sha256:...") of a repository.
func (m *mirror) get(ctx context.Context, repo name.Repository, what string, offset int64) (*http.Response, error) {
	ns := repo.RegistryStr()
	if ns == name.DefaultRegistry {
		ns = "docker.io" // what everyone but the library calls it
	}
	u := m.base.JoinPath("v2", repo.RepositoryStr(), what)
	u.RawQuery = url.Values{"ns": {ns}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, t := range []types.MediaType{types.OCIImageIndex, types.DockerManifestList, types.OCIManifestSchema1, types.DockerManifestSchema2} {
		req.Header.Add("Accept", string(t))
	}
	want := http.StatusOK
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		want = http.StatusPartialContent
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != want {
		defer resp.Body.Close()
		return nil, registryError(resp)
	}
	return resp, nil
}

// errRegistry is an answer that asking again won't change.
var errRegistry = errors.New("the registry answers")

// registryError gives the registry's own words.
func registryError(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what there is
	var body struct {
		Errors []struct{ Code, Message string }
	}
	text := strings.TrimSpace(string(b))
	if json.Unmarshal(b, &body) == nil && len(body.Errors) > 0 {
		text = body.Errors[0].Code + ": " + body.Errors[0].Message
	}
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		return fmt.Errorf("the registry answers %s: %s", resp.Status, text)
	}
	return fmt.Errorf("%w %s: %s", errRegistry, resp.Status, text)
}

// small reads something of at most limit bytes and checks its digest, if one
// is known.
func (m *mirror) small(ctx context.Context, repo name.Repository, what, digest string, limit int64) ([]byte, error) {
	var last error
	for try := range readTries {
		if try > 0 && !pause(ctx, time.Duration(try)*time.Second) {
			return nil, ctx.Err()
		}
		b, err := m.smallOnce(ctx, repo, what, digest, limit)
		if err == nil || errors.Is(err, errRegistry) || errors.Is(err, errDigest) {
			return b, err
		}
		last = err
	}
	return nil, last
}

var errDigest = errors.New("content does not match its digest")

func (m *mirror) smallOnce(ctx context.Context, repo name.Repository, what, digest string, limit int64) ([]byte, error) {
	resp, err := m.get(ctx, repo, what, 0)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", what, limit)
	}
	if got := digestOf(b); digest != "" && got != digest {
		return nil, fmt.Errorf("%s: %w: %s was wanted, %s came", what, errDigest, digest, got)
	}
	return b, nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// manifest finds the image for this machine's architecture.
func (m *mirror) manifest(ctx context.Context, ref name.Reference, rep step.Reporter) (*v1.Manifest, error) {
	digest := ""
	if d, ok := ref.(name.Digest); ok {
		digest = d.DigestStr()
	}
	what := "manifests/" + ref.Identifier()
	for range 2 { // an index, then what it names
		b, err := m.small(ctx, ref.Context(), what, digest, maxManifest)
		if err != nil {
			return nil, err
		}
		rep.Log(step.Agent, fmt.Sprintf("%s is %s", ref.Context().Name(), digestOf(b)))
		man, err := v1.ParseManifest(bytes.NewReader(b))
		if err == nil && len(man.Layers) > 0 {
			return man, nil
		}
		if digest, err = choose(b); err != nil {
			return nil, err
		}
		what = "manifests/" + digest
	}
	return nil, errors.New("the image's index names another index")
}

// choose returns the digest of the index's image for this architecture.
func choose(b []byte) (string, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(b))
	if err != nil {
		return "", fmt.Errorf("reading manifest: %w", err)
	}
	var there []string
	for _, d := range index.Manifests {
		p := d.Platform
		if p == nil {
			continue
		}
		if p.OS == "linux" && p.Architecture == runtime.GOARCH {
			if d.Digest.Algorithm != "sha256" {
				return "", fmt.Errorf("its manifest has the digest %s, which is not sha256", d.Digest)
			}
			return d.Digest.String(), nil
		}
		there = append(there, p.String())
	}
	return "", fmt.Errorf("it has no image for linux/%s, only for %s", runtime.GOARCH, strings.Join(there, ", "))
}

// pull unpacks an image into rootfs and returns its configuration.
func pull(ctx context.Context, m *mirror, image, rootfs string, rep step.Reporter) (*v1.ConfigFile, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, fmt.Errorf("reading the image's name: %w", err)
	}
	man, err := m.manifest(ctx, ref, rep)
	if err != nil {
		return nil, err
	}
	if len(man.Layers) > maxLayers {
		return nil, fmt.Errorf("it has %d layers", len(man.Layers))
	}
	b, err := m.small(ctx, ref.Context(), "blobs/"+man.Config.Digest.String(), man.Config.Digest.String(), maxConfig)
	if err != nil {
		return nil, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("reading image configuration: %w", err)
	}
	tree, err := openTree(rootfs)
	if err != nil {
		return nil, err
	}
	defer tree.close()
	p := &pullProgress{rep: rep}
	for _, l := range man.Layers {
		p.total += l.Size
	}
	for i, l := range man.Layers {
		if err := m.layer(ctx, ref.Context(), l, tree, p); err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", i+1, len(man.Layers), err)
		}
	}
	return config, nil
}

type pullProgress struct {
	rep         step.Reporter
	done, total int64
}

// layer unpacks one layer as it comes and checks its digest at its end. Until
// then nothing of it is run.
func (m *mirror) layer(ctx context.Context, repo name.Repository, d v1.Descriptor, tree *tree, p *pullProgress) error {
	if d.Digest.Algorithm != "sha256" {
		return fmt.Errorf("digest %s is not sha256", d.Digest)
	}
	blob := &blob{ctx: ctx, mirror: m, repo: repo, what: "blobs/" + d.Digest.String(), size: d.Size, hash: sha256.New(), progress: p}
	defer blob.close()
	plain, err := decompress(blob)
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := tree.unpack(plain); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, blob); err != nil { // padding
		return err
	}
	if got := "sha256:" + hex.EncodeToString(blob.hash.Sum(nil)); got != d.Digest.String() {
		return fmt.Errorf("%w: %s was wanted, %s came", errDigest, d.Digest, got)
	}
	return nil
}

// blob reads a blob of known size and resumes where a transfer was cut.
type blob struct {
	ctx      context.Context // of one pull, which the blob doesn't outlive
	mirror   *mirror
	repo     name.Repository
	what     string
	size     int64
	hash     hash.Hash
	progress *pullProgress

	offset int64
	body   io.ReadCloser
	tries  int
}

// Read returns io.EOF only after exactly size bytes.
func (b *blob) Read(p []byte) (int, error) {
	for b.offset < b.size {
		if b.body == nil {
			resp, err := b.mirror.get(b.ctx, b.repo, b.what, b.offset)
			if err != nil {
				if err := b.retry(err); err != nil {
					return 0, err
				}
				continue
			}
			b.body = resp.Body
		}
		n, err := b.body.Read(p[:min(int64(len(p)), b.size-b.offset)])
		if n > 0 {
			b.tries = 0
			b.offset += int64(n)
			b.progress.done += int64(n)
			b.hash.Write(p[:n])
			b.progress.rep.Progress(b.progress.done, b.progress.total, "bytes", "pulling the image")
			return n, nil
		}
		if err == nil {
			continue
		}
		b.close()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err := b.retry(err); err != nil {
			return 0, err
		}
	}
	return 0, io.EOF
}

// retry waits a little, or returns err if that is of no use.
func (b *blob) retry(err error) error {
	b.tries++
	if errors.Is(err, errRegistry) || b.tries >= readTries || !pause(b.ctx, time.Duration(b.tries)*time.Second) {
		return fmt.Errorf("at byte %d of %d: %w", b.offset, b.size, err)
	}
	return nil
}

func (b *blob) close() {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
}
