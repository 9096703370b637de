// Package render makes Kubernetes objects of a layer: of a Helm chart by Helm's
// own loader and engine, of manifests, or of a kustomization. It changes
// nothing; a chart's `lookup` may read the cluster.
package render

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/bedplate/bedplate/stack/content"
	"github.com/bedplate/bedplate/stack/layer"
	"github.com/bedplate/bedplate/workflow/expression"
)

// maxObjects bounds one layer.
const maxObjects = 5000

// Input is what a layer is rendered with.
type Input struct {
	Layer *layer.Layer
	// Source is what package source has fetched for it.
	Source []byte
	// Facts are what expressions see.
	Facts map[string]any
	// Version and APIs are the cluster's, such as v1.36.3 and apps/v1.
	Version string
	APIs    []string
	// Upgrade: the layer is there already, as this revision.
	Upgrade  bool
	Revision int
	// Cluster is what `lookup` reads; nil: it finds nothing.
	Cluster *rest.Config
}

// Rendered is what a layer comes to.
type Rendered struct {
	// Objects are applied, Hooks run beside them.
	Objects []*unstructured.Unstructured
	Hooks   []*unstructured.Unstructured
	// Version is the chart's.
	Version string
}

// Render makes the objects of a layer.
func Render(ctx context.Context, in Input) (*Rendered, error) {
	switch l := in.Layer; {
	case l.Chart != nil:
		return renderChart(ctx, in)
	case l.Kustomization != nil:
		objects, err := kustomize(in.Source, l.Kustomization.GetRoot())
		return finish(l, objects, err)
	case l.Manifests.GetInline() != "":
		text, err := expression.ExpandValue(ctx, string(in.Source), in.Facts)
		if err != nil {
			return nil, fmt.Errorf("evaluating: %w", err)
		}
		objects, err := Parse([]byte(fmt.Sprint(text)))
		return finish(l, objects, err)
	default:
		objects, err := manifests(in.Source)
		return finish(l, objects, err)
	}
}

// Values returns a layer's values with every expression evaluated.
func Values(ctx context.Context, l *layer.Layer, facts map[string]any) (map[string]any, error) {
	out, err := expression.ExpandValue(ctx, l.Values, facts)
	if err != nil {
		return nil, fmt.Errorf("evaluating values: %w", err)
	}
	values, _ := out.(map[string]any)
	return values, nil
}

func renderChart(ctx context.Context, in Input) (*Rendered, error) {
	c, err := load(in.Source)
	if err != nil {
		return nil, err
	}
	values, err := Values(ctx, in.Layer, in.Facts)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(in)
	if err != nil {
		return nil, err
	}
	if r := c.Metadata.KubeVersion; r != "" && !chartutil.IsCompatibleRange(r, caps.KubeVersion.String()) {
		return nil, fmt.Errorf("chart %s %s is for Kubernetes %s, the cluster has %s", c.Name(), c.Metadata.Version, r, in.Version)
	}
	if err := missing(c); err != nil {
		return nil, err
	}
	if err := chartutil.ProcessDependencies(c, values); err != nil {
		return nil, fmt.Errorf("reading the chart's dependencies: %w", err)
	}
	full, err := util.ToRenderValues(c, values, common.ReleaseOptions{
		Name: in.Layer.Release(), Namespace: in.Layer.Namespace, Revision: in.Revision, IsInstall: !in.Upgrade, IsUpgrade: in.Upgrade,
	}, caps)
	if err != nil {
		return nil, fmt.Errorf("checking values: %w", err)
	}
	e := engine.Engine{}
	if in.Cluster != nil {
		e = engine.New(in.Cluster)
	}
	files, err := e.RenderWithContext(ctx, c, full)
	if err != nil {
		return nil, fmt.Errorf("rendering chart %s: %w", c.Name(), err)
	}
	var objects []*unstructured.Unstructured
	for _, crd := range c.CRDObjects() {
		list, err := Parse(crd.File.Data)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", crd.Filename, err)
		}
		objects = append(objects, list...)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "NOTES.txt") || strings.HasPrefix(name[strings.LastIndex(name, "/")+1:], "_") {
			continue
		}
		list, err := Parse([]byte(files[name]))
		if err != nil {
			return nil, fmt.Errorf("reading what %s rendered: %w", name, err)
		}
		objects = append(objects, list...)
	}
	out, err := finish(in.Layer, objects, nil)
	if err == nil {
		out.Version = c.Metadata.Version
	}
	return out, err
}

// load reads a chart from its archive: one that was packed by Helm, or a
// directory that the command line has packed, without the folder around it.
func load(data []byte) (*chart.Chart, error) {
	files, err := content.Unpack(data)
	if err != nil {
		return nil, fmt.Errorf("reading the chart: %w", err)
	}
	prefix := ""
	if _, ok := files["Chart.yaml"]; !ok {
		for name := range files {
			folder, rest, _ := strings.Cut(name, "/")
			if rest == "Chart.yaml" {
				prefix = folder + "/"
			}
		}
		if prefix == "" {
			return nil, errors.New("reading the chart: there is no Chart.yaml in it")
		}
	}
	var list []*archive.BufferedFile
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			list = append(list, &archive.BufferedFile{Name: rest, Data: files[name]})
		}
	}
	c, err := loader.LoadFiles(list)
	if err != nil {
		return nil, fmt.Errorf("reading the chart: %w", err)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("reading the chart: %w", err)
	}
	if c.Metadata.Type == "library" {
		return nil, fmt.Errorf("chart %s is a library: it has no objects of its own", c.Name())
	}
	return c, nil
}

// missing names dependencies that the chart doesn't bring with it.
func missing(c *chart.Chart) error {
	have := map[string]bool{}
	for _, d := range c.Dependencies() {
		have[d.Name()] = true
	}
	for _, d := range c.Metadata.Dependencies {
		if !have[d.Name] {
			return fmt.Errorf("chart %s needs chart %s, which isn't in its charts folder: run `helm dependency build` on it first", c.Name(), d.Name)
		}
	}
	return nil
}

func capabilities(in Input) (*common.Capabilities, error) {
	version, err := common.ParseKubeVersion(in.Version)
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's version %q: %w", in.Version, err)
	}
	caps := common.DefaultCapabilities.Copy()
	caps.KubeVersion = *version
	if in.APIs != nil {
		caps.APIVersions = in.APIs
	}
	return caps, nil
}

func kustomize(data []byte, root string) ([]*unstructured.Unstructured, error) {
	files, err := content.Unpack(data)
	if err != nil {
		return nil, fmt.Errorf("reading the kustomization: %w", err)
	}
	fsys := filesys.MakeFsInMemory()
	for name, body := range files {
		if err := fsys.WriteFile("/stack/"+name, body); err != nil {
			return nil, fmt.Errorf("reading the kustomization: %w", err)
		}
	}
	result, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fsys, strings.TrimSuffix("/stack/"+root, "/"))
	if err != nil {
		return nil, fmt.Errorf("building the kustomization: %w", err)
	}
	text, err := result.AsYaml()
	if err != nil {
		return nil, fmt.Errorf("building the kustomization: %w", err)
	}
	return Parse(text)
}

// manifests reads a file, or all YAML and JSON files of an archive.
func manifests(data []byte) ([]*unstructured.Unstructured, error) {
	if !content.IsArchive(data) {
		return Parse(data)
	}
	files, err := content.Unpack(data)
	if err != nil {
		return nil, fmt.Errorf("reading the manifests: %w", err)
	}
	var out []*unstructured.Unstructured
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !slices.ContainsFunc([]string{".yaml", ".yml", ".json"}, func(e string) bool { return strings.HasSuffix(name, e) }) {
			continue
		}
		list, err := Parse(files[name])
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		out = append(out, list...)
	}
	return out, nil
}

// Parse reads Kubernetes objects from YAML documents or JSON; Lists are taken apart.
func Parse(text []byte) ([]*unstructured.Unstructured, error) {
	if len(text) > content.MaxBytes {
		return nil, fmt.Errorf("more than %d MiB", content.MaxBytes>>20)
	}
	var out []*unstructured.Unstructured
	d := k8syaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for n := 1; ; n++ {
		var document runtime.RawExtension
		err := d.Decode(&document)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		raw := map[string]any{}
		if err == nil && len(document.Raw) > 0 {
			// Whole numbers become int64, as everything of Kubernetes expects them.
			err = json.Unmarshal(document.Raw, &raw)
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		if len(raw) == 0 {
			continue
		}
		obj := &unstructured.Unstructured{Object: raw}
		if obj.GetAPIVersion() == "" || obj.GetKind() == "" {
			return nil, fmt.Errorf("document %d: no Kubernetes object: apiVersion and kind are missing", n)
		}
		if obj.IsList() {
			if err := obj.EachListItem(func(o runtime.Object) error {
				out = append(out, o.(*unstructured.Unstructured))
				return nil
			}); err != nil {
				return nil, fmt.Errorf("document %d: %w", n, err)
			}
			continue
		}
		if obj.GetName() == "" {
			return nil, fmt.Errorf("document %d: %s without metadata.name", n, obj.GetKind())
		}
		if out = append(out, obj); len(out) > maxObjects {
			return nil, fmt.Errorf("more than %d objects", maxObjects)
		}
	}
}
