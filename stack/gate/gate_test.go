package gate

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

func nodes() []corev1.Node {
	var out []corev1.Node
	for i := range 6 {
		out = append(out, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i), Labels: map[string]string{"disk": "ssd"}}})
	}
	out[0].Spec.Taints = []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}}
	out[1].Labels["disk"] = "hdd"
	out[2].Spec.Taints = []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectPreferNoSchedule}}
	out[3].Spec.Taints = []corev1.Taint{{Key: "node.kubernetes.io/unschedulable", Effect: corev1.TaintEffectNoSchedule}}
	out[4].Spec.Taints = []corev1.Taint{{Key: "gpu", Value: "yes", Effect: corev1.TaintEffectNoExecute}}
	return out
}

func TestExpected(t *testing.T) {
	for name, tt := range map[string]struct {
		spec string
		want int
	}{
		"with nothing said":                {"{}", 4},
		"on nodes with a label":            {"{nodeSelector: {disk: ssd}}", 3},
		"on no node":                       {"{nodeSelector: {disk: tape}}", 0},
		"on all, tolerating everything":    {"{tolerations: [{operator: Exists}]}", 6},
		"on the control plane too":         {"{tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}]}", 5},
		"tolerating a value":               {"{tolerations: [{key: gpu, value: 'yes'}]}", 5},
		"tolerating another value":         {"{tolerations: [{key: gpu, value: 'no'}]}", 4},
		"by affinity, away from some disk": {"{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: NotIn, values: [ssd]}]}]}}}}", 1},
	} {
		ds := object(t, "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d}\nspec: {template: {spec: "+tt.spec+"}}\n")
		got, err := Expected(ds, nodes())
		if err != nil || got != tt.want {
			t.Errorf("%s: %d nodes, %v, want %d", name, got, err, tt.want)
		}
	}
}

func TestJob(t *testing.T) {
	g := &Gate{}
	for name, tt := range map[string]struct {
		conditions string
		want       string
		final      bool
	}{
		"one that runs":     {"[]", "is not complete", false},
		"one that is done":  {"[{type: Complete, status: 'True'}]", "", false},
		"one that failed":   {"[{type: Failed, status: 'True', reason: BackoffLimitExceeded, message: too often}]", "BackoffLimitExceeded too often", true},
		"one not quite yet": {"[{type: Complete, status: 'False'}]", "is not complete", false},
	} {
		got := g.job(object(t, "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nstatus: {conditions: "+tt.conditions+"}\n"))
		if (len(got) == 0) != (tt.want == "") || len(got) > 0 && (!strings.Contains(got[0].Message, tt.want) || got[0].Final != tt.final) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestContainer(t *testing.T) {
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	for name, tt := range map[string]struct {
		status  corev1.ContainerStatus
		want    string
		crashed bool
	}{
		"an image that isn't there": {corev1.ContainerStatus{Image: "a:1", State: waiting("ImagePullBackOff", "not found")}, "waits: ImagePullBackOff: not found (image a:1)", false},
		"a crash": {corev1.ContainerStatus{State: waiting("CrashLoopBackOff", ""), RestartCount: 3, LastTerminationState: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Reason: "Error"},
		}}, "ended with exit code 2 (Error), restarted 3 times; now CrashLoopBackOff", true},
		"one that is ready": {corev1.ContainerStatus{Ready: true}, "", false},
		"a failing probe":   {corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}, "runs, but isn't ready", true},
	} {
		if got, crashed := container(tt.status); got != tt.want || crashed != tt.crashed {
			t.Errorf("%s: %q, %v", name, got, crashed)
		}
	}
}

func TestServiceOf(t *testing.T) {
	w := object(t, "clientConfig: {service: {namespace: ns, name: s, path: /v, port: 9443}}").Object
	w["clientConfig"].(map[string]any)["service"].(map[string]any)["port"] = int64(9443)
	if s, ok := serviceOf(w); !ok || s != (service{"ns", "s", "/v", 9443}) {
		t.Errorf("the service is %+v", s)
	}
	if _, ok := serviceOf(map[string]any{"clientConfig": map[string]any{"url": "https://a.example"}}); ok {
		t.Error("a webhook by URL has no service")
	}
}
