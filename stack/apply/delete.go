package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Delete takes objects off the cluster and waits until they are gone. Those
// that are not the owner's any more are left, as are those that keep says.
func (c *Cluster) Delete(ctx context.Context, refs []Ref, owner Owner, keep func(Ref) bool) error {
	for _, group := range removal(refs) {
		var mu sync.Mutex
		var gone []Ref
		err := each(ctx, group, func(ctx context.Context, r Ref) error {
			if keep != nil && keep(r) {
				return nil
			}
			deleted, err := c.delete(ctx, r, owner)
			if deleted {
				mu.Lock()
				defer mu.Unlock()
				gone = append(gone, r)
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := c.waitGone(ctx, gone); err != nil {
			return err
		}
		if slices.ContainsFunc(gone, func(r Ref) bool { return r.Kind == "CustomResourceDefinition" }) {
			c.Refresh()
		}
	}
	return nil
}

// delete asks for one object's deletion; false: there was nothing to delete.
func (c *Cluster) delete(ctx context.Context, r Ref, owner Owner) (bool, error) {
	live, err := c.Get(ctx, r)
	if absent(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for %s: %w", r, err)
	}
	if l := live.GetLabels(); l[LabelStack] != owner.Stack || l[LabelLayer] != owner.Layer {
		return false, nil
	}
	requests, err := c.For(r.GVK(), r.Namespace)
	if err != nil {
		return false, err
	}
	policy, uid := metav1.DeletePropagationBackground, live.GetUID()
	err = requests.Delete(ctx, r.Name, metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !absent(err) {
		return false, fmt.Errorf("deleting %s: %w", r, err)
	}
	return true, nil
}

// absent reports whether an error says that an object isn't there, or not even its kind.
func absent(err error) bool { return apierrors.IsNotFound(err) || errors.Is(err, ErrNoKind) }

// waitGone waits until none of the objects is there. The error says which
// are, and whose finalizers hold them.
func (c *Cluster) waitGone(ctx context.Context, refs []Ref) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		var left []Ref
		var held []string
		for _, r := range refs {
			live, err := c.Get(ctx, r)
			if absent(err) {
				continue
			}
			left = append(left, r)
			if err == nil {
				held = append(held, r.String()+note(live.GetFinalizers()))
			}
		}
		if len(left) == 0 {
			return nil
		}
		refs = left
		if !sleep(ctx, wait) {
			return fmt.Errorf("%d objects are still there: %s", len(left), strings.Join(held[:min(5, len(held))], ", "))
		}
	}
}

func note(finalizers []string) string {
	if len(finalizers) == 0 {
		return ""
	}
	return " (held by the finalizer " + strings.Join(finalizers, ", ") + ")"
}

// Missing returns the refs of old that are not in now.
func Missing(old, now []Ref) []Ref {
	have := map[Ref]bool{}
	for _, r := range now {
		have[r.Same()] = true
	}
	var out []Ref
	for _, r := range old {
		if !have[r.Same()] {
			out = append(out, r)
		}
	}
	return out
}
