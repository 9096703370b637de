package gate

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/bedplate/bedplate/stack/apply"
)

const (
	// maxCause bounds what is said of a layer; maxProblems how many of its objects are looked into.
	maxCause    = 6000
	maxProblems = 4
	maxPods     = 2
	logLines    = 10
	causeTime   = 20 * time.Second
)

// Cause says why objects aren't healthy: the state of their pods, the last
// lines of their logs, the last warnings. It is bounded, and does what it can:
// what can't be read is left out.
func (g *Gate) Cause(ctx context.Context, problems []Problem) string {
	ctx, cancel := context.WithTimeout(ctx, causeTime)
	defer cancel()
	var out strings.Builder
	for i, p := range problems {
		if i == maxProblems {
			fmt.Fprintf(&out, "and %d more\n", len(problems)-i)
			break
		}
		fmt.Fprintln(&out, p)
		for _, line := range g.reasons(ctx, p.Ref) {
			fmt.Fprintf(&out, "  %s\n", line)
		}
	}
	return brieflyTo(strings.TrimSpace(out.String()), maxCause)
}

func brieflyTo(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// reasons are the lines about one object.
func (g *Gate) reasons(ctx context.Context, r apply.Ref) []string {
	var out []string
	pods := g.podsOf(ctx, r)
	unready := 0
	for i := range pods {
		if ready(&pods[i]) {
			continue
		}
		if unready++; unready > maxPods {
			continue
		}
		out = append(out, g.pod(ctx, &pods[i])...)
	}
	if unready > maxPods {
		out = append(out, fmt.Sprintf("and %d more pods", unready-maxPods))
	}
	return append(out, g.warnings(ctx, r.Namespace, r.Kind, r.Name)...)
}

// podsOf returns the pods that an object selects.
func (g *Gate) podsOf(ctx context.Context, r apply.Ref) []corev1.Pod {
	if !slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "Pod"}, r.Kind) {
		return nil
	}
	live, err := g.Cluster.Get(ctx, r)
	if err != nil {
		return nil
	}
	if r.Kind == "Pod" {
		return podsFrom([]unstructured.Unstructured{*live})
	}
	labels, _, _ := unstructured.NestedStringMap(live.Object, "spec", "selector", "matchLabels")
	requests, err := g.Cluster.For(schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, r.Namespace)
	if err != nil || len(labels) == 0 {
		return nil
	}
	list, err := requests.List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: labels}), Limit: 50})
	if err != nil {
		return nil
	}
	return podsFrom(list.Items)
}

func podsFrom(items []unstructured.Unstructured) []corev1.Pod {
	var out []corev1.Pod
	for _, item := range items {
		var p corev1.Pod
		if runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, &p) == nil {
			out = append(out, p)
		}
	}
	// Newest first: those of the revision that isn't healthy.
	slices.SortStableFunc(out, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	return out
}

func ready(p *corev1.Pod) bool {
	if p.Status.Phase == corev1.PodSucceeded {
		return true
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// pod says how a pod is.
func (g *Gate) pod(ctx context.Context, p *corev1.Pod) []string {
	out := []string{fmt.Sprintf("pod %s is %s%s", p.Name, strings.ToLower(string(p.Status.Phase)), unschedulable(p))}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		line, crashed := container(s)
		if line == "" {
			continue
		}
		out = append(out, "  container "+s.Name+" "+line)
		if crashed {
			for _, l := range g.log(ctx, p, s.Name, s.RestartCount > 0 && s.State.Running == nil) {
				out = append(out, "    | "+l)
			}
		}
	}
	for _, w := range g.warnings(ctx, p.Namespace, "Pod", p.Name) {
		out = append(out, "  "+w)
	}
	return out
}

func unschedulable(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return ": " + c.Message
		}
	}
	return ""
}

// container says what keeps a container from being ready, and whether it has ended.
func container(s corev1.ContainerStatus) (line string, crashed bool) {
	end := s.State.Terminated
	if end == nil {
		end = s.LastTerminationState.Terminated
	}
	switch w := s.State.Waiting; {
	case s.Ready:
		return "", false
	case end != nil && end.Reason != "Completed":
		line = fmt.Sprintf("ended with exit code %d (%s), restarted %d times", end.ExitCode, end.Reason, s.RestartCount)
		if w != nil {
			line += "; now " + w.Reason
		}
		return line, true
	case w != nil:
		return "waits: " + strings.TrimSuffix(w.Reason+": "+brief(w.Message), ": ") + " (image " + s.Image + ")", false
	case s.State.Running != nil:
		return "runs, but isn't ready", true
	}
	return "", false
}

// log returns the last lines of a container.
func (g *Gate) log(ctx context.Context, p *corev1.Pod, name string, previous bool) []string {
	requests, err := client(g.Cluster.Config)
	if err != nil {
		return nil
	}
	r := requests.Get().AbsPath("/api/v1/namespaces", p.Namespace, "pods", p.Name, "log").
		Param("container", name).Param("tailLines", fmt.Sprint(logLines)).Param("limitBytes", "4096")
	if previous {
		r = r.Param("previous", "true")
	}
	stream, err := r.Stream(ctx)
	if err != nil {
		return nil
	}
	defer stream.Close() //nolint:errcheck // it was only read
	text, _ := io.ReadAll(io.LimitReader(stream, 4096))
	var out []string
	for l := range strings.SplitSeq(strings.TrimSpace(strings.ToValidUTF8(string(text), "?")), "\n") {
		if l != "" {
			out = append(out, brieflyTo(l, 300))
		}
	}
	return out
}

// warnings returns the last warnings about an object.
func (g *Gate) warnings(ctx context.Context, namespace, kind, name string) []string {
	requests, err := g.Cluster.For(schema.GroupVersionKind{Version: "v1", Kind: "Event"}, namespace)
	if err != nil || namespace == "" {
		return nil
	}
	list, err := requests.List(ctx, metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.kind=" + kind + ",involvedObject.name=" + name, Limit: 50})
	if err != nil {
		return nil
	}
	var out []string
	for _, item := range list.Items {
		reason, _, _ := unstructured.NestedString(item.Object, "reason")
		message, _, _ := unstructured.NestedString(item.Object, "message")
		line := "warning: " + reason + ": " + brief(strings.TrimSpace(message))
		if !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return out[max(0, len(out)-3):]
}
