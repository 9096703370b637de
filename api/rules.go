package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// RuleChecker finds what is wrong with the expressions of a rule.
type RuleChecker interface {
	// CheckRule returns a *resource.FieldErrors for what is wrong, with paths
	// that begin with `spec`.
	CheckRule(spec *pb.RuleSpec) error
}

type ruleAPI struct {
	pb.UnimplementedRuleServiceServer
	crud[*pb.Rule]
}

func newRuleAPI(s *Server) *ruleAPI {
	a := &ruleAPI{crud: newCRUD[*pb.Rule](s)}
	a.check = a.checkRule
	return a
}

func (a *ruleAPI) checkRule(ctx context.Context, c *change[*pb.Rule]) error {
	if a.s.cfg.Rules == nil {
		return unavailable("discovery rules")
	}
	spec := c.after.GetSpec()
	if name := spec.GetBmc().GetPasswordSecret(); name != "" {
		if err := exists[*pb.Secret](ctx, a.s.cfg.DB, "spec.bmc.password_secret", name); err != nil {
			return err
		}
	}
	return a.s.cfg.Rules.CheckRule(spec)
}

// GetRule implements pb.RuleServiceServer.
func (a *ruleAPI) GetRule(ctx context.Context, r *pb.GetRuleRequest) (*pb.Rule, error) {
	return a.get(ctx, r.GetName())
}

// ListRules implements pb.RuleServiceServer.
func (a *ruleAPI) ListRules(ctx context.Context, r *pb.ListRulesRequest) (*pb.ListRulesResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListRulesResponse{Rules: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateRule implements pb.RuleServiceServer.
func (a *ruleAPI) CreateRule(ctx context.Context, r *pb.CreateRuleRequest) (*pb.Rule, error) {
	return a.createPlain(ctx, r.GetRule(), r)
}

// UpdateRule implements pb.RuleServiceServer.
func (a *ruleAPI) UpdateRule(ctx context.Context, r *pb.UpdateRuleRequest) (*pb.Rule, error) {
	return a.update(ctx, r.GetRule(), r)
}

// DeleteRule implements pb.RuleServiceServer.
func (a *ruleAPI) DeleteRule(ctx context.Context, r *pb.DeleteRuleRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, a.remove(ctx, r)
}

// WatchRules implements pb.RuleServiceServer.
func (a *ruleAPI) WatchRules(r *pb.WatchRulesRequest, stream grpc.ServerStreamingServer[pb.WatchRulesResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Rule, revision int64) error {
		return stream.Send(&pb.WatchRulesResponse{Type: t, Rule: obj, ResourceVersion: revision})
	})
}
