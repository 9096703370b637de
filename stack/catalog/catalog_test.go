package catalog

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// named are the open-source systems that the field's maps of the stack name,
// layer by layer: each has to be there, or its successor.
var named = map[string]string{
	"hardware":      "x86-64 arm64 nics redfish ipmi",
	"underlay":      "vlan bonding lldp frr",
	"provisioning":  "terraform opentofu ansible cluster-api kubespray kops kubeedge digital-rebar crossplane threeport",
	"os":            "flatcar fedora-coreos talos rancheros elemental kairos ubuntu debian rhel-family opensuse nixos freebsd linuxkit",
	"runtime":       "containerd cri-o moby runc kata-containers rkt frakti",
	"orchestration": "kubeadm k3s rke2 talos-kubernetes microk8s okd charmed-kubernetes kubevirt virtual-kubelet",
	"network":       "cilium calico flannel antrea weave-net contiv tungsten-fabric",
	"storage":       "rook-ceph longhorn openebs minio gluster csi-driver-nfs",
	"ingress":       "ingress-nginx haproxy traefik envoy-gateway contour metallb coredns external-dns",
	"identity":      "cert-manager vault openbao spire keycloak external-secrets",
	"security":      "falco gatekeeper trivy-operator clair notary cosign sonobuoy network-policy",
	"mesh":          "istio linkerd consul kuma smi maesh zuul",
	"registry":      "distribution harbor quay dragonfly",
	"build":         "tekton jenkins gitlab-runner",
	"release":       "argo-cd flux spinnaker",
	"observability": "prometheus grafana fluentd fluent-bit jaeger opentelemetry",
}

func TestBuiltin(t *testing.T) {
	c, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for layer, names := range named {
		for _, name := range strings.Fields(names) {
			e, ok := c.Named(name)
			if !ok || e.Layer != layer {
				t.Errorf("%s is not in the layer %s", name, layer)
				continue
			}
			if s, ok := c.Named(e.Successor); e.Ended && (!ok || s.Ended) {
				t.Errorf("%s ends in %s, which can't be used either", name, e.Successor)
			}
		}
	}
	for _, e := range c.All() {
		if e.Title == "" || e.Description == "" {
			t.Errorf("%s doesn't say what it is", e.Name)
		}
		if e.OnCluster() && !e.Commercial && (e.Version == "" || e.Namespace == "") {
			t.Errorf("%s has no version or namespace", e.Name)
		}
		for _, need := range e.Needs {
			if !slices.ContainsFunc(c.All(), func(o *Entry) bool { return slices.Contains(o.Offers, need) }) {
				t.Errorf("%s needs %s, which nothing offers", e.Name, need)
			}
		}
	}
}

func TestProfiles(t *testing.T) {
	if got := strings.Join(Profiles(), " "); got != "edge minimal standard" {
		t.Errorf("profiles are %s", got)
	}
	for _, name := range Profiles() {
		text, err := Profile(name)
		if err != nil {
			t.Fatal(err)
		}
		items, err := resource.Decode(name, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := items[0].Object.(*pb.Stack); !ok || len(items) != 1 {
			t.Errorf("%s is not one Stack", name)
		}
	}
	if _, err := Profile("../catalog"); err == nil || !strings.Contains(err.Error(), "edge, minimal, standard") {
		t.Errorf("a profile that isn't there: %v", err)
	}
}

func TestRead(t *testing.T) {
	const good = "name: a\ntitle: A\nlayer: network\nversion: \"1\"\nmanifests: {url: https://a.example/a.yaml}\n"
	for name, tt := range map[string]struct{ path, text, want string }{
		"a good one":                   {"data/network/a.yaml", good, ""},
		"a field that there isn't":     {"data/network/a.yaml", good + "colour: red\n", "field colour not found"},
		"another name than the file":   {"data/network/b.yaml", good, "say that it is data/network/a.yaml"},
		"no source":                    {"data/network/a.yaml", "name: a\nlayer: network\n", "either a chart or manifests"},
		"a layer that there isn't":     {"data/sea/a.yaml", strings.Replace(good, "network", "sea", 1), `no layer "sea"`},
		"ended without a successor":    {"data/network/a.yaml", good + "ended: true\n", "go together"},
		"a conflict with nobody":       {"data/network/a.yaml", good + "conflicts: [b]\n", "names b"},
		"a gate with a field too much": {"data/network/a.yaml", good + "gate: {colour: red}\n", "unknown field"},
	} {
		_, err := Read(fstest.MapFS{tt.path: {Data: []byte(tt.text)}})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
