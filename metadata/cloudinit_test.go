package metadata

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// python is the distribution's interpreter: the one that cloud-init is installed for.
const python = "/usr/bin/python3"

// witness runs a program of testdata under the distribution's own cloud-init. It
// skips loudly where that is not installed.
func witness(t *testing.T, program string, args ...string) []byte {
	t.Helper()
	if err := exec.Command(python, "-c", "import cloudinit").Run(); err != nil {
		t.Skip("SKIPPED: cloud-init is not installed: apt-get install cloud-init")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, append([]string{filepath.Join("testdata", program), t.TempDir()}, args...)...)
	cmd.Env = append(os.Environ(), "no_proxy=*")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return out
}

// facts are what cloud-init made of what it read.
type facts struct {
	InstanceID string   `json:"instance_id"`
	Hostname   string   `json:"hostname"`
	FQDN       string   `json:"fqdn"`
	Keys       []string `json:"keys"`
	UserData   string   `json:"user_data"`
	// Vendor lists the types of the parts of vendor-data as cloud-init sees them.
	Vendor  []string `json:"vendor"`
	Version string   `json:"version"`
	Schema  string   `json:"schema"`
}

func serve(t *testing.T, doc Document) (*httptest.Server, *site) {
	t.Helper()
	loopback := netip.MustParseAddr("127.0.0.1")
	site := &site{byAddress: map[netip.Addr]Document{loopback: doc}, byKey: map[string]Document{"KEY1": doc}}
	s := newServer(t, site, "")
	s.cfg.HTTPBase = nil
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	return server, site
}

func TestCloudInit_NoCloud(t *testing.T) {
	doc := document()
	own := doc
	own.UserData = []byte("#cloud-config\nphone_home: {url: http://127.0.0.1:1/, tries: 1}\n")
	vendor := doc
	vendor.VendorData = []byte("#cloud-config\ntimezone: UTC\n")
	for _, test := range []struct {
		name string
		doc  Document
		want []string
		home string
	}{
		{"phone_home of ours", doc, []string{"text/cloud-config"}, "KEY1 fqdn=web-1.example.com hostname=web-1 instance_id=web-1-f00"},
		{"the user has a phone_home of their own", own, []string{"text/x-shellscript"}, "KEY1 fqdn="},
		{"vendor data beside ours", vendor, []string{"text/cloud-config", "text/cloud-config"}, "KEY1 fqdn=web-1.example.com hostname=web-1 instance_id=web-1-f00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, site := serve(t, test.doc)
			var got facts
			if err := json.Unmarshal(witness(t, "nocloud.py", server.URL+"/nocloud/KEY1/"), &got); err != nil {
				t.Fatal(err)
			}
			want := facts{InstanceID: "web-1-f00", Hostname: "web-1", FQDN: "web-1.example.com", Keys: doc.SSHKeys, UserData: string(test.doc.UserData), Vendor: test.want}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error("(-want +got):\n" + diff)
			}
			if len(site.home) != 1 || !strings.HasPrefix(site.home[0], test.home) {
				t.Errorf("reported home: %q, want %q", site.home, test.home)
			}
		})
	}
}

func TestCloudInit_Ec2(t *testing.T) {
	doc := document()
	server, _ := serve(t, doc)
	var got facts
	if err := json.Unmarshal(witness(t, "ec2.py", server.URL), &got); err != nil {
		t.Fatal(err)
	}
	want := facts{InstanceID: "web-1-f00", Hostname: "web-1", FQDN: "web-1.example.com", Keys: doc.SSHKeys, UserData: string(doc.UserData), Version: "2021-03-23"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("(-want +got):\n" + diff)
	}
}
