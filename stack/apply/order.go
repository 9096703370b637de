package apply

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Ref names one object.
type Ref struct {
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// RefOf names an object.
func RefOf(o *unstructured.Unstructured) Ref {
	gvk := o.GroupVersionKind()
	return Ref{gvk.Group, gvk.Version, gvk.Kind, o.GetNamespace(), o.GetName()}
}

// GVK is the object's kind.
func (r Ref) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

// Same is the ref without its version, which changes while the object stays.
func (r Ref) Same() Ref {
	r.Version = ""
	return r
}

// String is how people read it: Deployment kube-system/coredns.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// The ranks of what doesn't stand in kindRank.
const (
	rankNamespace = iota
	rankDefinition
	rankPolicy
	rankConfig
	rankService
	rankWorkload
	rankWebhook
	rankCustom
)

// kindRank is the order in which kinds are applied: what others refer to
// first. Objects come after the pods and webhooks that look at them. The
// reverse is the order of deletion.
var kindRank = map[string]int{
	"Namespace": rankNamespace, "CustomResourceDefinition": rankDefinition,
	"PriorityClass": rankPolicy, "ResourceQuota": rankPolicy, "LimitRange": rankPolicy, "RuntimeClass": rankPolicy, "StorageClass": rankPolicy,
	"CSIDriver": rankPolicy, "IngressClass": rankPolicy, "ServiceAccount": rankPolicy, "ClusterRole": rankPolicy, "ClusterRoleBinding": rankPolicy,
	"Role": rankPolicy, "RoleBinding": rankPolicy, "NetworkPolicy": rankPolicy, "PodDisruptionBudget": rankPolicy,
	"Secret": rankConfig, "ConfigMap": rankConfig, "PersistentVolume": rankConfig, "PersistentVolumeClaim": rankConfig,
	"Service": rankService, "Endpoints": rankService, "EndpointSlice": rankService,
	"Pod": rankWorkload, "ReplicaSet": rankWorkload, "Deployment": rankWorkload, "StatefulSet": rankWorkload, "DaemonSet": rankWorkload,
	"Job": rankWorkload, "CronJob": rankWorkload, "ReplicationController": rankWorkload, "HorizontalPodAutoscaler": rankWorkload, "Ingress": rankWorkload,
	"APIService": rankWebhook, "ValidatingWebhookConfiguration": rankWebhook, "MutatingWebhookConfiguration": rankWebhook,
	"ValidatingAdmissionPolicy": rankWebhook, "ValidatingAdmissionPolicyBinding": rankWebhook,
}

func rank(kind, group string) int {
	if r, ok := kindRank[kind]; ok && builtin(group) {
		return r
	}
	return rankCustom
}

// builtin reports whether a group is Kubernetes' own.
func builtin(group string) bool {
	return !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io") &&
		slices.Contains([]string{"apiextensions", "apiregistration", "admissionregistration", "rbac", "networking", "storage", "scheduling", "node", "discovery", "policy", "authorization", "coordination", "events", "flowcontrol", "certificates"},
			strings.TrimSuffix(strings.TrimSuffix(group, ".k8s.io"), ".authorization"))
}

// ranks parts objects by rank, in order.
func ranks(objects []*unstructured.Unstructured) [][]*unstructured.Unstructured {
	out := make([][]*unstructured.Unstructured, rankCustom+1)
	for _, o := range objects {
		r := rank(o.GetKind(), o.GroupVersionKind().Group)
		out[r] = append(out[r], o)
	}
	return out
}

// removal sorts refs in the order in which they are deleted: webhooks first,
// as they could refuse the rest; then custom objects, while what cleans up
// after them still runs; namespaces last.
func removal(refs []Ref) [][]Ref {
	out := make([][]Ref, rankCustom+1)
	for _, r := range refs {
		place := rankCustom - rank(r.Kind, r.Group)
		switch {
		case rank(r.Kind, r.Group) == rankWebhook:
			place = 0
		case rank(r.Kind, r.Group) == rankCustom:
			place = 1
		}
		out[place] = append(out[place], r)
	}
	return out
}
