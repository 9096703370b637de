package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// Workflows is the workflow service. Its methods append events that name the
// actor, in the Txn of what they change.
type Workflows interface {
	// NewWorkflow completes a workflow that is about to be created: its
	// inputs' defaults, the copy of the template, its steps, its first state.
	// It stores nothing. What is wrong with the inputs is a
	// *resource.FieldErrors with paths such as spec.inputs.image.
	NewWorkflow(ctx context.Context, wf *pb.Workflow, template *pb.Template, machine *pb.Machine) error
	Cancel(ctx context.Context, name, reason, actor string) (*pb.Workflow, error)
	Retry(ctx context.Context, name, fromStep, actor string) (*pb.Workflow, error)
	Approve(ctx context.Context, name, step string, reject bool, actor string) (*pb.Workflow, error)
	// Follow calls send, from one goroutine, with what happens in a workflow
	// until ctx is done, everything asked for has been sent, or send fails;
	// then it returns that error.
	Follow(ctx context.Context, r *pb.FollowWorkflowRequest, send func(*pb.FollowWorkflowResponse) error) error
	// WithProgress returns wf with the progress of its running steps, which
	// isn't stored, filled in. wf itself isn't altered.
	WithProgress(wf *pb.Workflow) *pb.Workflow
}

type workflowAPI struct {
	pb.UnimplementedWorkflowServiceServer
	crud[*pb.Workflow]
}

func newWorkflowAPI(s *Server) *workflowAPI {
	a := &workflowAPI{crud: newCRUD[*pb.Workflow](s)}
	a.take, a.check, a.release = keepWorkflow, a.checkWorkflow, a.releaseWorkflow
	a.committed, a.removed = s.uses.setWorkflow, s.uses.removeWorkflow
	a.changeLock = s.uses.lock.RLocker()
	return a
}

// keepWorkflow fills in, in an update, what the server added to the spec when
// the workflow was created: a file can be applied again as it is.
func keepWorkflow(_ context.Context, c *change[*pb.Workflow]) error {
	if c.creating || c.after.GetSpec() == nil {
		return nil
	}
	was, is := c.before.GetSpec(), c.after.GetSpec()
	if is.GetInstance() == "" {
		is.Instance = was.GetInstance()
	}
	for name, value := range was.GetInputs() {
		if _, given := is.GetInputs()[name]; given {
			continue
		}
		if is.Inputs == nil {
			is.Inputs = map[string]*structpb.Value{}
		}
		is.Inputs[name] = value
	}
	return nil
}

// checkWorkflow looks for what a new workflow names and has it prepared. One
// that exists keeps its spec.
func (a *workflowAPI) checkWorkflow(ctx context.Context, c *change[*pb.Workflow]) error {
	if !c.creating {
		if specEqual(c.before, c.after) {
			return nil
		}
		return fieldError("spec", "a workflow stays as it was created: create another one")
	}
	if a.s.cfg.Workflows == nil {
		return unavailable("workflows")
	}
	spec := c.after.GetSpec()
	if spec.GetInstance() != "" {
		return fieldError("spec.instance", "set by the server, for workflows that it makes itself")
	}
	if spec.GetTemplate() == "" {
		return fieldError("spec.template", "missing: the template to run (`bedplate get templates`)")
	}
	if err := exists[*pb.Template](ctx, a.s.cfg.DB, "spec.template", spec.GetTemplate()); err != nil {
		return err
	}
	if err := exists[*pb.Machine](ctx, a.s.cfg.DB, "spec.machine", spec.GetMachine()); err != nil {
		return err
	}
	template, err := resource.Get[*pb.Template](ctx, a.s.cfg.DB, spec.GetTemplate())
	if err != nil {
		return err
	}
	machine, err := resource.Get[*pb.Machine](ctx, a.s.cfg.DB, spec.GetMachine())
	if err != nil {
		return err
	}
	if machine.GetSpec().GetMaintenance() {
		return fieldError("spec.machine", "machine/%s is set aside: clear its spec.maintenance first", spec.GetMachine())
	}
	return hookError(a.s.cfg.Workflows.NewWorkflow(ctx, c.after, template, machine))
}

func (a *workflowAPI) releaseWorkflow(_ context.Context, c *change[*pb.Workflow]) error {
	if name := c.before.GetMetadata().GetName(); !ended(c.before) {
		return refused("workflow/%s has not ended: cancel it first (`bedplate workflow cancel %s`)", name, name)
	}
	return nil
}

// GetWorkflow implements pb.WorkflowServiceServer.
func (a *workflowAPI) GetWorkflow(ctx context.Context, r *pb.GetWorkflowRequest) (*pb.Workflow, error) {
	wf, err := a.get(ctx, r.GetName())
	if err != nil || a.s.cfg.Workflows == nil {
		return wf, err
	}
	return a.s.cfg.Workflows.WithProgress(wf), nil
}

// ListWorkflows implements pb.WorkflowServiceServer.
func (a *workflowAPI) ListWorkflows(ctx context.Context, r *pb.ListWorkflowsRequest) (*pb.ListWorkflowsResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	if a.s.cfg.Workflows != nil {
		for i, wf := range p.items {
			p.items[i] = a.s.cfg.Workflows.WithProgress(wf)
		}
	}
	return &pb.ListWorkflowsResponse{Workflows: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateWorkflow implements pb.WorkflowServiceServer.
func (a *workflowAPI) CreateWorkflow(ctx context.Context, r *pb.CreateWorkflowRequest) (*pb.Workflow, error) {
	return a.createPlain(ctx, r.GetWorkflow(), r)
}

// UpdateWorkflow implements pb.WorkflowServiceServer.
func (a *workflowAPI) UpdateWorkflow(ctx context.Context, r *pb.UpdateWorkflowRequest) (*pb.Workflow, error) {
	return a.update(ctx, r.GetWorkflow(), r)
}

// DeleteWorkflow implements pb.WorkflowServiceServer.
func (a *workflowAPI) DeleteWorkflow(ctx context.Context, r *pb.DeleteWorkflowRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, a.remove(ctx, r)
}

// WatchWorkflows implements pb.WorkflowServiceServer.
func (a *workflowAPI) WatchWorkflows(r *pb.WatchWorkflowsRequest, stream grpc.ServerStreamingServer[pb.WatchWorkflowsResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Workflow, revision int64) error {
		return stream.Send(&pb.WatchWorkflowsResponse{Type: t, Workflow: obj, ResourceVersion: revision})
	})
}

// FollowWorkflow implements pb.WorkflowServiceServer.
func (a *workflowAPI) FollowWorkflow(r *pb.FollowWorkflowRequest, stream grpc.ServerStreamingServer[pb.FollowWorkflowResponse]) error {
	if err := a.controllable(stream.Context(), r.GetName()); err != nil {
		return err
	}
	return hookError(a.s.cfg.Workflows.Follow(stream.Context(), r, stream.Send))
}

// CancelWorkflow implements pb.WorkflowServiceServer.
func (a *workflowAPI) CancelWorkflow(ctx context.Context, r *pb.CancelWorkflowRequest) (*pb.Workflow, error) {
	if err := a.controllable(ctx, r.GetName()); err != nil {
		return nil, err
	}
	out, err := a.s.cfg.Workflows.Cancel(ctx, r.GetName(), r.GetReason(), caller(ctx).name)
	return out, hookError(err)
}

// RetryWorkflow implements pb.WorkflowServiceServer.
func (a *workflowAPI) RetryWorkflow(ctx context.Context, r *pb.RetryWorkflowRequest) (*pb.Workflow, error) {
	if err := a.controllable(ctx, r.GetName()); err != nil {
		return nil, err
	}
	out, err := a.s.cfg.Workflows.Retry(ctx, r.GetName(), r.GetFromStep(), caller(ctx).name)
	return out, hookError(err)
}

// ApproveWorkflow implements pb.WorkflowServiceServer.
func (a *workflowAPI) ApproveWorkflow(ctx context.Context, r *pb.ApproveWorkflowRequest) (*pb.Workflow, error) {
	if err := a.controllable(ctx, r.GetName()); err != nil {
		return nil, err
	}
	out, err := a.s.cfg.Workflows.Approve(ctx, r.GetName(), r.GetStep(), r.GetReject(), caller(ctx).name)
	return out, hookError(err)
}

// controllable refuses names of workflows that aren't there.
func (a *workflowAPI) controllable(ctx context.Context, name string) error {
	if a.s.cfg.Workflows == nil {
		return unavailable("workflows")
	}
	_, err := a.get(ctx, name)
	return err
}
