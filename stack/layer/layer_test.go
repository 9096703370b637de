package layer

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack/catalog"
)

// spec reads the layers of a stack.
func spec(t *testing.T, layers string) *pb.StackSpec {
	t.Helper()
	text := "apiVersion: bedplate/v1\nkind: Stack\nmetadata: {name: s}\nspec:\n  cluster: {kubeconfig_secret: k}\n  layers:\n" + layers
	items, err := resource.Decode("s.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return items[0].Object.(*pb.Stack).GetSpec()
}

func builtin(t *testing.T) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestResolve(t *testing.T) {
	got, err := Resolve(spec(t, `
  - component: cilium
    values: {hubble: {enabled: true}, MTU: 9000}
  - {name: app, needs: [addresses], manifests: {inline: "kind: ConfigMap"}}
  - {component: metallb, needs: [cilium]}
  - {name: addresses, namespace: metallb-system, manifests: {inline: "kind: IPAddressPool"}}
`), builtin(t))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range got {
		names = append(names, l.Name+" < "+strings.Join(l.Needs, ","))
	}
	if diff := cmp.Diff([]string{"cilium < ", "metallb < cilium", "addresses < metallb", "app < addresses"}, names); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestResolve_Catalogue(t *testing.T) {
	got, err := Resolve(spec(t, `
  - component: cilium
    values: {hubble: {enabled: true}, MTU: 9000, ratio: 0.5}
  - {component: metallb, timeout: 2m, chart: {version: 0.14.8}}
  - {name: app, needs: [cilium], manifests: {inline: "kind: ConfigMap"}}
`), builtin(t))
	if err != nil {
		t.Fatal(err)
	}
	cilium, metallb, app := got[0], got[1], got[2]
	if cilium.Namespace != "kube-system" || cilium.Chart.GetRepository() != "https://helm.cilium.io" || cilium.Chart.GetVersion() != cilium.Version {
		t.Errorf("cilium is %+v", cilium)
	}
	if cilium.Timeout != DefaultTimeout || metallb.Timeout != 2*time.Minute {
		t.Errorf("timeouts are %s and %s", cilium.Timeout, metallb.Timeout)
	}
	hubble := cilium.Values["hubble"].(map[string]any)
	if hubble["enabled"] != true || cilium.Values["MTU"] != int64(9000) || cilium.Values["ratio"] != 0.5 || cilium.Values["routingMode"] != "tunnel" {
		t.Errorf("values are %v", cilium.Values)
	}
	if metallb.Version != "0.14.8" || metallb.PodSecurity != "privileged" || metallb.Needs[0] != "cilium" {
		t.Errorf("metallb is %+v", metallb)
	}
	if app.Namespace != "default" || app.Release() != "app" {
		t.Errorf("app is %+v", app)
	}
	e, _ := builtin(t).Named("cilium")
	if e.Values["hubble"].(map[string]any)["enabled"] != false {
		t.Error("the catalogue was changed")
	}
}

func TestResolve_Bad(t *testing.T) {
	for name, tt := range map[string]struct{ layers, want string }{
		"an unknown component":       {"  - component: cillium", "spec.layers[0].component: cillium is not in the catalogue: did you mean cilium?"},
		"an ended component":         {"  - component: weave-net", "Weave Net has ended: use cilium"},
		"a component of the machine": {"  - component: containerd", "containerd is no layer of a stack: it is in the OS image"},
		"a commercial one":           {"  - component: portworx", "Portworx is commercial"},
		"two CNIs":                   {"  - component: cilium\n  - component: flannel", "spec.layers[1].component: flannel and cilium (layer cilium) both are the cluster's cni: there can be one"},
		"a circle":                   {"  - {name: a, needs: [c], manifests: {inline: x}}\n  - {name: b, manifests: {inline: x}}\n  - {name: c, manifests: {inline: x}}", "spec.layers[0].needs: a circle: a needs c needs b needs a"},
		"itself":                     {"  - {name: a, needs: [a], manifests: {inline: x}}", "a needs itself"},
		"a layer that there isn't":   {"  - {name: a, needs: [z], manifests: {inline: x}}", "spec.layers[0].needs: there is no layer z"},
		"two of a name":              {"  - {name: a, manifests: {inline: x}}\n  - {name: a, manifests: {inline: x}}", "a is the name of spec.layers[0] already"},
		"two sources":                {"  - {name: a, manifests: {inline: x}, kustomization: {path: k}}", "given together with manifests"},
		"no source":                  {"  - {name: a}", "has neither component"},
		"two places of manifests":    {"  - {name: a, manifests: {inline: x, url: 'https://a.example'}}", "has to have one of content, inline, url"},
		"a chart without a version":  {"  - {name: a, chart: {repository: 'https://a.example', name: a}}", "spec.layers[0].chart.version: missing"},
		"another scheme":             {"  - {name: a, chart: {repository: 'ftp://a.example', name: a, version: 1.0.0}}", "not https://"},
		"values for manifests":       {"  - {name: a, manifests: {inline: x}, values: {a: 1}}", "only a chart takes values"},
		"a wrong expression":         {"  - {component: cilium, values: {a: {b: '${{ machinez }}'}}}", "spec.layers[0].values: a.b: there is no variable or function \"machinez\""},
		"a wrong condition":          {"  - {component: cilium, if: '1 + 1'}", "the expression is int, bool is wanted"},
		"a wrong check":              {"  - {component: cilium, gate: {checks: [{name: a, api_version: v1, kind: A, object: a, expression: 'obj.x'}]}}", "gate.checks[0].expression"},
		"a timeout that is too long": {"  - {component: cilium, timeout: 48h}", "spec.layers[0].timeout"},
	} {
		_, err := Resolve(spec(t, tt.layers+"\n"), builtin(t))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	_, err := Resolve(spec(t, "  - {component: cilium, needs: [istio]}\n  - {name: m, manifests: {inline: x}, needs: [cilium]}\n  - {name: istio, manifests: {inline: x}, needs: [m]}\n"), builtin(t))
	if err == nil || !strings.Contains(err.Error(), "a circle: cilium needs istio needs m needs cilium") {
		t.Errorf("a longer circle: %v", err)
	}
}

func TestResolve_Late(t *testing.T) {
	_, err := Resolve(spec(t, "  - {name: first, manifests: {inline: x}}\n  - {component: harbor, needs: [first]}\n  - component: longhorn\n"), builtin(t))
	if err == nil || !strings.Contains(err.Error(), "harbor needs a storage-class, which layer longhorn offers, but that comes later: put it before") {
		t.Errorf("what is needed comes later: %v", err)
	}
}

func TestProfiles(t *testing.T) {
	for _, name := range catalog.Profiles() {
		text, err := catalog.Profile(name)
		if err != nil {
			t.Fatal(err)
		}
		items, err := resource.Decode(name, strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Resolve(items[0].Object.(*pb.Stack).GetSpec(), builtin(t)); err != nil {
			t.Errorf("profile %s: %v", name, err)
		}
	}
}
