package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// TemplateChecker finds what is wrong with a template as a whole: unknown
// actions, wrong types in expressions, cycles in needs.
type TemplateChecker interface {
	// CheckTemplate returns a *resource.FieldErrors for what is wrong, with
	// paths that begin with `spec`.
	CheckTemplate(spec *pb.TemplateSpec) error
}

type templateAPI struct {
	pb.UnimplementedTemplateServiceServer
	crud[*pb.Template]
}

func newTemplateAPI(s *Server) *templateAPI {
	a := &templateAPI{crud: newCRUD[*pb.Template](s)}
	a.check, a.release = a.checkTemplate, a.releaseTemplate
	a.deleteLock = &s.uses.lock
	return a
}

func (a *templateAPI) checkTemplate(_ context.Context, c *change[*pb.Template]) error {
	if a.s.cfg.Templates == nil {
		return unavailable("templates")
	}
	return a.s.cfg.Templates.CheckTemplate(c.after.GetSpec())
}

// releaseTemplate lets no template go that an instance is yet to be installed
// or released with. Workflows have copies of theirs.
func (a *templateAPI) releaseTemplate(_ context.Context, c *change[*pb.Template]) error {
	name := c.before.GetMetadata().GetName()
	used := a.s.uses.instancesWith(func(i *pb.Instance) bool { return i.GetSpec().GetTemplate() == name })
	if len(used) > 0 {
		return refused("template/%s is used by %s: delete that first (`bedplate delete instance %s`)", name, some("instance", used), used[0])
	}
	return nil
}

// GetTemplate implements pb.TemplateServiceServer.
func (a *templateAPI) GetTemplate(ctx context.Context, r *pb.GetTemplateRequest) (*pb.Template, error) {
	return a.get(ctx, r.GetName())
}

// ListTemplates implements pb.TemplateServiceServer.
func (a *templateAPI) ListTemplates(ctx context.Context, r *pb.ListTemplatesRequest) (*pb.ListTemplatesResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListTemplatesResponse{Templates: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateTemplate implements pb.TemplateServiceServer.
func (a *templateAPI) CreateTemplate(ctx context.Context, r *pb.CreateTemplateRequest) (*pb.Template, error) {
	return a.createPlain(ctx, r.GetTemplate(), r)
}

// UpdateTemplate implements pb.TemplateServiceServer.
func (a *templateAPI) UpdateTemplate(ctx context.Context, r *pb.UpdateTemplateRequest) (*pb.Template, error) {
	return a.update(ctx, r.GetTemplate(), r)
}

// DeleteTemplate implements pb.TemplateServiceServer.
func (a *templateAPI) DeleteTemplate(ctx context.Context, r *pb.DeleteTemplateRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, a.remove(ctx, r)
}

// WatchTemplates implements pb.TemplateServiceServer.
func (a *templateAPI) WatchTemplates(r *pb.WatchTemplatesRequest, stream grpc.ServerStreamingServer[pb.WatchTemplatesResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Template, revision int64) error {
		return stream.Send(&pb.WatchTemplatesResponse{Type: t, Template: obj, ResourceVersion: revision})
	})
}
