package gate

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// daemonTolerations are those that the DaemonSet controller gives every pod
// (https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#taints-and-tolerations).
var daemonTolerations = []corev1.Toleration{
	{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists},
	{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists},
	{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists},
	{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists},
	{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists},
	{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists},
}

// Expected counts the nodes that a DaemonSet may run on: by its node selector
// and affinity, and the taints that it tolerates.
func Expected(ds *unstructured.Unstructured, nodes []corev1.Node) (int, error) {
	var set appsv1.DaemonSet
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(ds.Object, &set); err != nil {
		return 0, fmt.Errorf("reading DaemonSet %s: %w", ds.GetName(), err)
	}
	spec := set.Spec.Template.Spec
	tolerations := append(append([]corev1.Toleration{}, spec.Tolerations...), daemonTolerations...)
	if spec.HostNetwork {
		tolerations = append(tolerations, corev1.Toleration{Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists})
	}
	wanted := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: spec})
	n := 0
	for i := range nodes {
		match, err := wanted.Match(&nodes[i])
		if err != nil {
			return 0, fmt.Errorf("matching DaemonSet %s with nodes: %w", ds.GetName(), err)
		}
		if match && tolerated(nodes[i].Spec.Taints, tolerations) {
			n++
		}
	}
	return n, nil
}

// tolerated reports whether pods with these tolerations may run beside these
// taints. PreferNoSchedule keeps nobody away.
func tolerated(taints []corev1.Taint, tolerations []corev1.Toleration) bool {
	for _, t := range taints {
		if t.Effect == corev1.TaintEffectPreferNoSchedule {
			continue
		}
		ok := false
		for _, tol := range tolerations {
			ok = ok || tolerates(tol, t)
		}
		if !ok {
			return false
		}
	}
	return true
}

// tolerates is the rule of Kubernetes' API for Equal and Exists.
func tolerates(tol corev1.Toleration, t corev1.Taint) bool {
	if tol.Effect != "" && tol.Effect != t.Effect || tol.Key != "" && tol.Key != t.Key {
		return false
	}
	if tol.Operator == corev1.TolerationOpExists {
		return true
	}
	return tol.Key != "" && tol.Value == t.Value
}
