package media

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/images/agentos"
	"github.com/bedplate/bedplate/images/iso"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/medium"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
	"github.com/bedplate/bedplate/trust"
)

// rig is a Server with a real store and key, and an image that is made up.
type rig struct {
	*Server
	t      *testing.T
	dir    string
	tokens *trust.MediaTokens

	mu     sync.Mutex
	now    time.Time
	seen   []string
	events []string
	config medium.Config
	uid    string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), now: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), uid: "uid1"}
	r.config = medium.Config{
		Server: "10.9.0.1:8444", HTTP: "http://10.9.0.1:8080", CA: "sha256:" + strings.Repeat("a", 64),
		Interfaces: []medium.Interface{{MAC: "52:54:00:77:00:01", Address: netip.MustParsePrefix("10.9.0.31/24")}},
	}
	r.image(1)
	db, err := bolt.Open(filepath.Join(t.TempDir(), "store"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	key, err := trust.OpenKey(t.TempDir(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r.tokens = key.MediaTokens(rand.Reader)
	r.Server, err = New(Config{
		Store: db, Tokens: r.tokens, Dir: r.dir, Now: r.clock, Observer: r, Describe: r.describe,
		Event: func(name machine.Name, reason, message, actor string) store.Op {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, fmt.Sprintf("%s %s %s", name, reason, actor))
			return store.Put(fmt.Sprintf("/events/%d", len(r.events)), []byte(message))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

// Observe implements Observer.
func (r *rig) Observe(s machine.Sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, fmt.Sprintf("%s %s", s.Machine, s.Event))
}

func (r *rig) describe(_ context.Context, name machine.Name) (Description, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.config
	c.Machine = name
	return Description{UID: r.uid, Config: c, Script: []byte("boot " + string(name))}, nil
}

// image writes a made-up image: 200 KiB of numbered blocks.
func (r *rig) image(seed byte) {
	r.t.Helper()
	content := bytes.Repeat([]byte{seed}, 200<<10)
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	system := agentos.Manifest{Kernel: agentos.File{SHA256: "k"}, Initramfs: agentos.File{SHA256: digest}}
	m := iso.Manifest{
		Inputs: digest, Image: agentos.File{Size: int64(len(content)), SHA256: digest}, System: [2]string{"k", digest},
		Script: iso.Region{Offset: 2048, Size: 8 << 10}, Archive: iso.Region{Offset: 20 << 10, Size: 64 << 10},
		Kernel: iso.Region{Offset: 100 << 10, Size: 10}, Initramfs: iso.Region{Offset: 120 << 10, Size: 50 << 10},
	}
	for name, v := range map[string]any{iso.ImageFile: content, iso.ManifestFile: m, agentos.ManifestFile: system} {
		data, ok := v.([]byte)
		if !ok {
			var err error
			if data, err = json.Marshal(v); err != nil {
				r.t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(r.dir, name), data, 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) insert(name machine.Name) string {
	r.t.Helper()
	path, err := r.Insert(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return path
}

// get asks for a part of an image. What was observed of it is there when it returns.
func (r *rig) get(path, ranges string) (int, []byte, http.Header) {
	r.t.Helper()
	req := httptest.NewRequestWithContext(r.t.Context(), http.MethodGet, path, nil)
	if ranges != "" {
		req.Header.Set("Range", "bytes="+ranges)
	}
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, req)
	return w.Code, w.Body.Bytes(), w.Header()
}

// configOf reads the configuration out of an image.
func configOf(t *testing.T, image []byte) medium.Config {
	t.Helper()
	archive := image[20<<10 : 84<<10]
	from, to := bytes.IndexByte(archive, '{'), bytes.LastIndexByte(archive, '}')
	c, err := medium.Parse(archive[from : to+1])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestServer_Insert(t *testing.T) {
	r := newRig(t)
	path := r.insert("web-1")
	t.Run("the URL is short, ends in .iso and names the machine", func(t *testing.T) {
		if !strings.HasPrefix(path, "/media/web-1/") || !strings.HasSuffix(path, "/agent.iso") || len(path) > 60 {
			t.Errorf("path %s", path)
		}
	})
	t.Run("the image says who the machine is and what it enrols with", func(t *testing.T) {
		status, body, header := r.get(path, "")
		if status != http.StatusOK || header.Get("Accept-Ranges") != "bytes" || header.Get("Content-Length") != "204800" {
			t.Fatalf("%d %v", status, header)
		}
		c := configOf(t, body)
		if c.Machine != "web-1" || c.Interfaces[0].Address.String() != "10.9.0.31/24" {
			t.Errorf("configuration %+v", c)
		}
		token, err := r.tokens.Verify(c.Token, r.clock())
		if err != nil || token.Machine != "web-1" {
			t.Errorf("token %+v, %v", token, err)
		}
		if compares, err := r.Enrolment(t.Context(), "web-1", "uid1", token.ID); err != nil || len(compares) != 1 {
			t.Errorf("enrolment: %v, %v", compares, err)
		}
		if !bytes.HasPrefix(body[2048:], []byte("boot web-1\n\n")) {
			t.Errorf("script %.40q", body[2048:])
		}
	})
	t.Run("the same image is there as .img, for sticks", func(t *testing.T) {
		_, a, _ := r.get(path, "")
		status, b, _ := r.get(strings.TrimSuffix(path, ".iso")+".img", "")
		if status != http.StatusOK || !bytes.Equal(a, b) {
			t.Errorf("%d, %d bytes", status, len(b))
		}
	})
	t.Run("asked for again it is the same", func(t *testing.T) {
		r.advance(InsertValidity/2 - time.Second)
		if again := r.insert("web-1"); again != path {
			t.Errorf("%s, then %s", path, again)
		}
	})
	t.Run("with less than half of its time left it is replaced", func(t *testing.T) {
		r.advance(2 * time.Second)
		next := r.insert("web-1")
		if next == path {
			t.Error("it is the same")
		}
		if status, _, _ := r.get(path, ""); status != http.StatusNotFound {
			t.Errorf("the old one: %d", status)
		}
		path = next
	})
	t.Run("it doesn't change when the machine does, until it is asked for again", func(t *testing.T) {
		_, before, _ := r.get(path, "")
		r.mu.Lock()
		r.config.Interfaces = []medium.Interface{{MAC: "52:54:00:77:00:01", Address: netip.MustParsePrefix("10.9.0.99/24")}}
		r.mu.Unlock()
		if _, after, _ := r.get(path, ""); !bytes.Equal(before, after) {
			t.Error("it has changed under the BMC")
		}
		next := r.insert("web-1")
		if _, body, _ := r.get(next, ""); configOf(t, body).Interfaces[0].Address.String() != "10.9.0.99/24" {
			t.Error("the new one has the old address")
		}
		path = next
	})
	t.Run("expired it is gone", func(t *testing.T) {
		r.advance(InsertValidity)
		if status, body, _ := r.get(path, ""); status != http.StatusGone || !strings.Contains(string(body), "insert it anew") {
			t.Errorf("%d %s", status, body)
		}
	})
	t.Run("an image of another build is gone, not mixed", func(t *testing.T) {
		path := r.insert("web-1")
		r.get(path, "0-1")
		r.image(2)
		if status, body, _ := r.get(path, ""); status != http.StatusGone {
			t.Errorf("%d %.80s", status, body)
		}
		if next := r.insert("web-1"); next == path {
			t.Error("the old medium was given again")
		}
	})
	t.Run("without an image it says what to do", func(t *testing.T) {
		if err := os.Remove(filepath.Join(r.dir, iso.ManifestFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Insert(t.Context(), "web-1"); !errors.Is(err, iso.ErrMissing) {
			t.Errorf("error %v", err)
		}
	})
}

func TestServer_Refused(t *testing.T) {
	r := newRig(t)
	path, other := r.insert("web-1"), r.insert("web-2")
	key := func(path string) string { return strings.Split(path, "/")[3] }
	for name, bad := range map[string]string{
		"no key":                   "/media/web-1//agent.iso",
		"another machine's key":    "/media/web-1/" + key(other) + "/agent.iso",
		"a key under another name": "/media/web-2/" + key(path) + "/agent.iso",
		"a key cut short":          "/media/web-1/" + key(path)[:31] + "/agent.iso",
		"an altered key":           "/media/web-1/" + key(path)[:31] + string('a'+(key(path)[31]-'a'+1)%26) + "/agent.iso",
		"an altered id":            "/media/web-1/" + "b" + key(path)[1:] + "/agent.iso",
		"another file":             "/media/web-1/" + key(path) + "/vmlinuz",
		"a path out of it":         "/media/web-1/" + key(path) + "/../../../etc/passwd",
		"more path":                path + "/x",
		"a machine that isn't":     "/media/nobody/" + key(path) + "/agent.iso",
	} {
		t.Run(name, func(t *testing.T) {
			if status, body, _ := r.get(bad, ""); status != http.StatusNotFound {
				t.Errorf("%d, %d bytes", status, len(body))
			}
		})
	}
	t.Run("nothing can be posted", func(t *testing.T) {
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("status %d", w.Code)
		}
	})
	t.Run("ejected, it is not there and enrols nobody", func(t *testing.T) {
		_, body, _ := r.get(path, "")
		token, err := r.tokens.Verify(configOf(t, body).Token, r.clock())
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Eject(t.Context(), "web-1"); err != nil {
			t.Fatal(err)
		}
		if status, _, _ := r.get(path, "0-0"); status != http.StatusNotFound {
			t.Errorf("status %d", status)
		}
		if _, err := r.Enrolment(t.Context(), "web-1", "uid1", token.ID); !errors.Is(err, ErrGone) {
			t.Errorf("enrolment: %v", err)
		}
		if status, _, _ := r.get(other, ""); status != http.StatusOK {
			t.Errorf("the other machine's: %d", status)
		}
	})
	t.Run("of a machine that was made anew under its name, it enrols nobody", func(t *testing.T) {
		_, body, _ := r.get(other, "")
		token, err := r.tokens.Verify(configOf(t, body).Token, r.clock())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Enrolment(t.Context(), "web-2", "uid2", token.ID); !errors.Is(err, ErrGone) {
			t.Errorf("enrolment: %v", err)
		}
	})
}

func TestServer_Copy(t *testing.T) {
	r := newRig(t)
	copyOf := func(t *testing.T, validity time.Duration) (medium.Config, time.Time) {
		t.Helper()
		m, expires, err := r.Copy(t.Context(), "web-1", validity, "ann")
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		image, err := io.ReadAll(m)
		if err != nil || int64(len(image)) != m.Size() {
			t.Fatalf("%d bytes, %v", len(image), err)
		}
		return configOf(t, image), expires
	}
	path := r.insert("web-1")
	c, expires := copyOf(t, 0)
	token, err := r.tokens.Verify(c.Token, r.clock())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("is good for a day", func(t *testing.T) {
		if want := r.clock().Add(CopyValidity).Truncate(time.Second); !expires.Equal(want) || !token.Expires.Equal(want) {
			t.Errorf("until %s and %s, want %s", expires, token.Expires, want)
		}
	})
	t.Run("outlives the ejection of what the BMC has", func(t *testing.T) {
		if err := r.Eject(t.Context(), "web-1"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Enrolment(t.Context(), "web-1", "uid1", token.ID); err != nil {
			t.Error(err)
		}
		if status, _, _ := r.get(path, ""); status != http.StatusNotFound {
			t.Errorf("status %d", status)
		}
	})
	t.Run("every copy is one of its own, up to a bound", func(t *testing.T) {
		for range maxCopies - 1 {
			if again, _ := copyOf(t, time.Hour); again.Token == c.Token {
				t.Error("the same token twice")
			}
		}
		if _, _, err := r.Copy(t.Context(), "web-1", 0, "ann"); !errors.Is(err, ErrCopies) {
			t.Errorf("error %v", err)
		}
		r.advance(2 * time.Hour)
		copyOf(t, time.Hour) // those of an hour are forgotten
	})
	t.Run("revoked they are all gone", func(t *testing.T) {
		if err := r.Revoke(t.Context(), "web-1", "ann"); err != nil {
			t.Fatal(err)
		}
		if all, err := r.list(t.Context(), "web-1"); err != nil || len(all) != 0 {
			t.Errorf("%v, %v", all, err)
		}
	})
	t.Run("times that make no sense are refused", func(t *testing.T) {
		for _, d := range []time.Duration{time.Second, -time.Hour, MaxCopyValidity + 1} {
			if _, _, err := r.Copy(t.Context(), "web-1", d, "ann"); err == nil {
				t.Errorf("%s was taken", d)
			}
		}
	})
	t.Run("who made and revoked them is on record", func(t *testing.T) {
		r.mu.Lock()
		defer r.mu.Unlock()
		all := strings.Join(r.events, "\n")
		for _, want := range []string{"web-1 MediumMade ann", "web-1 MediumMade ", "web-1 MediumRevoked ", "web-1 MediumRevoked ann"} {
			if !strings.Contains(all, want) {
				t.Errorf("no %q in\n%s", want, all)
			}
		}
	})
}

func TestServer_Sightings(t *testing.T) {
	r := newRig(t)
	path := r.insert("web-1")
	took := func() []string {
		r.mu.Lock()
		defer r.mu.Unlock()
		defer func() { r.seen = nil }()
		return r.seen
	}
	t.Run("a BMC that fetches the whole first", func(t *testing.T) {
		r.get(path, "")
		if diff := cmp.Diff([]string{"web-1 medium", "web-1 medium-complete"}, took()); diff != "" {
			t.Errorf("seen (-want +got):\n%s", diff)
		}
	})
	t.Run("a BMC that passes reads on, once a boot", func(t *testing.T) {
		r.advance(time.Hour)
		for boot := range 2 {
			for _, part := range []string{"0-2047", "102400-102409", "122880-150000", "150001-174079", "150001-174079", "2048-4095"} {
				r.get(path, part)
			}
			if diff := cmp.Diff([]string{"web-1 medium", "web-1 medium-loaded"}, took()); diff != "" {
				t.Errorf("boot %d: seen (-want +got):\n%s", boot, diff)
			}
			r.advance(quiet + time.Second)
		}
	})
	t.Run("a medium that is gone", func(t *testing.T) {
		r.advance(InsertValidity)
		r.get(path, "0-1")
		r.get("/media/web-1/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/agent.iso", "")
		if diff := cmp.Diff([]string{"web-1 medium-refused"}, took()); diff != "" {
			t.Errorf("seen (-want +got):\n%s", diff)
		}
	})
}

func FuzzParsePath(f *testing.F) {
	f.Add("/media/web-1/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/agent.iso")
	f.Add("/media/web-1/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/agent.img")
	f.Add("/media/../x")
	f.Add("/media//" + strings.Repeat("a", 32) + "/agent.iso")
	f.Fuzz(func(t *testing.T, path string) {
		name, key, id, ok := parsePath(path)
		if ok && (name == "" || strings.Contains(string(name), "/") || len(id) != 16 || len(key) != 32) {
			t.Errorf("%q: %q %q %q", path, name, key, id)
		}
	})
}
