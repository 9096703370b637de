package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/stack/apply"
	"github.com/bedplate/bedplate/stack/content"
	"github.com/bedplate/bedplate/stack/layer"
	"github.com/bedplate/bedplate/stack/render"
	"github.com/bedplate/bedplate/workflow/expression"
)

// fetches bounds how many sources are fetched at once.
const fetches = 4

// job is a stack on its cluster, with all that is needed to apply it.
type job struct {
	stack   *pb.Stack
	cluster *apply.Cluster
	version string
	apis    []string
	facts   map[string]any
	layers  []*prepared
}

// prepared is one layer, rendered.
type prepared struct {
	layer.Layer
	order  int
	source []byte
	// inputs is the digest of all that the layer is made of.
	inputs string
	// skip: its condition says no.
	skip     bool
	rendered *render.Rendered
	record   *record
}

// name is the stack's.
func (j *job) name() string { return j.stack.GetMetadata().GetName() }

func (j *job) owner(layerName string) apply.Owner {
	return apply.Owner{Stack: j.name(), Layer: layerName, Adopt: j.stack.GetSpec().GetAdopt() == "take"}
}

// prepare does all that can go wrong before anything is changed: it resolves
// the layers, fetches what they are made of, evaluates and renders.
func (c *Controller) prepare(ctx context.Context, s *pb.Stack, cluster *apply.Cluster, version string) (*job, error) {
	list, err := layer.Resolve(s.GetSpec(), c.catalog)
	if err != nil {
		return nil, err
	}
	j := &job{stack: s, cluster: cluster, version: version}
	if j.apis, err = cluster.APIs(); err != nil {
		return nil, err
	}
	if j.facts, err = c.facts(ctx, s, cluster, version); err != nil {
		return nil, err
	}
	for i, l := range list {
		j.layers = append(j.layers, &prepared{Layer: l, order: i})
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetches)
	for _, l := range j.layers {
		g.Go(func() (err error) {
			if l.source, err = c.fetch.Fetch(gctx, &l.Layer); err != nil {
				return fmt.Errorf("layer %s: %w", l.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var errs []error
	for _, l := range j.layers {
		if err := c.prepareLayer(ctx, j, l); err != nil {
			errs = append(errs, fmt.Errorf("layer %s: %w", l.Name, err))
		}
	}
	return j, errors.Join(errs...)
}

// prepareLayer renders one layer, or takes what was rendered of the same inputs before.
func (c *Controller) prepareLayer(ctx context.Context, j *job, l *prepared) (err error) {
	if l.record, err = c.loadRecord(ctx, j.name(), l.Name); err != nil {
		return err
	}
	if l.If != "" {
		yes, err := expression.EvalCondition(ctx, l.If, j.facts)
		if err != nil {
			return fmt.Errorf("evaluating if: %w", err)
		}
		if l.skip = !yes; l.skip {
			return nil
		}
	}
	if l.inputs, err = inputsOf(ctx, l, j.facts); err != nil {
		return err
	}
	// What charts make at random stays as it was while nothing else changes.
	if last := l.record.last(); last != nil && last.Inputs == l.inputs {
		if l.rendered, err = c.readRendered(last); err == nil {
			return nil
		}
	}
	return c.renderLayer(ctx, j, l)
}

func (c *Controller) renderLayer(ctx context.Context, j *job, l *prepared) (err error) {
	in := render.Input{Layer: &l.Layer, Source: l.source, Facts: j.facts, Version: j.version, APIs: j.apis, Cluster: j.cluster.Config, Revision: 1}
	if last := l.record.last(); last != nil {
		in.Upgrade, in.Revision = l.record.ready() != nil, last.Number+1
	}
	l.rendered, err = render.Render(ctx, in)
	return err
}

// inputsOf is the digest of what a layer is made of.
func inputsOf(ctx context.Context, l *prepared, facts map[string]any) (string, error) {
	values, err := render.Values(ctx, &l.Layer, facts)
	if err != nil {
		return "", err
	}
	var inline any
	if l.Manifests.GetInline() != "" {
		if inline, err = expression.ExpandValue(ctx, l.Manifests.GetInline(), facts); err != nil {
			return "", fmt.Errorf("evaluating: %w", err)
		}
	}
	text, err := json.Marshal([]any{content.Digest(l.source), values, inline, l.Namespace, l.PodSecurity, l.Layer.Release(), l.Kustomization.GetRoot()})
	if err != nil {
		return "", fmt.Errorf("writing values: %w", err)
	}
	return content.Digest(text), nil
}

// facts are what the stack's expressions see.
func (c *Controller) facts(ctx context.Context, s *pb.Stack, cluster *apply.Cluster, version string) (map[string]any, error) {
	nodes, err := nodesOf(ctx, cluster)
	if err != nil {
		return nil, err
	}
	machines := []any{}
	if c.cfg.Machines != nil {
		if machines, err = c.cfg.Machines(ctx); err != nil {
			return nil, fmt.Errorf("listing machines: %w", err)
		}
	}
	labels := map[string]any{}
	for k, v := range s.GetMetadata().GetLabels() {
		labels[k] = v
	}
	return map[string]any{
		"cluster":  map[string]any{"version": version, "nodes": nodes},
		"machines": machines,
		"inputs":   layer.Native(s.GetSpec().GetInputs()),
		"stack":    map[string]any{"name": s.GetMetadata().GetName(), "labels": labels},
	}, nil
}

// nodesOf describes the cluster's nodes: name, labels, addresses.
func nodesOf(ctx context.Context, cluster *apply.Cluster) ([]any, error) {
	requests, err := cluster.For(schema.GroupVersionKind{Version: "v1", Kind: "Node"}, "")
	if err != nil {
		return nil, err
	}
	out := []any{}
	opts := metav1.ListOptions{Limit: 500}
	for {
		page, err := requests.List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("listing the cluster's nodes: %w", err)
		}
		for _, n := range page.Items {
			labels := map[string]any{}
			for _, k := range slices.Sorted(maps.Keys(n.GetLabels())) {
				labels[k] = n.GetLabels()[k]
			}
			out = append(out, map[string]any{"name": n.GetName(), "labels": labels, "addresses": addressesOf(n)})
		}
		if opts.Continue = page.GetContinue(); opts.Continue == "" {
			return out, nil
		}
	}
}

func addressesOf(n unstructured.Unstructured) []any {
	out := []any{}
	list, _, _ := unstructured.NestedSlice(n.Object, "status", "addresses")
	for _, a := range list {
		if m, ok := a.(map[string]any); ok {
			out = append(out, m["address"])
		}
	}
	return out
}

// complete gives a layer's objects owner and namespace.
func (j *job) complete(ctx context.Context, l *prepared) ([]*unstructured.Unstructured, error) {
	return j.cluster.Prepare(ctx, l.rendered.Objects, j.owner(l.Name), l.Namespace, l.PodSecurity)
}
