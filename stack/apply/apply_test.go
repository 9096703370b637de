package apply

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestConnect(t *testing.T) {
	const good = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\nclusters: [{name: k, cluster: {server: 'https://a.example'}}]\nusers: [{name: u, user: {token: t}}]\n"
	for name, tt := range map[string]struct{ from, to, want string }{
		"a good one":               {"", "", ""},
		"one that runs a program":  {"token: t", "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh, interactiveMode: Never}", "runs a program"},
		"one that names a key":     {"token: t", "client-key: /etc/shadow", "names a file"},
		"one that names a token":   {"token: t", "tokenFile: /etc/shadow", "names a file"},
		"one that names a CA":      {"server:", "certificate-authority: /etc/shadow, server:", "names a file"},
		"what is no kubeconfig":    {"kind: Config", "kind: [", "reading the kubeconfig"},
		"a context that isn't one": {"current-context: c", "current-context: d", "reading the kubeconfig"},
	} {
		_, err := Connect([]byte(strings.Replace(good, tt.from, tt.to, 1)), "")
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestRanks(t *testing.T) {
	var list []*unstructured.Unstructured
	for _, k := range []string{
		"v1 Pod", "metallb.io/v1beta1 IPAddressPool", "admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration", "v1 Secret", "apps/v1 Deployment",
		"apiextensions.k8s.io/v1 CustomResourceDefinition", "v1 Namespace", "rbac.authorization.k8s.io/v1 ClusterRole", "v1 Service", "example.com/v1 Service",
	} {
		version, kind, _ := strings.Cut(k, " ")
		o := &unstructured.Unstructured{}
		o.SetAPIVersion(version)
		o.SetKind(kind)
		o.SetName(strings.ToLower(kind))
		list = append(list, o)
	}
	var got, gone []string
	for _, group := range ranks(list) {
		for _, o := range group {
			got = append(got, o.GetKind())
		}
	}
	var refs []Ref
	for _, o := range list {
		refs = append(refs, RefOf(o))
	}
	for _, group := range removal(refs) {
		for _, r := range group {
			gone = append(gone, r.Kind)
		}
	}
	want := []string{"Namespace", "CustomResourceDefinition", "ClusterRole", "Secret", "Service", "Pod", "Deployment", "ValidatingWebhookConfiguration", "IPAddressPool", "Service"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("applied (-want +got):\n%s", diff)
	}
	want = []string{"ValidatingWebhookConfiguration", "IPAddressPool", "Service", "Pod", "Deployment", "Service", "Secret", "ClusterRole", "CustomResourceDefinition", "Namespace"}
	if diff := cmp.Diff(want, gone); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

func TestMissing(t *testing.T) {
	old := []Ref{{"apps", "v1beta1", "Deployment", "n", "a"}, {"", "v1", "Secret", "n", "b"}}
	if got := Missing(old, []Ref{{"apps", "v1", "Deployment", "n", "a"}}); len(got) != 1 || got[0].Name != "b" {
		t.Errorf("missing are %v: another version is the same object", got)
	}
}

func TestDiff(t *testing.T) {
	before := object(t, "kind: Deployment\nmetadata: {name: a, uid: x, managedFields: [{}], generation: 3}\nspec: {replicas: 1, image: a, paused: false}\nstatus: {replicas: 1}\n")
	after := object(t, "kind: Deployment\nmetadata: {name: a}\nspec: {replicas: 2, image: a, paused: false}\n")
	want := "  spec:\n    image: a\n    paused: false\n-   replicas: 1\n+   replicas: 2"
	got := Diff(before, after)
	if !strings.Contains(got, "-   replicas: 1\n+   replicas: 2") || strings.Contains(got, "uid") {
		t.Errorf("(-want +got):\n%s", cmp.Diff(want, got))
	}
	if got := Diff(before, before); got != "" {
		t.Errorf("an object differs from itself: %s", got)
	}
	secret := Diff(object(t, "kind: Secret\ndata: {a: b2xk}\n"), object(t, "kind: Secret\ndata: {a: bmV3}\n"))
	if secret == "" || strings.Contains(secret, "bmV3") || strings.Contains(secret, "b2xk") {
		t.Errorf("a Secret's values are shown, or not that they change: %s", secret)
	}
	hooks := Diff(object(t, "kind: W\nwebhooks: [{name: a, clientConfig: {caBundle: eA==}}]\n"), object(t, "kind: W\nwebhooks: [{name: a, clientConfig: {}}]\n"))
	if hooks != "" {
		t.Errorf("a certificate that a controller has put in is a change: %s", hooks)
	}
}
