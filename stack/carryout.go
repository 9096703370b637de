package stack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/stack/apply"
	"github.com/bedplate/bedplate/stack/gate"
	"github.com/bedplate/bedplate/stack/render"
)

const (
	// look is how often a gate is looked at; slowly after a minute.
	look     = 500 * time.Millisecond
	lookSlow = 3 * time.Second
	// rollbackTime bounds a rollback, with the wait for what was there before.
	rollbackTime = 5 * time.Minute
)

// record puts what is about to be applied on record, and returns it.
func (c *Controller) record(ctx context.Context, j *job, l *prepared) ([]*unstructured.Unstructured, error) {
	last := l.record.last()
	if last == nil || last.Inputs != l.inputs {
		// What the layers below have brought may matter to the chart.
		j.cluster.Discovery.Invalidate()
		apis, err := j.cluster.APIs()
		if err != nil {
			return nil, err
		}
		now := *j
		now.apis = apis
		if err := c.renderLayer(ctx, &now, l); err != nil {
			return nil, err
		}
	}
	objects, err := j.complete(ctx, l)
	if err != nil {
		return nil, err
	}
	if err := j.cluster.CheckForeign(ctx, objects, j.owner(l.Name)); err != nil {
		return nil, err
	}
	if last != nil && last.Inputs == l.inputs {
		last.Objects = refsOf(objects)
		return objects, c.saveRecord(ctx, j.name(), l.record)
	}
	hooks, err := j.cluster.Prepare(ctx, l.rendered.Hooks, j.owner(l.Name), l.Namespace, "")
	if err != nil {
		return nil, err
	}
	rev := revision{Number: 1, Inputs: l.inputs, Version: l.rendered.Version, Namespace: l.Namespace, Objects: refsOf(objects), Hooks: refsOf(hooks)}
	if last != nil {
		rev.Number = last.Number + 1
	}
	if rev.Rendered, err = c.keepRendered(ctx, l.rendered.Objects, l.rendered.Hooks); err != nil {
		return nil, err
	}
	l.record.Order = l.order
	l.record.Revisions = append(l.record.Revisions, rev)
	return objects, c.saveRecord(ctx, j.name(), l.record)
}

// carryOut applies a layer's objects, runs its hooks and waits at its gate.
// The error is what goes on record.
func (c *Controller) carryOut(ctx context.Context, j *job, l *prepared, objects []*unstructured.Unstructured) error {
	when := "install"
	if l.record.ready() != nil {
		when = "upgrade"
	}
	if err := c.runHooks(ctx, j, l, l.rendered.Hooks, "pre-"+when); err != nil {
		return err
	}
	shown := time.Time{}
	err := j.cluster.Apply(ctx, objects, func(done int) {
		if now := c.cfg.Now(); now.Sub(shown) > time.Second {
			shown = now
			_ = c.layer(ctx, j.name(), l.Name, func(st *pb.StackLayerStatus) { //nolint:errcheck // the next one tells as well
				st.Cause = fmt.Sprintf("%d of %d objects are applied", done, len(objects))
			}, "", "", false)
		}
	})
	g := &gate.Gate{Cluster: j.cluster, Spec: l.Gate, Namespace: l.Namespace, Objects: objects}
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return c.late(ctx, g, l, err)
		}
		return err
	}
	if err := c.waitHealthy(ctx, j, l, g); err != nil {
		return err
	}
	if err := c.runHooks(ctx, j, l, l.rendered.Hooks, "post-"+when); err != nil {
		return err
	}
	if l.Gate.GetJob() == "" {
		return nil
	}
	return c.gateJob(ctx, j, l)
}

// late says what an application that took too long was waiting for.
func (c *Controller) late(ctx context.Context, g *gate.Gate, l *prepared, err error) error {
	ctx = context.WithoutCancel(ctx)
	problems, _ := g.Look(ctx)
	if len(problems) == 0 {
		return fmt.Errorf("not applied within %s: %w", l.Timeout, err)
	}
	return fmt.Errorf("not applied within %s: %w\n%s", l.Timeout, err, g.Cause(ctx, problems))
}

// waitHealthy waits until the gate has nothing to say, twice in a row: a pod
// that crashes at once is ready for a moment too.
func (c *Controller) waitHealthy(ctx context.Context, j *job, l *prepared, g *gate.Gate) error {
	var problems []gate.Problem
	started, quiet, told := c.cfg.Now(), 0, ""
	for {
		found, err := g.Look(ctx)
		switch {
		case ctx.Err() != nil:
			last := context.WithoutCancel(ctx)
			if errors.Is(ctx.Err(), context.Canceled) || len(problems) == 0 {
				return fmt.Errorf("not healthy within %s: %w", l.Timeout, ctx.Err())
			}
			return fmt.Errorf("not healthy within %s:\n%s", l.Timeout, g.Cause(last, problems))
		case err != nil && !passing(err):
			return err
		case err == nil:
			problems = found
		}
		if final := slices.IndexFunc(problems, func(p gate.Problem) bool { return p.Final }); final >= 0 {
			return errors.New(g.Cause(ctx, problems[final:final+1]))
		}
		if quiet++; len(problems) > 0 || err != nil {
			quiet = 0
		}
		if quiet == 2 {
			return nil
		}
		if now := summary(problems); now != told && now != "" {
			told = now
			_ = c.layer(ctx, j.name(), l.Name, func(st *pb.StackLayerStatus) { //nolint:errcheck // the next one tells as well
				st.State, st.Cause = pb.StackState_STACK_WAITING, now
			}, "", "", false)
		}
		wait := look
		if c.cfg.Now().Sub(started) > time.Minute {
			wait = lookSlow
		}
		if !sleep(ctx, wait) {
			continue
		}
	}
}

func summary(problems []gate.Problem) string {
	var out []string
	for i, p := range problems {
		if i == 3 {
			out = append(out, fmt.Sprintf("and %d more", len(problems)-i))
			break
		}
		out = append(out, p.String())
	}
	return strings.Join(out, "; ")
}

// passing reports whether an error of the API server may go by itself.
func passing(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err)
}

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

// runHooks runs the hooks of an event, one after the other by their weight.
func (c *Controller) runHooks(ctx context.Context, j *job, l *prepared, hooks []*unstructured.Unstructured, event string) error {
	for _, h := range hooks {
		if !slices.Contains(render.HookEvents(h), event) {
			continue
		}
		if err := c.runHook(ctx, j, l, h); err != nil {
			return fmt.Errorf("hook %s %s: %w", event, h.GetName(), err)
		}
	}
	return nil
}

func (c *Controller) runHook(ctx context.Context, j *job, l *prepared, hook *unstructured.Unstructured) error {
	owner := j.owner(l.Name)
	objects, err := j.cluster.Prepare(ctx, []*unstructured.Unstructured{hook}, owner, l.Namespace, l.PodSecurity)
	if err != nil {
		return err
	}
	refs := []apply.Ref{apply.RefOf(objects[len(objects)-1])}
	if render.HookDeletedOn(hook, "before-hook-creation") {
		if err := j.cluster.Delete(ctx, refs, owner, nil); err != nil {
			return err
		}
	}
	if err := j.cluster.Apply(ctx, objects, func(int) {}); err != nil {
		return err
	}
	policy := "hook-succeeded"
	if hook.GetKind() == "Job" || hook.GetKind() == "Pod" {
		g := &gate.Gate{Cluster: j.cluster, Namespace: l.Namespace, Objects: objects}
		if err = c.waitHealthy(ctx, j, l, g); err != nil {
			policy = "hook-failed"
		}
	}
	if render.HookDeletedOn(hook, policy) && ctx.Err() == nil {
		err = errors.Join(err, j.cluster.Delete(ctx, refs, owner, nil))
	}
	return err
}

// gateJob runs the Job of the gate's own, and deletes it.
func (c *Controller) gateJob(ctx context.Context, j *job, l *prepared) error {
	list, err := render.Parse([]byte(l.Gate.GetJob()))
	if err != nil {
		return fmt.Errorf("reading gate.job: %w", err)
	}
	for _, o := range list {
		if err := c.runHook(ctx, j, l, o); err != nil {
			return fmt.Errorf("the gate's job: %w", err)
		}
		if err := j.cluster.Delete(ctx, []apply.Ref{withNamespace(apply.RefOf(o), l.Namespace)}, j.owner(l.Name), nil); err != nil {
			return err
		}
	}
	return nil
}

func withNamespace(r apply.Ref, namespace string) apply.Ref {
	if r.Namespace == "" {
		r.Namespace = namespace
	}
	return r
}

// failLayer rolls a layer back, or leaves it to be looked at.
func (c *Controller) failLayer(ctx context.Context, j *job, l *prepared, cause error) error {
	if j.stack.GetSpec().GetOnFailure() == "keep" {
		text := cause.Error()
		if err := c.layer(ctx, j.name(), l.Name, func(st *pb.StackLayerStatus) {
			st.State, st.Cause, st.EndTime = pb.StackState_STACK_FAILED, text, c.now()
		}, "LayerFailed", l.Name+": "+text, true); err != nil {
			return err
		}
		return fmt.Errorf("layer %s: %w", l.Name, cause)
	}
	return c.rollback(ctx, j, l, cause.Error())
}

// rollback takes a layer back to the revision that was healthy last, or away
// if there was none. It is on record before it begins.
func (c *Controller) rollback(ctx context.Context, j *job, l *prepared, cause string) error {
	if err := c.layer(ctx, j.name(), l.Name, func(st *pb.StackLayerStatus) {
		if st.State != pb.StackState_STACK_ROLLING_BACK {
			st.State, st.Cause = pb.StackState_STACK_ROLLING_BACK, cause
		} else {
			cause = st.GetCause()
		}
	}, "LayerFailed", l.Name+": "+cause, true); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, rollbackTime)
	defer cancel()
	outcome, err := c.restore(limit, j, l)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		outcome = "rolling it back didn't work either: " + err.Error()
	}
	text := cause + "\n" + outcome
	if err := c.layer(ctx, j.name(), l.Name, func(st *pb.StackLayerStatus) {
		st.State, st.Cause, st.EndTime, st.Digest = pb.StackState_STACK_FAILED, text, c.now(), ""
		st.Revision, st.ReadyRevision, st.Objects = 0, 0, 0
		if last := l.record.last(); last != nil {
			st.Revision, st.Objects = uint32(last.Number), uint32(len(last.Objects))
			if last.Ready {
				st.ReadyRevision = st.Revision
			}
		}
	}, "LayerRolledBack", l.Name+": "+outcome, err != nil); err != nil {
		return err
	}
	return fmt.Errorf("layer %s: %s", l.Name, text)
}

// restore does what rollback says, and says what it did.
func (c *Controller) restore(ctx context.Context, j *job, l *prepared) (string, error) {
	good := l.record.ready()
	if good == nil {
		if err := j.cluster.Delete(ctx, l.record.refs(), j.owner(l.Name), c.keeps(ctx, j.stack, l.Name)); err != nil {
			return "", err
		}
		if err := c.dropRecord(ctx, j.name(), l.record); err != nil {
			return "", err
		}
		l.record.Revisions = nil
		return "it was not there before, and was removed", nil
	}
	old, err := c.readRendered(good)
	if err != nil {
		return "", err
	}
	objects, err := j.cluster.Prepare(ctx, old.Objects, j.owner(l.Name), good.Namespace, l.PodSecurity)
	if err != nil {
		return "", err
	}
	if err := j.cluster.Apply(ctx, objects, func(int) {}); err != nil {
		return "", err
	}
	if gone := apply.Missing(l.record.refs(), slices.Concat(good.Objects, good.Hooks)); len(gone) > 0 {
		if err := j.cluster.Delete(ctx, gone, j.owner(l.Name), c.keeps(ctx, j.stack, l.Name)); err != nil {
			return "", err
		}
	}
	for _, rev := range l.record.Revisions {
		if rev.Number != good.Number && rev.Rendered != good.Rendered {
			if err := c.content.Remove(rev.Rendered); err != nil {
				return "", err
			}
		}
	}
	l.record.Revisions = []revision{*good}
	if err := c.saveRecord(ctx, j.name(), l.record); err != nil {
		return "", err
	}
	g := &gate.Gate{Cluster: j.cluster, Spec: l.Gate, Namespace: good.Namespace, Objects: objects}
	for {
		problems, err := g.Look(ctx)
		if err == nil && len(problems) == 0 {
			return fmt.Sprintf("rolled back to revision %d, which is healthy", good.Number), nil
		}
		if !sleep(ctx, look) {
			return fmt.Sprintf("rolled back to revision %d, which isn't healthy yet: %s", good.Number, summary(problems)), nil
		}
	}
}
