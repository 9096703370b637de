package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow/expression"
	"github.com/bedplate/bedplate/workflow/plan"
)

// maxTemplateBytes bounds a template with the inputs that a workflow gives it.
const maxTemplateBytes = 256 << 10

// CheckTemplate finds everything that is wrong with a template. The error is
// both a *resource.FieldErrors, with paths such as spec.steps[2].with.disk, and
// a plan.Problems, with the place in the text as well.
func (c *Controller) CheckTemplate(spec *pb.TemplateSpec) error {
	if proto.Size(spec) > maxTemplateBytes {
		return asFields("Template", "", plan.Problems{{Field: "spec", Message: fmt.Sprintf("the template has %d bytes, at most %d", proto.Size(spec), maxTemplateBytes)}})
	}
	return asFields("Template", "", expression.Check(spec))
}

// Preview returns the workflow as Create would store it, with its steps in
// the order of the template, and changes nothing. Errors that are the
// caller's to put right are *resource.FieldErrors, or wrap store.ErrNotFound.
func (c *Controller) Preview(ctx context.Context, wf *pb.Workflow) (*pb.Workflow, error) {
	out, err := c.prepare(ctx, wf)
	if err != nil {
		return nil, asFields("Workflow", wf.GetMetadata().GetName(), err)
	}
	m, err := resource.Get[*pb.Machine](ctx, c.cfg.DB, out.GetSpec().GetMachine())
	if err != nil {
		return nil, err
	}
	owner, err := c.holder(ctx, m, "")
	if err != nil {
		return nil, err
	}
	out.Status.State = pb.WorkflowState_WAITING_FOR_MACHINE
	if owner != "" {
		out.Status.State, out.Status.Cause = pb.WorkflowState_QUEUED, queuedCause(out.GetSpec().GetMachine())
	}
	return out, nil
}

// Create stores a new workflow with a copy of its template, and starts it if
// its machine is free. The error wraps resource.ErrExists when the name is
// taken; see Preview for the others.
func (c *Controller) Create(ctx context.Context, wf *pb.Workflow) (*pb.Workflow, error) {
	made, err := c.prepare(ctx, wf)
	if err != nil {
		return nil, asFields("Workflow", wf.GetMetadata().GetName(), err)
	}
	name := made.GetMetadata().GetName()
	if !resource.ValidName(name) {
		return nil, fmt.Errorf("metadata.name %q: %w", name, resource.ErrName)
	}
	if _, err := resource.Get[*pb.Workflow](ctx, c.cfg.DB, name); err == nil {
		return nil, fmt.Errorf("workflow %s: %w", name, resource.ErrExists)
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	// The rule against two of one name is the compare with version 0.
	for range attempts {
		f := &flow{name: name}
		before := &pb.Workflow{Metadata: &pb.Metadata{Name: name}}
		t := &tx{c: c, f: f, before: before, wf: proto.Clone(made).(*pb.Workflow), now: c.cfg.Now(), noted: map[string]bool{}}
		if err := t.take(ctx); err != nil {
			return nil, err
		}
		t.event("Created", fmt.Sprintf("template %s on machine %s", made.Spec.Template, made.Spec.Machine), "", false)
		if err := t.conclude(ctx); err != nil {
			return nil, err
		}
		err = t.commit(ctx)
		if err == nil {
			return t.wf, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return nil, fmt.Errorf("creating workflow %s: %w", name, err)
		}
		if _, err := resource.Get[*pb.Workflow](ctx, c.cfg.DB, name); err == nil {
			return nil, fmt.Errorf("workflow %s: %w", name, resource.ErrExists)
		}
	}
	return nil, fmt.Errorf("creating workflow %s: %w", name, store.ErrConflict)
}

// prepare makes a complete workflow of what a person gave.
func (c *Controller) prepare(ctx context.Context, in *pb.Workflow) (*pb.Workflow, error) {
	wf := proto.Clone(in).(*pb.Workflow)
	if wf.Metadata == nil {
		wf.Metadata = &pb.Metadata{}
	}
	wf.Metadata.Uid, wf.Metadata.CreateTime, wf.Metadata.UpdateTime, wf.Metadata.ResourceVersion = "", nil, nil, 0
	var problems plan.Problems
	if wf.GetSpec().GetMachine() == "" {
		problems.Add("spec.machine", 0, "say which machine")
	}
	if t := wf.GetSpec().GetMachineTimeout(); t != "" {
		if _, err := plan.ParseDuration(t); err != nil {
			problems.Add("spec.machine_timeout", 0, "%v", err)
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	spec, err := c.template(ctx, wf.GetSpec().GetTemplate())
	if err != nil {
		return nil, err
	}
	compiled, err := expression.Compile(spec)
	if err != nil {
		return nil, fmt.Errorf("template %s: %w", wf.GetSpec().GetTemplate(), err)
	}
	if wf.Spec.Inputs, err = expression.Inputs(spec, wf.GetSpec().GetInputs()); err != nil {
		return nil, err
	}
	if n := proto.Size(spec) + proto.Size(wf.Spec); n > maxTemplateBytes {
		return nil, plan.Problems{{Field: "spec", Message: fmt.Sprintf("template and inputs have %d bytes, at most %d", n, maxTemplateBytes)}}
	}
	wf.Status = &pb.WorkflowStatus{
		State: pb.WorkflowState_QUEUED, Template: spec, Run: 1,
		Steps: plan.New(compiled.Graph(), 1).Steps(),
	}
	return wf, c.checkReferences(ctx, compiled, wf)
}

// template returns a copy of the template of that name.
func (c *Controller) template(ctx context.Context, name string) (*pb.TemplateSpec, error) {
	if name == "" {
		return nil, plan.Problems{{Field: "spec.template", Message: "say which template"}}
	}
	t, err := resource.Get[*pb.Template](ctx, c.cfg.DB, name)
	if errors.Is(err, store.ErrNotFound) && c.cfg.Builtin[name] != nil {
		t, err = c.cfg.Builtin[name], nil
	}
	if err != nil {
		return nil, err
	}
	return proto.Clone(t.GetSpec()).(*pb.TemplateSpec), nil
}

// checkReferences makes sure that the machine, the instance, the secrets and
// the images that the workflow speaks of are there.
func (c *Controller) checkReferences(ctx context.Context, t *expression.Template, wf *pb.Workflow) error {
	m, err := resource.Get[*pb.Machine](ctx, c.cfg.DB, wf.GetSpec().GetMachine())
	if err != nil {
		return err
	}
	var problems plan.Problems
	for _, name := range t.Secrets() {
		if _, err := c.secret(ctx, name); errors.Is(err, store.ErrNotFound) {
			problems.Add("spec.template", 0, "the template speaks of secret %q, which is not there: apply it first", name)
		} else if err != nil {
			return err
		}
	}
	p, err := c.facts(ctx, wf, m)
	if err != nil {
		return err
	}
	for _, name := range expression.StorageSecrets(p.GetTemplate(), p.GetInstance().AsMap()) {
		if _, err := c.secret(ctx, name); errors.Is(err, store.ErrNotFound) {
			problems.Add("spec.instance", 0, "the storage of instance %s speaks of secret %q, which is not there: apply it first", wf.GetSpec().GetInstance(), name)
		} else if err != nil {
			return err
		}
	}
	bound := t.Bind(p)
	for _, id := range t.Graph().IDs() {
		name, ok := bound.Early(ctx, id, "image")
		if !ok || name == "" {
			continue
		}
		if _, err := c.imageFacts(ctx, name, m); errors.Is(err, store.ErrNotFound) {
			problems.Add("spec.inputs", 0, "step %q writes image %q, which is not there: apply it first", id, name)
		} else if err != nil {
			return err
		}
	}
	return problems.OrNil()
}

// facts are what expressions see, but for secrets and images.
func (c *Controller) facts(ctx context.Context, wf *pb.Workflow, m *pb.Machine) (*pb.Plan, error) {
	machine, err := expression.MachineFacts(m)
	if err != nil {
		return nil, err
	}
	machine.Fields["warm"] = structpb.NewBoolValue(warm(wf, m))
	p := &pb.Plan{
		Workflow: wf.GetMetadata().GetName(), WorkflowUid: wf.GetMetadata().GetUid(), Run: wf.GetStatus().GetRun(),
		Template: wf.GetStatus().GetTemplate(), Inputs: wf.GetSpec().GetInputs(), Machine: machine,
	}
	var instance *pb.Instance
	if name := wf.GetSpec().GetInstance(); name != "" {
		if instance, err = resource.Get[*pb.Instance](ctx, c.cfg.DB, name); err != nil {
			return nil, err
		}
		if p.Instance, err = expression.InstanceFacts(instance); err != nil {
			return nil, err
		}
	}
	if c.cfg.Server != nil {
		p.Server = c.cfg.Server(ctx, m, instance)
	}
	return p, nil
}

// warm reports whether the machine waited in the agent when the workflow was
// made: it was not booted for it.
func warm(wf *pb.Workflow, m *pb.Machine) bool {
	enrolled, made := m.GetStatus().GetAgent().GetEnrollTime(), wf.GetMetadata().GetCreateTime()
	return enrolled.IsValid() && made.IsValid() && enrolled.AsTime().Before(made.AsTime())
}

func (c *Controller) secret(ctx context.Context, name string) (map[string]string, error) {
	if c.cfg.Secrets == nil {
		return nil, fmt.Errorf("secret %s: %w", name, store.ErrNotFound)
	}
	return c.cfg.Secrets.Secret(ctx, name)
}

func (c *Controller) imageFacts(ctx context.Context, name string, m *pb.Machine) (map[string]any, error) {
	if c.cfg.Images == nil {
		return nil, fmt.Errorf("image %s: %w", name, store.ErrNotFound)
	}
	return c.cfg.Images.ImageFacts(ctx, name, m)
}

// imageNames returns what could be names of images in a workflow: what the
// template says, what image.write is given, and every input that is text.
func imageNames(ctx context.Context, t *expression.Template, b *expression.Bound, p *pb.Plan) []string {
	names := slices.Clone(t.Images())
	for _, id := range t.Graph().IDs() {
		if name, ok := b.Early(ctx, id, "image"); ok {
			names = append(names, name)
		}
	}
	for _, v := range p.GetInputs() {
		if s, ok := v.GetKind().(*structpb.Value_StringValue); ok && resource.ValidName(s.StringValue) {
			names = append(names, s.StringValue)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
