package layer

import (
	"slices"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/stack/catalog"
)

// implied has each layer without `needs` come after the one before it.
func (r *resolver) implied(in []*pb.StackLayer) {
	for i := range r.layers {
		if len(in[i].GetNeeds()) == 0 && i > 0 {
			r.layers[i].Needs = []string{r.layers[i-1].Name}
		}
	}
}

// references looks for what needs names.
func (r *resolver) references() {
	for i, l := range r.layers {
		for _, n := range l.Needs {
			if _, ok := r.index[n]; !ok {
				r.wrong(at(i, "needs"), "there is no layer %s", n)
			} else if n == l.Name {
				r.wrong(at(i, "needs"), "%s needs itself", n)
			}
		}
	}
}

// order sorts the layers so that each comes after what it needs, and as they
// stand in the stack where that leaves a choice.
func (r *resolver) order() []Layer {
	var out []Layer
	done := map[string]bool{}
	for len(out) < len(r.layers) {
		n := len(out)
		for _, l := range r.layers {
			if !done[l.Name] && !slices.ContainsFunc(l.Needs, func(s string) bool { return !done[s] }) {
				done[l.Name] = true
				out = append(out, l)
			}
		}
		if len(out) == n {
			cycle := r.cycle(done)
			r.wrong(at(r.index[cycle[0]], "needs"), "a circle: %s", strings.Join(append(cycle, cycle[0]), " needs "))
			return nil
		}
	}
	return out
}

// cycle finds a circle among the layers that are not done.
func (r *resolver) cycle(done map[string]bool) []string {
	at := slices.IndexFunc(r.layers, func(l Layer) bool { return !done[l.Name] })
	var path []string
	for {
		l := r.layers[at]
		if i := slices.Index(path, l.Name); i >= 0 {
			return path[i:]
		}
		path = append(path, l.Name)
		next := slices.IndexFunc(l.Needs, func(s string) bool { return !done[s] })
		at = r.index[l.Needs[next]]
	}
}

// capabilities refuses two of what there can be only one, what can't share a
// cluster, and what is offered only after it is needed.
func (r *resolver) capabilities(order []Layer) {
	offered := map[string]string{}
	for _, l := range order {
		e := r.entries[l.Name]
		if e == nil {
			continue
		}
		i := r.index[l.Name]
		for _, c := range e.Offers {
			if first, there := offered[c]; there && slices.Contains(catalog.Exclusive(), c) {
				r.wrong(at(i, "component"), "%s and %s (layer %s) both are the cluster's %s: there can be one", e.Name, r.entries[first].Name, first, c)
			}
			offered[c] = l.Name
		}
		for _, other := range order {
			if o := r.entries[other.Name]; o != nil && slices.Contains(e.Conflicts, o.Name) {
				r.wrong(at(i, "component"), "%s can't share a cluster with %s (layer %s)", e.Name, o.Name, other.Name)
			}
		}
	}
	r.late(order)
}

// late finds needs that a later layer offers, and none before.
func (r *resolver) late(order []Layer) {
	for n, l := range order {
		e := r.entries[l.Name]
		if e == nil {
			continue
		}
		for _, need := range e.Needs {
			if r.offers(order[:n], need) != "" {
				continue
			}
			if later := r.offers(order[n+1:], need); later != "" {
				r.wrong(at(r.index[l.Name], "needs"), "%s needs a %s, which layer %s offers, but that comes later: put it before", l.Name, need, later)
			}
		}
	}
}

// offers returns the first of the layers that offers a capability.
func (r *resolver) offers(layers []Layer, capability string) string {
	for _, l := range layers {
		if e := r.entries[l.Name]; e != nil && slices.Contains(e.Offers, capability) {
			return l.Name
		}
	}
	return ""
}
