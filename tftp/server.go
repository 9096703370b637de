package tftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	pin "github.com/pin/tftp/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"

	"github.com/bedplate/bedplate/machine"
)

// Files is where the content of names comes from.
type Files interface {
	// Open returns the file that peer gets for name, which CleanName made; an
	// error that is fs.ErrNotExist when there is none. The server closes what
	// it opened. Open must be quick and may be called by many goroutines.
	Open(name string, peer netip.Addr) (io.ReadSeekCloser, error)
}

// Observer is told what was seen of machines. Observe must not block.
type Observer interface {
	Observe(machine.Sighting)
}

// The defaults of Config.
const (
	DefaultMaxTransfers = 2048
	DefaultMaxPerPeer   = 16
	DefaultMaxBlockSize = 1468 // what fits one Ethernet frame over IPv4, and what firmware asks for
	DefaultTimeout      = time.Second
	DefaultGrace        = 2 * time.Minute
	DefaultMinRate      = 8 << 10
)

// retries is how often a datagram is repeated before the client counts as gone.
const retries = 5

// Config is what a Server is made from. Files and Now are required.
type Config struct {
	// Addrs are the addresses to listen on. Empty: 0.0.0.0:69.
	Addrs []netip.AddrPort
	Files Files
	// Observer, Logger and Registerer may be nil.
	Observer   Observer
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time

	// MaxTransfers bounds the transfers under way, MaxPerPeer those to one
	// address. Zero: the defaults.
	MaxTransfers, MaxPerPeer int
	// MaxBlockSize bounds the blksize that clients get. Zero: DefaultMaxBlockSize.
	MaxBlockSize int
	// Timeout is how long an acknowledgement is waited for before a datagram
	// is first repeated; pauses grow after that. Zero: DefaultTimeout.
	Timeout time.Duration
	// A transfer may take Grace plus the time that the file needs at MinRate
	// bytes per second. Zero: the defaults.
	Grace   time.Duration
	MinRate int64
}

// Server is the TFTP service.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	limit   *limiter
	conns   []*net.UDPConn
}

// New returns a server that is not yet listening. The error says what is
// missing in cfg, or which metric is already registered.
func New(cfg Config) (*Server, error) {
	if cfg.Files == nil || cfg.Now == nil {
		return nil, errors.New("tftp: Config.Files and Config.Now are required")
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("registering tftp metrics: %w", err)
	}
	s := &Server{cfg: withDefaults(cfg), log: cfg.Logger, metrics: m}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.limit = newLimiter(s.cfg.MaxTransfers, s.cfg.MaxPerPeer)
	return s, nil
}

func withDefaults(cfg Config) Config {
	if len(cfg.Addrs) == 0 {
		cfg.Addrs = []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), 69)}
	}
	cfg.Addrs = slices.Clone(cfg.Addrs)
	setDefault(&cfg.MaxTransfers, DefaultMaxTransfers)
	setDefault(&cfg.MaxPerPeer, DefaultMaxPerPeer)
	setDefault(&cfg.MaxBlockSize, DefaultMaxBlockSize)
	setDefault(&cfg.Timeout, DefaultTimeout)
	setDefault(&cfg.Grace, DefaultGrace)
	setDefault(&cfg.MinRate, DefaultMinRate)
	return cfg
}

func setDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Listen binds the sockets. Its error says who holds the port and what to do.
func (s *Server) Listen() error {
	for _, addr := range s.cfg.Addrs {
		network := "udp4"
		if addr.Addr().Is6() {
			network = "udp6"
		}
		conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
		if err != nil {
			s.close()
			return listenError(addr, err)
		}
		s.conns = append(s.conns, conn)
		if err := learnDestination(conn); err != nil {
			s.close()
			return fmt.Errorf("listening for TFTP on %s: %w", addr, err)
		}
	}
	return nil
}

// learnDestination has the kernel say which address and interface a datagram
// came to: replies leave from that address, and blocks fit that interface. The
// library asks for the same when it begins to serve, too late for requests that
// wait in the socket by then.
func learnDestination(conn *net.UDPConn) error {
	if conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is4() {
		return ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	}
	return ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
}

func listenError(addr netip.AddrPort, err error) error {
	const advice = "stop it, or give Bedplate another address to listen on"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		if holder := holderOf("/proc", addr); holder != "" {
			return fmt.Errorf("listening for TFTP on %s: the port is held by %s: %s: %w", addr, holder, advice, err)
		}
		return fmt.Errorf("listening for TFTP on %s: another process holds the port (`ss -lunp` shows which): %s: %w", addr, advice, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listening for TFTP on %s: run as root or give the binary CAP_NET_BIND_SERVICE: %w", addr, err)
	default:
		return fmt.Errorf("listening for TFTP on %s: %w", addr, err)
	}
}

// Addr returns the address that the first socket is bound to; it is invalid
// before Listen.
func (s *Server) Addr() netip.AddrPort {
	if len(s.conns) == 0 {
		return netip.AddrPort{}
	}
	return s.conns[0].LocalAddr().(*net.UDPAddr).AddrPort()
}

func (s *Server) close() {
	for _, conn := range s.conns {
		conn.Close()
	}
}

// Run serves until ctx is done, then cuts the transfers that are under way and
// returns when the last has ended: within seconds, as a transfer that waits for
// an acknowledgement ends when its repetitions do.
func (s *Server) Run(ctx context.Context) error {
	if len(s.conns) == 0 {
		return errors.New("running the TFTP service: Listen was not called")
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, conn := range s.conns {
		engine := s.engine(ctx)
		group.Go(func() error {
			defer engine.Shutdown() // waits for a transfer that began as the socket closed
			return engine.Serve(conn)
		})
		group.Go(func() error {
			<-ctx.Done()
			conn.Close() // the engine's Shutdown does not when Serve has not begun
			engine.Shutdown()
			return nil
		})
	}
	err := group.Wait()
	s.close()
	if err != nil {
		return fmt.Errorf("serving TFTP: %w", err)
	}
	return nil
}

// engine returns the library's server for one socket. Its transfers end when ctx does.
func (s *Server) engine(ctx context.Context) *pin.Server {
	engine := pin.NewServer(
		func(name string, w io.ReaderFrom) error { return s.read(ctx, name, w) },
		func(name string, r io.WriterTo) error { return s.refuseWrite(name, r) },
	)
	engine.SetTimeout(s.cfg.Timeout)
	engine.SetRetries(retries)
	engine.SetBlockSize(s.cfg.MaxBlockSize)
	engine.SetHook(hook{s})
	// The library waits Timeout after each datagram and then for what this
	// returns: 1+½ + 1+1 + 1+1½ + 1+2 + 1+2½ + 1 = 13½ times Timeout in all.
	engine.SetBackoff(func(attempt int) time.Duration {
		if ctx.Err() != nil {
			return 0
		}
		return time.Duration(attempt+1) * s.cfg.Timeout / 2
	})
	return engine
}

// hook hears of datagrams that start no transfer. Transfers are reported by read.
type hook struct{ s *Server }

// OnSuccess is part of the library's Hook.
func (hook) OnSuccess(pin.TransferStats) {}

// OnFailure is part of the library's Hook.
func (h hook) OnFailure(stats pin.TransferStats, err error) {
	if stats.RemoteAddr != nil {
		return
	}
	h.s.metrics.malformed.Inc()
	h.s.log.Debug("datagram dropped", "err", err)
}
