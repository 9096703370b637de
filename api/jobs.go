package api

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

type jobAPI struct {
	pb.UnimplementedJobServiceServer
	crud[*pb.Job]
}

func newJobAPI(s *Server) *jobAPI {
	a := &jobAPI{crud: newCRUD[*pb.Job](s)}
	a.check, a.release = a.checkJob, a.releaseJob
	return a
}

// checkJob wants a machine with a BMC. What has been asked of a BMC can't be
// changed afterwards.
func (a *jobAPI) checkJob(ctx context.Context, c *change[*pb.Job]) error {
	if !c.creating {
		return fixed(c.before, c.after, "stays as it was created: cancel the job and create another one", "machine", "operations", "timeout", "reason")
	}
	name := c.after.GetSpec().GetMachine()
	if err := exists[*pb.Machine](ctx, a.s.cfg.DB, "spec.machine", name); err != nil {
		return err
	}
	m, err := resource.Get[*pb.Machine](ctx, a.s.cfg.DB, name)
	if err != nil {
		return err
	}
	if m.GetSpec().GetBmc().GetAddress() == "" {
		return fieldError("spec.machine", "machine/%s has no BMC: set its spec.bmc.address first", name)
	}
	return nil
}

// releaseJob keeps a job that is at work.
func (a *jobAPI) releaseJob(_ context.Context, c *change[*pb.Job]) error {
	name := c.before.GetMetadata().GetName()
	switch c.before.GetStatus().GetState() {
	case pb.JobState_JOB_SUCCEEDED, pb.JobState_JOB_FAILED, pb.JobState_JOB_CANCELLED:
		return nil
	}
	return refused("job/%s has not ended: wait for it, or cancel it (`bedplate job cancel %s`)", name, name)
}

// CancelJob implements pb.JobServiceServer. The job is marked; the BMC
// service ends it before its next operation.
func (a *jobAPI) CancelJob(ctx context.Context, r *pb.CancelJobRequest) (*pb.Job, error) {
	if err := named(r.GetName()); err != nil {
		return nil, err
	}
	for range attempts {
		job, err := a.tryCancel(ctx, r)
		if !errors.Is(err, store.ErrConflict) {
			return job, err
		}
	}
	return nil, a.busy(r.GetName())
}

// tryCancel makes one attempt; store.ErrConflict asks for another one.
func (a *jobAPI) tryCancel(ctx context.Context, r *pb.CancelJobRequest) (*pb.Job, error) {
	obj, err := resource.Get[*pb.Job](ctx, a.s.cfg.DB, r.GetName())
	if err != nil {
		return nil, err
	}
	if obj.GetStatus().GetEndTime() != nil || obj.GetStatus().GetCancelRequested() {
		return obj, nil
	}
	c := &change[*pb.Job]{before: obj, after: cloneOf(obj), actor: caller(ctx).name}
	if c.after.Status == nil {
		c.after.Status = &pb.JobStatus{}
	}
	c.after.Status.CancelRequested = true
	resource.Stamp(a.s.cfg.DB, c.after)
	c.add([]store.Compare{resource.Unchanged(obj)}, resource.Put(c.after),
		a.s.cfg.Events.Op(event.About(obj, "CancelRequested", r.GetReason(), c.actor)))
	return c.after, a.commit(ctx, c)
}

// GetJob implements pb.JobServiceServer.
func (a *jobAPI) GetJob(ctx context.Context, r *pb.GetJobRequest) (*pb.Job, error) {
	return a.get(ctx, r.GetName())
}

// ListJobs implements pb.JobServiceServer.
func (a *jobAPI) ListJobs(ctx context.Context, r *pb.ListJobsRequest) (*pb.ListJobsResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListJobsResponse{Jobs: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateJob implements pb.JobServiceServer.
func (a *jobAPI) CreateJob(ctx context.Context, r *pb.CreateJobRequest) (*pb.Job, error) {
	return a.createPlain(ctx, r.GetJob(), r)
}

// UpdateJob implements pb.JobServiceServer.
func (a *jobAPI) UpdateJob(ctx context.Context, r *pb.UpdateJobRequest) (*pb.Job, error) {
	return a.update(ctx, r.GetJob(), r)
}

// DeleteJob implements pb.JobServiceServer.
func (a *jobAPI) DeleteJob(ctx context.Context, r *pb.DeleteJobRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, a.remove(ctx, r)
}

// WatchJobs implements pb.JobServiceServer.
func (a *jobAPI) WatchJobs(r *pb.WatchJobsRequest, stream grpc.ServerStreamingServer[pb.WatchJobsResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Job, revision int64) error {
		return stream.Send(&pb.WatchJobsResponse{Type: t, Job: obj, ResourceVersion: revision})
	})
}
