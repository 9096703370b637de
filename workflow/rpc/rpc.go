// Package rpc is the service that agents talk to (proto agent.proto): Enroll
// exchanges the one-time token of a boot for a client certificate, Connect is
// the one stream of a boot, over which the agent is given its plan and says
// what happens.
//
// It moves messages; what they mean is decided by package workflow. A stream
// costs two goroutines beside gRPC's own. A peer that is gone is found out by
// keepalive within half a minute. Everything that an agent can send is bounded.
package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/workflow"
)

// Limits of the service.
const (
	maxMessageBytes = 4 << 20
	maxHeaderBytes  = 16 << 10
	// One Enroll or Connect at a time, and one to replace it.
	maxStreams = 4
	// writeBuffer is for the time of a write only. There is no read buffer: TLS
	// has its own, and ten thousand agents mostly wait.
	writeBuffer      = 4 << 10
	keepaliveTime    = 20 * time.Second
	keepaliveTimeout = 10 * time.Second
	handshakeTime    = 20 * time.Second
	// DefaultHeartbeat is how often agents are asked to say that they live.
	DefaultHeartbeat = 15 * time.Second
)

// Claim is what a boot token says.
type Claim struct {
	// Machine is empty when the machine is yet to be discovered.
	Machine machine.Name
	MAC     machine.MAC
	// ID is the token's own, to know it again by.
	ID      string
	Expires time.Time
	// Expired tokens are only good for the key that used them in time.
	Expired bool
	// Medium says that it is a boot medium's token, and ID the medium: good for
	// any number of boots, for as long as Config.Media says so.
	Medium bool
}

// holder is whose token it is: the machine's, or else the MAC address's.
func (c Claim) holder() string {
	if c.Machine != "" {
		return string(c.Machine)
	}
	return "m-" + strings.ReplaceAll(c.MAC.String(), ":", "")
}

// Trust is what the service needs of the certificate authority.
type Trust interface {
	// VerifyToken reads a boot token. The error is for people and says what to do.
	VerifyToken(token string) (Claim, error)
	// KeyDigest checks a certificate request and returns the digest of its key.
	KeyDigest(request []byte) (string, error)
	// Sign returns a client certificate for the machine in that boot, and the
	// CA's, DER.
	Sign(request []byte, m machine.Name, bootID string) ([][]byte, error)
	// Peer returns who the verified client certificate of a connection is of.
	Peer(state tls.ConnectionState) (m machine.Name, bootID string, err error)
}

// Identity is how an unknown machine describes itself.
type Identity struct {
	// MAC is the one that it booted from; the token vouches for it.
	MAC    machine.MAC
	Others []machine.MAC
	UUID   machine.UUID
	Serial string
}

// Machines is what the service needs of the machines' life.
type Machines interface {
	// Discover returns the machine that this is, and makes one if nobody has
	// described it.
	Discover(ctx context.Context, id Identity) (machine.Name, error)
	// Renamed returns the name that the machine now has that once had this one;
	// false if there is none, or a machine of that name is there.
	Renamed(ctx context.Context, former machine.Name) (machine.Name, bool, error)
	// Inventory takes what the agent read of the hardware.
	Inventory(ctx context.Context, m machine.Name, inv *pb.Inventory) error
}

// Media is what the service needs to know of boot media.
type Media interface {
	// Enrolment returns what a transaction has to compare so that it holds only
	// while the medium is good. The error is for people and says what to do.
	Enrolment(ctx context.Context, name machine.Name, uid, id string) ([]store.Compare, error)
	// Reserved returns the machine that an address is reserved for.
	Reserved(netip.Addr) (machine.Name, bool)
}

// Config is what a Server needs.
type Config struct {
	// Address to listen on, such as :8444.
	Address string
	// TLS asks for client certificates but does not insist: Enroll has none.
	TLS        *tls.Config
	DB         *resource.DB
	Controller *workflow.Controller
	Trust      Trust
	Machines   Machines
	// Media may be nil: then nobody enrols with a boot medium.
	Media    Media
	Observer workflow.Observer
	// Heartbeat is how often agents are asked to say that they live; 0: DefaultHeartbeat.
	Heartbeat time.Duration
	Now       func() time.Time
	Logger    *slog.Logger
}

// Server is the agents' service.
type Server struct {
	pb.UnimplementedAgentServiceServer
	cfg       Config
	grpc      *grpc.Server
	listener  net.Listener
	receivers sync.WaitGroup
}

// New returns a Server.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.DB == nil || cfg.Controller == nil || cfg.Trust == nil || cfg.Machines == nil:
		return nil, errors.New("making the agents' service: DB, Controller, Trust and Machines must be set")
	case cfg.Now == nil || cfg.Logger == nil || cfg.TLS == nil:
		return nil, errors.New("making the agents' service: TLS, Now and Logger must be set")
	}
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	s := &Server{cfg: cfg}
	s.grpc = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(cfg.TLS)),
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.ReadBufferSize(0), grpc.WriteBufferSize(writeBuffer),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	pb.RegisterAgentServiceServer(s.grpc, s)
	return s, nil
}

// Listen binds the port.
func (s *Server) Listen() error {
	l, err := net.Listen("tcp", s.cfg.Address)
	if errors.Is(err, syscall.EADDRINUSE) {
		_, port, _ := net.SplitHostPort(s.cfg.Address)
		return fmt.Errorf("listening for agents on %s: another program has the port: `ss -ltnp sport = :%s` shows which; stop it or choose another address: %w", s.cfg.Address, port, err)
	}
	if err != nil {
		return fmt.Errorf("listening for agents: %w", err)
	}
	s.listener = l
	return nil
}

// Addr returns what Listen has bound; the zero value before that.
func (s *Server) Addr() netip.AddrPort {
	if s.listener == nil {
		return netip.AddrPort{}
	}
	if a, ok := s.listener.Addr().(*net.TCPAddr); ok {
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// Run serves until ctx is done, and returns when every stream has ended.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		return errors.New("serving agents: Listen comes first")
	}
	failed := make(chan error, 1)
	go func() { failed <- s.grpc.Serve(s.listener) }()
	select {
	case err := <-failed:
		s.grpc.Stop()
		s.receivers.Wait()
		return fmt.Errorf("serving agents: %w", err)
	case <-ctx.Done():
	}
	// Streams never end by themselves: Stop cancels them and waits for their handlers.
	s.grpc.Stop()
	s.receivers.Wait()
	<-failed
	return nil
}
