package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const (
	// maxDiffLines bounds what is compared line by line: the table of the
	// comparison has the square of it.
	maxDiffLines = 3000
	diffContext  = 2
)

// Diff shows what changes between two states of an object, as lines of YAML
// with - and + before them; empty: nothing. What the server alone writes is
// left out, and of Secrets the values are.
func Diff(before, after *unstructured.Unstructured) string {
	return diffLines(lines(before), lines(after))
}

func lines(o *unstructured.Unstructured) []string {
	if o == nil {
		return nil
	}
	text, err := yaml.Marshal(stripped(o).Object)
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// stripped is an object without what changes by itself: bookkeeping, status,
// and the certificates that controllers put into webhooks and definitions.
func stripped(o *unstructured.Unstructured) *unstructured.Unstructured {
	o = o.DeepCopy()
	unstructured.RemoveNestedField(o.Object, "status")
	for _, f := range []string{"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink", "finalizers", "ownerReferences"} {
		unstructured.RemoveNestedField(o.Object, "metadata", f)
	}
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "deployment.kubernetes.io/revision")
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration")
	unstructured.RemoveNestedField(o.Object, "spec", "conversion", "webhook", "clientConfig", "caBundle")
	unstructured.RemoveNestedField(o.Object, "spec", "caBundle")
	if list, ok := o.Object["webhooks"].([]any); ok {
		for _, w := range list {
			if m, ok := w.(map[string]any); ok {
				unstructured.RemoveNestedField(m, "clientConfig", "caBundle")
			}
		}
	}
	if o.GetKind() == "Secret" {
		hide(o.Object, "data")
		hide(o.Object, "stringData")
	}
	return o
}

// hide replaces values by a short digest, so that a change shows and the value doesn't.
func hide(o map[string]any, field string) {
	m, ok := o[field].(map[string]any)
	if !ok {
		return
	}
	for k, v := range m {
		sum := sha256.Sum256([]byte(fmt.Sprint(v)))
		m[k] = "(hidden, " + hex.EncodeToString(sum[:4]) + ")"
	}
}

// diffLines compares by the longest common subsequence.
func diffLines(a, b []string) string {
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	endA, endB := len(a), len(b)
	for endA > start && endB > start && a[endA-1] == b[endB-1] {
		endA--
		endB--
	}
	if start == endA && start == endB {
		return ""
	}
	var out []string
	for _, l := range a[max(0, start-diffContext):start] {
		out = append(out, "  "+l)
	}
	if endA-start > maxDiffLines || endB-start > maxDiffLines {
		out = append(out, fmt.Sprintf("~ %d lines become %d", endA-start, endB-start))
	} else {
		out = append(out, edits(a[start:endA], b[start:endB])...)
	}
	for _, l := range a[endA:min(len(a), endA+diffContext)] {
		out = append(out, "  "+l)
	}
	return strings.Join(out, "\n")
}

// edits returns the lines with what is to be done to them; long stretches of
// unchanged lines are shortened.
func edits(a, b []string) []string {
	table := make([][]int, len(a)+1)
	for i := range table {
		table[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				table[i][j] = table[i+1][j+1] + 1
			} else {
				table[i][j] = max(table[i+1][j], table[i][j+1])
			}
		}
	}
	var out, same []string
	flush := func() {
		if len(same) > 2*diffContext+1 {
			same = append(append(same[:diffContext:diffContext], "  …"), same[len(same)-diffContext:]...)
		}
		out = append(out, same...)
		same = nil
	}
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			same = append(same, "  "+a[i])
			i++
			j++
		case i < len(a) && (j == len(b) || table[i+1][j] >= table[i][j+1]):
			flush()
			out = append(out, "- "+a[i])
			i++
		default:
			flush()
			out = append(out, "+ "+b[j])
			j++
		}
	}
	flush()
	return out
}
