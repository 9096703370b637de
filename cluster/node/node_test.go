package node

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	ignition "github.com/coreos/ignition/v2/config/v3_3"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/vincent-petithory/dataurl"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write testdata as it is now")

func settings() Settings {
	return Settings{
		PauseImage: "registry.example/pause:3.10",
		Mirrors: []Mirror{
			{Registry: "docker.io", URL: "http://10.77.0.1:8080"},
			{Registry: "registry.example:5000", URL: "https://mirror.example/v2", SkipVerify: true},
			{Registry: "docker.io", URL: "https://second.example"},
		},
		Sysctls: map[string]string{"vm.max_map_count": "262144", "kernel.panic": "20"},
		Modules: []string{"nvme-tcp", "overlay"},
		NodeIP:  "10.77.0.31",
	}
}

func plan(t *testing.T, s Settings, distribution string) *Plan {
	t.Helper()
	d, err := Named(distribution)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Make(s, d)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestMake has the files of every distribution and runtime in golden files.
func TestMake(t *testing.T) {
	got := &txtar.Archive{Comment: []byte("Nodes of every distribution and runtime, with the same settings.\n")}
	for _, d := range Distributions() {
		for _, r := range d.Runtimes {
			s := settings()
			s.Runtime = r.Name
			p := plan(t, s, d.Name)
			var b strings.Builder
			fmt.Fprintf(&b, "packages: %s\nservices: %s\n", strings.Join(p.Packages, " "), strings.Join(p.Services, " "))
			for _, n := range p.Notes {
				fmt.Fprintf(&b, "note: %s\n", n)
			}
			for _, f := range p.Files {
				fmt.Fprintf(&b, "\n# %s, mode %04o\n%s", f.Path, f.Mode, f.Data)
			}
			for _, u := range p.Units {
				fmt.Fprintf(&b, "\n# unit %s\n%s", u.Name, u.Text)
			}
			if d.Talos {
				data, err := p.Talos()
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, "\n%s", data)
			}
			got.Files = append(got.Files, txtar.File{Name: d.Name + " " + string(r.Name), Data: []byte(b.String())})
		}
	}
	const path = "testdata/nodes.txtar"
	if *update {
		if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(txtar.Format(got))); diff != "" {
		t.Errorf("run with -update and read the difference (-want +got):\n%s", diff)
	}
}

// TestForms holds each form against what reads it: every file of the plan is there.
func TestForms(t *testing.T) {
	for _, d := range Distributions() {
		t.Run(d.Name, func(t *testing.T) {
			p := plan(t, settings(), d.Name)
			if d.Talos {
				wantTalos(t, p)
				return
			}
			want := map[string]string{}
			for _, f := range p.Files {
				want[f.Path] = f.Data
			}
			t.Run("Ignition", func(t *testing.T) {
				data, err := p.Ignition()
				if err != nil {
					t.Fatal(err)
				}
				c, report, err := ignition.Parse(data)
				if err != nil || len(report.Entries) > 0 {
					t.Fatalf("%v\n%s", err, report.String())
				}
				got := map[string]string{}
				for _, f := range c.Storage.Files {
					u, err := dataurl.DecodeString(*f.Contents.Source)
					if err != nil {
						t.Fatal(err)
					}
					got[f.Path] = string(u.Data)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if len(c.Systemd.Units) != len(p.Units)+len(p.Services) {
					t.Errorf("%d units", len(c.Systemd.Units))
				}
			})
			t.Run("cloud-init", func(t *testing.T) {
				data, err := p.CloudConfig()
				if err != nil || !strings.HasPrefix(string(data), "#cloud-config\n") {
					t.Fatalf("%v: %s", err, data)
				}
				var c struct {
					WriteFiles []struct{ Path, Content, Permissions string } `yaml:"write_files"`
					Packages   []string
					RunCmd     [][]string
				}
				if err := yaml.Unmarshal(data, &c); err != nil {
					t.Fatal(err)
				}
				for _, u := range p.Units {
					want["/etc/systemd/system/"+u.Name] = u.Text
				}
				got := map[string]string{}
				for _, f := range c.WriteFiles {
					got[f.Path] = f.Content
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(p.Packages, c.Packages); diff != "" && len(p.Packages) > 0 {
					t.Errorf("packages (-want +got):\n%s", diff)
				}
			})
			if _, err := p.Talos(); !errors.As(err, new(ErrForm)) {
				t.Errorf("a patch of Talos's for it: %v", err)
			}
		})
	}
}

// wantTalos reads the patch with Talos's own loader.
func wantTalos(t *testing.T, p *Plan) {
	t.Helper()
	data, err := p.Talos()
	if err != nil {
		t.Fatal(err)
	}
	c, err := configloader.NewFromBytes(append([]byte("version: v1alpha1\n"), data...))
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	if got := c.Machine().Sysctls()["kernel.panic"]; got != "20" {
		t.Errorf("kernel.panic is %q", got)
	}
	if got := len(c.Machine().Kernel().Modules()); got != 3 {
		t.Errorf("%d kernel modules", got)
	}
	if _, err := p.Ignition(); !errors.As(err, new(ErrForm)) {
		t.Errorf("Ignition for it: %v", err)
	}
	if _, err := p.CloudConfig(); !errors.As(err, new(ErrForm)) {
		t.Errorf("cloud-init for it: %v", err)
	}
}

func TestSettings_Validate(t *testing.T) {
	for _, c := range []struct {
		s    Settings
		want string
	}{
		{Settings{Runtime: "docker"}, `runtime "docker": not containerd or cri-o`},
		{Settings{PauseImage: "a b"}, `pause image "a b": not an image such as registry.k8s.io/pause:3.10`},
		{Settings{Mirrors: []Mirror{{Registry: "../etc", URL: "http://m"}}}, `mirrors[0]: "../etc": not a registry such as docker.io, nor _default`},
		{Settings{Mirrors: []Mirror{{Registry: "docker.io", URL: "m:80"}}}, `mirrors[0]: "m:80": not a URL such as http://10.77.0.1:8080`},
		{Settings{Mirrors: []Mirror{{Registry: "docker.io", URL: "http://m\"]\n[x"}}}, `mirrors[0]: "http://m\"]\n[x": not a URL such as http://10.77.0.1:8080`},
		{Settings{Sysctls: map[string]string{"vm.x": "1\nkernel.y = 2"}}, `sysctl vm.x="1\nkernel.y = 2": not one`},
		{Settings{Sysctls: map[string]string{"../x": "1"}}, `sysctl ../x="1": not one`},
		{Settings{Modules: []string{"a b"}}, `kernel module "a b": not a name`},
		{Settings{NodeIP: "here"}, `node address "here": not an address`},
		{settings(), ""},
		{Settings{}, ""},
	} {
		got := ""
		if err := c.s.Validate(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestMake_Runtime(t *testing.T) {
	d, err := Named("talos")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Make(Settings{Runtime: CRIO}, d); err == nil || err.Error() != "talos has no cri-o: it has containerd" {
		t.Error(err)
	}
	if _, err := Named("gentoo"); err == nil || !strings.Contains(err.Error(), "debian-12") {
		t.Error(err)
	}
}

// TestDistributions holds the data to what the code counts on.
func TestDistributions(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Distributions() {
		if d.Name == "" || d.Title == "" || seen[d.Name] || len(d.Runtimes) == 0 || !d.Talos && d.KubeletEnvironment == "" {
			t.Errorf("%+v", d)
		}
		seen[d.Name] = true
		for _, r := range d.Runtimes {
			if r.Name == Containerd && r.Config != 2 && r.Config != 3 || !d.Talos && !strings.HasSuffix(r.Service, ".service") {
				t.Errorf("%s: %+v", d.Name, r)
			}
		}
	}
}
