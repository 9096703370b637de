package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// usedPrefix is where the tokens that were used are kept until they would
// expire: /boot-tokens/<machine>/<token id>.
const usedPrefix = "/boot-tokens/"

// Bounds on an EnrollRequest.
const (
	maxMACs         = 64
	maxText         = 256
	enrolAttempts   = 64
	maxTokensPerRun = 32
)

var bootIDPattern = regexp.MustCompile(`^[0-9a-f]{16,64}$`)

// usedToken is what is kept of a token that was used.
type usedToken struct {
	Key     string    `json:"key"`
	Expires time.Time `json:"expires"`
}

var (
	errUsed    = status.Error(codes.Unauthenticated, "boot token was used already by another key: restart the machine so that it gets a new one")
	errExpired = status.Error(codes.Unauthenticated, "boot token has expired: restart the machine so that it gets a new one")
)

// Enroll implements the AgentService.
func (s *Server) Enroll(ctx context.Context, req *pb.EnrollRequest) (*pb.EnrollResponse, error) {
	reply, err := s.enroll(ctx, req)
	if err != nil {
		s.cfg.Logger.Warn("agent not enrolled", "addr", peerText(ctx), "err", err)
		s.sight(machine.Sighting{Event: "enrol-refused", Detail: status.Convert(err).Message(), Err: true, Address: peerAddr(ctx)})
	}
	return reply, err
}

func (s *Server) enroll(ctx context.Context, req *pb.EnrollRequest) (*pb.EnrollResponse, error) {
	if err := checkRequest(req); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	claim, err := s.cfg.Trust.VerifyToken(req.GetToken())
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	digest, err := s.cfg.Trust.KeyDigest(req.GetCertificateRequest())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	name := claim.Machine
	if name == "" {
		if claim.Expired {
			return nil, errExpired
		}
		if name, err = s.cfg.Machines.Discover(ctx, identity(claim, req)); err != nil {
			return nil, status.Error(codes.ResourceExhausted, err.Error())
		}
	} else if now, renamed, err := s.cfg.Machines.Renamed(ctx, name); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	} else if renamed {
		name = now
	}
	if err := s.redeem(ctx, name, claim, digest, req); err != nil {
		return nil, err
	}
	chain, err := s.cfg.Trust.Sign(req.GetCertificateRequest(), name, req.GetBootId())
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	s.cfg.Controller.Fence(string(name), req.GetBootId())
	s.sight(machine.Sighting{Machine: name, MAC: claim.MAC, Event: "enrolled", Detail: "boot " + req.GetBootId(), Address: peerAddr(ctx)})
	return &pb.EnrollResponse{Certificates: chain, Machine: string(name), ServerTime: timestamppb.New(s.cfg.Now())}, nil
}

func checkRequest(req *pb.EnrollRequest) error {
	switch {
	case !bootIDPattern.MatchString(req.GetBootId()):
		return errors.New("boot_id is not 16 to 64 lower-case hexadecimal digits")
	case len(req.GetMacs()) > maxMACs:
		return fmt.Errorf("more than %d MAC addresses", maxMACs)
	case len(req.GetUuid()) > maxText || len(req.GetSerial()) > maxText || len(req.GetVersion()) > maxText:
		return fmt.Errorf("text of more than %d bytes", maxText)
	}
	return nil
}

// identity takes what is well-formed of what the agent says of the machine.
func identity(claim Claim, req *pb.EnrollRequest) Identity {
	id := Identity{MAC: claim.MAC, Serial: strings.TrimSpace(strings.ToValidUTF8(req.GetSerial(), ""))}
	for _, text := range req.GetMacs() {
		if mac, err := machine.ParseMAC(text); err == nil && mac != claim.MAC && !mac.IsZero() {
			id.Others = append(id.Others, mac)
		}
	}
	slices.SortFunc(id.Others, func(a, b machine.MAC) int { return strings.Compare(a.String(), b.String()) })
	id.Others = slices.Compact(id.Others)
	if u, err := machine.ParseUUID(req.GetUuid()); err == nil {
		id.UUID = u
	}
	return id
}

// redeem records that the token was used by this key for this boot, in one
// transaction with the machine: of two keys with one token only one gets in.
func (s *Server) redeem(ctx context.Context, name machine.Name, claim Claim, digest string, req *pb.EnrollRequest) error {
	for range enrolAttempts {
		m, err := resource.Get[*pb.Machine](ctx, s.cfg.DB, string(name))
		if errors.Is(err, store.ErrNotFound) {
			return status.Errorf(codes.Unauthenticated, "machine %s is not known any more: restart the machine", name)
		}
		if err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
		compares, ops, err := s.entitled(ctx, m, claim, digest, req)
		if err != nil {
			return err
		}
		next, err := enrolled(m, claim, digest, req, s.cfg.Now())
		if err != nil {
			return err
		}
		if next != nil {
			resource.Stamp(s.cfg.DB, next)
			compares = append(compares, resource.Unchanged(m))
			ops = append(ops, resource.Put(next))
		}
		if len(ops) == 0 {
			return nil
		}
		_, err = s.cfg.DB.Store.Txn(ctx, compares, ops)
		if err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return status.Error(codes.Unavailable, err.Error())
		}
	}
	return status.Error(codes.Unavailable, store.ErrConflict.Error())
}

// entitled returns the compares and ops that make an enrolment count: the token
// is used up, or the medium is still in.
func (s *Server) entitled(ctx context.Context, m *pb.Machine, claim Claim, digest string, req *pb.EnrollRequest) ([]store.Compare, []store.Op, error) {
	if !claim.Medium {
		return s.spend(ctx, claim, digest)
	}
	compares, err := s.checkMedium(ctx, m, claim, digest, req)
	return compares, nil, err
}

// enrolled returns the machine with the boot's agent in its status; nil when
// it is there already.
func enrolled(m *pb.Machine, claim Claim, digest string, req *pb.EnrollRequest, now time.Time) (*pb.Machine, error) {
	a := m.GetStatus().GetAgent()
	same := a.GetBootId() == req.GetBootId()
	switch {
	case same && a.GetKeyDigest() != digest:
		return nil, status.Error(codes.Unauthenticated, "this boot has enrolled with another key: restart the machine")
	case same:
		return nil, nil
	case claim.Expired:
		return nil, errExpired
	}
	next := proto.Clone(m).(*pb.Machine)
	if next.Status == nil {
		next.Status = &pb.MachineStatus{}
	}
	next.Status.Agent = &pb.AgentStatus{
		BootId: req.GetBootId(), KeyDigest: digest, TokenId: claim.ID,
		Version: strings.ToValidUTF8(req.GetVersion(), "\uFFFD"), EnrollTime: timestamppb.New(now),
	}
	return next, nil
}

// spend returns what records the token as used by that key, and forgets those
// that have expired.
func (s *Server) spend(ctx context.Context, claim Claim, digest string) ([]store.Compare, []store.Op, error) {
	prefix := usedPrefix + claim.holder() + "/"
	page, err := s.cfg.DB.Store.List(ctx, prefix, "", maxTokensPerRun)
	if err != nil {
		return nil, nil, status.Error(codes.Unavailable, err.Error())
	}
	key := prefix + claim.ID
	var ops []store.Op
	for _, kv := range page.KVs {
		var used usedToken
		if err := json.Unmarshal(kv.Value, &used); err == nil && kv.Key != key && s.cfg.Now().After(used.Expires) {
			ops = append(ops, store.Delete(kv.Key))
		}
	}
	kv, err := s.cfg.DB.Store.Get(ctx, key)
	switch {
	case err == nil:
		var used usedToken
		if err := json.Unmarshal(kv.Value, &used); err != nil || used.Key != digest {
			return nil, nil, errUsed
		}
		return nil, ops, nil
	case !errors.Is(err, store.ErrNotFound):
		return nil, nil, status.Error(codes.Unavailable, err.Error())
	case claim.Expired:
		return nil, nil, errExpired
	}
	value, err := json.Marshal(usedToken{Key: digest, Expires: claim.Expires})
	if err != nil {
		return nil, nil, status.Error(codes.Internal, err.Error())
	}
	return []store.Compare{{Key: key}}, append(ops, store.Put(key, value)), nil
}

func (s *Server) sight(what machine.Sighting) {
	if s.cfg.Observer != nil {
		what.Time, what.Source = s.cfg.Now(), machine.SourceAgent
		s.cfg.Observer.Observe(what)
	}
}

func peerText(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}
