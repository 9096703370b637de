package agent

import (
	"context"
	"crypto/tls"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"github.com/bedplate/bedplate/trust"
)

// Dialer opens connections to the server. Its Dial is a Config.Dial.
type Dialer struct {
	// Server is HOST:PORT.
	Server string
	// CA is the digest that the server's CA must have: sha256: and 64
	// hexadecimal digits.
	CA  string
	Now func() time.Time
}

const (
	dialTimeout = 10 * time.Second
	// deadPeer is after how long without an acknowledgement of TCP a peer
	// counts as gone. Heartbeats see to it that there is always something to
	// acknowledge; gRPC's own keepalive would need the server's consent.
	deadPeer = 30 * time.Second
	// maxPlan bounds one message from the server.
	maxPlan = 16 << 20
)

// Dial returns a connection that is made when it is first used. Without a
// certificate, at the first contact, the server certificate's dates are not
// checked; see the package's documentation.
func (d Dialer) Dial(certificate *tls.Certificate) (*grpc.ClientConn, error) {
	now := d.Now
	if certificate == nil {
		now = nil
	}
	config, err := trust.PinnedClientTLS(d.CA, d.Server, now)
	if err != nil {
		return nil, err
	}
	if certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	// passthrough: the dialer resolves the name anew at each attempt.
	return grpc.NewClient("passthrough:///"+d.Server,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(dialTCP),
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: grpcbackoff.Config{BaseDelay: time.Second, Multiplier: 1, MaxDelay: time.Second}, MinConnectTimeout: dialTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxPlan), grpc.MaxCallSendMsgSize(maxPlan)),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	)
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadPeer.Milliseconds()))
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	return d.DialContext(ctx, "tcp", addr)
}
