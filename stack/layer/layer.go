// Package layer makes of what a Stack says the layers that are to be applied:
// each with its source, completed from the catalogue, in the order in which
// they build on one another. It does no I/O. What is wrong is said as
// *resource.FieldErrors, all of it at once.
package layer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack/catalog"
	"github.com/bedplate/bedplate/workflow/expression"
)

// DefaultTimeout is how long a layer may take to be healthy unless it says otherwise.
const DefaultTimeout = 10 * time.Minute

// Layer is one layer, complete.
type Layer struct {
	Name      string
	Component string
	Version   string
	Namespace string
	// PodSecurity is the level for a namespace that is made for the layer; empty: none.
	PodSecurity string
	// Needs are the layers that have to be healthy before.
	Needs []string
	// One of the three is there.
	Chart         *pb.StackChart
	Manifests     *pb.StackManifests
	Kustomization *pb.StackKustomization
	// Values are those of the catalogue and of the stack; expressions are not evaluated yet.
	Values  map[string]any
	Gate    *pb.StackGate
	Timeout time.Duration
	If      string
}

// Release is the name of the chart's release.
func (l *Layer) Release() string {
	if r := l.Chart.GetRelease(); r != "" {
		return r
	}
	return l.Name
}

// resolver collects layers and what is wrong with them.
type resolver struct {
	catalog *catalog.Catalog
	layers  []Layer
	entries map[string]*catalog.Entry
	index   map[string]int
	errs    resource.FieldErrors
}

func (r *resolver) wrong(path, format string, values ...any) {
	r.errs.Errors = append(r.errs.Errors, resource.FieldError{Path: path, Message: fmt.Sprintf(format, values...)})
}

func at(i int, field string) string {
	path := fmt.Sprintf("spec.layers[%d]", i)
	if field != "" {
		path += "." + field
	}
	return path
}

// Resolve returns the layers of a stack in an order in which each comes after
// what it needs.
func Resolve(spec *pb.StackSpec, c *catalog.Catalog) ([]Layer, error) {
	r := &resolver{catalog: c, entries: map[string]*catalog.Entry{}, index: map[string]int{}}
	for i, l := range spec.GetLayers() {
		r.add(i, l)
	}
	r.implied(spec.GetLayers())
	r.references()
	r.checkExpressions(spec)
	if len(r.errs.Errors) > 0 {
		return nil, &r.errs
	}
	order := r.order()
	if len(r.errs.Errors) > 0 {
		return nil, &r.errs
	}
	r.capabilities(order)
	if len(r.errs.Errors) > 0 {
		return nil, &r.errs
	}
	return order, nil
}

// add completes one layer.
func (r *resolver) add(i int, in *pb.StackLayer) {
	l := Layer{
		Name: in.GetName(), Component: in.GetComponent(), Namespace: in.GetNamespace(), Needs: slices.Clone(in.GetNeeds()),
		Chart: proto.CloneOf(in.GetChart()), Manifests: in.GetManifests(), Kustomization: in.GetKustomization(),
		Values: Native(in.GetValues()), Gate: in.GetGate(), Timeout: DefaultTimeout, If: in.GetIf(),
	}
	if l.Name == "" {
		l.Name = l.Component
	}
	switch first, twice := r.index[l.Name]; {
	case l.Name == "":
		r.wrong(at(i, "name"), "missing")
	case twice:
		r.wrong(at(i, "name"), "%s is the name of spec.layers[%d] already", l.Name, first)
	default:
		r.index[l.Name] = i
	}
	if in.GetTimeout() != "" {
		d, err := time.ParseDuration(in.GetTimeout())
		if err != nil || d <= 0 || d > 24*time.Hour {
			r.wrong(at(i, "timeout"), "%q: not a duration up to 24h, such as 10m", in.GetTimeout())
		}
		l.Timeout = d
	}
	if l.Component != "" {
		r.complete(i, &l)
	}
	r.checkSource(i, &l)
	if l.Namespace == "" {
		l.Namespace = "default"
	}
	r.layers = append(r.layers, l)
}

// complete fills in what the catalogue says.
func (r *resolver) complete(i int, l *Layer) {
	e, ok := r.catalog.Named(l.Component)
	switch {
	case !ok:
		r.wrong(at(i, "component"), "%s is not in the catalogue%s", l.Component, r.nearest(l.Component))
		return
	case e.Ended:
		r.wrong(at(i, "component"), "%s has ended: use %s, its successor", e.Title, e.Successor)
		return
	case !e.OnCluster():
		r.wrong(at(i, "component"), "%s is no layer of a stack: %s", e.Title, e.How)
		return
	}
	r.entries[l.Name] = e
	l.Version, l.PodSecurity = e.Version, e.PodSecurity
	if l.Namespace == "" {
		l.Namespace = e.Namespace
	}
	if e.Chart != nil && l.Manifests == nil && l.Kustomization == nil {
		if l.Chart == nil {
			l.Chart = &pb.StackChart{}
		}
		if l.Chart.GetPath() == "" && l.Chart.GetContent() == "" && l.Chart.GetRepository() == "" {
			l.Chart.Repository, l.Chart.Name = e.Chart.Repository, orElse(l.Chart.GetName(), e.Chart.Name)
			l.Chart.Version = orElse(l.Chart.GetVersion(), e.ChartVersion())
		}
		l.Version = orElse(l.Chart.GetVersion(), l.Version)
	}
	if e.Manifests != nil && l.Chart == nil && l.Manifests == nil && l.Kustomization == nil {
		l.Manifests = &pb.StackManifests{Url: strings.ReplaceAll(e.Manifests.URL, "{version}", e.Version)}
	}
	l.Values = Merge(e.Values, l.Values)
	if l.Gate == nil {
		gate, err := e.Gate()
		if err != nil {
			r.wrong(at(i, "component"), "%v", err)
		}
		l.Gate = gate
	}
	if e.Timeout != "" && l.Timeout == DefaultTimeout {
		if d, err := time.ParseDuration(e.Timeout); err == nil {
			l.Timeout = d
		}
	}
}

func (r *resolver) nearest(name string) string {
	var names []string
	for _, e := range r.catalog.All() {
		names = append(names, e.Name)
	}
	if near := resource.Nearest(name, names); near != "" {
		return ": did you mean " + near + "?"
	}
	return ": `bedplate stack catalog` lists it; a chart of your own is given in chart, without component"
}

// checkSource refuses a layer without a source, or with several.
func (r *resolver) checkSource(i int, l *Layer) {
	var given []string
	for _, s := range []struct {
		name  string
		there bool
	}{{"chart", l.Chart != nil}, {"manifests", l.Manifests != nil}, {"kustomization", l.Kustomization != nil}} {
		if s.there {
			given = append(given, s.name)
		}
	}
	if len(given) > 1 {
		r.wrong(at(i, given[1]), "given together with %s: a layer has one source", given[0])
		return
	}
	e := r.entries[l.Name]
	switch {
	case len(given) == 0 && e != nil && e.Commercial:
		r.wrong(at(i, "chart"), "missing: %s is commercial; give the chart, registry and licence that you have of it", e.Title)
	case len(given) == 0 && l.Component == "":
		r.wrong(at(i, ""), "has neither component, chart, manifests nor kustomization")
	case l.Chart != nil:
		r.checkChart(i, l.Chart)
	case l.Manifests != nil:
		m := l.Manifests
		r.checkOne(at(i, "manifests"), map[string]string{"url": m.GetUrl(), "inline": m.GetInline(), "content": orElse(m.GetContent(), m.GetPath())})
		if u := m.GetUrl(); u != "" && !isHTTP(u) {
			r.wrong(at(i, "manifests.url"), "%q: not an http or https URL", u)
		}
	case l.Kustomization != nil && l.Kustomization.GetContent() == "" && l.Kustomization.GetPath() == "":
		r.wrong(at(i, "kustomization.path"), "missing")
	}
	if l.Chart == nil && len(l.Values) > 0 && (e == nil || e.Chart == nil) {
		r.wrong(at(i, "values"), "only a chart takes values")
	}
}

func (r *resolver) checkChart(i int, c *pb.StackChart) {
	r.checkOne(at(i, "chart"), map[string]string{"repository": c.GetRepository(), "content": orElse(c.GetContent(), c.GetPath())})
	if c.GetRepository() == "" {
		return
	}
	if !isHTTP(c.GetRepository()) && !strings.HasPrefix(c.GetRepository(), "oci://") {
		r.wrong(at(i, "chart.repository"), "%q: not https://… of a repository, nor oci://… of a registry", c.GetRepository())
	}
	if c.GetName() == "" {
		r.wrong(at(i, "chart.name"), "missing")
	}
	if c.GetVersion() == "" {
		r.wrong(at(i, "chart.version"), "missing: a stack pins its charts")
	}
}

func isHTTP(u string) bool {
	return strings.HasPrefix(u, "https://") || strings.HasPrefix(u, "http://")
}

// checkOne wants one of several fields.
func (r *resolver) checkOne(path string, fields map[string]string) {
	var given []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if fields[name] != "" {
			given = append(given, name)
		}
	}
	if len(given) != 1 {
		r.wrong(path, "has to have one of %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
}

// checkExpressions compiles what stands between ${{ and }}.
func (r *resolver) checkExpressions(spec *pb.StackSpec) {
	for i, l := range r.layers {
		if err := expression.CheckValue(l.Values, Variables()); err != nil {
			r.wrong(at(i, "values"), "%v", err)
		}
		if err := expression.CheckValue(l.Manifests.GetInline(), Variables()); err != nil {
			r.wrong(at(i, "manifests.inline"), "%v", err)
		}
		if l.If != "" {
			if err := expression.CheckCondition(l.If, Variables()); err != nil {
				r.wrong(at(i, "if"), "%v", err)
			}
		}
		for j, c := range l.Gate.GetChecks() {
			if err := expression.CheckCondition(c.GetExpression(), []string{"object"}); err != nil {
				r.wrong(at(i, fmt.Sprintf("gate.checks[%d].expression", j)), "%v", err)
			}
		}
	}
}

// Variables are what the expressions of a stack can name.
func Variables() []string { return []string{"cluster", "inputs", "machines", "stack"} }

// Native returns values as expressions take them: a number without a fraction
// is an int64, so that it can count and index.
func Native(in map[string]*structpb.Value) map[string]any {
	out := make(map[string]any, len(in))
	for k, v := range in {
		out[k] = native(v.AsInterface())
	}
	return out
}

func native(v any) any {
	switch v := v.(type) {
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	case []any:
		for i := range v {
			v[i] = native(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = native(v[k])
		}
	}
	return v
}

// Merge returns base with over on top, map by map, without changing either.
func Merge(base, over map[string]any) map[string]any {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range over {
		below, isMap := out[k].(map[string]any)
		if above, ok := v.(map[string]any); ok && isMap {
			v = Merge(below, above)
		}
		out[k] = v
	}
	return out
}

func orElse(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}
