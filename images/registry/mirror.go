// Package registry is a read-only mirror of OCI registries (OCI distribution
// specification 1.1, pull): machines fetch container images through the server,
// which fetches what it doesn't have from the registry named in the repository's
// first element, or in the query parameter ns as containerd sends it.
//
// Content is kept on disk by digest and checked as it arrives, so that what is
// served is what the digest says; manifests asked for by tag are looked up at
// the registry each time, and from the last answer when it can't be reached.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	// maxManifest bounds a manifest; the specification asks for at least 4 MiB.
	maxManifest = 4 << 20
	// manifestTimeout bounds one look-up at a registry; blobs take as long as they move.
	manifestTimeout = 30 * time.Second
	// stallTimeout is how long a blob may stand still.
	stallTimeout = time.Minute
	// DefaultMaxBytes bounds the cache where Config doesn't: 20 GiB.
	DefaultMaxBytes = 20 << 30
)

// ErrRefused means that a registry isn't on the allow-list.
var ErrRefused = errors.New("this registry is not allowed here: add it to the server's --registry-allow")

// Config is what a Mirror needs.
type Config struct {
	// Dir holds the cache.
	Dir string
	// MaxBytes bounds the cache; 0: DefaultMaxBytes.
	MaxBytes int64
	// Allow lists the registries that may be fetched from, host[:port]; empty: all.
	Allow []string
	// Insecure lists registries that are spoken to over plain HTTP.
	Insecure []string
	// Keychain finds credentials for registries; nil: none.
	Keychain authn.Keychain
	// Transport speaks to registries; nil: http.DefaultTransport.
	Transport http.RoundTripper
	Now       func() time.Time
	// Log may be nil.
	Log *slog.Logger
}

// Mirror is the http.Handler of /v2/.
type Mirror struct {
	cfg   Config
	cache *cache
	log   *slog.Logger
}

// New returns a Mirror with what its cache has on disk.
func New(cfg Config) (*Mirror, error) {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.Keychain == nil {
		cfg.Keychain = authn.NewMultiKeychain()
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c, err := openCache(cfg.Dir, cfg.MaxBytes, cfg.Now)
	if err != nil {
		return nil, fmt.Errorf("opening the registry cache: %w", err)
	}
	return &Mirror{cfg: cfg, cache: c, log: cfg.Log}, nil
}

// ServeHTTP implements the pull half of the distribution API.
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this mirror is read only")
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v2")
	if path == "" || path == "/" {
		w.WriteHeader(http.StatusOK)
		return
	}
	repo, kind, ref, ok := splitPath(path)
	if !ok {
		fail(w, http.StatusNotFound, "NAME_INVALID", "want /v2/<registry>/<repository>/manifests|blobs/<reference>")
		return
	}
	repository, err := m.repository(repo, r.URL.Query().Get("ns"))
	if err != nil {
		fail(w, http.StatusForbidden, "DENIED", err.Error())
		return
	}
	if kind == "manifests" {
		m.manifest(w, r, repository, ref)
		return
	}
	m.blob(w, r, repository, ref)
}

// splitPath takes /<repo>/manifests/<ref> or /<repo>/blobs/<digest> apart.
func splitPath(path string) (repo, kind, ref string, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if len(parts) < 3 {
		return "", "", "", false
	}
	kind, ref = parts[len(parts)-2], parts[len(parts)-1]
	repo = strings.Join(parts[:len(parts)-2], "/")
	return repo, kind, ref, (kind == "manifests" || kind == "blobs") && ref != ""
}

// repository returns the upstream repository that repo names.
func (m *Mirror) repository(repo, namespace string) (name.Repository, error) {
	if namespace != "" {
		repo = namespace + "/" + repo
	}
	host, _, _ := strings.Cut(repo, "/")
	var opts []name.Option
	if slices.Contains(m.cfg.Insecure, host) {
		opts = append(opts, name.Insecure)
	}
	r, err := name.NewRepository(repo, opts...)
	if err != nil {
		return name.Repository{}, err
	}
	if len(m.cfg.Allow) > 0 && !slices.Contains(m.cfg.Allow, r.RegistryStr()) {
		return name.Repository{}, fmt.Errorf("%s: %w", r.RegistryStr(), ErrRefused)
	}
	return r, nil
}

func (m *Mirror) manifest(w http.ResponseWriter, r *http.Request, repo name.Repository, ref string) {
	if digest, err := v1.NewHash(ref); err == nil && m.serveCached(w, r, digest) {
		return
	}
	digest, err := m.fetchManifest(r.Context(), repo, ref)
	if err != nil {
		if last, ok := m.cache.tag(repo.Name(), ref); ok && unreachable(err) && m.serveCached(w, r, last) {
			m.log.Warn("serving a tag from the cache", "image", repo.Name()+":"+ref, "err", err)
			return
		}
		m.failUpstream(w, repo.Name()+":"+ref, err)
		return
	}
	if !m.serveCached(w, r, digest) {
		fail(w, http.StatusInternalServerError, "UNKNOWN", "the manifest left the cache while it was being served: try again")
	}
}

// fetchManifest brings a manifest into the cache and returns its digest.
func (m *Mirror) fetchManifest(ctx context.Context, repo name.Repository, ref string) (v1.Hash, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	var reference name.Reference = repo.Tag(ref)
	if _, err := v1.NewHash(ref); err == nil {
		reference = repo.Digest(ref)
	}
	desc, err := remote.Get(reference, m.options(ctx)...)
	if err != nil {
		return v1.Hash{}, err
	}
	if len(desc.Manifest) > maxManifest {
		return v1.Hash{}, fmt.Errorf("its manifest has %d bytes, over the limit of %d", len(desc.Manifest), maxManifest)
	}
	if err := m.cache.put(desc.Digest, strings.NewReader(string(desc.Manifest)), string(desc.MediaType)); err != nil {
		return v1.Hash{}, err
	}
	m.cache.setTag(repo.Name(), ref, desc.Digest)
	return desc.Digest, nil
}

func (m *Mirror) blob(w http.ResponseWriter, r *http.Request, repo name.Repository, ref string) {
	digest, err := v1.NewHash(ref)
	if err != nil {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", err.Error())
		return
	}
	if m.serveCached(w, r, digest) {
		return
	}
	if err := m.fetchBlob(r.Context(), repo, digest); err != nil {
		m.failUpstream(w, repo.Name()+"@"+ref, err)
		return
	}
	if !m.serveCached(w, r, digest) {
		fail(w, http.StatusInternalServerError, "UNKNOWN", "the blob left the cache while it was being served: raise the cache's limit")
	}
}

// fetchBlob brings a blob into the cache. Requests for the same one wait for each other.
func (m *Mirror) fetchBlob(ctx context.Context, repo name.Repository, digest v1.Hash) error {
	return m.cache.once(ctx, digest, func() error {
		ctx, moving := untilStalled(ctx, stallTimeout)
		defer moving.stop()
		layer, err := remote.Layer(repo.Digest(digest.String()), m.options(ctx)...)
		if err != nil {
			return err
		}
		body, err := layer.Compressed()
		if err != nil {
			return err
		}
		defer body.Close()
		err = m.cache.put(digest, moving.reader(io.LimitReader(body, m.cfg.MaxBytes)), "application/octet-stream")
		return moving.explain(ctx, err)
	})
}

// errStalled is the cause of the end of a transfer that stood still.
var errStalled = errors.New("the registry sent nothing for a minute")

// moving ends a context when nothing was read for a while.
type moving struct {
	after  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// untilStalled returns a context that ends when the readers made with moving
// have given nothing for so long. The caller calls stop.
func untilStalled(ctx context.Context, after time.Duration) (context.Context, *moving) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &moving{after: after, cancel: cancel, timer: time.AfterFunc(after, func() { cancel(errStalled) })}
}

func (v *moving) stop() {
	v.timer.Stop()
	v.cancel(nil)
}

func (v *moving) reader(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		if n > 0 {
			v.timer.Reset(v.after)
		}
		return n, err
	})
}

// explain puts the stall in the place of the cancellation that it caused.
func (v *moving) explain(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (m *Mirror) options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(m.cfg.Keychain), remote.WithTransport(m.cfg.Transport),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Steps: 3})}
}

func (m *Mirror) serveCached(w http.ResponseWriter, r *http.Request, digest v1.Hash) bool {
	f, mediaType, err := m.cache.open(digest)
	if err != nil {
		return false
	}
	defer f.Close()
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest.String())
	w.Header().Set("ETag", strconv.Quote(digest.String()))
	http.ServeContent(w, r, "", time.Time{}, f)
	return true
}

// failUpstream passes on what the registry said.
func (m *Mirror) failUpstream(w http.ResponseWriter, image string, err error) {
	m.log.Warn("fetching from a registry", "image", image, "err", err)
	var t *transport.Error
	if errors.As(err, &t) {
		code := t.StatusCode
		if code < 400 || code > 599 {
			code = http.StatusBadGateway
		}
		fail(w, code, "UNKNOWN", "fetching "+image+": "+err.Error())
		return
	}
	fail(w, http.StatusBadGateway, "UNKNOWN", "fetching "+image+": "+err.Error())
}

// unreachable reports whether err is about reaching the registry rather than its answer.
func unreachable(err error) bool {
	var n net.Error
	var t *transport.Error
	return errors.As(err, &n) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.StatusCode >= 500
}

// fail answers with an error as the distribution specification has them.
func fail(w http.ResponseWriter, code int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`+"\n", kind, message)
}
