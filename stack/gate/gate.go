// Package gate decides when a layer is healthy, and says why it isn't. All
// objects have to be current by kstatus; beside that, what kstatus lets pass
// and people trip over: a DaemonSet has to be on every node that it may run
// on, and not on zero of zero; a Job has to be complete, not only started; a
// webhook has to answer. It changes nothing but the Job of a gate's own.
package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/stack/apply"
	"github.com/bedplate/bedplate/workflow/expression"
)

const parallel = 8

// Problem is an object that isn't healthy.
type Problem struct {
	Ref     apply.Ref
	Message string
	// Final: it won't become healthy by waiting.
	Final bool
}

func (p Problem) String() string { return p.Ref.String() + ": " + p.Message }

// Gate looks at the objects of one layer.
type Gate struct {
	Cluster *apply.Cluster
	Spec    *pb.StackGate
	// Namespace is the layer's.
	Namespace string
	Objects   []*unstructured.Unstructured
}

// still are kinds that are healthy once they are there.
var still = map[string]bool{
	"ConfigMap": true, "Secret": true, "ServiceAccount": true, "ClusterRole": true, "ClusterRoleBinding": true, "Role": true, "RoleBinding": true,
	"PriorityClass": true, "StorageClass": true, "IngressClass": true, "RuntimeClass": true, "CSIDriver": true, "NetworkPolicy": true, "LimitRange": true,
	"ResourceQuota": true, "PodDisruptionBudget": true, "CronJob": true, "Ingress": true, "HorizontalPodAutoscaler": true, "Endpoints": true, "EndpointSlice": true,
	"ValidatingAdmissionPolicy": true, "ValidatingAdmissionPolicyBinding": true,
}

// Look returns what isn't healthy, in the order of the objects.
func (g *Gate) Look(ctx context.Context) ([]Problem, error) {
	found := make([][]Problem, len(g.Objects))
	nodes := sync.OnceValues(func() ([]corev1.Node, error) { return g.nodes(ctx) })
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(parallel)
	for i, o := range g.Objects {
		if still[o.GetKind()] {
			continue
		}
		eg.Go(func() (err error) {
			found[i], err = g.look(ctx, o, nodes)
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	out := slices.Concat(found...)
	if len(out) > 0 {
		return out, nil
	}
	return g.checks(ctx)
}

func (g *Gate) look(ctx context.Context, o *unstructured.Unstructured, nodes func() ([]corev1.Node, error)) ([]Problem, error) {
	ref := apply.RefOf(o)
	live, err := g.Cluster.Get(ctx, ref)
	switch {
	case apierrors.IsNotFound(err) && apply.Transient(o):
		return nil, nil
	case apierrors.IsNotFound(err):
		return []Problem{{Ref: ref, Message: "is not there any more"}}, nil
	case errors.Is(err, apply.ErrNoKind):
		return []Problem{{Ref: ref, Message: "its kind is not served yet"}}, nil
	case err != nil:
		return nil, fmt.Errorf("looking at %s: %w", ref, err)
	}
	problem := func(final bool, format string, values ...any) ([]Problem, error) {
		return []Problem{{ref, fmt.Sprintf(format, values...), final}}, nil
	}
	switch ref.Kind {
	case "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration":
		return g.webhooks(ctx, live)
	case "Job":
		return g.job(live), nil
	case "DaemonSet":
		list, err := nodes()
		if err != nil {
			return nil, err
		}
		want, err := Expected(live, list)
		if err != nil {
			return nil, err
		}
		scheduled, _, _ := unstructured.NestedInt64(live.Object, "status", "desiredNumberScheduled")
		if want == 0 && !g.Spec.GetAllowNoNodes() {
			return problem(false, "there is no node that it may run on (of %d nodes)", len(list))
		}
		if int(scheduled) < want {
			return problem(false, "is to be on %d of the %d nodes that it may run on", scheduled, want)
		}
	}
	result, err := status.Compute(live)
	if err != nil {
		return problem(false, "%v", err)
	}
	if result.Status == status.CurrentStatus {
		return nil, nil
	}
	return problem(result.Status == status.FailedStatus && ref.Kind != "Pod", "%s", strings.TrimSuffix(result.Message, "."))
}

// job wants a Job complete.
func (g *Gate) job(live *unstructured.Unstructured) []Problem {
	ref := apply.RefOf(live)
	list, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")
	for _, item := range list {
		m, _ := item.(map[string]any)
		switch {
		case m["status"] != "True":
		case m["type"] == "Complete":
			return nil
		case m["type"] == "Failed":
			return []Problem{{ref, fmt.Sprintf("has failed: %v %v", m["reason"], m["message"]), true}}
		}
	}
	return []Problem{{ref, "is not complete", false}}
}

// checks evaluates the expressions of the gate's own.
func (g *Gate) checks(ctx context.Context) ([]Problem, error) {
	var out []Problem
	for _, c := range g.Spec.GetChecks() {
		gv, err := schema.ParseGroupVersion(c.GetApiVersion())
		if err != nil {
			return nil, fmt.Errorf("check %s: %w", c.GetName(), err)
		}
		namespace := c.GetNamespace()
		if namespace == "" {
			namespace = g.Namespace
		}
		ref := apply.Ref{Group: gv.Group, Version: gv.Version, Kind: c.GetKind(), Namespace: namespace, Name: c.GetObject()}
		live, err := g.Cluster.Get(ctx, ref)
		if apierrors.IsNotFound(err) || errors.Is(err, apply.ErrNoKind) {
			out = append(out, Problem{ref, "check " + c.GetName() + ": it is not there", false})
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("check %s: %w", c.GetName(), err)
		}
		yes, err := expression.EvalCondition(ctx, c.GetExpression(), map[string]any{"object": live.Object})
		if err != nil {
			out = append(out, Problem{ref, fmt.Sprintf("check %s: %v", c.GetName(), err), false})
		} else if !yes {
			out = append(out, Problem{ref, fmt.Sprintf("check %s: %s is not true", c.GetName(), c.GetExpression()), false})
		}
	}
	return out, nil
}

// nodes lists the cluster's nodes.
func (g *Gate) nodes(ctx context.Context) ([]corev1.Node, error) {
	requests, err := g.Cluster.For(schema.GroupVersionKind{Version: "v1", Kind: "Node"}, "")
	if err != nil {
		return nil, err
	}
	var out []corev1.Node
	opts := metav1.ListOptions{Limit: 500}
	for {
		page, err := requests.List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("listing nodes: %w", err)
		}
		for _, item := range page.Items {
			var n corev1.Node
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, &n); err != nil {
				return nil, fmt.Errorf("reading node %s: %w", item.GetName(), err)
			}
			out = append(out, n)
		}
		if opts.Continue = page.GetContinue(); opts.Continue == "" {
			return out, nil
		}
	}
}
