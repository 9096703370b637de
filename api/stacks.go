package api

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// Stacks is what puts stacks on clusters.
type Stacks interface {
	// CheckStack returns a *resource.FieldErrors for what is wrong, with paths
	// that begin with `spec`. It asks no cluster.
	CheckStack(spec *pb.StackSpec) error
	// PlanStack says what applying the stack would change.
	PlanStack(ctx context.Context, s *pb.Stack) ([]*pb.StackLayerPlan, error)
	// PutContent stores one piece after the other, until io.EOF, and returns
	// the digest of all and their length.
	PutContent(ctx context.Context, next func() ([]byte, error)) (string, int64, error)
}

type stackAPI struct {
	pb.UnimplementedStackServiceServer
	crud[*pb.Stack]
}

func newStackAPI(s *Server) *stackAPI {
	a := &stackAPI{crud: newCRUD[*pb.Stack](s)}
	a.check = a.checkStack
	return a
}

func (a *stackAPI) checkStack(ctx context.Context, c *change[*pb.Stack]) error {
	spec := c.after.GetSpec()
	if c.before.GetStatus().GetDeleting() && !specEqual(c.before, c.after) && c.before.GetSpec().GetSuspend() == spec.GetSuspend() {
		return refused("stack/%s is being uninstalled: wait until it is gone, then create it again", c.before.GetMetadata().GetName())
	}
	if !c.creating {
		if err := fixed(c.before, c.after, "stays as it was created: what is there would be left behind; delete the stack and create it again", "cluster"); err != nil {
			return err
		}
	}
	if err := exists[*pb.Secret](ctx, a.s.cfg.DB, "spec.cluster.kubeconfig_secret", spec.GetCluster().GetKubeconfigSecret()); err != nil {
		return err
	}
	for i, l := range spec.GetLayers() {
		for field, p := range map[string][2]string{
			"chart":         {l.GetChart().GetPath(), l.GetChart().GetContent()},
			"manifests":     {l.GetManifests().GetPath(), l.GetManifests().GetContent()},
			"kustomization": {l.GetKustomization().GetPath(), l.GetKustomization().GetContent()},
		} {
			if p[0] != "" && p[1] == "" {
				return fieldError(fmt.Sprintf("spec.layers[%d].%s.path", i, field), "the server has no files of yours: `bedplate apply -f` uploads what is there and sets content")
			}
		}
	}
	if a.s.cfg.Stacks == nil {
		return nil
	}
	return a.s.cfg.Stacks.CheckStack(spec)
}

// GetStack implements pb.StackServiceServer.
func (a *stackAPI) GetStack(ctx context.Context, r *pb.GetStackRequest) (*pb.Stack, error) {
	return a.get(ctx, r.GetName())
}

// ListStacks implements pb.StackServiceServer.
func (a *stackAPI) ListStacks(ctx context.Context, r *pb.ListStacksRequest) (*pb.ListStacksResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListStacksResponse{Stacks: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateStack implements pb.StackServiceServer.
func (a *stackAPI) CreateStack(ctx context.Context, r *pb.CreateStackRequest) (*pb.Stack, error) {
	return a.createPlain(ctx, r.GetStack(), r)
}

// UpdateStack implements pb.StackServiceServer.
func (a *stackAPI) UpdateStack(ctx context.Context, r *pb.UpdateStackRequest) (*pb.Stack, error) {
	return a.update(ctx, r.GetStack(), r)
}

// DeleteStack implements pb.StackServiceServer. The stack is marked; it is
// gone when nothing of it is left in its cluster, which package stack does.
func (a *stackAPI) DeleteStack(ctx context.Context, r *pb.DeleteStackRequest) (*emptypb.Empty, error) {
	_, err := a.mark(ctx, r.GetName(), r.GetResourceVersion(), "UninstallRequested", func(s *pb.StackStatus) error {
		s.Deleting = true
		return nil
	})
	return &emptypb.Empty{}, err
}

// RetryStack implements pb.StackServiceServer.
func (a *stackAPI) RetryStack(ctx context.Context, r *pb.RetryStackRequest) (*pb.Stack, error) {
	return a.mark(ctx, r.GetName(), 0, "RetryRequested", func(s *pb.StackStatus) error {
		if s.GetState() != pb.StackState_STACK_FAILED && s.GetState() != pb.StackState_STACK_DRIFTED {
			return refused("stack/%s has nothing to try again: it is %s", r.GetName(), orPending(resource.EnumName(s.GetState())))
		}
		s.Retries++
		return nil
	})
}

func orPending(state string) string {
	if state == "" {
		return "pending"
	}
	return state
}

// mark changes the status of a stack by a wish of a person's.
func (a *stackAPI) mark(ctx context.Context, name string, version int64, reason string, change func(*pb.StackStatus) error) (*pb.Stack, error) {
	if err := named(name); err != nil {
		return nil, err
	}
	for range attempts {
		obj, err := a.tryMark(ctx, name, version, reason, change)
		if !errors.Is(err, store.ErrConflict) {
			return obj, err
		}
	}
	return nil, a.busy(name)
}

// tryMark makes one attempt; store.ErrConflict asks for another one.
func (a *stackAPI) tryMark(ctx context.Context, name string, version int64, reason string, mark func(*pb.StackStatus) error) (*pb.Stack, error) {
	obj, err := resource.Get[*pb.Stack](ctx, a.s.cfg.DB, name)
	if err != nil {
		return nil, err
	}
	if have := obj.GetMetadata().GetResourceVersion(); version != 0 && version != have {
		return nil, a.stale(name, version, have)
	}
	if obj.GetStatus().GetDeleting() {
		return obj, nil
	}
	c := &change[*pb.Stack]{before: obj, after: cloneOf(obj), actor: caller(ctx).name}
	if c.after.Status == nil {
		c.after.Status = &pb.StackStatus{}
	}
	if err := mark(c.after.Status); err != nil {
		return nil, err
	}
	resource.Stamp(a.s.cfg.DB, c.after)
	c.add([]store.Compare{resource.Unchanged(obj)}, resource.Put(c.after), a.s.cfg.Events.Op(event.About(obj, reason, "", c.actor)))
	return c.after, a.commit(ctx, c)
}

// PlanStack implements pb.StackServiceServer.
func (a *stackAPI) PlanStack(ctx context.Context, r *pb.PlanStackRequest) (*pb.PlanStackResponse, error) {
	if a.s.cfg.Stacks == nil {
		return nil, unavailable("stacks")
	}
	if r.GetStack() == nil {
		return nil, fieldError("stack", "missing: the stack to plan")
	}
	if err := resource.Validate(r.GetStack()); err != nil {
		return nil, err
	}
	c := &change[*pb.Stack]{after: r.GetStack(), creating: true}
	if err := a.checkStack(ctx, c); err != nil {
		return nil, err
	}
	layers, err := a.s.cfg.Stacks.PlanStack(ctx, r.GetStack())
	if err != nil {
		return nil, hookError(err)
	}
	return &pb.PlanStackResponse{Layers: layers}, nil
}

// PutStackContent implements pb.StackServiceServer.
func (a *stackAPI) PutStackContent(stream grpc.ClientStreamingServer[pb.PutStackContentRequest, pb.PutStackContentResponse]) error {
	if a.s.cfg.Stacks == nil {
		return unavailable("stacks")
	}
	digest, size, err := a.s.cfg.Stacks.PutContent(stream.Context(), func() ([]byte, error) {
		msg, err := stream.Recv()
		return msg.GetData(), err
	})
	if err != nil {
		return hookError(err)
	}
	if size == 0 {
		return status.Error(codes.InvalidArgument, "nothing was sent")
	}
	return stream.SendAndClose(&pb.PutStackContentResponse{Digest: digest, SizeBytes: size})
}

// WatchStacks implements pb.StackServiceServer.
func (a *stackAPI) WatchStacks(r *pb.WatchStacksRequest, stream grpc.ServerStreamingServer[pb.WatchStacksResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Stack, revision int64) error {
		return stream.Send(&pb.WatchStacksResponse{Type: t, Stack: obj, ResourceVersion: revision})
	})
}
