package metadata

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/ignition/v2/config"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bedplate/bedplate/ignition"
	"github.com/bedplate/bedplate/machine"
)

var update = flag.Bool("update", false, "write the golden files anew")

// site is a fake source.
type site struct {
	byAddress map[netip.Addr]Document
	byKey     map[string]Document
	home      []string
	homeErr   error
	seen      []string
}

func (s *site) ByAddress(a netip.Addr) (Document, bool) { d, ok := s.byAddress[a]; return d, ok }
func (s *site) ByKey(key string) (Document, bool)       { d, ok := s.byKey[key]; return d, ok }

func (s *site) PhoneHome(_ context.Context, key string, _ netip.Addr, fields map[string]string) error {
	if s.homeErr != nil {
		return s.homeErr
	}
	told := []string{key}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		told = append(told, name+"="+fields[name])
	}
	s.home = append(s.home, strings.Join(told, " "))
	return nil
}

func (s *site) Observe(g machine.Sighting) {
	s.seen = append(s.seen, fmt.Sprintf("%s %s %s %s: %s", g.Source, g.Machine, g.Address, g.Event, g.Detail))
}

var (
	own   = netip.MustParseAddr("10.77.0.11")
	other = netip.MustParseAddr("10.77.0.12")
	free  = netip.MustParseAddr("10.77.0.99")
)

func document() Document {
	return Document{
		Machine: "u01", InstanceID: "web-1-f00", Hostname: "web-1", Domain: "example.com",
		SSHKeys:   []string{"ssh-ed25519 AAAAC3Nza alice@desk", "ssh-rsa AAAAB3Nza bob"},
		UserData:  []byte("#cloud-config\nruncmd: [[touch, /done]]\n"),
		LocalIPv4: own, MACs: []machine.MAC{{0x52, 0x54, 0, 0x77, 0, 1}},
		Labels: map[string]string{"role": "web", "example.com/rack": "r1", "yes": "no"},
	}
}

// TestServer_Ignition is about the whole way; package ignition tests the joining.
func TestServer_Ignition(t *testing.T) {
	get := func(doc Document) (int, string) {
		s := newServer(t, &site{byKey: map[string]Document{"K": doc}}, "http://10.77.0.1:8080")
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/ignition/K/config.ign", nil)
		r.RemoteAddr = "10.77.0.11:1234"
		s.Handler().ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	t.Run("the system gets its host name, keys and the address to report to", func(t *testing.T) {
		code, body := get(document())
		if code != http.StatusOK {
			t.Fatalf("%d %s", code, body)
		}
		c, rep, err := config.Parse([]byte(body))
		if err != nil {
			t.Fatalf("Ignition doesn't take it: %v\n%s", err, rep)
		}
		var paths []string
		for _, f := range c.Storage.Files {
			paths = append(paths, f.Path)
		}
		if got := fmt.Sprintf("%s %s %d", paths, c.Passwd.Users[0].Name, len(c.Passwd.Users[0].SSHAuthorizedKeys)); got != "[/etc/bedplate/phone-home /etc/hostname] core 2" {
			t.Error(got)
		}
	})
	t.Run("it has the files of its network, and an error where they can't be made", func(t *testing.T) {
		doc := document()
		doc.NetworkFiles = []ignition.File{{Path: "/etc/systemd/network/a.network", Content: []byte("[Match]\n"), Mode: 0o644}}
		if code, body := get(doc); code != http.StatusOK || !strings.Contains(body, "/etc/systemd/network/a.network") {
			t.Errorf("%d %s", code, body)
		}
		doc.NetworkErr = errors.New("links[0].nic")
		if code, body := get(doc); code != http.StatusInternalServerError {
			t.Errorf("%d %s", code, body)
		}
	})
	t.Run("what can't be read is the machine's to see", func(t *testing.T) {
		doc := document()
		doc.Ignition = "variant: nothing"
		if code, body := get(doc); code != http.StatusUnprocessableEntity || !strings.Contains(body, "spec.ignition") {
			t.Errorf("%d %s", code, body)
		}
	})
}

func newSite() *site {
	return &site{
		byAddress: map[netip.Addr]Document{own: document(), other: {Machine: "u02", InstanceID: "db-1-f00", Hostname: "db-1"}},
		byKey:     map[string]Document{"KEY1": document(), "KEY2": {Machine: "u02", InstanceID: "db-1-f00", Hostname: "db-1"}},
	}
}

func newServer(t testing.TB, site *site, base string) *Server {
	t.Helper()
	s, err := New(Config{
		Source: site, PhoneHome: site.PhoneHome, Observer: site, Now: time.Now, Registerer: prometheus.NewRegistry(),
		HTTPBase: func(netip.Addr) string { return base },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ask(s *Server, peer netip.Addr, method, target, form string) *http.Response {
	r := httptest.NewRequest(method, target, strings.NewReader(form))
	r.RemoteAddr = netip.AddrPortFrom(peer, 1234).String()
	r.Header.Set("X-Forwarded-For", own.String())
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestGolden compares all that one machine can read.
func TestGolden(t *testing.T) {
	withVendor := document()
	withVendor.VendorData = []byte("#cloud-config\ntimezone: UTC\n")
	withOwnCall := document()
	withOwnCall.UserData = []byte("#cloud-config\nphone_home: {url: http://user/}\n")
	for _, test := range []struct {
		name  string
		doc   Document
		paths []string
	}{
		{"nocloud", document(), []string{"/nocloud/KEY1/meta-data", "/nocloud/KEY1/user-data", "/nocloud/KEY1/vendor-data", "/nocloud/KEY1/network-config"}},
		{"vendor-data-beside-ours", withVendor, []string{"/nocloud/KEY1/vendor-data"}},
		{"phone-home-of-the-user", withOwnCall, []string{"/nocloud/KEY1/vendor-data"}},
		{"ec2", document(), []string{
			"/latest/", "/latest/meta-data", "/latest/meta-data/", "/2009-04-04/meta-data/instance-id", "/latest/meta-data/hostname", "/latest/meta-data/local-hostname",
			"/latest/meta-data/local-ipv4", "/latest/meta-data/mac", "/latest/meta-data/public-keys/", "/latest/meta-data/public-keys/0/",
			"/latest/meta-data/public-keys/1/openssh-key", "/latest/meta-data/tags/instance/", "/latest/meta-data/tags/instance/example.com/rack", "/latest/user-data",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			site := newSite()
			site.byAddress[own], site.byKey["KEY1"] = test.doc, test.doc
			s := newServer(t, site, "http://10.77.0.1:8080")
			got := &txtar.Archive{}
			for _, path := range test.paths {
				response := ask(s, own, "GET", path, "")
				if response.StatusCode != 200 || response.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("GET %s: %d %v", path, response.StatusCode, response.Header)
				}
				// Archives have neither carriage returns nor files without a last line end.
				content := strings.ReplaceAll(body(t, response), "\r\n", "\n")
				got.Files = append(got.Files, txtar.File{Name: path, Data: []byte(content)})
			}
			file := "testdata/" + test.name + ".txtar"
			if *update {
				if err := os.WriteFile(file, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(txtar.Format(got))); diff != "" {
				t.Error("run with -update to accept (-want +got):\n" + diff)
			}
		})
	}
}

func TestServer_OnlyItsOwn(t *testing.T) {
	for _, test := range []struct {
		name, method, path string
		peer               netip.Addr
		code               int
		seen               string
	}{
		{"its own key from its own address", "GET", "/nocloud/KEY1/user-data", own, 200, "metadata u01 10.77.0.11 user-data: NoCloud"},
		{"its own key from an address of nobody's", "GET", "/nocloud/KEY1/user-data", free, 200, "metadata u01 10.77.0.99 user-data: NoCloud"},
		{"its own key from another machine's address", "GET", "/nocloud/KEY1/user-data", other, 404, "metadata u01 10.77.0.12 user-data: refused: 10.77.0.12 is an address of u02"},
		{"a report from another machine's address", "POST", "/phone-home/KEY1", other, 404, "metadata u01 10.77.0.12 phone-home: refused: 10.77.0.12 is an address of u02"},
		{"an unknown key", "GET", "/nocloud/KEY3/user-data", own, 404, ""},
		{"a report with an unknown key", "POST", "/phone-home/KEY3", own, 404, ""},
		{"a long key", "GET", "/nocloud/" + strings.Repeat("K", 200) + "/user-data", own, 404, ""},
		{"an unknown file", "GET", "/nocloud/KEY1/secrets", own, 404, ""},
		{"EC2 style from an address of nobody's, whatever X-Forwarded-For says", "GET", "/latest/meta-data/instance-id", free, 404, ""},
		{"EC2 style by IPv4 in IPv6", "GET", "/latest/meta-data/instance-id", netip.MustParseAddr("::ffff:10.77.0.11"), 200, ""},
		{"a path that is not there", "GET", "/latest/meta-data/iam/security-credentials/", own, 404, ""},
		{"a version that is not there", "GET", "/1999-01-01/meta-data/", own, 404, ""},
		{"writing", "POST", "/latest/meta-data/instance-id", own, 405, ""},
		{"no user data", "GET", "/latest/user-data", other, 404, ""},
		{"a token for IMDSv2", "PUT", "/latest/api/token", own, 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			site := newSite()
			response := ask(newServer(t, site, "http://h"), test.peer, test.method, test.path, "")
			if response.StatusCode != test.code {
				t.Errorf("status %d, want %d: %s", response.StatusCode, test.code, body(t, response))
			}
			if diff := cmp.Diff(test.seen, strings.Join(site.seen, "\n")); diff != "" {
				t.Error("sightings (-want +got):\n" + diff)
			}
			if len(site.home) != 0 {
				t.Errorf("reported home: %v", site.home)
			}
		})
	}
	t.Run("user data that is not there is empty for NoCloud", func(t *testing.T) {
		response := ask(newServer(t, newSite(), "http://h"), other, "GET", "/nocloud/KEY2/user-data", "")
		if got := body(t, response); response.StatusCode != 200 || got != "" {
			t.Errorf("%d %q", response.StatusCode, got)
		}
	})
	t.Run("without a base URL there is no vendor data to mislead with", func(t *testing.T) {
		if got := ask(newServer(t, newSite(), ""), own, "GET", "/nocloud/KEY1/vendor-data", "").StatusCode; got != 500 {
			t.Errorf("status %d", got)
		}
	})
}

func TestServer_PhoneHome(t *testing.T) {
	form := url.Values{"instance_id": {"web-1-f00"}, "hostname": {"web-1"}, "pub_key_ed25519": {"ssh-ed25519 AAAA root@web-1\n"}, "pub_key_dsa": {"N/A"}}.Encode()
	t.Run("a report is kept, then answered", func(t *testing.T) {
		site := newSite()
		if got := ask(newServer(t, site, ""), own, "POST", "/phone-home/KEY1", form).StatusCode; got != 200 {
			t.Errorf("status %d", got)
		}
		if diff := cmp.Diff([]string{"KEY1 hostname=web-1 instance_id=web-1-f00 pub_key_ed25519=ssh-ed25519 AAAA root@web-1\n"}, site.home); diff != "" {
			t.Error("(-want +got):\n" + diff)
		}
		if diff := cmp.Diff([]string{"metadata u01 10.77.0.11 phone-home: first boot done"}, site.seen); diff != "" {
			t.Error("sightings (-want +got):\n" + diff)
		}
	})
	t.Run("a report that is not kept is not acknowledged", func(t *testing.T) {
		site := newSite()
		site.homeErr = errors.New("disk full")
		if got := ask(newServer(t, site, ""), own, "POST", "/phone-home/KEY1", form).StatusCode; got != 503 {
			t.Errorf("status %d", got)
		}
		if len(site.seen) != 0 {
			t.Errorf("seen %v", site.seen)
		}
	})
	t.Run("a long report is refused", func(t *testing.T) {
		site := newSite()
		if got := ask(newServer(t, site, ""), own, "POST", "/phone-home/KEY1", "hostname="+strings.Repeat("a", maxReport)).StatusCode; got != 400 {
			t.Errorf("status %d", got)
		}
		if len(site.home) != 0 {
			t.Errorf("reported %d", len(site.home))
		}
	})
}

func FuzzServer(f *testing.F) {
	f.Add("GET", "/nocloud/KEY1/meta-data", "")
	f.Add("GET", "/latest/meta-data/public-keys/0/openssh-key", "")
	f.Add("GET", "/2021-03-23/meta-data/tags/instance/example.com/rack/", "")
	f.Add("POST", "/phone-home/KEY1", "instance_id=i&pub_key_rsa=%0a&%zz")
	f.Fuzz(func(t *testing.T, method, path, form string) {
		u := &url.URL{Path: path}
		if !strings.HasPrefix(path, "/") || !slices.Contains([]string{"GET", "HEAD", "POST", "PUT"}, method) {
			return
		}
		site := newSite()
		r := httptest.NewRequest(method, "/", strings.NewReader(form))
		r.URL, r.RemoteAddr = u, "10.77.0.12:1"
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		newServer(t, site, "http://h").Handler().ServeHTTP(w, r)
		if strings.Contains(w.Body.String(), "web-1") && !strings.Contains(path, "web-1") {
			t.Errorf("%s %s showed another machine's: %s", method, path, w.Body)
		}
		for _, told := range site.home {
			if !strings.HasPrefix(told, "KEY2") {
				t.Errorf("%s %s reported %q", method, path, told)
			}
		}
	})
}

func FuzzPhoneHomeScript(f *testing.F) {
	f.Add("web-1")
	f.Add("\"\nimport os\n")
	f.Add(`\`)
	f.Fuzz(func(t *testing.T, id string) {
		plain := string(phoneHomeScript(Document{InstanceID: "x"}, "http://h/phone-home/K"))
		got := string(phoneHomeScript(Document{InstanceID: id}, "http://h/phone-home/K"))
		if strings.Count(got, "\n") != strings.Count(plain, "\n") || strings.Count(got, `"`) != strings.Count(plain, `"`) {
			t.Errorf("%q changes the script:\n%s", id, got)
		}
	})
}

// TestServer_NetworkConfig is about a network that isn't left to DHCP.
func TestServer_NetworkConfig(t *testing.T) {
	get := func(doc Document, path string) (int, string) {
		site := newSite()
		site.byAddress[own], site.byKey["KEY1"] = doc, doc
		r := ask(newServer(t, site, "http://10.77.0.1:8080"), own, http.MethodGet, path, "")
		return r.StatusCode, body(t, r)
	}
	paths := []string{"/nocloud/KEY1/network-config", "/latest/network-config"}
	t.Run("a machine reads its own, by key and by address", func(t *testing.T) {
		doc := document()
		doc.NetworkConfig = []byte("version: 2\n")
		for _, path := range paths {
			if code, got := get(doc, path); code != http.StatusOK || got != "version: 2\n" {
				t.Errorf("%s: %d %q", path, code, got)
			}
		}
	})
	t.Run("one that can't be made is an error, not DHCP", func(t *testing.T) {
		doc := document()
		doc.NetworkErr = errors.New("links[0].nic")
		for _, path := range paths {
			if code, got := get(doc, path); code != http.StatusInternalServerError || strings.Contains(got, "nic") {
				t.Errorf("%s: %d %q", path, code, got)
			}
		}
	})
	t.Run("where there is none, NoCloud's is empty and the other isn't there", func(t *testing.T) {
		if code, got := get(document(), paths[0]); code != http.StatusOK || got != "" {
			t.Errorf("%d %q", code, got)
		}
		if code, _ := get(document(), paths[1]); code != http.StatusNotFound {
			t.Errorf("%d", code)
		}
	})
}
