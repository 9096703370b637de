package stack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack/apply"
)

// layersAtOnce bounds how many layers that don't need one another are applied together.
const layersAtOnce = 4

// install applies a stack: first all that can be refused without a change,
// then what was removed, then layer by layer.
func (c *Controller) install(ctx context.Context, s *pb.Stack) error {
	name := s.GetMetadata().GetName()
	if err := c.begin(ctx, s); err != nil {
		return err
	}
	cluster, version, err := c.connect(ctx, s)
	if err != nil {
		return c.waitFor(ctx, name, err)
	}
	j, err := c.prepare(ctx, s, cluster, version)
	if err == nil {
		err = c.refuseForeign(ctx, j)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return c.fail(ctx, name, fmt.Errorf("nothing was changed: %w", err))
	}
	if err := c.update(ctx, name, func(st *pb.StackStatus) { c.describe(st, j) }, "", "", false); err != nil {
		return err
	}
	if err := c.removeOld(ctx, j); err != nil {
		return c.fail(ctx, name, err)
	}
	if err := c.applyLayers(ctx, j); err != nil {
		return c.fail(ctx, name, err)
	}
	return c.update(ctx, name, func(st *pb.StackStatus) {
		st.State, st.Cause, st.EndTime, st.DriftCheckTime = pb.StackState_STACK_READY, "", c.now(), c.now()
	}, "Ready", fmt.Sprintf("%d layers are healthy", len(j.layers)), false)
}

// begin puts on record what is being carried out.
func (c *Controller) begin(ctx context.Context, s *pb.Stack) error {
	digest := wanted(s)
	resumed := s.GetStatus().GetAppliedDigest() == digest && s.GetStatus().GetState() == pb.StackState_STACK_APPLYING
	if resumed {
		return nil
	}
	return c.update(ctx, s.GetMetadata().GetName(), func(st *pb.StackStatus) {
		if st.GetAppliedDigest() != digest {
			st.StartTime, st.EndTime = c.now(), nil
		}
		st.AppliedDigest, st.State, st.Cause = digest, pb.StackState_STACK_APPLYING, ""
		if st.StartTime == nil {
			st.StartTime = c.now()
		}
	}, "", "", false)
}

// waitFor leaves the stack pending: its cluster doesn't answer, and may later.
func (c *Controller) waitFor(ctx context.Context, name string, err error) error {
	return c.update(ctx, name, func(st *pb.StackStatus) {
		st.State, st.Cause = pb.StackState_STACK_PENDING, "waiting for the cluster: "+err.Error()
	}, "", "", false)
}

// fail puts on record why a stack isn't what is wanted. When the work was
// ended from outside, what was under way stays as it is on record.
func (c *Controller) fail(ctx context.Context, name string, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	text := cause.Error()
	var fields *resource.FieldErrors
	if errors.As(cause, &fields) {
		text = strings.TrimSpace(text)
	}
	return c.update(ctx, name, func(st *pb.StackStatus) {
		st.State, st.Cause, st.EndTime = pb.StackState_STACK_FAILED, text, c.now()
	}, "Failed", text, true)
}

// describe lists the layers in the status; what is known of them stays.
func (c *Controller) describe(st *pb.StackStatus, j *job) {
	old := map[string]*pb.StackLayerStatus{}
	for _, l := range st.GetLayers() {
		old[l.GetName()] = l
	}
	st.Layers, st.ClusterVersion = nil, j.version
	for _, l := range j.layers {
		now := old[l.Name]
		if now == nil {
			now = &pb.StackLayerStatus{Name: l.Name}
		}
		if now.GetState() != pb.StackState_STACK_ROLLING_BACK && now.GetDigest() != l.inputs {
			now.State, now.Cause, now.StartTime, now.EndTime, now.Drift = pb.StackState_STACK_PENDING, "", nil, nil, nil
		}
		now.Component, now.Version = l.Component, l.Version
		if l.rendered != nil {
			now.Version = l.rendered.Version
		}
		if l.skip {
			now.State = pb.StackState_STACK_SKIPPED
		}
		st.Layers = append(st.Layers, now)
	}
}

// layer changes the status of one layer on record.
func (c *Controller) layer(ctx context.Context, stack, layer string, change func(*pb.StackLayerStatus), reason, message string, warning bool) error {
	return c.update(ctx, stack, func(st *pb.StackStatus) {
		for _, l := range st.GetLayers() {
			if l.GetName() == layer {
				change(l)
			}
		}
	}, reason, message, warning)
}

// refuseForeign refuses, before anything is changed, objects that are somebody else's.
func (c *Controller) refuseForeign(ctx context.Context, j *job) error {
	var errs []error
	for _, l := range j.layers {
		if l.skip {
			continue
		}
		objects, err := j.complete(ctx, l)
		if err == nil {
			err = j.cluster.CheckForeign(ctx, objects, j.owner(l.Name))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("layer %s: %w", l.Name, err))
		}
	}
	return errors.Join(errs...)
}

// removeOld uninstalls layers that the stack has no more, last ones first.
func (c *Controller) removeOld(ctx context.Context, j *job) error {
	records, err := c.records(ctx, j.name())
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(records) {
		if slices.ContainsFunc(j.layers, func(l *prepared) bool { return l.Name == r.Layer && !l.skip }) {
			continue
		}
		if err := c.removeLayer(ctx, j.stack, j.cluster, r, records); err != nil {
			return fmt.Errorf("removing layer %s: %w", r.Layer, err)
		}
	}
	return nil
}

// applyLayers applies each layer once those that it needs are healthy. After
// the first that fails no other is begun.
func (c *Controller) applyLayers(ctx context.Context, j *job) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	healthy, running := map[string]bool{}, map[string]bool{}
	results := make(chan error, len(j.layers))
	var failed []error
	for {
		begun := 0
		mu.Lock()
		for _, l := range j.layers {
			waits := slices.ContainsFunc(l.Needs, func(n string) bool { return !healthy[n] })
			if healthy[l.Name] || running[l.Name] || waits || len(failed) > 0 || len(running) >= layersAtOnce {
				continue
			}
			running[l.Name] = true
			wg.Go(func() {
				err := c.applyLayer(ctx, j, l)
				mu.Lock()
				delete(running, l.Name)
				healthy[l.Name] = err == nil
				mu.Unlock()
				results <- err
			})
		}
		begun = len(running)
		mu.Unlock()
		if begun == 0 && len(results) == 0 {
			return errors.Join(failed...)
		}
		if err := <-results; err != nil {
			failed = append(failed, err)
		}
	}
}

// applyLayer takes one layer to what is wanted and waits at its gate.
func (c *Controller) applyLayer(ctx context.Context, j *job, l *prepared) error {
	if l.skip {
		return nil
	}
	last := l.record.last()
	was := c.statusOf(ctx, j, l)
	if was.GetState() == pb.StackState_STACK_ROLLING_BACK {
		return c.rollback(ctx, j, l, "the server was restarted while the layer was rolled back")
	}
	if last != nil && last.Ready && last.Inputs == l.inputs && len(was.GetDrift()) == 0 {
		return c.layer(ctx, j.name(), l.Name, func(st *pb.StackLayerStatus) { c.settled(st, l, last) }, "", "", false)
	}
	objects, err := c.record(ctx, j, l)
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.Name, err)
	}
	start := c.cfg.Now()
	err = c.layer(ctx, j.name(), l.Name, func(st *pb.StackLayerStatus) {
		if st.GetStartTime() == nil || st.GetDigest() != l.inputs || st.GetEndTime() != nil {
			st.StartTime = timestamppb.New(start)
		}
		start = st.GetStartTime().AsTime()
		st.State, st.Cause, st.EndTime, st.Digest = pb.StackState_STACK_APPLYING, "", nil, l.inputs
		st.Revision, st.Objects, st.Drift = uint32(l.record.last().Number), uint32(len(objects)), nil
	}, "", "", false)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, max(l.Timeout-c.cfg.Now().Sub(start), time.Second))
	defer cancel()
	if cause := c.carryOut(limit, j, l, objects); cause != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return c.failLayer(ctx, j, l, cause)
	}
	return c.succeed(ctx, j, l)
}

// statusOf is what is on record of a layer; nil: nothing.
func (c *Controller) statusOf(ctx context.Context, j *job, l *prepared) *pb.StackLayerStatus {
	s, err := resource.Get[*pb.Stack](ctx, c.cfg.DB, j.name())
	if err != nil {
		return nil
	}
	for _, st := range s.GetStatus().GetLayers() {
		if st.GetName() == l.Name {
			return st
		}
	}
	return nil
}

func (c *Controller) settled(st *pb.StackLayerStatus, l *prepared, rev *revision) {
	st.State, st.Cause, st.Digest = pb.StackState_STACK_READY, "", l.inputs
	st.Revision, st.ReadyRevision, st.Objects, st.Drift = uint32(rev.Number), uint32(rev.Number), uint32(len(rev.Objects)), nil
	if st.EndTime == nil {
		st.EndTime = c.now()
	}
}

// succeed removes what the layer had before and has no more, and puts its health on record.
func (c *Controller) succeed(ctx context.Context, j *job, l *prepared) error {
	last := l.record.last()
	if gone := apply.Missing(l.record.refs(), slices.Concat(last.Objects, last.Hooks)); len(gone) > 0 {
		limit, cancel := context.WithTimeout(ctx, l.Timeout)
		defer cancel()
		if err := j.cluster.Delete(limit, gone, j.owner(l.Name), c.keeps(ctx, j.stack, l.Name)); err != nil {
			return c.failLayer(ctx, j, l, fmt.Errorf("removing what the layer has no more: %w", err))
		}
	}
	last.Ready = true
	for _, old := range l.record.Revisions[:len(l.record.Revisions)-1] {
		if old.Rendered != last.Rendered {
			if err := c.content.Remove(old.Rendered); err != nil {
				return err
			}
		}
	}
	l.record.Revisions = []revision{*last}
	if err := c.saveRecord(ctx, j.name(), l.record); err != nil {
		return err
	}
	return c.layer(ctx, j.name(), l.Name, func(st *pb.StackLayerStatus) {
		st.EndTime = c.now()
		c.settled(st, l, last)
	}, "LayerReady", strings.TrimSpace(l.Name+" "+l.rendered.Version), false)
}
