package rpc

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/workflow"
)

// A machine that made itself known may be given another name while its agent
// is connected. The agent's certificate has the old name then. It is taken for
// the new one's if it is for the boot, and for the key, that the machine has
// on record as its own: nobody else can show that.

// errRenamed ends the stream under the old name; the agent connects again.
var errRenamed = status.Error(codes.Canceled, "the machine has another name now: connect again")

// keyDigest is the digest of the key of a verified client certificate, as
// AgentStatus.key_digest has it.
func keyDigest(state tls.ConnectionState) string {
	if len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return ""
	}
	sum := sha256.Sum256(state.VerifiedChains[0][0].RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// present returns the name that the machine has whose agent shows a
// certificate for that name, boot and key.
func (s *Server) present(ctx context.Context, name machine.Name, bootID, digest string) (machine.Name, error) {
	now, renamed, err := s.cfg.Machines.Renamed(ctx, name)
	if err != nil {
		return "", status.Error(codes.Unavailable, err.Error())
	}
	if !renamed {
		return name, nil
	}
	m, err := resource.Get[*pb.Machine](ctx, s.cfg.DB, string(now))
	if err != nil {
		return "", statusOf(err)
	}
	if a := m.GetStatus().GetAgent(); digest == "" || a.GetBootId() != bootID || a.GetKeyDigest() != digest {
		return "", statusOf(workflow.ErrFenced)
	}
	return now, nil
}

// afterRename turns the end of a stream into what the agent has to be told if
// the machine has got another name meanwhile.
func (s *Server) afterRename(ctx context.Context, err error, name machine.Name, bootID, digest string) error {
	if c := status.Code(err); c != codes.Unauthenticated && c != codes.Aborted {
		return err
	}
	if now, lookErr := s.present(ctx, name, bootID, digest); lookErr == nil && now != name {
		return errRenamed
	}
	return err
}
