package render

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/bedplate/bedplate/stack/layer"
)

// The annotations of Helm's hooks (https://helm.sh/docs/topics/charts_hooks).
const (
	hookAnnotation       = "helm.sh/hook"
	hookWeightAnnotation = "helm.sh/hook-weight"
	hookDeleteAnnotation = "helm.sh/hook-delete-policy"
)

// HookEvents returns when a hook runs, such as pre-install; nil: obj is none.
func HookEvents(obj *unstructured.Unstructured) []string {
	text := obj.GetAnnotations()[hookAnnotation]
	if text == "" {
		return nil
	}
	var out []string
	for e := range strings.SplitSeq(text, ",") {
		out = append(out, strings.TrimSpace(e))
	}
	return out
}

// HookDeletedOn reports whether a hook goes when that has come about:
// hook-succeeded, hook-failed or before-hook-creation, which is the default.
func HookDeletedOn(obj *unstructured.Unstructured, policy string) bool {
	text := obj.GetAnnotations()[hookDeleteAnnotation]
	if text == "" {
		text = "before-hook-creation"
	}
	return slices.ContainsFunc(strings.Split(text, ","), func(p string) bool { return strings.TrimSpace(p) == policy })
}

// HookWeight is the place of a hook among those of its event.
func HookWeight(obj *unstructured.Unstructured) int {
	n, err := strconv.Atoi(obj.GetAnnotations()[hookWeightAnnotation])
	if err != nil {
		return 0 // As Helm has it.
	}
	return n
}

// finish parts hooks from objects, and refuses what is there twice.
func finish(l *layer.Layer, objects []*unstructured.Unstructured, err error) (*Rendered, error) {
	if err != nil {
		return nil, err
	}
	out := &Rendered{Version: l.Version}
	seen := map[string]bool{}
	for _, o := range objects {
		events := HookEvents(o)
		if slices.Contains(events, "crd-install") {
			events = nil
		}
		if events != nil {
			if !slices.Contains(events, "test") && !slices.Contains(events, "test-success") {
				out.Hooks = append(out.Hooks, o)
			}
			continue
		}
		key := o.GroupVersionKind().GroupKind().String() + "/" + o.GetNamespace() + "/" + o.GetName()
		if seen[key] {
			return nil, fmt.Errorf("%s %s is there twice", o.GetKind(), o.GetName())
		}
		seen[key] = true
		out.Objects = append(out.Objects, o)
	}
	if len(out.Objects) == 0 && len(out.Hooks) == 0 {
		return nil, fmt.Errorf("there are no objects in it")
	}
	slices.SortStableFunc(out.Hooks, func(a, b *unstructured.Unstructured) int { return HookWeight(a) - HookWeight(b) })
	return out, nil
}
