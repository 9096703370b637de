package apply

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Change is what would become of one object.
type Change struct {
	Ref Ref
	// Action is create, update, adopt, delete, unknown; or unchanged.
	Action string
	Diff   string
	Err    error
}

// Plan says what applying prepared objects would change, by a dry run on the
// API server, with its defaults and webhooks. Nothing is changed.
func (c *Cluster) Plan(ctx context.Context, objects []*unstructured.Unstructured, owner Owner) ([]Change, error) {
	out := make([]Change, len(objects))
	index := map[*unstructured.Unstructured]int{}
	for i, o := range objects {
		index[o] = i
	}
	var mu sync.Mutex
	err := each(ctx, objects, func(ctx context.Context, o *unstructured.Unstructured) error {
		ch, err := c.planOne(ctx, o, owner)
		mu.Lock()
		defer mu.Unlock()
		out[index[o]] = ch
		return err
	})
	slices.SortStableFunc(out, func(a, b Change) int {
		if d := rank(a.Ref.Kind, a.Ref.Group) - rank(b.Ref.Kind, b.Ref.Group); d != 0 {
			return d
		}
		return strings.Compare(a.Ref.String(), b.Ref.String())
	})
	return out, err
}

func (c *Cluster) planOne(ctx context.Context, o *unstructured.Unstructured, owner Owner) (Change, error) {
	ch := Change{Ref: RefOf(o)}
	live, err := c.Get(ctx, ch.Ref)
	switch {
	case errors.Is(err, ErrNoKind):
		ch.Action = "unknown"
		return ch, nil
	case apierrors.IsNotFound(err):
		live, ch.Action = nil, "create"
	case err != nil:
		return ch, err
	case owner.foreign(live):
		ch.Action = "adopt"
	default:
		ch.Action = "update"
	}
	dry, err := c.apply(ctx, o, true)
	if apierrors.IsNotFound(err) && live == nil {
		// Its namespace is made with it.
		dry, err = o, nil
	}
	if err != nil {
		ch.Err = err
		return ch, nil
	}
	ch.Diff = Diff(live, dry)
	if ch.Diff == "" && ch.Action == "update" {
		ch.Action = "unchanged"
	}
	return ch, nil
}

// Drift returns the objects that are not what was applied, with what differs.
func (c *Cluster) Drift(ctx context.Context, objects []*unstructured.Unstructured, owner Owner) ([]Change, error) {
	lasting := slices.DeleteFunc(slices.Clone(objects), Transient)
	changes, err := c.Plan(ctx, lasting, owner)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(changes, func(ch Change) bool {
		// What a webhook refuses to look at can't be compared, and isn't changed for that.
		return ch.Action == "unchanged" || ch.Action == "unknown" || ch.Err != nil
	}), nil
}

// Transient reports whether an object goes by itself once it is done: a Job
// with ttlSecondsAfterFinished, such as Contour's for its certificates.
func Transient(o *unstructured.Unstructured) bool {
	_, found, _ := unstructured.NestedFieldNoCopy(o.Object, "spec", "ttlSecondsAfterFinished")
	return found && o.GetKind() == "Job"
}
