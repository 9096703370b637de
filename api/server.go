package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
)

const (
	// DefaultAddress is where the API is served unless said otherwise.
	DefaultAddress = ":8443"

	maxConnections          = 4096
	maxStreamsPerConnection = 256
	headerTimeout           = 10 * time.Second
	idleTimeout             = 5 * time.Minute
	// pingAfter and pingTimeout find clients that vanished without a word.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second
	// stopTimeout is how long calls under way may take when the server stops.
	stopTimeout = 10 * time.Second
)

// Config is what a Server needs.
type Config struct {
	// Address to listen on; empty: DefaultAddress.
	Address string
	// TLS is the listener's configuration, such as trust.ServerCertificate.TLS.
	TLS *tls.Config
	// Version is the server's, for GetServerInfo.
	Version string

	DB     *resource.DB
	Events *event.Log
	Sealer Sealer
	// Rand makes tokens.
	Rand io.Reader

	// The rest of the server. Calls to a part that is nil are UNIMPLEMENTED,
	// but a nil Instances checks nothing.
	Templates TemplateChecker
	Workflows Workflows
	Machines  MachineViews
	Images    ImageContent
	// Signatures checks images as they are uploaded; nil: none is.
	Signatures SignatureChecker
	Media      BootMedia
	Instances  InstanceChecker
	Rules      RuleChecker
	History    MachineHistory
	BMCs       BMCs
	Consoles   Consoles
	Stacks     Stacks

	Logger *slog.Logger
	// Registerer takes the metrics; nil: none.
	Registerer prometheus.Registerer
}

// Server serves the API. Use New, Listen and Run, each once and in this order.
type Server struct {
	cfg      Config
	log      *slog.Logger
	roles    map[string]pb.Role
	tokens   *tokenIndex
	uses     *uses
	failures *failureLimits
	metrics  metrics
	tokenAPI *tokenAPI

	grpc     *grpc.Server
	inner    *bufconn.Listener
	listener net.Listener

	streams   atomic.Int64
	receivers sync.WaitGroup
	// stopping ends every stream.
	stopping context.Context //nolint:containedctx // it is a signal, not a call's context
	stop     context.CancelFunc
}

// New returns a server that does nothing yet.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.DB == nil || cfg.Events == nil || cfg.Sealer == nil || cfg.Rand == nil:
		return nil, errors.New("configuring the API: DB, Events, Sealer and Rand are needed")
	case cfg.TLS == nil:
		return nil, errors.New("configuring the API: it is served over TLS only")
	case cfg.Logger == nil:
		return nil, errors.New("configuring the API: a Logger is needed")
	}
	if cfg.Address == "" {
		cfg.Address = DefaultAddress
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, roles: roles(),
		tokens: newTokenIndex(), uses: newUses(), failures: newFailureLimits(),
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	var err error
	if s.metrics, err = newMetrics(cfg.Registerer, func() float64 { return float64(s.streams.Load()) }); err != nil {
		return nil, err
	}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.UnaryInterceptor(s.intercept),
		grpc.StreamInterceptor(s.interceptStream),
	)
	s.tokenAPI = newTokenAPI(s)
	s.register(s.grpc)
	return s, nil
}

// register adds every service to r.
func (s *Server) register(r grpc.ServiceRegistrar) {
	pb.RegisterMachineServiceServer(r, newMachineAPI(s))
	pb.RegisterNetworkServiceServer(r, newNetworkAPI(s))
	pb.RegisterPoolServiceServer(r, newPoolAPI(s))
	pb.RegisterRuleServiceServer(r, newRuleAPI(s))
	pb.RegisterJobServiceServer(r, newJobAPI(s))
	pb.RegisterImageServiceServer(r, newImageAPI(s))
	pb.RegisterTemplateServiceServer(r, newTemplateAPI(s))
	pb.RegisterWorkflowServiceServer(r, newWorkflowAPI(s))
	pb.RegisterInstanceServiceServer(r, newInstanceAPI(s))
	pb.RegisterTokenServiceServer(r, s.tokenAPI)
	pb.RegisterSecretServiceServer(r, newSecretAPI(s))
	pb.RegisterEventServiceServer(r, newEventAPI(s))
	pb.RegisterStackServiceServer(r, newStackAPI(s))
	pb.RegisterErasureServiceServer(r, newErasureAPI(s))
	pb.RegisterSystemServiceServer(r, &systemAPI{version: s.cfg.Version, started: s.cfg.DB.Now()})
}

// Listen binds the port.
func (s *Server) Listen() error {
	l, err := net.Listen("tcp", s.cfg.Address)
	if errors.Is(err, syscall.EADDRINUSE) {
		_, port, _ := net.SplitHostPort(s.cfg.Address)
		return fmt.Errorf("listening for the API on %s: another program has the port: find it with `ss -ltnp 'sport = :%s'` and stop it, or choose another address (%w)",
			s.cfg.Address, port, err)
	}
	if err != nil {
		return fmt.Errorf("listening for the API on %s: %w", s.cfg.Address, err)
	}
	s.listener = netutil.LimitListener(l, maxConnections)
	return nil
}

// Addr returns the address that Listen has bound.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close releases the port of a server that Listen was called on and Run won't be.
func (s *Server) Close() error {
	s.stop()
	if s.listener == nil {
		return nil
	}
	return s.listener.Close()
}

// Run serves until ctx is done, then lets calls under way end for up to ten
// seconds, and returns when everything it started has stopped.
func (s *Server) Run(ctx context.Context) error {
	defer s.stop()
	g, ctx := errgroup.WithContext(ctx)
	// What the calls need goes on until the last of them has ended.
	behind, stopBehind := context.WithCancel(context.WithoutCancel(ctx))
	synced := s.follow(behind, g)
	g.Go(func() error { return claim.Keep(behind, s.cfg.DB, s.log) })
	g.Go(func() error { return s.trimRequests(behind) })
	g.Go(func() error {
		defer stopBehind()
		for range cap(synced) {
			select {
			case <-synced:
			case <-ctx.Done():
				return s.listener.Close()
			}
		}
		return s.serve(ctx)
	})
	err := g.Wait()
	s.receivers.Wait()
	if err != nil {
		return fmt.Errorf("serving the API: %w", err)
	}
	return nil
}

// follow keeps the indexes current. The channel gets one value from each when
// it has everything that was there.
func (s *Server) follow(ctx context.Context, g *errgroup.Group) chan struct{} {
	synced := make(chan struct{}, 3)
	done := func() { synced <- struct{}{} }
	g.Go(func() error { return resource.Follow(ctx, s.cfg.DB, s.tokens.set, s.tokens.remove, done) })
	g.Go(func() error { return resource.Follow(ctx, s.cfg.DB, s.uses.setInstance, s.uses.removeInstance, done) })
	g.Go(func() error { return resource.Follow(ctx, s.cfg.DB, s.uses.setWorkflow, s.uses.removeWorkflow, done) })
	return synced
}

// serve answers calls until ctx is done.
func (s *Server) serve(ctx context.Context) error {
	s.inner = bufconn.Listen(innerBuffer)
	conn, err := dialInner(s.inner)
	if err != nil {
		return errors.Join(err, s.listener.Close())
	}
	// The handlers' context ends with the connection, not with ctx: calls
	// under way are let end.
	rest, err := newREST(context.WithoutCancel(ctx), conn)
	if err != nil {
		return errors.Join(err, conn.Close(), s.listener.Close())
	}
	web := s.httpServer(rest)
	var g errgroup.Group
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	g.Go(func() error {
		if err := s.grpc.Serve(s.inner); err != nil {
			fail(err)
		}
		return nil
	})
	g.Go(func() error {
		if err := web.ServeTLS(s.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
		return nil
	})
	<-failed.Done()
	// Streams first: they would keep the rest waiting.
	s.stop()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := web.Shutdown(limit); err != nil {
		s.log.Warn("ending calls that were under way", "err", err)
		_ = web.Close() // nothing is left to be done about an error
	}
	_ = conn.Close()
	s.grpc.Stop()
	_ = g.Wait() // its errors are failed's cause
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(failed)
}

// httpServer returns the server of the one port.
func (s *Server) httpServer(rest http.Handler) *http.Server {
	return &http.Server{
		Handler:           dispatch(s.grpc, rest),
		TLSConfig:         s.cfg.TLS.Clone(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
		// Handshakes that fail are port scans and clients without our CA.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreamsPerConnection,
			SendPingTimeout:      pingAfter,
			PingTimeout:          pingTimeout,
			WriteByteTimeout:     pingAfter,
		},
	}
}
