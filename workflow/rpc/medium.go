package rpc

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/store"
)

// checkMedium says whether an agent may enrol with a boot medium's token, which
// has been verified, and returns what the transaction has to compare.
//
// A medium is good for every boot while it is in: the newest boot wins, as ever.
// In place of being good only once, it is good only for the machine it was made
// for: a stick in another machine, or an image that somebody else has fetched,
// enrols nobody who doesn't say that it has that machine's hardware; nobody at
// an address that is reserved for another machine; and nobody at all once the
// medium was taken out.
func (s *Server) checkMedium(ctx context.Context, m *pb.Machine, claim Claim, digest string, req *pb.EnrollRequest) ([]store.Compare, error) {
	name := machine.Name(m.GetMetadata().GetName())
	a := m.GetStatus().GetAgent()
	if a.GetBootId() == req.GetBootId() && a.GetKeyDigest() == digest && a.GetTokenId() == claim.ID {
		return nil, nil // this boot is in already, and has not heard of it
	}
	if s.cfg.Media == nil {
		return nil, status.Error(codes.Unauthenticated, "this server knows of no boot media")
	}
	if claim.Expired {
		return nil, status.Error(codes.Unauthenticated, "this boot medium has expired: make a new one (`bedplate machine media`), or have the BMC insert it anew")
	}
	if !sameHardware(m.GetSpec(), req) {
		// Not Unauthenticated, after which the machine would restart without end.
		return nil, status.Errorf(codes.FailedPrecondition,
			"this boot medium is for machine %s, and this machine has none of its MAC addresses, nor its UUID or serial number: take the medium out, or correct the machine's spec", name)
	}
	if peer := peerAddr(ctx); peer.IsValid() {
		if holder, ok := s.cfg.Media.Reserved(peer); ok && holder != name {
			return nil, status.Errorf(codes.FailedPrecondition, "this boot medium is for machine %s, and %s is an address of machine %s", name, peer, holder)
		}
	}
	compares, err := s.cfg.Media.Enrolment(ctx, name, m.GetMetadata().GetUid(), claim.ID)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return compares, nil
}

// sameHardware reports whether what an agent says of its hardware is in keeping
// with the machine: any one of its identities is enough, as a board may have been
// replaced. Of a machine that is known by none of them, nothing can be said.
func sameHardware(spec *pb.MachineSpec, req *pb.EnrollRequest) bool {
	if len(spec.GetInterfaces()) == 0 && spec.GetUuid() == "" && spec.GetSerial() == "" {
		return true
	}
	if spec.GetUuid() != "" && strings.EqualFold(spec.GetUuid(), strings.TrimSpace(req.GetUuid())) {
		return true
	}
	if spec.GetSerial() != "" && strings.EqualFold(spec.GetSerial(), strings.TrimSpace(req.GetSerial())) {
		return true
	}
	var has []machine.MAC
	for _, text := range req.GetMacs() {
		if mac, err := machine.ParseMAC(text); err == nil {
			has = append(has, mac)
		}
	}
	return slices.ContainsFunc(spec.GetInterfaces(), func(i *pb.Interface) bool {
		mac, err := machine.ParseMAC(i.GetMac())
		return err == nil && slices.Contains(has, mac)
	})
}
