package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow/expression"
)

// maxPlanBytes is the most that one message to an agent may have.
const maxPlanBytes = 3 << 20

// delivery makes the plan that an agent carries out: with the values of the
// secrets that the template and the instance's storage name, and no others.
func (c *Controller) delivery(ctx context.Context, wf *pb.Workflow) (*pb.Plan, error) {
	t, err := expression.Compile(wf.GetStatus().GetTemplate())
	if err != nil {
		return nil, err
	}
	m, err := resource.Get[*pb.Machine](ctx, c.cfg.DB, wf.GetSpec().GetMachine())
	if err != nil {
		return nil, err
	}
	p, err := c.facts(ctx, wf, m)
	if err != nil {
		return nil, err
	}
	p.Steps = wf.GetStatus().GetSteps()
	p.Deadline = timestamppb.New(wf.GetStatus().GetRunTime().AsTime().Add(timeoutOf(wf)))
	names := slices.Concat(t.Secrets(), expression.StorageSecrets(p.GetTemplate(), p.GetInstance().AsMap()))
	if p.Secrets, err = c.openSecrets(ctx, names); err != nil {
		return nil, err
	}
	c.learn(wf.GetMetadata().GetName(), p.Secrets)
	images := map[string]any{}
	for _, name := range imageNames(ctx, t, t.Bind(p), p) {
		facts, err := c.imageFacts(ctx, name, m)
		if errors.Is(err, store.ErrNotFound) {
			continue // not every text is the name of an image
		}
		if err != nil {
			return nil, err
		}
		images[name] = facts
	}
	if p.Images, err = structpb.NewStruct(images); err != nil {
		return nil, fmt.Errorf("describing images: %w", err)
	}
	if n := proto.Size(p); n > maxPlanBytes {
		return nil, fmt.Errorf("it has %d bytes, at most %d", n, maxPlanBytes)
	}
	return p, nil
}

func (c *Controller) openSecrets(ctx context.Context, names []string) (map[string]*pb.SecretValues, error) {
	out := map[string]*pb.SecretValues{}
	for _, name := range names {
		data, err := c.secret(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("opening secret %s: %w", name, err)
		}
		out[name] = &pb.SecretValues{Data: data}
	}
	return out, nil
}

// learn makes the values of secrets masked in what comes back from now on.
func (c *Controller) learn(name string, secrets map[string]*pb.SecretValues) {
	f := c.flow(name)
	f.turn.Lock()
	defer f.turn.Unlock()
	f.mask = f.mask.with(secrets)
}

// learnAgain opens the secrets of a workflow whose plan was delivered before
// this server started. Called with the flow's turn.
func (t *tx) learnAgain(ctx context.Context) {
	if t.f.mask != nil {
		return
	}
	t.f.mask = t.f.mask.with(nil)
	compiled, err := expression.Compile(t.wf.GetStatus().GetTemplate())
	if err != nil {
		return // the plan reports it
	}
	for _, name := range slices.Concat(compiled.Secrets(), t.storageSecrets(ctx)) {
		data, err := t.c.secret(ctx, name)
		if err != nil {
			t.c.cfg.Logger.Warn("secret can't be opened to mask it", "workflow", t.f.name, "err", err)
			continue
		}
		t.f.mask = t.f.mask.with(map[string]*pb.SecretValues{name: {Data: data}})
	}
}

// storageSecrets are the names of the secrets that the storage of the
// workflow's instance speaks of.
func (t *tx) storageSecrets(ctx context.Context) []string {
	name := t.wf.GetSpec().GetInstance()
	if name == "" {
		return nil
	}
	instance, err := resource.Get[*pb.Instance](ctx, t.c.cfg.DB, name)
	if err != nil {
		return nil // the plan reports it
	}
	facts, err := expression.InstanceFacts(instance)
	if err != nil {
		return nil // the plan reports it
	}
	return expression.StorageSecrets(t.wf.GetStatus().GetTemplate(), facts.AsMap())
}
