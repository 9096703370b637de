package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/stack/layer"
)

// pack makes an archive as the command line does.
func pack(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(files[name])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

const chartYAML = "apiVersion: v2\nname: web\nversion: 1.2.3\nkubeVersion: '>=1.30.0-0'\n"

func chartFiles() map[string]string {
	return map[string]string{
		"Chart.yaml":           chartYAML,
		"values.yaml":          "replicas: 1\nport: 80\n",
		"values.schema.json":   `{"properties": {"replicas": {"type": "integer", "minimum": 1}}}`,
		"crds/crd.yaml":        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: webs.example.com}\n",
		"templates/_names.tpl": `{{- define "web.name" -}}{{ .Release.Name }}-web{{- end -}}`,
		"templates/web.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ include "web.name" . }}, namespace: {{ .Release.Namespace }}}
spec: {replicas: {{ .Values.replicas }}, template: {spec: {containers: [{name: web, ports: [{containerPort: {{ .Values.port }}}]}]}}}
`,
		"templates/hook.yaml":  "apiVersion: batch/v1\nkind: Job\nmetadata: {name: check, annotations: {helm.sh/hook: 'pre-install,pre-upgrade', helm.sh/hook-weight: '5'}}\n",
		"templates/first.yaml": "apiVersion: batch/v1\nkind: Job\nmetadata: {name: first, annotations: {helm.sh/hook: pre-install, helm.sh/hook-weight: '-5', helm.sh/hook-delete-policy: hook-succeeded}}\n",
		"templates/test.yaml":  "apiVersion: v1\nkind: Pod\nmetadata: {name: test, annotations: {helm.sh/hook: test}}\n",
		"templates/NOTES.txt":  "Thanks for installing {{ .Chart.Name }}",
	}
}

func chartInput(t *testing.T, files map[string]string, values map[string]any) Input {
	return Input{
		Layer:  &layer.Layer{Name: "web", Namespace: "apps", Chart: &pb.StackChart{}, Values: values},
		Source: pack(t, files), Version: "v1.36.3", Revision: 1,
		Facts: map[string]any{"inputs": map[string]any{"n": int64(5)}},
	}
}

func TestRender_Chart(t *testing.T) {
	out, err := Render(t.Context(), chartInput(t, chartFiles(), map[string]any{"replicas": "${{ inputs.n }}"}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range slices.Concat(out.Objects, out.Hooks) {
		got = append(got, o.GetKind()+" "+o.GetName())
	}
	want := []string{"CustomResourceDefinition webs.example.com", "Deployment web-web", "Job first", "Job check"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	spec := out.Objects[1].Object["spec"].(map[string]any)
	if spec["replicas"] != int64(5) || out.Version != "1.2.3" || out.Objects[1].GetNamespace() != "apps" {
		t.Errorf("replicas are %v (%T) in %s", spec["replicas"], spec["replicas"], out.Version)
	}
	if first := out.Hooks[0]; !HookDeletedOn(first, "hook-succeeded") || HookDeletedOn(first, "before-hook-creation") || !HookDeletedOn(out.Hooks[1], "before-hook-creation") {
		t.Error("deletion of hooks isn't as their annotations say")
	}
}

func TestRender_ChartBad(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(map[string]string)
		values map[string]any
		want   string
	}{
		"a value of the wrong type":    {nil, map[string]any{"replicas": "many"}, "got string, want integer"},
		"a template that won't render": {func(f map[string]string) { f["templates/bad.yaml"] = "{{ .Values.a.b.c }}" }, nil, "rendering chart web: "},
		"a template with a wrong name": {func(f map[string]string) { f["templates/bad.yaml"] = "{{ include \"nope\" . }}" }, nil, `no template "nope"`},
		"a template that fails":        {func(f map[string]string) { f["templates/bad.yaml"] = "{{ fail \"give a host\" }}" }, nil, "give a host"},
		"what is no YAML":              {func(f map[string]string) { f["templates/bad.yaml"] = "kind: [" }, nil, "reading what web/templates/bad.yaml rendered"},
		"a newer Kubernetes":           {func(f map[string]string) { f["Chart.yaml"] = strings.Replace(chartYAML, "1.30", "1.99", 1) }, nil, "is for Kubernetes >=1.99.0-0, the cluster has v1.36.3"},
		"a chart that isn't there": {func(f map[string]string) {
			f["Chart.yaml"] = chartYAML + "dependencies: [{name: redis, version: 1.x, repository: 'https://a.example'}]\n"
		}, nil, "needs chart redis"},
		"a library":                {func(f map[string]string) { f["Chart.yaml"] = chartYAML + "type: library\n" }, nil, "is a library"},
		"no chart":                 {func(f map[string]string) { delete(f, "Chart.yaml") }, nil, "there is no Chart.yaml"},
		"an expression that fails": {nil, map[string]any{"replicas": "${{ inputs.m }}"}, "evaluating values: replicas: "},
		"an object twice":          {func(f map[string]string) { f["templates/web2.yaml"] = f["templates/web.yaml"] }, nil, "Deployment web-web is there twice"},
	} {
		files := chartFiles()
		if tt.change != nil {
			tt.change(files)
		}
		if _, err := Render(t.Context(), chartInput(t, files, tt.values)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestRender_Kustomization(t *testing.T) {
	files := map[string]string{
		"base/kustomization.yaml": "resources: [map.yaml]\n", "base/map.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
		"site/kustomization.yaml": "resources: [../base]\nnamePrefix: x-\n",
	}
	in := Input{Layer: &layer.Layer{Name: "k", Kustomization: &pb.StackKustomization{Root: "site"}}, Source: pack(t, files)}
	out, err := Render(t.Context(), in)
	if err != nil || len(out.Objects) != 1 || out.Objects[0].GetName() != "x-a" {
		t.Fatalf("it makes %v, %v", out, err)
	}
	files["site/kustomization.yaml"] = "resources: [https://example.invalid/base]\n"
	in.Source = pack(t, files)
	if _, err := Render(t.Context(), in); err == nil {
		t.Error("a resource out of the network is read")
	}
}

func TestRender_Inline(t *testing.T) {
	l := &layer.Layer{Name: "m", Manifests: &pb.StackManifests{Inline: "x"}}
	text := "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {key: '${{ inputs.n }}'}}\n---\n# nothing\n---\n{\"apiVersion\": \"v1\", \"kind\": \"Secret\", \"metadata\": {\"name\": \"b\"}}\n"
	out, err := Render(t.Context(), Input{Layer: l, Source: []byte(text), Facts: map[string]any{"inputs": map[string]any{"n": int64(7)}}})
	if err != nil || len(out.Objects) != 2 {
		t.Fatalf("it makes %v, %v", out, err)
	}
	if data := out.Objects[0].Object["data"].(map[string]any); data["key"] != "7" {
		t.Errorf("data is %v", data)
	}
	for _, bad := range []string{"", "kind: A", "apiVersion: v1\nkind: A", "- a\n- b", "kind: ["} {
		if _, err := Render(t.Context(), Input{Layer: l, Source: []byte(bad)}); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n"))
	f.Add([]byte(`{"apiVersion": "v1", "kind": "List", "items": [{"kind": "A"}]}`))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: 3\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := Parse(text)
		for _, o := range list {
			if err == nil && o == nil {
				t.Error("an object is nil")
			}
		}
	})
}
