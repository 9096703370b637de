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
	"github.com/bedplate/bedplate/store"
)

// InstanceChecker finds what is wrong with the expressions of an instance.
type InstanceChecker interface {
	// CheckInstance returns a *resource.FieldErrors for what is wrong, with
	// paths that begin with `spec`.
	CheckInstance(spec *pb.InstanceSpec) error
}

type instanceAPI struct {
	pb.UnimplementedInstanceServiceServer
	crud[*pb.Instance]
}

func newInstanceAPI(s *Server) *instanceAPI {
	a := &instanceAPI{crud: newCRUD[*pb.Instance](s)}
	a.check, a.redact = a.checkInstance, redactInstance
	a.committed, a.removed = s.uses.setInstance, s.uses.removeInstance
	a.changeLock = s.uses.lock.RLocker()
	return a
}

// checkInstance looks for what the instance names. What is on a machine's disk
// can't be changed afterwards.
func (a *instanceAPI) checkInstance(ctx context.Context, c *change[*pb.Instance]) error {
	spec := c.after.GetSpec()
	if !c.creating {
		if c.before.GetStatus().GetDeleting() && !specEqual(c.before, c.after) {
			return refused("instance/%s is being deleted: wait until it is gone, then create it again", c.before.GetMetadata().GetName())
		}
		if err := fixed(c.before, c.after, "stays as it was created: delete the instance and create it again",
			"machine", "selector", "image", "template", "inputs", "disk_hint"); err != nil {
			return err
		}
	}
	// What is said of storage holds from the next installation on.
	if a.s.cfg.Instances != nil && (c.creating || !proto.Equal(c.before.GetSpec().GetStorage(), spec.GetStorage())) {
		if err := a.s.cfg.Instances.CheckInstance(spec); err != nil {
			return err
		}
	}
	if !c.creating {
		return nil
	}
	if spec.GetImage() != "" {
		if err := exists[*pb.Image](ctx, a.s.cfg.DB, "spec.image", spec.GetImage()); err != nil {
			return err
		}
	}
	if spec.GetTemplate() != "" {
		if err := exists[*pb.Template](ctx, a.s.cfg.DB, "spec.template", spec.GetTemplate()); err != nil {
			return err
		}
	}
	if spec.GetMachine() == "" {
		return nil
	}
	return a.checkMachine(ctx, spec.GetMachine())
}

// checkMachine refuses a machine that can't be given to a new instance.
func (a *instanceAPI) checkMachine(ctx context.Context, name string) error {
	if err := exists[*pb.Machine](ctx, a.s.cfg.DB, "spec.machine", name); err != nil {
		return err
	}
	m, err := resource.Get[*pb.Machine](ctx, a.s.cfg.DB, name)
	if err != nil {
		return err
	}
	if m.GetSpec().GetMaintenance() {
		return fieldError("spec.machine", "machine/%s is set aside: clear its spec.maintenance first", name)
	}
	holders := a.s.uses.instancesWith(func(i *pb.Instance) bool {
		return (i.GetSpec().GetMachine() == name || i.GetStatus().GetMachine() == name) && !i.GetStatus().GetDeleting()
	})
	if len(holders) > 0 {
		return fieldError("spec.machine", "machine/%s is given to instance/%s: delete that first, or choose another machine", name, holders[0])
	}
	return nil
}

// redactInstance takes out what a metadata URL could be recognised by.
func redactInstance(i *pb.Instance) {
	if i.Status != nil {
		i.Status.MetadataKeyDigest = ""
	}
}

// GetInstance implements pb.InstanceServiceServer.
func (a *instanceAPI) GetInstance(ctx context.Context, r *pb.GetInstanceRequest) (*pb.Instance, error) {
	return a.get(ctx, r.GetName())
}

// ListInstances implements pb.InstanceServiceServer.
func (a *instanceAPI) ListInstances(ctx context.Context, r *pb.ListInstancesRequest) (*pb.ListInstancesResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListInstancesResponse{Instances: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateInstance implements pb.InstanceServiceServer.
func (a *instanceAPI) CreateInstance(ctx context.Context, r *pb.CreateInstanceRequest) (*pb.Instance, error) {
	return a.createPlain(ctx, r.GetInstance(), r)
}

// UpdateInstance implements pb.InstanceServiceServer.
func (a *instanceAPI) UpdateInstance(ctx context.Context, r *pb.UpdateInstanceRequest) (*pb.Instance, error) {
	return a.update(ctx, r.GetInstance(), r)
}

// DeleteInstance implements pb.InstanceServiceServer. The instance is marked;
// it is gone when its machine has been wiped, which the lifecycle does.
func (a *instanceAPI) DeleteInstance(ctx context.Context, r *pb.DeleteInstanceRequest) (*emptypb.Empty, error) {
	if err := named(r.GetName()); err != nil {
		return nil, err
	}
	for range attempts {
		err := a.tryMark(ctx, r)
		if !errors.Is(err, store.ErrConflict) {
			return &emptypb.Empty{}, err
		}
	}
	return nil, a.busy(r.GetName())
}

// tryMark makes one attempt; store.ErrConflict asks for another one.
func (a *instanceAPI) tryMark(ctx context.Context, r *pb.DeleteInstanceRequest) error {
	obj, err := resource.Get[*pb.Instance](ctx, a.s.cfg.DB, r.GetName())
	if err != nil {
		return err
	}
	if v, have := r.GetResourceVersion(), obj.GetMetadata().GetResourceVersion(); v != 0 && v != have {
		return a.stale(r.GetName(), v, have)
	}
	if obj.GetStatus().GetDeleting() {
		return nil
	}
	c := &change[*pb.Instance]{before: obj, after: cloneOf(obj), actor: caller(ctx).name}
	if c.after.Status == nil {
		c.after.Status = &pb.InstanceStatus{}
	}
	c.after.Status.Deleting = true
	c.after.Status.RequestedBy = c.actor
	resource.Stamp(a.s.cfg.DB, c.after)
	c.add([]store.Compare{resource.Unchanged(obj)}, resource.Put(c.after),
		a.s.cfg.Events.Op(event.About(obj, "ReleaseRequested", "its machine's disks are wiped, then it is gone", c.actor)))
	return a.commit(ctx, c)
}

// ReinstallInstance implements pb.InstanceServiceServer. The wish is counted;
// the lifecycle makes the workflow.
func (a *instanceAPI) ReinstallInstance(ctx context.Context, r *pb.ReinstallInstanceRequest) (*pb.Instance, error) {
	if err := named(r.GetName()); err != nil {
		return nil, err
	}
	for range attempts {
		obj, err := a.tryReinstall(ctx, r)
		if !errors.Is(err, store.ErrConflict) {
			return obj, err
		}
	}
	return nil, a.busy(r.GetName())
}

// tryReinstall makes one attempt; store.ErrConflict asks for another one.
func (a *instanceAPI) tryReinstall(ctx context.Context, r *pb.ReinstallInstanceRequest) (*pb.Instance, error) {
	obj, err := resource.Get[*pb.Instance](ctx, a.s.cfg.DB, r.GetName())
	if err != nil {
		return nil, err
	}
	switch s := obj.GetStatus(); {
	case s.GetDeleting():
		return nil, refused("instance/%s is being deleted", r.GetName())
	case s.GetMachine() == "":
		return nil, refused("instance/%s has no machine yet: there is nothing to install again", r.GetName())
	case r.Reinstalls != nil && r.GetReinstalls() != s.GetReinstalls():
		return a.visible(obj), nil
	}
	c := &change[*pb.Instance]{before: obj, after: cloneOf(obj), actor: caller(ctx).name}
	c.after.Status.Reinstalls++
	c.after.Status.RequestedBy = c.actor
	resource.Stamp(a.s.cfg.DB, c.after)
	c.add([]store.Compare{resource.Unchanged(obj)}, resource.Put(c.after),
		a.s.cfg.Events.Op(event.About(obj, "ReinstallRequested", "it is installed again on machine "+obj.GetStatus().GetMachine(), c.actor)))
	if err := a.commit(ctx, c); err != nil {
		return nil, err
	}
	return a.visible(c.after), nil
}

// WatchInstances implements pb.InstanceServiceServer.
func (a *instanceAPI) WatchInstances(r *pb.WatchInstancesRequest, stream grpc.ServerStreamingServer[pb.WatchInstancesResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Instance, revision int64) error {
		return stream.Send(&pb.WatchInstancesResponse{Type: t, Instance: obj, ResourceVersion: revision})
	})
}
