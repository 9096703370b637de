package api

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/trust"
)

// principal is who makes a call.
type principal struct {
	// name of the token.
	name string
	role pb.Role
	// digest of the token, to look again whether it is still good.
	digest string
}

type principalKey struct{}

// caller returns who makes the call; the interceptors have put it there.
func caller(ctx context.Context) principal {
	p, _ := ctx.Value(principalKey{}).(principal)
	return p
}

// tokenIndex finds tokens by their digest, without the store.
type tokenIndex struct {
	mu       sync.RWMutex
	byDigest map[string]*pb.Token
	byName   map[string]*pb.Token
	// revoked has the digests of tokens that this server has deleted, which
	// the watch may bring once more before it brings the deletion.
	revoked map[string]bool
}

// maxRevoked bounds what is kept of deleted tokens.
const maxRevoked = 10000

func newTokenIndex() *tokenIndex {
	return &tokenIndex{byDigest: map[string]*pb.Token{}, byName: map[string]*pb.Token{}, revoked: map[string]bool{}}
}

// set takes in a token, unless a newer version of it is there: calls and the
// watch both bring them.
func (x *tokenIndex) set(t *pb.Token) {
	x.mu.Lock()
	defer x.mu.Unlock()
	name := t.GetMetadata().GetName()
	if x.revoked[t.GetStatus().GetDigest()] {
		return
	}
	if was := x.byName[name]; was != nil {
		if was.GetMetadata().GetResourceVersion() > t.GetMetadata().GetResourceVersion() {
			return
		}
		delete(x.byDigest, was.GetStatus().GetDigest())
	}
	x.byName[name] = t
	x.byDigest[t.GetStatus().GetDigest()] = t
}

// revoke removes a token at once and for good.
func (x *tokenIndex) revoke(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.revoked) >= maxRevoked {
		clear(x.revoked)
	}
	if was := x.byName[name]; was != nil {
		x.revoked[was.GetStatus().GetDigest()] = true
	}
	x.removeLocked(name)
}

// remove is for what the watch brings.
func (x *tokenIndex) remove(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeLocked(name)
}

func (x *tokenIndex) removeLocked(name string) {
	if was := x.byName[name]; was != nil {
		delete(x.byDigest, was.GetStatus().GetDigest())
		delete(x.byName, name)
	}
}

func (x *tokenIndex) find(digest string) *pb.Token {
	x.mu.RLock()
	defer x.mu.RUnlock()
	t := x.byDigest[digest]
	if t == nil || !trust.EqualDigest(t.GetStatus().GetDigest(), digest) {
		return nil
	}
	return t
}

// lookup returns whose digest it is, if it may be used now.
func (x *tokenIndex) lookup(digest string, now time.Time) (principal, error) {
	t := x.find(digest)
	if t == nil {
		return principal{}, status.Error(codes.Unauthenticated,
			"the token is not known here: it is another server's, or it was deleted; ask an admin for one of this server's")
	}
	name := t.GetMetadata().GetName()
	if expired(t, now) {
		return principal{}, status.Errorf(codes.Unauthenticated, "token %q expired on %s: ask an admin for a new one",
			name, t.GetSpec().GetExpireTime().AsTime().Format(time.RFC3339))
	}
	return principal{name: name, role: t.GetSpec().GetRole(), digest: digest}, nil
}

// admins counts the tokens other than `except` that can change everything now.
func (x *tokenIndex) admins(except string, now time.Time) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := 0
	for name, t := range x.byName {
		if name != except && t.GetSpec().GetRole() == pb.Role_ADMIN && !expired(t, now) {
			n++
		}
	}
	return n
}

func expired(t *pb.Token, now time.Time) bool {
	at := t.GetSpec().GetExpireTime()
	return at != nil && !now.Before(at.AsTime())
}

// authorize returns a context that says who makes the call, or why it is refused.
func (s *Server) authorize(ctx context.Context, method string) (context.Context, error) {
	p, err := s.authenticate(ctx)
	if err != nil {
		return ctx, s.penalize(ctx, method, err)
	}
	need, known := s.roles[method]
	if !known || p.role < need {
		err := status.Errorf(codes.PermissionDenied, "token %q has the role %s; this needs %s: ask an admin",
			p.name, resource.EnumName(p.role), resource.EnumName(need))
		s.metrics.denied.WithLabelValues("role").Inc()
		s.log.Warn("call refused", "addr", clientAddr(ctx), "action", method, "err", err)
		return ctx, err
	}
	return context.WithValue(ctx, principalKey{}, p), nil
}

// authenticate finds the token that the call carries.
func (s *Server) authenticate(ctx context.Context) (principal, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) == 0 || values[0] == "" {
		return principal{}, status.Error(codes.Unauthenticated,
			"no token: send `authorization: Bearer …`; the command line takes one from its config file, --token or BEDPLATE_TOKEN")
	}
	scheme, secret, _ := strings.Cut(values[0], " ")
	secret = strings.TrimSpace(secret)
	if !strings.EqualFold(scheme, "bearer") || !trust.IsAPIToken(secret) {
		return principal{}, status.Errorf(codes.Unauthenticated,
			"what was sent as a token is none: one is `Bearer %s` and %d letters and digits", trust.APITokenPrefix, trust.APITokenLength-len(trust.APITokenPrefix))
	}
	return s.tokens.lookup(trust.APITokenDigest(secret), s.cfg.DB.Now())
}

// penalize counts and logs a call without a good token. An address that makes
// many of them gets a shorter answer, and its calls are no longer logged one by
// one. A token has 256 random bits, so that this keeps the log readable
// rather than tokens secret; good tokens from the address are still served.
func (s *Server) penalize(ctx context.Context, method string, err error) error {
	s.metrics.denied.WithLabelValues("token").Inc()
	addr := clientAddr(ctx)
	if !s.failures.allow(addr, s.cfg.DB.Now()) {
		return status.Error(codes.ResourceExhausted, "too many calls without a good token from this address: wait a minute")
	}
	s.log.Warn("call refused", "addr", addr, "action", method, "err", err)
	return err
}

// clientAddr returns the address of the client, also of one that came by REST:
// the gateway appends it to x-forwarded-for, so that only the last one counts.
func clientAddr(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	text := p.Addr.String()
	if p.Addr.Network() == innerNetwork {
		md, _ := metadata.FromIncomingContext(ctx)
		all := strings.Join(md.Get("x-forwarded-for"), ",")
		text = strings.TrimSpace(all[strings.LastIndexByte(all, ',')+1:])
	}
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}

const (
	failureBurst    = 20
	failureInterval = 3 * time.Second
	maxFailing      = 4096
)

// failureLimits bounds how many failures of one address are dealt with.
type failureLimits struct {
	mu     sync.Mutex
	byAddr map[netip.Addr]*rate.Limiter
}

func newFailureLimits() *failureLimits {
	return &failureLimits{byAddr: map[netip.Addr]*rate.Limiter{}}
}

// allow reports whether another failure of addr fits its limit.
func (f *failureLimits) allow(addr netip.Addr, now time.Time) bool {
	if addr.Is6() { // a host has all of a /64 to choose from
		addr = netip.PrefixFrom(addr.WithZone(""), 64).Masked().Addr()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.byAddr[addr]
	if l == nil {
		f.bound(now)
		l = rate.NewLimiter(rate.Every(failureInterval), failureBurst)
		f.byAddr[addr] = l
	}
	return l.AllowN(now, 1)
}

// bound forgets addresses that have recovered, and any of them if too few have.
func (f *failureLimits) bound(now time.Time) {
	if len(f.byAddr) < maxFailing {
		return
	}
	for addr, l := range f.byAddr {
		if l.TokensAt(now) >= failureBurst {
			delete(f.byAddr, addr)
		}
	}
	for addr := range f.byAddr {
		if len(f.byAddr) < maxFailing*3/4 {
			return
		}
		delete(f.byAddr, addr)
	}
}

// Bootstrap makes a token with every right if no token has that, and returns
// it: the first start of a server, or one whose admins' tokens have expired.
// It is called before Run. created is false, and secret empty, if there is one.
func (s *Server) Bootstrap(ctx context.Context) (secret string, created bool, err error) {
	all, _, err := resource.All[*pb.Token](ctx, s.cfg.DB)
	if err != nil {
		return "", false, fmt.Errorf("looking for an admin token: %w", err)
	}
	taken := map[string]bool{}
	for _, t := range all {
		if t.GetSpec().GetRole() == pb.Role_ADMIN && !expired(t, s.cfg.DB.Now()) {
			return "", false, nil
		}
		taken[t.GetMetadata().GetName()] = true
	}
	name := "admin"
	for i := 2; taken[name]; i++ {
		name = fmt.Sprintf("admin-%d", i)
	}
	token := &pb.Token{
		Metadata: &pb.Metadata{Name: name},
		Spec:     &pb.TokenSpec{Role: pb.Role_ADMIN, Description: "made at start because no token had the role admin"},
	}
	ctx = context.WithValue(ctx, principalKey{}, principal{role: pb.Role_ADMIN})
	out, err := s.tokenAPI.create(ctx, token, createOptions{})
	if err != nil {
		return "", false, fmt.Errorf("making the first admin token: %w", err)
	}
	return string(out.extra), true, nil
}
