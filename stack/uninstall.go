package stack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack/apply"
	"github.com/bedplate/bedplate/stack/layer"
	"github.com/bedplate/bedplate/store"
)

// removeTime is how long one layer may take to go.
const removeTime = 10 * time.Minute

// uninstall takes a stack off its cluster, last layer first, and forgets it.
func (c *Controller) uninstall(ctx context.Context, s *pb.Stack) error {
	name := s.GetMetadata().GetName()
	records, err := c.records(ctx, name)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return c.forget(ctx, name)
	}
	if err := c.update(ctx, name, func(st *pb.StackStatus) {
		st.State, st.Cause = pb.StackState_STACK_REMOVING, ""
	}, "", "", false); err != nil {
		return err
	}
	cluster, _, err := c.connect(ctx, s)
	if err != nil {
		return c.stuck(ctx, name, fmt.Errorf("the cluster doesn't answer: %w (if it is gone for good, delete its kubeconfig Secret: the stack is then forgotten)", err), s)
	}
	for _, r := range slices.Backward(records) {
		if err := c.removeLayer(ctx, s, cluster, r, records); err != nil {
			return c.stuck(ctx, name, fmt.Errorf("layer %s: %w", r.Layer, err), s)
		}
	}
	return c.forget(ctx, name)
}

// stuck says what an uninstallation waits for; it goes on by itself. A stack
// without its kubeconfig has no cluster any more.
func (c *Controller) stuck(ctx context.Context, name string, cause error, s *pb.Stack) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := resource.Get[*pb.Secret](ctx, c.cfg.DB, s.GetSpec().GetCluster().GetKubeconfigSecret())
	if errors.Is(err, store.ErrNotFound) {
		records, err := c.records(ctx, name)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := c.dropRecord(ctx, name, r); err != nil {
				return err
			}
		}
		return c.forget(ctx, name)
	}
	return c.update(ctx, name, func(st *pb.StackStatus) { st.Cause = "uninstalling: " + cause.Error() }, "", "", false)
}

// forget deletes the resource.
func (c *Controller) forget(ctx context.Context, name string) error {
	s, err := resource.Get[*pb.Stack](ctx, c.cfg.DB, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = c.cfg.DB.Store.Txn(ctx, []store.Compare{resource.Unchanged(s)},
		[]store.Op{resource.Remove[*pb.Stack](name), c.cfg.Event(name, "Uninstalled", "nothing of it is left in its cluster", false)})
	return err
}

// removeLayer takes all that a layer may have left off the cluster.
func (c *Controller) removeLayer(ctx context.Context, s *pb.Stack, cluster *apply.Cluster, r *record, all []*record) error {
	name := s.GetMetadata().GetName()
	if err := c.layer(ctx, name, r.Layer, func(st *pb.StackLayerStatus) {
		st.State, st.Cause = pb.StackState_STACK_REMOVING, ""
	}, "", "", false); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	j := &job{stack: s, cluster: cluster}
	var old *prepared
	if good := r.ready(); good != nil {
		out, err := c.readRendered(good)
		if err == nil {
			old = &prepared{Layer: layer.Layer{Name: r.Layer, Namespace: good.Namespace, Timeout: removeTime}, rendered: out, record: r}
			if err := c.runHooks(ctx, j, old, out.Hooks, "pre-delete"); err != nil {
				return err
			}
		}
	}
	if err := cluster.Delete(ctx, r.refs(), j.owner(r.Layer), c.keepsBeside(s, r, all)); err != nil {
		return err
	}
	if old != nil {
		if err := c.runHooks(ctx, j, old, old.rendered.Hooks, "post-delete"); err != nil {
			return err
		}
		if err := cluster.Delete(ctx, r.refs(), j.owner(r.Layer), c.keepsBeside(s, r, all)); err != nil {
			return err
		}
	}
	return c.dropRecord(ctx, name, r)
}

// keeps says what stays when objects of a layer are removed: definitions, by
// policy, and namespaces in which another layer has something.
func (c *Controller) keeps(ctx context.Context, s *pb.Stack, layerName string) func(apply.Ref) bool {
	all, err := c.records(ctx, s.GetMetadata().GetName())
	if err != nil {
		return func(r apply.Ref) bool { return r.Kind == "Namespace" || r.Kind == "CustomResourceDefinition" }
	}
	return c.keepsBeside(s, &record{Layer: layerName}, all)
}

func (c *Controller) keepsBeside(s *pb.Stack, self *record, all []*record) func(apply.Ref) bool {
	used := map[string]bool{}
	for _, r := range all {
		if r.Layer == self.Layer {
			continue
		}
		for _, ref := range r.refs() {
			used[ref.Namespace] = true
		}
	}
	return func(r apply.Ref) bool {
		switch r.Kind {
		case "CustomResourceDefinition":
			return s.GetSpec().GetCrds() != "delete"
		case "Namespace":
			return used[r.Name]
		}
		return false
	}
}
