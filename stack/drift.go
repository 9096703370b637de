package stack

import (
	"context"
	"fmt"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// lookForDrift compares what was applied with what is there, when it is time.
func (c *Controller) lookForDrift(ctx context.Context, s *pb.Stack) error {
	policy := s.GetSpec().GetDrift()
	if policy == "ignore" || c.cfg.Now().Sub(s.GetStatus().GetDriftCheckTime().AsTime()) < c.cfg.DriftInterval {
		return nil
	}
	cluster, _, err := c.connect(ctx, s)
	if err != nil {
		return c.update(ctx, s.GetMetadata().GetName(), func(st *pb.StackStatus) {
			st.Cause = "the cluster doesn't answer: " + err.Error()
			st.DriftCheckTime = c.now()
		}, "", "", false)
	}
	found, err := c.drift(ctx, s, policy == "correct", &job{stack: s, cluster: cluster})
	if err != nil {
		return err
	}
	reason, message := "", ""
	if len(found) > 0 {
		reason, message = "Drifted", strings.Join(found, ", ")
		if policy == "correct" {
			reason = "DriftCorrected"
		}
	}
	was := s.GetStatus().GetState()
	return c.update(ctx, s.GetMetadata().GetName(), func(st *pb.StackStatus) {
		st.DriftCheckTime, st.Cause, st.State = c.now(), "", pb.StackState_STACK_READY
		if len(found) > 0 && policy != "correct" {
			st.State = pb.StackState_STACK_DRIFTED
			st.Cause = fmt.Sprintf("%d objects are not what was applied: %s", len(found), message)
		}
	}, unless(was == pb.StackState_STACK_DRIFTED && policy != "correct", reason), message, true)
}

func unless(not bool, s string) string {
	if not {
		return ""
	}
	return s
}

// drift returns the objects that differ, layer by layer, and applies them
// again if that is wanted.
func (c *Controller) drift(ctx context.Context, s *pb.Stack, correct bool, j *job) ([]string, error) {
	records, err := c.records(ctx, s.GetMetadata().GetName())
	if err != nil {
		return nil, err
	}
	var all []string
	for _, r := range records {
		last := r.last()
		if last == nil || !last.Ready {
			continue
		}
		was, err := c.readRendered(last)
		if err != nil {
			return nil, err
		}
		objects, err := j.cluster.Prepare(ctx, was.Objects, j.owner(r.Layer), last.Namespace, "")
		if err != nil {
			return nil, err
		}
		changes, err := j.cluster.Drift(ctx, objects, j.owner(r.Layer))
		if err != nil {
			return nil, err
		}
		var names []string
		for _, ch := range changes {
			what := "changed"
			if ch.Action == "create" {
				what = "deleted"
			}
			names = append(names, ch.Ref.String()+" was "+what)
		}
		if len(names) > 0 && correct {
			if err := j.cluster.Apply(ctx, objects, func(int) {}); err != nil {
				return nil, err
			}
		}
		all = append(all, names...)
		if err := c.layer(ctx, s.GetMetadata().GetName(), r.Layer, func(st *pb.StackLayerStatus) {
			if st.Drift = names; correct {
				st.Drift = nil
			}
		}, "", "", false); err != nil {
			return nil, err
		}
	}
	return all, nil
}
