package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Owner is whose objects are.
type Owner struct {
	Stack, Layer string
	// Adopt lets objects be taken that are nobody's.
	Adopt bool
}

// Prepare completes objects before they are applied: the namespace of those
// that name none, the labels of their owner, and the namespace itself where it
// is neither there nor among them.
func (c *Cluster) Prepare(ctx context.Context, objects []*unstructured.Unstructured, owner Owner, namespace, podSecurity string) ([]*unstructured.Unstructured, error) {
	out := make([]*unstructured.Unstructured, 0, len(objects)+1)
	used := false
	for _, o := range objects {
		o = o.DeepCopy()
		unstructured.RemoveNestedField(o.Object, "status")
		unstructured.RemoveNestedField(o.Object, "metadata", "creationTimestamp")
		if c.namespaced(o.GroupVersionKind(), objects) {
			if o.GetNamespace() == "" {
				o.SetNamespace(namespace)
			}
			used = used || o.GetNamespace() == namespace
		} else {
			o.SetNamespace("")
		}
		owner.mark(o)
		out = append(out, o)
	}
	has := slices.ContainsFunc(out, func(o *unstructured.Unstructured) bool {
		return o.GetKind() == "Namespace" && o.GetName() == namespace
	})
	if !used || has {
		return out, nil
	}
	ns, err := c.needsNamespace(ctx, namespace, podSecurity, owner)
	if err != nil || ns == nil {
		return out, err
	}
	return append([]*unstructured.Unstructured{ns}, out...), nil
}

func (o Owner) mark(obj *unstructured.Unstructured) {
	labels := obj.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[LabelStack], labels[LabelLayer] = o.Stack, o.Layer
	obj.SetLabels(labels)
}

// needsNamespace returns the namespace to make; nil where it is somebody else's.
func (c *Cluster) needsNamespace(ctx context.Context, name, podSecurity string, owner Owner) (*unstructured.Unstructured, error) {
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}}
	if podSecurity != "" {
		// https://kubernetes.io/docs/concepts/security/pod-security-admission
		ns.SetLabels(map[string]string{"pod-security.kubernetes.io/enforce": podSecurity})
	}
	live, err := c.Get(ctx, RefOf(ns))
	if apierrors.IsNotFound(err) {
		owner.mark(ns)
		return ns, nil
	}
	if err != nil {
		return nil, err
	}
	if l := live.GetLabels(); l[LabelStack] == owner.Stack && l[LabelLayer] == owner.Layer {
		owner.mark(ns)
		return ns, nil
	}
	return nil, nil
}

// Get returns an object as it is in the cluster.
func (c *Cluster) Get(ctx context.Context, r Ref) (*unstructured.Unstructured, error) {
	requests, err := c.For(r.GVK(), r.Namespace)
	if err != nil {
		return nil, err
	}
	return requests.Get(ctx, r.Name, metav1.GetOptions{})
}

// ForeignError lists objects that are there already and not the stack's.
type ForeignError struct{ Objects []string }

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%d objects are there already and not this stack's: %s; remove them, or let the stack have them with adopt: take",
		len(e.Objects), strings.Join(e.Objects[:min(len(e.Objects), 8)], ", "))
}

// foreign reports whether a live object isn't the owner's. Namespaces are
// shared: they are never foreign.
func (o Owner) foreign(live *unstructured.Unstructured) bool {
	return live.GetLabels()[LabelStack] != o.Stack && live.GetKind() != "Namespace"
}

// CheckForeign returns a *ForeignError for objects that may not be taken.
func (c *Cluster) CheckForeign(ctx context.Context, objects []*unstructured.Unstructured, owner Owner) error {
	if owner.Adopt {
		return nil
	}
	var mu sync.Mutex
	found := &ForeignError{}
	err := each(ctx, objects, func(ctx context.Context, o *unstructured.Unstructured) error {
		live, err := c.Get(ctx, RefOf(o))
		if apierrors.IsNotFound(err) || errors.Is(err, ErrNoKind) {
			return nil
		}
		if err == nil && owner.foreign(live) {
			mu.Lock()
			defer mu.Unlock()
			found.Objects = append(found.Objects, RefOf(o).String())
		}
		return err
	})
	if err == nil && len(found.Objects) > 0 {
		slices.Sort(found.Objects)
		return found
	}
	return err
}

// each calls f for all items, a few at a time.
func each[T any](ctx context.Context, items []T, f func(context.Context, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, it := range items {
		g.Go(func() error { return f(ctx, it) })
	}
	return g.Wait()
}

// Apply puts prepared objects on the cluster, by kinds in order, and tells
// progress of it. What can't be applied yet, because its definition or its
// webhook isn't there, is tried again until ctx is done; the error then says
// what was in the way.
func (c *Cluster) Apply(ctx context.Context, objects []*unstructured.Unstructured, progress func(done int)) error {
	var mu sync.Mutex
	done := 0
	var later []*unstructured.Unstructured
	for i, group := range ranks(objects) {
		err := each(ctx, group, func(ctx context.Context, o *unstructured.Unstructured) error {
			_, err := c.apply(ctx, o, false)
			mu.Lock()
			defer mu.Unlock()
			if retriable(err) {
				later = append(later, o)
				return nil
			}
			if err != nil {
				return fmt.Errorf("applying %s: %w", RefOf(o), err)
			}
			done++
			progress(done)
			return nil
		})
		if err != nil {
			return err
		}
		if i <= rankDefinition && len(later) > 0 {
			// What all others are in, or made of, is waited for: the webhook of
			// another layer may be what refuses a namespace.
			if err := c.applyLater(ctx, later, func() { done++; progress(done) }); err != nil {
				return err
			}
			later = nil
		}
		if i == rankDefinition && len(group) > 0 {
			if err := c.established(ctx, group); err != nil {
				return err
			}
		}
	}
	return c.applyLater(ctx, later, func() { done++; progress(done) })
}

// applyLater applies, one by one, what wasn't possible at first.
func (c *Cluster) applyLater(ctx context.Context, later []*unstructured.Unstructured, progress func()) error {
	for _, o := range later {
		for {
			c.Refresh()
			_, err := c.apply(ctx, o, false)
			if err == nil {
				progress()
				break
			}
			if !retriable(err) {
				return fmt.Errorf("applying %s: %w", RefOf(o), err)
			}
			if !sleep(ctx, time.Second) {
				return fmt.Errorf("applying %s: %w: %w", RefOf(o), err, context.DeadlineExceeded)
			}
		}
	}
	return nil
}

// sleep waits, and reports whether ctx is still good.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retriable reports whether an error may go by itself: a definition or a
// webhook that isn't there yet, a namespace that is just being made, an API
// server that is busy or restarts.
func retriable(err error) bool {
	if err == nil {
		return false
	}
	return errors.Is(err, ErrNoKind) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsInternalError(err) && strings.Contains(err.Error(), "failed calling webhook") || apierrors.IsConflict(err) && strings.Contains(err.Error(), "object is being deleted")
}

// apply sends one object; dry asks what would come of it.
func (c *Cluster) apply(ctx context.Context, o *unstructured.Unstructured, dry bool) (*unstructured.Unstructured, error) {
	requests, err := c.For(o.GroupVersionKind(), o.GetNamespace())
	if err != nil {
		return nil, err
	}
	opts := metav1.ApplyOptions{FieldManager: Manager, Force: true}
	if dry {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	return requests.Apply(ctx, o.GetName(), o, opts)
}

// established waits until the API server serves what definitions define.
func (c *Cluster) established(ctx context.Context, definitions []*unstructured.Unstructured) error {
	for _, d := range definitions {
		for {
			live, err := c.Get(ctx, RefOf(d))
			if err != nil {
				return fmt.Errorf("waiting for %s: %w", RefOf(d), err)
			}
			if condition(live, "Established") == "True" {
				break
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return fmt.Errorf("waiting for %s to be established: %w", RefOf(d), ctx.Err())
			}
		}
	}
	c.Refresh()
	return nil
}

// condition returns the status of a condition: True, False, Unknown, or empty.
func condition(o *unstructured.Unstructured, name string) string {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, item := range list {
		if m, ok := item.(map[string]any); ok && m["type"] == name {
			s, _ := m["status"].(string)
			return s
		}
	}
	return ""
}
