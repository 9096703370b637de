package stack

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack/apply"
)

const header = "apiVersion: bedplate/v1\nkind: Stack\nmetadata: {name: %s}\nspec:\n  cluster: {kubeconfig_secret: k}\n  crds: delete\n  layers:\n"

// configMap is a layer of one ConfigMap.
func configMap(name, value string) string {
	return fmt.Sprintf("  - name: %s\n    namespace: %s\n    manifests: {inline: \"apiVersion: v1\\nkind: ConfigMap\\nmetadata: {name: %s}\\ndata: {value: '%s'}\"}\n", name, name, name, value)
}

// deployment is a layer of one Deployment with something in its pods' spec.
func deployment(name, spec, timeout string) string {
	return fmt.Sprintf(`  - name: %[1]s
    namespace: %[1]s
    timeout: %[3]s
    manifests:
      inline: |
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: %[1]s}
        spec:
          replicas: 2
          selector: {matchLabels: {app: %[1]s}}
          template:
            metadata: {labels: {app: %[1]s}}
            spec: {%[2]s containers: [{name: main, image: 'example.invalid/app:1'}]}
`, name, spec, timeout)
}

// TestStack has one control plane for all: it takes seconds to start.
func TestStack(t *testing.T) {
	r := newRig(t, 5)
	t.Run("published manifests: accepted, healthy, and gone without a trace", r.published)
	t.Run("an upgrade changes its layer and no other, and prunes", r.upgrade)
	t.Run("a layer that isn't healthy says why and goes back", r.broken)
	t.Run("a webhook that never serves is named", r.webhook)
	t.Run("a pod that crashes or has no image is named", r.crash)
	t.Run("what is somebody else's is refused before anything is changed", r.foreign)
	t.Run("drift is found, and corrected on request", r.drift)
	t.Run("a server that is killed in the middle goes on", r.restart)
}

func (r *rig) sub(t *testing.T) *rig {
	s := *r
	s.t = t
	return &s
}

func (r *rig) published(t *testing.T) {
	r = r.sub(t)
	text := fmt.Sprintf(header, "published")
	total := 0
	for _, name := range []string{"flannel", "metallb", "contour", "ingress-nginx", "trivy-operator", "longhorn"} {
		path := example(t, name+".yaml")
		total += objects(t, path)
		text += fmt.Sprintf("  - name: %s\n    timeout: 5m\n    manifests: {content: '%s'}\n    gate: {webhooks: endpoints}\n", name, r.put(path))
	}
	text += fmt.Sprintf("  - name: cilium\n    namespace: cilium\n    timeout: 5m\n    chart: {content: '%s'}\n    values: {operator: {replicas: 1}, hubble: {enabled: false}}\n    gate: {webhooks: endpoints}\n", r.put(example(t, "cilium-1.19.6.tgz")))
	// Last: its webhook refuses namespaces while nobody serves it, and kwok's pods don't.
	total += objects(t, example(t, "gatekeeper.yaml"))
	text += fmt.Sprintf("  - name: gatekeeper\n    timeout: 5m\n    manifests: {content: '%s'}\n    gate: {webhooks: endpoints}\n", r.put(example(t, "gatekeeper.yaml")))
	start := time.Now()
	r.apply(text)
	s := r.wait("published", pb.StackState_STACK_READY, 10*time.Minute)
	applied := 0
	for _, l := range s.GetStatus().GetLayers() {
		t.Logf("%s: %d objects, %s", l.GetName(), l.GetObjects(), l.GetEndTime().AsTime().Sub(l.GetStartTime().AsTime()))
		if l.GetName() != "cilium" {
			applied += int(l.GetObjects())
		}
	}
	t.Logf("%d objects of manifests and the chart in %s", applied, time.Since(start).Round(time.Second))
	if applied < total {
		t.Errorf("%d objects were applied of %d", applied, total)
	}
	plan, err := r.stacks.PlanStack(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range plan {
		// Gatekeeper's webhook refuses dry runs on namespaces, as nobody serves it here.
		if l.GetAction() != "unchanged" && !strings.Contains(l.GetMessage(), "check-ignore-label.gatekeeper.sh") {
			t.Errorf("what was just applied would change: %s %s %v", l.GetName(), l.GetAction(), l.GetObjects())
		}
	}
	start = time.Now()
	r.remove("published", 10*time.Minute)
	t.Logf("gone in %s", time.Since(start).Round(time.Second))
	if left := r.left("published"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func (r *rig) upgrade(t *testing.T) {
	r = r.sub(t)
	first := fmt.Sprintf(header, "up") + configMap("low", "1") + configMap("mid", "1") + configMap("old", "1")
	r.apply(first)
	r.wait("up", pb.StackState_STACK_READY, time.Minute)
	r.apply(fmt.Sprintf(header, "up") + configMap("low", "1") + configMap("mid", "2"))
	var s *pb.Stack
	eventually(t, time.Minute, "the change is ready", func() (bool, string) {
		s = r.wait("up", pb.StackState_STACK_READY, time.Minute)
		return len(s.GetStatus().GetLayers()) == 2 && s.GetStatus().GetLayers()[1].GetRevision() == 2, fmt.Sprint(s.GetStatus())
	})
	if low := s.GetStatus().GetLayers()[0]; low.GetRevision() != 1 {
		t.Errorf("the layer below is at revision %d", low.GetRevision())
	}
	if left := r.left("up"); slices.Contains(left, "ConfigMap old/old") || slices.Contains(left, "Namespace old") || !slices.Contains(left, "ConfigMap mid/mid") {
		t.Errorf("there are %v", left)
	}
	r.remove("up", time.Minute)
	if left := r.left("up"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func (r *rig) broken(t *testing.T) {
	r = r.sub(t)
	r.apply(fmt.Sprintf(header, "broken") + configMap("base", "1") + deployment("web", "", "1m"))
	r.wait("broken", pb.StackState_STACK_READY, 2*time.Minute)
	r.apply(fmt.Sprintf(header, "broken") + configMap("base", "1") + deployment("web", "nodeSelector: {disk: tape},", "10s") + configMap("after", "1"))
	s := r.wait("broken", pb.StackState_STACK_FAILED, 2*time.Minute)
	web := s.GetStatus().GetLayers()[1]
	for _, want := range []string{"not healthy within 10s", "Deployment web/web", "0/5 nodes are available", "rolled back to revision 1"} {
		if !strings.Contains(web.GetCause(), want) {
			t.Errorf("the cause doesn't say %q:\n%s", want, web.GetCause())
		}
	}
	if base, after := s.GetStatus().GetLayers()[0], s.GetStatus().GetLayers()[2]; base.GetState() != pb.StackState_STACK_READY || base.GetRevision() != 1 || after.GetRevision() != 0 {
		t.Errorf("the layers beside it are %v and %v", base, after)
	}
	live := r.get(apply.Ref{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "web", Name: "web"})
	if sel, _, _ := unstructured.NestedMap(live.Object, "spec", "template", "spec", "nodeSelector"); len(sel) > 0 {
		t.Errorf("it still selects nodes: %v", sel)
	}
	r.remove("broken", 2*time.Minute)
}

func (r *rig) webhook(t *testing.T) {
	r = r.sub(t)
	r.apply(fmt.Sprintf(header, "hook") + `  - name: hook
    namespace: hook
    timeout: 8s
    manifests:
      inline: |
        apiVersion: v1
        kind: Service
        metadata: {name: hook}
        spec: {selector: {app: none}, ports: [{port: 443}]}
        ---
        apiVersion: admissionregistration.k8s.io/v1
        kind: ValidatingWebhookConfiguration
        metadata: {name: hook}
        webhooks:
        - name: hook.example.com
          clientConfig: {service: {namespace: hook, name: hook}}
          rules: [{apiGroups: [example.com], apiVersions: [v1], operations: [CREATE], resources: [webs]}]
          admissionReviewVersions: [v1]
          sideEffects: None
`)
	s := r.wait("hook", pb.StackState_STACK_FAILED, time.Minute)
	if cause := s.GetStatus().GetCause(); !strings.Contains(cause, "webhook hook.example.com: service hook/hook has no ready endpoint") || !strings.Contains(cause, "was removed") {
		t.Errorf("the cause is:\n%s", cause)
	}
	if left := r.left("hook"); len(left) > 0 {
		t.Errorf("the rollback leaves %v", left)
	}
	r.remove("hook", time.Minute)
}

func (r *rig) crash(t *testing.T) {
	r = r.sub(t)
	// A node that kwok leaves alone: the test stands in for its kubelet.
	nodes, err := r.kube.For(schema.GroupVersionKind{Version: "v1", Kind: "Node"}, "")
	if err != nil {
		t.Fatal(err)
	}
	node := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": "still"}}}
	if _, err := nodes.Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.apply(fmt.Sprintf(header, "crash") + deployment("web", "nodeName: still,", "15s"))
	pods, err := r.kube.For(schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, "web")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "its pods are there", func() (bool, string) {
		list, err := pods.List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil || len(list.Items) < 2 {
			return false, fmt.Sprint(err)
		}
		states := []map[string]any{
			{"waiting": map[string]any{"reason": "ImagePullBackOff", "message": "example.invalid/app:1: not found"}},
			{"terminated": map[string]any{"exitCode": int64(3), "reason": "Error"}},
		}
		for i, p := range list.Items[:2] {
			_ = unstructured.SetNestedSlice(p.Object, []any{map[string]any{"name": "main", "ready": false, "restartCount": int64(0), "image": "example.invalid/app:1", "imageID": "", "state": states[i]}}, "status", "containerStatuses")
			if _, err := pods.UpdateStatus(t.Context(), &p, metav1.UpdateOptions{}); err != nil {
				return false, err.Error()
			}
		}
		return true, ""
	})
	var s *pb.Stack
	eventually(t, 2*time.Minute, "the stack has failed", func() (bool, string) {
		// No kubelet says that the pods have ended, so that the rollback would wait for them.
		now := int64(0)
		list, err := pods.List(t.Context(), metav1.ListOptions{})
		for _, p := range list.Items {
			if p.GetDeletionTimestamp() != nil {
				_ = pods.Delete(t.Context(), p.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now})
			}
		}
		if err == nil {
			s, err = resource.Get[*pb.Stack](t.Context(), r.db, "crash")
		}
		return s.GetStatus().GetState() == pb.StackState_STACK_FAILED, fmt.Sprint(err, s.GetStatus())
	})
	for _, want := range []string{"ImagePullBackOff: example.invalid/app:1: not found", "ended with exit code 3 (Error)"} {
		if !strings.Contains(s.GetStatus().GetCause(), want) {
			t.Errorf("the cause doesn't say %q:\n%s", want, s.GetStatus().GetCause())
		}
	}
	r.remove("crash", time.Minute)
	if err := nodes.Delete(t.Context(), "still", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) get(ref apply.Ref) *unstructured.Unstructured {
	r.t.Helper()
	live, err := r.kube.Get(r.t.Context(), ref)
	if err != nil {
		r.t.Fatal(err)
	}
	return live
}

func (r *rig) foreign(t *testing.T) {
	r = r.sub(t)
	maps, err := r.kube.For(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, "default")
	if err != nil {
		t.Fatal(err)
	}
	theirs := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "theirs"}}}
	if _, err := maps.Create(t.Context(), theirs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	layers := configMap("mine", "1") + "  - name: theirs\n    manifests: {inline: \"apiVersion: v1\\nkind: ConfigMap\\nmetadata: {name: theirs}\\ndata: {a: b}\"}\n"
	r.apply(fmt.Sprintf(header, "foreign") + layers)
	s := r.wait("foreign", pb.StackState_STACK_FAILED, time.Minute)
	if cause := s.GetStatus().GetCause(); !strings.Contains(cause, "nothing was changed") || !strings.Contains(cause, "ConfigMap default/theirs") {
		t.Errorf("the cause is:\n%s", cause)
	}
	if left := r.left("foreign"); len(left) > 0 {
		t.Errorf("something was changed: %v", left)
	}
	r.apply(strings.Replace(fmt.Sprintf(header, "foreign"), "  crds:", "  adopt: take\n  crds:", 1) + layers)
	r.wait("foreign", pb.StackState_STACK_READY, time.Minute)
	r.remove("foreign", time.Minute)
}

func (r *rig) drift(t *testing.T) {
	r = r.sub(t)
	r.apply(fmt.Sprintf(header, "drift") + configMap("d", "1"))
	r.wait("drift", pb.StackState_STACK_READY, time.Minute)
	maps, err := r.kube.For(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, "d")
	if err != nil {
		t.Fatal(err)
	}
	live := r.get(apply.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "d", Name: "d"})
	_ = unstructured.SetNestedField(live.Object, "other", "data", "value")
	if _, err := maps.Update(t.Context(), live, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s := r.wait("drift", pb.StackState_STACK_DRIFTED, time.Minute)
	if got := s.GetStatus().GetLayers()[0].GetDrift(); !slices.Equal(got, []string{"ConfigMap d/d was changed"}) {
		t.Errorf("the drift is %v", got)
	}
	plan, err := r.stacks.PlanStack(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if got := plan[0].GetObjects(); len(got) != 1 || !strings.Contains(got[0].GetDiff(), "-   value: other") || !strings.Contains(got[0].GetDiff(), "+   value: \"1\"") {
		t.Errorf("the plan doesn't show what was changed: %v", got)
	}
	r.apply(strings.Replace(fmt.Sprintf(header, "drift"), "  crds:", "  drift: correct\n  crds:", 1) + configMap("d", "1"))
	eventually(t, time.Minute, "the change is taken back", func() (bool, string) {
		live := r.get(apply.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "d", Name: "d"})
		value, _, _ := unstructured.NestedString(live.Object, "data", "value")
		return value == "1", value
	})
	r.remove("drift", time.Minute)
}

func (r *rig) restart(t *testing.T) {
	r = r.sub(t)
	r.apply(fmt.Sprintf(header, "again") + configMap("one", "1") + deployment("two", "nodeSelector: {comes: later},", "2m") + configMap("three", "1"))
	eventually(t, time.Minute, "the second layer waits", func() (bool, string) {
		live, err := r.kube.Get(t.Context(), apply.Ref{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "two", Name: "two"})
		return err == nil && live != nil, fmt.Sprint(err)
	})
	r.stop()
	nodes, err := r.kube.For(schema.GroupVersionKind{Version: "v1", Kind: "Node"}, "")
	if err != nil {
		t.Fatal(err)
	}
	node := r.get(apply.Ref{Version: "v1", Kind: "Node", Name: "node-1"})
	labels := node.GetLabels()
	labels["comes"] = "later"
	node.SetLabels(labels)
	if _, err := nodes.Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.run()
	defer func() { r.stop() }()
	s := r.wait("again", pb.StackState_STACK_READY, 3*time.Minute)
	if two := s.GetStatus().GetLayers()[1]; two.GetRevision() != 1 {
		t.Errorf("the layer was applied as revision %d", two.GetRevision())
	}
	r.remove("again", time.Minute)
	if left := r.left("again"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
