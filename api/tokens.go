package api

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/trust"
)

type tokenAPI struct {
	pb.UnimplementedTokenServiceServer
	crud[*pb.Token]
}

func newTokenAPI(s *Server) *tokenAPI {
	a := &tokenAPI{crud: newCRUD[*pb.Token](s)}
	a.check, a.release, a.redact = a.checkToken, a.releaseToken, redactToken
	// A token works, and a deleted one stops working, with the answer.
	a.committed, a.removed = s.tokens.set, s.tokens.revoke
	// One at a time, so that two admins can't remove each other.
	lock := &sync.Mutex{}
	a.changeLock, a.deleteLock = lock, lock
	return a
}

// checkToken makes the token itself when it is created, and keeps somebody
// able to change everything.
func (a *tokenAPI) checkToken(_ context.Context, c *change[*pb.Token]) error {
	now := a.s.cfg.DB.Now()
	if !c.creating {
		admin := func(t *pb.Token) bool { return t.GetSpec().GetRole() == pb.Role_ADMIN && !expired(t, now) }
		if admin(c.before) && !admin(c.after) {
			return a.keepAdmin(c.before)
		}
		return nil
	}
	if expired(c.after, now) {
		return fieldError("spec.expire_time", "%s is in the past", c.after.GetSpec().GetExpireTime().AsTime())
	}
	made, err := trust.NewAPIToken(a.s.cfg.Rand)
	if err != nil {
		return err
	}
	c.after.Status = &pb.TokenStatus{Prefix: made.Prefix, Digest: made.Digest}
	c.extra = []byte(made.Secret)
	return nil
}

func (a *tokenAPI) releaseToken(_ context.Context, c *change[*pb.Token]) error {
	if c.before.GetSpec().GetRole() != pb.Role_ADMIN || expired(c.before, a.s.cfg.DB.Now()) {
		return nil
	}
	return a.keepAdmin(c.before)
}

func (a *tokenAPI) keepAdmin(t *pb.Token) error {
	name := t.GetMetadata().GetName()
	if a.s.tokens.admins(name, a.s.cfg.DB.Now()) == 0 {
		return refused("token/%s is the last one with the role admin: make another one first", name)
	}
	return nil
}

// redactToken takes out the digest: with it a token could be searched for.
func redactToken(t *pb.Token) {
	if t.Status != nil {
		t.Status.Digest = ""
	}
}

// GetToken implements pb.TokenServiceServer.
func (a *tokenAPI) GetToken(ctx context.Context, r *pb.GetTokenRequest) (*pb.Token, error) {
	return a.get(ctx, r.GetName())
}

// ListTokens implements pb.TokenServiceServer.
func (a *tokenAPI) ListTokens(ctx context.Context, r *pb.ListTokensRequest) (*pb.ListTokensResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListTokensResponse{Tokens: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateToken implements pb.TokenServiceServer.
func (a *tokenAPI) CreateToken(ctx context.Context, r *pb.CreateTokenRequest) (*pb.CreateTokenResponse, error) {
	out, err := a.create(ctx, r.GetToken(), optionsOf(r))
	if err != nil {
		return nil, err
	}
	return &pb.CreateTokenResponse{Token: out.object, Secret: string(out.extra)}, nil
}

// UpdateToken implements pb.TokenServiceServer.
func (a *tokenAPI) UpdateToken(ctx context.Context, r *pb.UpdateTokenRequest) (*pb.Token, error) {
	if r.GetAllowMissing() {
		name := r.GetToken().GetMetadata().GetName()
		if _, err := a.get(ctx, name); errors.Is(err, store.ErrNotFound) {
			return nil, refused("there is no token %q, and an update can't make one because it has no way to show it: create it (`bedplate token create`)", name)
		}
	}
	return a.update(ctx, r.GetToken(), onlyUpdate{r})
}

// onlyUpdate is an update that never creates.
type onlyUpdate struct{ updateRequest }

// GetAllowMissing implements updateRequest.
func (onlyUpdate) GetAllowMissing() bool { return false }

// DeleteToken implements pb.TokenServiceServer.
func (a *tokenAPI) DeleteToken(ctx context.Context, r *pb.DeleteTokenRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, a.remove(ctx, r)
}

// WatchTokens implements pb.TokenServiceServer.
func (a *tokenAPI) WatchTokens(r *pb.WatchTokensRequest, stream grpc.ServerStreamingServer[pb.WatchTokensResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Token, revision int64) error {
		return stream.Send(&pb.WatchTokensResponse{Type: t, Token: obj, ResourceVersion: revision})
	})
}
