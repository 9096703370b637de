package registry

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// upstream is a registry with one image, tools/fio:3, that counts requests and can go away.
type upstream struct {
	*httptest.Server
	requests atomic.Int64
	down     atomic.Bool
	corrupt  atomic.Bool
	image    v1.Image
}

func (u *upstream) host() string { return strings.TrimPrefix(u.URL, "http://") }

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.requests.Add(1)
		switch {
		case u.down.Load():
			http.Error(w, "down", http.StatusServiceUnavailable)
		case u.corrupt.Load() && strings.Contains(r.URL.Path, "/blobs/"):
			fmt.Fprint(w, "something else")
		default:
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(u.Close)
	var err error
	if u.image, err = random.Image(1024, 2); err != nil {
		t.Fatal(err)
	}
	ref, _ := name.ParseReference(u.host() + "/tools/fio:3")
	if err := remote.Write(ref, u.image); err != nil {
		t.Fatal(err)
	}
	return u
}

func newMirror(t *testing.T, cfg Config) (*Mirror, string) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Now = time.Now
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(m)
	t.Cleanup(srv.Close)
	return m, strings.TrimPrefix(srv.URL, "http://")
}

// throughMirror adds the query parameter ns, as containerd's mirrors have it: a
// registry with a port can't stand in a repository's name.
type throughMirror struct{ namespace string }

func (t throughMirror) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if strings.HasPrefix(r.URL.Path, "/v2/") && r.URL.Path != "/v2/" {
		r.URL.RawQuery = "ns=" + t.namespace
	}
	return http.DefaultTransport.RoundTrip(r)
}

func pull(mirror, image string) (v1.Image, error) {
	upstream, repo, _ := strings.Cut(image, "/")
	ref, err := name.ParseReference(mirror+"/"+repo, name.Insecure)
	if err != nil {
		return nil, err
	}
	return remote.Image(ref, remote.WithTransport(throughMirror{upstream}), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
}

func TestMirror(t *testing.T) {
	t.Run("an image comes through whole, and from the cache the second time", func(t *testing.T) {
		u := newUpstream(t)
		_, mirror := newMirror(t, Config{})
		for range 2 {
			img, err := pull(mirror, u.host()+"/tools/fio:3")
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Image(img); err != nil {
				t.Error(err)
			}
		}
		digest, _ := u.image.Digest()
		before := u.requests.Load()
		if _, err := pull(mirror, u.host()+"/tools/fio@"+digest.String()); err != nil {
			t.Fatal(err)
		}
		if got := u.requests.Load(); got != before {
			t.Errorf("an image by digest cost %d requests to the registry", got-before)
		}
	})
	t.Run("a tag is served from the last answer while the registry is down", func(t *testing.T) {
		u := newUpstream(t)
		_, mirror := newMirror(t, Config{})
		img, err := pull(mirror, u.host()+"/tools/fio:3")
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(img); err != nil {
			t.Fatal(err)
		}
		u.down.Store(true)
		again, err := pull(mirror, u.host()+"/tools/fio:3")
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(again); err != nil {
			t.Error(err)
		}
	})
	t.Run("content that isn't what its digest says is never served", func(t *testing.T) {
		u := newUpstream(t)
		m, mirror := newMirror(t, Config{})
		u.corrupt.Store(true)
		img, err := pull(mirror, u.host()+"/tools/fio:3")
		if err == nil {
			err = validate.Image(img)
		}
		if err == nil {
			t.Error("a corrupt image was accepted")
		}
		if n := len(m.cache.entries); n != 1 {
			t.Errorf("the cache holds %d entries, want the manifest only", n)
		}
	})
	t.Run("a registry that isn't allowed is refused", func(t *testing.T) {
		u := newUpstream(t)
		_, mirror := newMirror(t, Config{Allow: []string{"registry.example"}})
		_, err := pull(mirror, u.host()+"/tools/fio:3")
		if err == nil || !strings.Contains(err.Error(), "--registry-allow") {
			t.Errorf("got %v", err)
		}
		if u.requests.Load() > 100 {
			t.Error("it was asked all the same")
		}
	})
	t.Run("an image that isn't there is not found", func(t *testing.T) {
		u := newUpstream(t)
		_, mirror := newMirror(t, Config{})
		if _, err := pull(mirror, u.host()+"/tools/none:1"); err == nil || !strings.Contains(err.Error(), "404") && !strings.Contains(err.Error(), "NAME_UNKNOWN") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nothing can be pushed", func(t *testing.T) {
		_, mirror := newMirror(t, Config{})
		resp, err := http.Post("http://"+mirror+"/v2/a/b/blobs/uploads/", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("got status %d", resp.StatusCode)
		}
	})
}

func TestCache(t *testing.T) {
	t.Run("what was used longest ago goes first", func(t *testing.T) {
		now := time.Unix(0, 0)
		c, err := openCache(t.TempDir(), 10, func() time.Time { now = now.Add(time.Second); return now })
		if err != nil {
			t.Fatal(err)
		}
		hashes := make([]v1.Hash, 3)
		for i := range hashes {
			body := strings.Repeat(string(rune('a'+i)), 4)
			hashes[i], _, _ = v1.SHA256(strings.NewReader(body))
			if i == 2 {
				if f, _, err := c.open(hashes[0]); err == nil { // used again: the other one has to go
					f.Close()
				}
			}
			if err := c.put(hashes[i], strings.NewReader(body), "text/plain"); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []bool{true, false, true} {
			f, _, err := c.open(hashes[i])
			if err == nil {
				f.Close()
			}
			if (err == nil) != want {
				t.Errorf("entry %d: in the cache is %v, want %v", i, err == nil, want)
			}
		}
	})
	t.Run("it is found again after a restart, unfinished files are not", func(t *testing.T) {
		dir := t.TempDir()
		c, _ := openCache(dir, 100, time.Now)
		h, _, _ := v1.SHA256(strings.NewReader("body"))
		if err := c.put(h, strings.NewReader("body"), "text/plain"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/"+incoming+"1", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := openCache(dir, 100, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		f, mediaType, err := again.open(h)
		if err != nil || mediaType != "text/plain" {
			t.Fatalf("got %q, %v", mediaType, err)
		}
		f.Close()
		if _, err := os.Stat(dir + "/" + incoming + "1"); err == nil {
			t.Error("an unfinished file is still there")
		}
	})
}

func FuzzSplitPath(f *testing.F) {
	f.Add("/registry.example/tools/fio/manifests/3")
	f.Add("/a/blobs/sha256:00")
	f.Add("//manifests/")
	f.Fuzz(func(t *testing.T, path string) {
		repo, kind, ref, ok := splitPath(path)
		if ok && (strings.Contains(ref, "/") || kind != "manifests" && kind != "blobs" || repo == "" && strings.Contains(path, "..")) {
			t.Errorf("%q gave %q %q %q", path, repo, kind, ref)
		}
	})
}
