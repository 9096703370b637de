package api

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
	"github.com/bedplate/bedplate/store"
)

// MachineViews tells what is known of a machine beyond its resource. The
// machine exists when it is asked.
type MachineViews interface {
	Explain(ctx context.Context, name string) (*pb.ExplainMachineResponse, error)
	Timeline(ctx context.Context, name string) ([]*pb.Phase, error)
	// Retry takes up again what a failed machine's life stopped at.
	// ops are written in the same transaction.
	Retry(ctx context.Context, name string, ops ...store.Op) (*pb.Machine, error)
	// Follow calls send, from one goroutine, with what happens to the machine
	// until ctx is done or send fails, and returns that error.
	Follow(ctx context.Context, name string, send func(*pb.FollowMachineResponse) error) error
}

type machineAPI struct {
	pb.UnimplementedMachineServiceServer
	crud[*pb.Machine]
}

func newMachineAPI(s *Server) *machineAPI {
	a := &machineAPI{crud: newCRUD[*pb.Machine](s)}
	a.check, a.release = a.checkMachine, a.releaseMachine
	a.deleteLock = &s.uses.lock
	return a
}

// checkMachine makes the machine's addresses and identities its own, and looks
// for the secret that it names.
func (a *machineAPI) checkMachine(ctx context.Context, c *change[*pb.Machine]) error {
	if name := c.after.GetSpec().GetBmc().GetPasswordSecret(); name != "" {
		if err := exists[*pb.Secret](ctx, a.s.cfg.DB, "spec.bmc.password_secret", name); err != nil {
			return err
		}
	}
	if asked(c.before.GetSpec(), c.after.GetSpec()) {
		if c.after.Status == nil {
			c.after.Status = &pb.MachineStatus{}
		}
		c.after.Status.RequestedBy = c.actor
	}
	claims, err := claim.Plan(ctx, a.s.cfg.DB, c.before, c.after)
	if err != nil {
		return err
	}
	c.add(claims.Compares, claims.Ops...)
	return nil
}

// asked reports whether a change of a machine asks for something to be done to
// it: who did is on the record of its erasure.
func asked(before, after *pb.MachineSpec) bool {
	return before.GetRetired() != after.GetRetired() || before.GetMaintenance() != after.GetMaintenance() || !proto.Equal(before.GetRescue(), after.GetRescue())
}

func (a *machineAPI) releaseMachine(ctx context.Context, c *change[*pb.Machine]) error {
	name, s := c.before.GetMetadata().GetName(), c.before.GetStatus()
	if s.GetInstance() != "" {
		return refused("machine/%s is given to instance/%s: delete that first (`bedplate delete instance %s`)", name, s.GetInstance(), s.GetInstance())
	}
	if used := a.s.uses.instancesOf(name); len(used) > 0 {
		return refused("machine/%s is wanted by %s: delete that first (`bedplate delete instance %s`)", name, some("instance", used), used[0])
	}
	working := a.s.uses.workflowsOn(name)
	if s.GetWorkflow() != "" {
		working = []string{s.GetWorkflow()}
	}
	if len(working) > 0 {
		return refused("machine/%s is in the hands of %s: wait for it, or cancel it (`bedplate workflow cancel %s`)", name, some("workflow", working), working[0])
	}
	claims, err := claim.Plan(ctx, a.s.cfg.DB, c.before, nil)
	if err != nil {
		return err
	}
	c.add(claims.Compares, claims.Ops...)
	return nil
}

// exists returns a field error if there is no such resource.
func exists[T resource.Object](ctx context.Context, db *resource.DB, path, name string) error {
	_, err := resource.Get[T](ctx, db, name)
	if errors.Is(err, store.ErrNotFound) {
		var none T
		k := resource.KindOf(none)
		return fieldError(path, "there is no %s %q: `bedplate get %s` lists those that there are", k.Singular, name, k.Plural)
	}
	return err
}

// GetMachine implements pb.MachineServiceServer.
func (a *machineAPI) GetMachine(ctx context.Context, r *pb.GetMachineRequest) (*pb.Machine, error) {
	return a.get(ctx, r.GetName())
}

// ListMachines implements pb.MachineServiceServer.
func (a *machineAPI) ListMachines(ctx context.Context, r *pb.ListMachinesRequest) (*pb.ListMachinesResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListMachinesResponse{Machines: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateMachine implements pb.MachineServiceServer.
func (a *machineAPI) CreateMachine(ctx context.Context, r *pb.CreateMachineRequest) (*pb.Machine, error) {
	return a.createPlain(ctx, r.GetMachine(), r)
}

// UpdateMachine implements pb.MachineServiceServer.
func (a *machineAPI) UpdateMachine(ctx context.Context, r *pb.UpdateMachineRequest) (*pb.Machine, error) {
	return a.update(ctx, r.GetMachine(), r)
}

// DeleteMachine implements pb.MachineServiceServer.
func (a *machineAPI) DeleteMachine(ctx context.Context, r *pb.DeleteMachineRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, a.remove(ctx, r)
}

// WatchMachines implements pb.MachineServiceServer.
func (a *machineAPI) WatchMachines(r *pb.WatchMachinesRequest, stream grpc.ServerStreamingServer[pb.WatchMachinesResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Machine, revision int64) error {
		return stream.Send(&pb.WatchMachinesResponse{Type: t, Machine: obj, ResourceVersion: revision})
	})
}

// ExplainMachine implements pb.MachineServiceServer.
func (a *machineAPI) ExplainMachine(ctx context.Context, r *pb.ExplainMachineRequest) (*pb.ExplainMachineResponse, error) {
	if err := a.viewable(ctx, r.GetName()); err != nil {
		return nil, err
	}
	out, err := a.s.cfg.Machines.Explain(ctx, r.GetName())
	return out, hookError(err)
}

// GetMachineTimeline implements pb.MachineServiceServer.
func (a *machineAPI) GetMachineTimeline(ctx context.Context, r *pb.GetMachineTimelineRequest) (*pb.GetMachineTimelineResponse, error) {
	if err := a.viewable(ctx, r.GetName()); err != nil {
		return nil, err
	}
	phases, err := a.s.cfg.Machines.Timeline(ctx, r.GetName())
	if err != nil {
		return nil, hookError(err)
	}
	return &pb.GetMachineTimelineResponse{Phases: phases}, nil
}

// RetryMachine implements pb.MachineServiceServer.
func (a *machineAPI) RetryMachine(ctx context.Context, r *pb.RetryMachineRequest) (*pb.Machine, error) {
	if err := a.viewable(ctx, r.GetName()); err != nil {
		return nil, err
	}
	about := &pb.Machine{Metadata: &pb.Metadata{Name: r.GetName()}}
	out, err := a.s.cfg.Machines.Retry(ctx, r.GetName(), a.s.cfg.Events.Op(event.About(about, "RetryRequested", "", caller(ctx).name)))
	if err != nil {
		return nil, hookError(err)
	}
	return a.visible(out), nil
}

// FollowMachine implements pb.MachineServiceServer.
func (a *machineAPI) FollowMachine(r *pb.FollowMachineRequest, stream grpc.ServerStreamingServer[pb.FollowMachineResponse]) error {
	if err := a.viewable(stream.Context(), r.GetName()); err != nil {
		return err
	}
	return hookError(a.s.cfg.Machines.Follow(stream.Context(), r.GetName(), stream.Send))
}

// viewable refuses names of machines that aren't there.
func (a *machineAPI) viewable(ctx context.Context, name string) error {
	if a.s.cfg.Machines == nil {
		return unavailable("views of machines")
	}
	_, err := a.get(ctx, name)
	return err
}
