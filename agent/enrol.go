package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

// identity is what enrolment gives: a certificate for this boot.
type identity struct {
	key         *ecdsa.PrivateKey
	request     []byte
	machine     string
	certificate *tls.Certificate
	expires     time.Time
}

const (
	enrolTimeout = 20 * time.Second
	// clockSlack is how far the clock may be off before it is set.
	clockSlack = 2 * time.Second
	// foreignLimit is how long a server with another CA is put up with: the
	// script that this machine booted by is then no longer true.
	foreignLimit = 5 * time.Minute
)

func newIdentity(cfg Config) (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), cfg.Rand)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(cfg.Rand, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "bedplate-agent"}}, key)
	if err != nil {
		return nil, fmt.Errorf("making certificate request: %w", err)
	}
	return &identity{key: key, request: der}, nil
}

// enrol tries for ever, but for ErrToken and ErrServer.
func (a *Agent) enrol(ctx context.Context) (*identity, error) {
	id, err := newIdentity(a.cfg)
	if err != nil {
		return nil, err
	}
	wait := backoff{jitter: a.cfg.Jitter}
	var said string
	var foreign time.Time
	for ctx.Err() == nil {
		err := a.enrolOnce(ctx, id)
		switch {
		case err == nil:
			a.cfg.Say("enrolled as machine %s", id.machine)
			return id, nil
		case ctx.Err() != nil:
		case errors.Is(err, ErrToken):
			return nil, err
		case !isForeign(err):
			foreign = time.Time{}
		case foreign.IsZero():
			foreign = a.cfg.Now()
		case a.cfg.Now().Sub(foreign) > foreignLimit:
			return nil, fmt.Errorf("%w: %v", ErrServer, err)
		}
		if text := err.Error(); text != said && ctx.Err() == nil {
			said = text
			a.cfg.Say("cannot enrol yet, trying again: %s", text)
		}
		sleep(ctx, wait.next())
	}
	return nil, ctx.Err()
}

// isForeign reports whether the peer showed another CA than the pinned one.
// The handshake's error comes back as text inside a status.
func isForeign(err error) bool { return strings.Contains(err.Error(), trust.ErrPin.Error()) }

func (a *Agent) enrolOnce(ctx context.Context, id *identity) error {
	conn, err := a.cfg.Dial(nil)
	if err != nil {
		return fmt.Errorf("dialling: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	reply, err := pb.NewAgentServiceClient(conn).Enroll(ctx, &pb.EnrollRequest{
		Token: a.cfg.Token, CertificateRequest: id.request, BootId: a.cfg.BootID, Version: a.cfg.Version,
		Macs: a.cfg.MACs(), Uuid: a.cfg.UUID, Serial: a.cfg.Serial,
	})
	switch status.Code(err) {
	case codes.OK:
	case codes.Unauthenticated, codes.PermissionDenied:
		return fmt.Errorf("%w: %s", ErrToken, status.Convert(err).Message())
	default:
		return err
	}
	a.setClock(reply.GetServerTime().AsTime())
	if err := id.accept(reply); err != nil {
		return err
	}
	if a.cfg.Enrolled != nil {
		a.cfg.Enrolled(id.machine, id.certificate)
	}
	return nil
}

func (id *identity) accept(reply *pb.EnrollResponse) error {
	ders := reply.GetCertificates()
	if len(ders) == 0 {
		return errors.New("reading enrolment: the server sent no certificate")
	}
	leaf, err := x509.ParseCertificate(ders[0])
	if err != nil {
		return fmt.Errorf("reading enrolment: %w", err)
	}
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(id.key.Public()) {
		return errors.New("reading enrolment: the certificate is for another key")
	}
	id.machine, id.expires = reply.GetMachine(), leaf.NotAfter
	id.certificate = &tls.Certificate{Certificate: ders, PrivateKey: id.key, Leaf: leaf}
	return nil
}

// setClock sets the machine's clock if it is off.
func (a *Agent) setClock(server time.Time) {
	off := server.Sub(a.cfg.Now())
	if server.Unix() <= 0 || off.Abs() <= clockSlack || a.cfg.SetClock == nil {
		return
	}
	if err := a.cfg.SetClock(server); err != nil {
		a.cfg.Log.Error("setting clock", "err", err)
		return
	}
	a.cfg.Say("clock was off by %s, set to %s", off.Round(time.Second), server.UTC().Format(time.RFC3339))
}

func cloneInventory(inv *pb.Inventory) *pb.Inventory { return proto.Clone(inv).(*pb.Inventory) }
