package stack

import (
	"context"
	"slices"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/stack/apply"
)

// maxDiffBytes bounds what a plan says of one object, maxPlanBytes of all.
const (
	maxDiffBytes = 16 << 10
	maxPlanBytes = 2 << 20
)

// PlanStack implements api.Stacks: what applying the stack would change, by a
// dry run on its cluster. The stack needn't be on record.
func (c *Controller) PlanStack(ctx context.Context, s *pb.Stack) ([]*pb.StackLayerPlan, error) {
	cluster, version, err := c.connect(ctx, s)
	if err != nil {
		return nil, err
	}
	j, err := c.prepare(ctx, s, cluster, version)
	if err != nil {
		return nil, err
	}
	var out []*pb.StackLayerPlan
	records, err := c.records(ctx, j.name())
	if err != nil {
		return nil, err
	}
	left := maxPlanBytes
	for _, r := range slices.Backward(records) {
		if !slices.ContainsFunc(j.layers, func(l *prepared) bool { return l.Name == r.Layer && !l.skip }) {
			out = append(out, planRemoval(r))
		}
	}
	for _, l := range j.layers {
		p, err := c.planLayer(ctx, j, l, &left)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func planRemoval(r *record) *pb.StackLayerPlan {
	p := &pb.StackLayerPlan{Name: r.Layer, Action: "remove"}
	for _, ref := range r.refs() {
		p.Objects = append(p.Objects, &pb.StackObjectPlan{Object: ref.String(), Action: "delete"})
	}
	return p
}

func (c *Controller) planLayer(ctx context.Context, j *job, l *prepared, left *int) (*pb.StackLayerPlan, error) {
	p := &pb.StackLayerPlan{Name: l.Name, Action: "unchanged", Version: l.Version}
	if l.skip {
		p.Action = "skip"
		return p, nil
	}
	p.Version = l.rendered.Version
	objects, err := j.complete(ctx, l)
	if err != nil {
		return nil, err
	}
	wanted := objects
	if last := l.record.last(); last != nil && last.Ready && last.Inputs == l.inputs {
		wanted = slices.DeleteFunc(slices.Clone(objects), apply.Transient)
	}
	changes, err := j.cluster.Plan(ctx, wanted, j.owner(l.Name))
	if err != nil {
		return nil, err
	}
	for _, ch := range changes {
		switch {
		case ch.Err != nil:
			p.Message = ch.Ref.String() + ": " + ch.Err.Error()
			p.Action = "error"
		case ch.Action == "adopt" && !j.owner(l.Name).Adopt:
			p.Message = (&apply.ForeignError{Objects: []string{ch.Ref.String()}}).Error()
			p.Action = "error"
		}
		if ch.Action == "unchanged" {
			continue
		}
		if p.Action == "unchanged" {
			p.Action = "update"
		}
		p.Objects = append(p.Objects, planObject(ch, left))
	}
	if l.record.last() == nil && p.Action == "update" {
		p.Action = "create"
	}
	if last := l.record.last(); last != nil {
		for _, ref := range apply.Missing(last.Objects, refsOf(objects)) {
			p.Objects = append(p.Objects, &pb.StackObjectPlan{Object: ref.String(), Action: "delete"})
			if p.Action == "unchanged" {
				p.Action = "update"
			}
		}
	}
	return p, nil
}

// planObject shortens what is too long to be read.
func planObject(ch apply.Change, left *int) *pb.StackObjectPlan {
	diff := ch.Diff
	if most := min(maxDiffBytes, *left); len(diff) > most {
		diff = diff[:most] + "\n…"
	}
	*left -= min(len(diff), *left)
	return &pb.StackObjectPlan{Object: ch.Ref.String(), Action: ch.Action, Diff: diff}
}
