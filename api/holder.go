package api

import (
	"encoding/base64"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

// Holder is who a token makes of its holder, for services beside the API.
type Holder struct {
	// Name of the token.
	Name string
	Role pb.Role

	digest string
	s      *Server
}

// Still returns why the token is no longer good; nil while it is.
func (h Holder) Still() error {
	_, err := h.s.tokens.lookup(h.digest, h.s.cfg.DB.Now())
	return err
}

// HolderOf returns whose token that is. Failures are counted and logged as
// those of calls are.
func (s *Server) HolderOf(secret string, from netip.Addr) (Holder, error) {
	p, err := principal{}, error(status.Error(codes.Unauthenticated, "what was given as a password is no API token"))
	if trust.IsAPIToken(secret) {
		p, err = s.tokens.lookup(trust.APITokenDigest(secret), s.cfg.DB.Now())
	}
	if err == nil {
		return Holder{Name: p.name, Role: p.role, digest: p.digest, s: s}, nil
	}
	s.metrics.denied.WithLabelValues("token").Inc()
	if s.failures.allow(from, s.cfg.DB.Now()) {
		s.log.Warn("login refused", "addr", from, "err", err)
	}
	return Holder{}, err
}

// HolderOfKey returns whose token names that SSH key (its wire form, RFC 4253
// §6.6). That the holder has the private key is the caller's to check. A key
// that isn't known is no failure: clients offer all that they have.
func (s *Server) HolderOfKey(key []byte) (Holder, error) {
	t := s.tokens.findKey(base64.StdEncoding.EncodeToString(key))
	if t == nil {
		return Holder{}, status.Error(codes.Unauthenticated, "no token has this SSH key in its spec.ssh_keys")
	}
	p, err := s.tokens.lookup(t.GetStatus().GetDigest(), s.cfg.DB.Now())
	return Holder{Name: p.name, Role: p.role, digest: p.digest, s: s}, err
}

// findKey returns the token that names the key, the strongest if several do.
func (x *tokenIndex) findKey(text string) *pb.Token {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var best *pb.Token
	for _, t := range x.byName {
		for _, line := range t.GetSpec().GetSshKeys() {
			fields := strings.Fields(line)
			if len(fields) >= 2 && fields[1] == text && (best == nil || t.GetSpec().GetRole() > best.GetSpec().GetRole()) {
				best = t
			}
		}
	}
	return best
}
