// Package apply puts objects on a cluster by server-side apply, says what that
// would change, and takes them off again. What a stack has made carries its
// name and its layer's as labels: nothing without them is changed or deleted,
// unless the stack may adopt it.
package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	// Manager owns the fields that a stack sets.
	Manager = "bedplate"
	// LabelStack and LabelLayer say whose an object is.
	LabelStack = "stack.bedplate.io/name"
	LabelLayer = "stack.bedplate.io/layer"

	requestTime = 30 * time.Second
	// parallel bounds how many requests are under way at once.
	parallel = 8
)

// Cluster is a connection to one cluster.
type Cluster struct {
	// Config is for what makes requests of its own.
	Config *rest.Config
	// Dynamic, Discovery and Mapper are client-go's.
	Dynamic   dynamic.Interface
	Discovery discovery.CachedDiscoveryInterface
	Mapper    meta.ResettableRESTMapper
}

// Connect makes a connection of a kubeconfig. Nothing is asked yet. A
// kubeconfig that would have the server run a program or read a file of its
// own is refused: it comes from a client.
func Connect(kubeconfig []byte, contextName string) (*Cluster, error) {
	raw, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	if err := selfContained(raw); err != nil {
		return nil, err
	}
	config, err := clientcmd.NewNonInteractiveClientConfig(*raw, contextName, &clientcmd.ConfigOverrides{}, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.QPS, config.Burst, config.Timeout, config.UserAgent = 200, 400, requestTime, Manager
	config.WarningHandler = rest.NoWarnings{}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	cached := memory.NewMemCacheClient(disco)
	return &Cluster{config, d, cached, restmapper.NewDeferredDiscoveryRESTMapper(cached)}, nil
}

// selfContained refuses what refers to the server's own programs and files.
func selfContained(c *clientcmdapi.Config) error {
	const put = ": put what it holds into the kubeconfig (kubectl config view --flatten --raw)"
	for name, u := range c.AuthInfos {
		switch {
		case u.Exec != nil || u.AuthProvider != nil:
			return fmt.Errorf("the kubeconfig's user %s runs a program, which the server doesn't: give it a token or a certificate", name)
		case u.TokenFile != "" || u.ClientCertificate != "" || u.ClientKey != "":
			return fmt.Errorf("the kubeconfig's user %s names a file%s", name, put)
		}
	}
	for name, cl := range c.Clusters {
		if cl.CertificateAuthority != "" {
			return fmt.Errorf("the kubeconfig's cluster %s names a file%s", name, put)
		}
	}
	return nil
}

// Version returns the API server's version, such as v1.36.3.
func (c *Cluster) Version(context.Context) (string, error) {
	v, err := c.Discovery.ServerVersion()
	if err != nil {
		return "", fmt.Errorf("asking the cluster for its version: %w", err)
	}
	return v.GitVersion, nil
}

// APIs returns what the cluster serves, as charts ask for it: apps/v1 and
// apps/v1/Deployment.
func (c *Cluster) APIs() ([]string, error) {
	_, lists, err := c.Discovery.ServerGroupsAndResources()
	if err != nil && len(lists) == 0 {
		return nil, fmt.Errorf("asking the cluster for its APIs: %w", err)
	}
	var out []string
	for _, l := range lists {
		out = append(out, l.GroupVersion)
		for _, r := range l.APIResources {
			out = append(out, l.GroupVersion+"/"+r.Kind)
		}
	}
	return out, nil
}

// Refresh forgets what the cluster serves: definitions have come or gone.
func (c *Cluster) Refresh() { c.Mapper.Reset() }

// ErrNoKind means that the cluster doesn't serve an object's kind.
var ErrNoKind = errors.New("the cluster has no such kind: its definition has to come first")

// For returns the requests for an object's kind, in its namespace.
func (c *Cluster) For(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	mapping, err := c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("%s: %w", gvk.Kind, ErrNoKind)
	}
	if err != nil {
		return nil, fmt.Errorf("asking the cluster for %s: %w", gvk.Kind, err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.Dynamic.Resource(mapping.Resource).Namespace(namespace), nil
	}
	return c.Dynamic.Resource(mapping.Resource), nil
}

// namespaced reports whether objects of a kind are in namespaces. What the
// cluster doesn't serve yet is looked up among the definitions in objects.
func (c *Cluster) namespaced(gvk schema.GroupVersionKind, objects []*unstructured.Unstructured) bool {
	mapping, err := c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err == nil {
		return mapping.Scope.Name() == meta.RESTScopeNameNamespace
	}
	for _, o := range objects {
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
		scope, _, _ := unstructured.NestedString(o.Object, "spec", "scope")
		if o.GetKind() == "CustomResourceDefinition" && group == gvk.Group && kind == gvk.Kind {
			return scope == "Namespaced"
		}
	}
	return true
}
