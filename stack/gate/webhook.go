package gate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/bedplate/bedplate/stack/apply"
)

// webhookTime bounds one question to a webhook.
const webhookTime = 10 * time.Second

// service is where a webhook is.
type service struct {
	namespace, name, path string
	port                  int64
}

// webhooks wants every webhook of a configuration served.
func (g *Gate) webhooks(ctx context.Context, live *unstructured.Unstructured) ([]Problem, error) {
	how := g.Spec.GetWebhooks()
	if how == "ignore" {
		return nil, nil
	}
	list, _, _ := unstructured.NestedSlice(live.Object, "webhooks")
	seen := map[service]bool{}
	var out []Problem
	for _, item := range list {
		w, _ := item.(map[string]any)
		s, ok := serviceOf(w)
		if !ok || seen[s] {
			continue // One by URL is outside of the cluster, and none of ours.
		}
		seen[s] = true
		why, err := g.endpoints(ctx, s)
		if err == nil && why == "" && how != "endpoints" {
			why, err = g.ask(ctx, s)
		}
		if err != nil {
			return nil, err
		}
		if why != "" {
			out = append(out, Problem{apply.RefOf(live), fmt.Sprintf("webhook %v: service %s/%s %s", w["name"], s.namespace, s.name, why), false})
		}
	}
	return out, nil
}

func serviceOf(webhook map[string]any) (service, bool) {
	m, ok, _ := unstructured.NestedMap(webhook, "clientConfig", "service")
	if !ok {
		return service{}, false
	}
	s := service{port: 443}
	s.namespace, _ = m["namespace"].(string)
	s.name, _ = m["name"].(string)
	s.path, _ = m["path"].(string)
	if p, ok := m["port"].(int64); ok {
		s.port = p
	}
	return s, true
}

// endpoints looks for a ready endpoint behind the service.
func (g *Gate) endpoints(ctx context.Context, s service) (string, error) {
	requests, err := g.Cluster.For(schema.GroupVersionKind{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"}, s.namespace)
	if err != nil {
		return "", err
	}
	list, err := requests.List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + s.name, Limit: 100})
	if err != nil {
		return "", fmt.Errorf("looking for the endpoints of service %s/%s: %w", s.namespace, s.name, err)
	}
	for _, slice := range list.Items {
		points, _, _ := unstructured.NestedSlice(slice.Object, "endpoints")
		for _, p := range points {
			m, _ := p.(map[string]any)
			if ready, found, _ := unstructured.NestedBool(m, "conditions", "ready"); ready || !found {
				return "", nil
			}
		}
	}
	return "has no ready endpoint", nil
}

// ask sends a request to the webhook by way of the API server, which is who
// will ask it. Any answer of its own will do, an error for an empty question too.
func (g *Gate) ask(ctx context.Context, s service) (string, error) {
	requests, err := client(g.Cluster.Config)
	if err != nil {
		return "", fmt.Errorf("asking a webhook: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, webhookTime)
	defer cancel()
	path := fmt.Sprintf("/api/v1/namespaces/%s/services/https:%s:%d/proxy/%s", s.namespace, s.name, s.port, strings.TrimPrefix(s.path, "/"))
	var code int
	err = requests.Get().AbsPath(path).Do(ctx).StatusCode(&code).Error()
	var status apierrors.APIStatus
	switch {
	case err == nil, code != 0 && code != http.StatusServiceUnavailable && code != http.StatusBadGateway && code != http.StatusGatewayTimeout && code != http.StatusForbidden && !proxyFailed(err):
		return "", nil
	case code == http.StatusForbidden:
		return "can't be asked: the kubeconfig's user may not use services/proxy; allow it, or set gate.webhooks: endpoints", nil
	case errors.As(err, &status):
		return "doesn't answer: " + brief(err.Error()), nil
	}
	return "doesn't answer: " + brief(err.Error()), nil
}

// proxyFailed tells the API server's own 500 for a connection that it couldn't
// make from one of the webhook's.
func proxyFailed(err error) bool {
	text := err.Error()
	for _, s := range []string{"error trying to reach service", "no endpoints available", "connection refused", "dial tcp"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

func brief(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}
