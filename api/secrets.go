package api

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// maxSecretBytes is what all values of one secret may have together; sealed,
// they have to fit a value of the store.
const maxSecretBytes = 512 << 10

// Sealer encrypts what is secret in the store; trust.Sealer is one.
type Sealer interface {
	Seal(name string, plain []byte) ([]byte, error)
	Open(name string, sealed []byte) ([]byte, error)
	SealValues(name string, values map[string]string) ([]byte, error)
}

type secretAPI struct {
	pb.UnimplementedSecretServiceServer
	crud[*pb.Secret]
}

func newSecretAPI(s *Server) *secretAPI {
	a := &secretAPI{crud: newCRUD[*pb.Secret](s)}
	a.check, a.redact = a.sealSecret, redactSecret
	return a
}

// sealSecret moves the values to where they are encrypted. An update without
// values keeps those that are there: a client that reads a secret, changes a
// label and sends it back never had them.
func (a *secretAPI) sealSecret(_ context.Context, c *change[*pb.Secret]) error {
	data := c.after.GetSpec().GetData()
	if len(data) == 0 && !c.creating {
		return nil
	}
	if len(data) == 0 {
		return fieldError("spec.data", "missing: the values of the secret by key")
	}
	total := 0
	for k, v := range data {
		total += len(k) + len(v)
	}
	if total > maxSecretBytes {
		return fieldError("spec.data", "%d bytes together, at most %d: make several secrets of it", total, maxSecretBytes)
	}
	sealed, err := a.s.cfg.Sealer.SealValues(c.after.GetMetadata().GetName(), data)
	if err != nil {
		return err
	}
	c.after.Status = &pb.SecretStatus{Keys: slices.Sorted(maps.Keys(data)), Sealed: sealed}
	c.after.Spec.Data = nil
	c.note = append(c.note, "spec.data")
	return nil
}

func redactSecret(obj *pb.Secret) {
	if obj.Spec != nil {
		obj.Spec.Data = nil
	}
	if obj.Status != nil {
		obj.Status.Sealed = nil
	}
}

// GetSecret implements pb.SecretServiceServer.
func (a *secretAPI) GetSecret(ctx context.Context, r *pb.GetSecretRequest) (*pb.Secret, error) {
	return a.get(ctx, r.GetName())
}

// ListSecrets implements pb.SecretServiceServer.
func (a *secretAPI) ListSecrets(ctx context.Context, r *pb.ListSecretsRequest) (*pb.ListSecretsResponse, error) {
	p, err := a.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &pb.ListSecretsResponse{Secrets: p.items, NextPageToken: p.next, ResourceVersion: p.revision}, nil
}

// CreateSecret implements pb.SecretServiceServer.
func (a *secretAPI) CreateSecret(ctx context.Context, r *pb.CreateSecretRequest) (*pb.Secret, error) {
	return a.createPlain(ctx, r.GetSecret(), r)
}

// UpdateSecret implements pb.SecretServiceServer.
func (a *secretAPI) UpdateSecret(ctx context.Context, r *pb.UpdateSecretRequest) (*pb.Secret, error) {
	return a.update(ctx, r.GetSecret(), r)
}

// DeleteSecret implements pb.SecretServiceServer.
func (a *secretAPI) DeleteSecret(ctx context.Context, r *pb.DeleteSecretRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, a.remove(ctx, r)
}

// WatchSecrets implements pb.SecretServiceServer.
func (a *secretAPI) WatchSecrets(r *pb.WatchSecretsRequest, stream grpc.ServerStreamingServer[pb.WatchSecretsResponse]) error {
	return a.watch(stream.Context(), r, func(t pb.ChangeType, obj *pb.Secret, revision int64) error {
		return stream.Send(&pb.WatchSecretsResponse{Type: t, Secret: obj, ResourceVersion: revision})
	})
}
