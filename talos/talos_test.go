package talos

import (
	"errors"
	"strings"
	"testing"

	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
)

// generated is what `talosctl gen config` of a version makes.
func generated(t testing.TB, contract *config.VersionContract) string {
	t.Helper()
	in, err := generate.NewInput("lab", "https://10.77.0.10:6443", "1.34.1", generate.WithVersionContract(contract), generate.WithInstallDisk("/dev/vda"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := in.Config(machine.TypeControlPlane)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.EncodeBytes(encoder.WithComments(encoder.CommentsDisabled))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestJoin(t *testing.T) {
	for name, contract := range map[string]*config.VersionContract{"1.8": config.TalosVersion1_8, "1.12": config.TalosVersion1_12} {
		t.Run("Talos "+name, func(t *testing.T) {
			out, err := Join(generated(t, contract), []string{
				"machine:\n  nodeLabels: {rack: r1}\n",
				"cluster:\n  clusterName: patched\n",
			}, Additions{Hostname: "node-1", Patches: [][]byte{[]byte("machine:\n  network:\n    nameservers: [192.0.2.1]\n")}})
			if err != nil {
				t.Fatal(err)
			}
			c, err := configloader.NewFromBytes(out)
			if err != nil {
				t.Fatalf("Talos doesn't read it: %v\n%s", err, out)
			}
			if got := c.NetworkHostnameConfig().Hostname(); got != "node-1" {
				t.Errorf("host name %q", got)
			}
			if got := c.Machine().NodeLabels()["rack"]; got != "r1" {
				t.Errorf("label %q", got)
			}
			if got := c.Cluster().Name(); got != "patched" {
				t.Errorf("cluster %q", got)
			}
			if !strings.Contains(string(out), "192.0.2.1") {
				t.Error("the network isn't there")
			}
		})
	}
	t.Run("a person's host name wins", func(t *testing.T) {
		out, err := Join(generated(t, config.TalosVersion1_8), []string{"machine:\n  network:\n    hostname: mine\n"}, Additions{Hostname: "ours"})
		if err != nil || !strings.Contains(string(out), "hostname: mine") || strings.Contains(string(out), "ours") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("a JSON patch", func(t *testing.T) {
		out, err := Join(generated(t, config.TalosVersion1_8), []string{`[{"op": "replace", "path": "/cluster/clusterName", "value": "patched"}]`}, Additions{})
		if err != nil || !strings.Contains(string(out), "clusterName: patched") {
			t.Errorf("%v", err)
		}
	})
}

func TestCheck(t *testing.T) {
	good := generated(t, config.TalosVersion1_12)
	for name, c := range map[string]struct {
		text    string
		patches []string
		want    string
	}{
		"nothing":                      {"", nil, "there is no machine configuration"},
		"something else":               {"apiVersion: v1alpha1\nkind: HostnameConfig\nhostname: a\nauto: \"off\"\n", nil, "no machine configuration"},
		"a key that there is not":      {strings.Replace(good, "clusterName:", "clusterNam:", 1), nil, "clusterNam"},
		"a missing control plane":      {"version: v1alpha1\nmachine: {type: worker}\ncluster: {clusterName: a}\n", nil, "the configuration is none for Talos"},
		"a patch with a wrong key":     {good, []string{"machine: {nodeLabels: {a: b}}", "machine: {nodelabels: {a: b}}"}, "patch 1: "},
		"a patch of what is not there": {good, []string{`[{"op": "remove", "path": "/nothing/here"}]`}, "patch"},
		"too much":                     {strings.Repeat("#", MaxSize+1), nil, "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check(c.text, c.patches)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, c.want)
			}
			var p *PatchError
			if strings.HasPrefix(c.want, "patch 1") && (!errors.As(err, &p) || p.Index != 1) {
				t.Errorf("%v says not which patch", err)
			}
		})
	}
	if err := Check(good, nil); err != nil {
		t.Errorf("what talosctl makes: %v", err)
	}
}

func FuzzJoin(f *testing.F) {
	good := generated(f, config.TalosVersion1_8)
	f.Add(good, "machine: {nodeLabels: {a: b}}")
	f.Add(good, `[{"op": "add", "path": "/machine/type", "value": 1}]`)
	f.Add("version: v1alpha1\nmachine: {}\ncluster: {}", "$patch: delete")
	f.Fuzz(func(t *testing.T, text, patch string) {
		out, err := Join(text, []string{patch}, Additions{Hostname: "a"})
		if err != nil {
			return
		}
		if _, err := configloader.NewFromBytes(out); err != nil {
			t.Errorf("Talos doesn't read what it was joined to: %v", err)
		}
	})
}
