package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

// realServer enrols and connects over TLS with certificates of a real CA.
type realServer struct {
	*fakeServer
	ca *trust.CA
}

func (s *realServer) Enroll(_ context.Context, r *pb.EnrollRequest) (*pb.EnrollResponse, error) {
	req, err := trust.ParseAgentRequest(r.GetCertificateRequest())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	ders, err := s.ca.SignAgent(req, trust.Agent{Machine: "m1", BootID: r.GetBootId()})
	if err != nil {
		return nil, err
	}
	s.note(func() { s.enrols++ })
	return &pb.EnrollResponse{Certificates: ders, Machine: "m1", ServerTime: timestamppb.New(s.stamp)}, nil
}

func (s *realServer) Connect(st grpc.BidiStreamingServer[pb.ConnectRequest, pb.ConnectResponse]) error {
	p, _ := peer.FromContext(st.Context())
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return status.Error(codes.Unauthenticated, "no TLS")
	}
	if _, err := trust.PeerAgent(info.State); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	return s.fakeServer.Connect(st)
}

// listen serves s on loopback with a certificate that was made at `now`.
func listen(t *testing.T, s *fakeServer, now time.Time) (addr, digest string) {
	t.Helper()
	ca, err := trust.OpenCA(t.TempDir(), rand.Reader, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.NewServerCertificate(nil, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(cert.AgentTLS())))
	pb.RegisterAgentServiceServer(g, &realServer{fakeServer: s, ca: ca})
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-served })
	return l.Addr().String(), ca.Digest()
}

func TestDialer(t *testing.T) {
	t.Run("enrol and connect over TLS, a plan runs", func(t *testing.T) {
		s := newFakeServer(makePlan(&pb.Step{Id: "a", Uses: "noop"}))
		addr, digest := listen(t, s, time.Now())
		start(t, newFakeServer(nil), func(c *Config) { c.Dial = Dialer{Server: addr, CA: digest, Now: time.Now}.Dial })
		s.await(t, "a is done", func() bool { return s.has("a STEP_SUCCEEDED") })
	})

	t.Run("a machine whose clock is years off enrols, then has the time", func(t *testing.T) {
		s := newFakeServer(nil)
		addr, digest := listen(t, s, time.Now())
		var shift atomic.Int64
		shift.Store(int64(-20 * 365 * 24 * time.Hour))
		now := func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }
		start(t, newFakeServer(nil), func(c *Config) {
			c.Dial, c.Now = Dialer{Server: addr, CA: digest, Now: now}.Dial, now
			c.SetClock = func(t time.Time) error { shift.Store(int64(time.Until(t))); return nil }
		})
		s.await(t, "connected", func() bool { return len(s.hellos) > 0 })
	})

	t.Run("once the clock is right, dates count", func(t *testing.T) {
		s := newFakeServer(nil)
		addr, digest := listen(t, s, time.Now())
		late := func() time.Time { return time.Now().Add(20 * 365 * 24 * time.Hour) }
		conn, err := Dialer{Server: addr, CA: digest, Now: late}.Dial(&tls.Certificate{})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = pb.NewAgentServiceClient(conn).Enroll(t.Context(), &pb.EnrollRequest{})
		if err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("error %v", err)
		}
	})

	t.Run("a server of another CA is refused and recognised as such", func(t *testing.T) {
		s := newFakeServer(nil)
		addr, _ := listen(t, s, time.Now())
		conn, err := Dialer{Server: addr, CA: "sha256:" + strings.Repeat("ab", 32), Now: time.Now}.Dial(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = pb.NewAgentServiceClient(conn).Enroll(t.Context(), &pb.EnrollRequest{})
		if err == nil || !isForeign(err) {
			t.Errorf("error %v", err)
		}
		if s.enrols != 0 {
			t.Error("the token went to it")
		}
	})
}
