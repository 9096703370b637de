package lab

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/bedplate/bedplate/lab/board"
	"github.com/bedplate/bedplate/lab/ipmi"
	"github.com/bedplate/bedplate/lab/redfish"
)

// BMC is a management controller that listens. It has the sockets; what it
// does is in its Board.
type BMC struct {
	board    *board.Board
	redfish  *redfish.Service
	log      *slog.Logger
	server   *http.Server
	ipmi     *ipmi.Server
	cert     tls.Certificate
	username string
	password string

	// where it is reached; empty for what it doesn't speak.
	redfishURL, ipmiAddr string

	work sync.WaitGroup
}

// listen makes a BMC's sockets; network is tcp or udp, port what is usual.
type listen struct {
	tcp func(ctx context.Context, port int) (net.Listener, error)
	udp func(ctx context.Context, port int) (net.PacketConn, error)
}

// Bounds of a BMC's HTTP server.
const (
	maxConnections = 64
	headerDeadline = 15 * time.Second
	bodyDeadline   = 5 * time.Minute
	answerDeadline = 11 * time.Minute // an image may be fetched for it
	idleDeadline   = 2 * time.Minute
	maxHeader      = 64 << 10
)

// Ports of the protocols.
const (
	portHTTPS = 443
	portHTTP  = 80
	portIPMI  = 623
)

// Board is what the BMC does and knows.
func (b *BMC) Board() *board.Board { return b.board }

// Redfish is the URL of its Redfish service; empty if it has none.
func (b *BMC) Redfish() string { return b.redfishURL }

// IPMI is its address and port for IPMI over LAN; empty if it has none.
func (b *BMC) IPMI() string { return b.ipmiAddr }

// Login returns the account that it was delivered with.
func (b *BMC) Login() (username, password string) { return b.username, b.password }

// Certificate is what it shows to those who connect by TLS.
func (b *BMC) Certificate() *x509.Certificate { return b.cert.Leaf }

// Fingerprint is the SHA-256 of its certificate, in hexadecimal.
func (b *BMC) Fingerprint() string {
	if b.cert.Leaf == nil {
		return ""
	}
	sum := sha256.Sum256(b.cert.Leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// Sessions is how many sessions are open, by Redfish and by IPMI.
func (b *BMC) Sessions() (redfish, ipmi int) {
	if b.redfish != nil {
		redfish = b.redfish.Sessions()
	}
	if b.ipmi != nil {
		ipmi = b.ipmi.Sessions()
	}
	return redfish, ipmi
}

// startBMC starts listening for a board. On an error nothing is left running.
func startBMC(ctx context.Context, brd *board.Board, spec BMCSpec, dir string, l listen, log *slog.Logger) (*BMC, error) {
	b := &BMC{board: brd, log: log, username: spec.Username, password: spec.Password}
	err := b.startRedfish(ctx, spec, dir, l)
	if err == nil && slices.Contains(spec.Protocols, ProtocolIPMI) {
		err = b.startIPMI(ctx, l)
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *BMC) startIPMI(ctx context.Context, l listen) error {
	conn, err := l.udp(ctx, portIPMI)
	if err != nil {
		return fmt.Errorf("listening for IPMI: %w", err)
	}
	at := conn.LocalAddr().(*net.UDPAddr)
	b.ipmi, b.ipmiAddr = ipmi.New(b.board, conn, b.log), at.String()
	b.work.Go(func() {
		if err := b.ipmi.Serve(); err != nil {
			b.log.Error("serving IPMI", "bmc", b.ipmiAddr, "err", err)
		}
	})
	return nil
}

func (b *BMC) startRedfish(ctx context.Context, spec BMCSpec, dir string, l listen) error {
	secure := slices.Contains(spec.Protocols, ProtocolRedfish)
	if !secure && !slices.Contains(spec.Protocols, ProtocolRedfishHTTP) {
		return nil
	}
	port, scheme := portHTTP, "http"
	if secure {
		port, scheme = portHTTPS, "https"
	}
	listener, err := l.tcp(ctx, port)
	if err != nil {
		return fmt.Errorf("listening for Redfish: %w", err)
	}
	at := listener.Addr().(*net.TCPAddr)
	b.redfish = redfish.New(b.board, b.log)
	b.server = &http.Server{
		Handler: b.redfish, ReadHeaderTimeout: headerDeadline, ReadTimeout: bodyDeadline, WriteTimeout: answerDeadline, IdleTimeout: idleDeadline,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
	}
	listener = deafListener{netutil.LimitListener(listener, maxConnections), b.board}
	if secure {
		if b.cert, err = certificate(dir, at.IP, b.board.Hardware().Name, b.board.Now()); err != nil {
			return errors.Join(err, listener.Close())
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{b.cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	b.redfishURL = scheme + "://" + hostPort(at.IP.String(), at.Port, port)
	b.work.Go(func() {
		if err := b.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			b.log.Error("serving Redfish", "bmc", b.redfishURL, "err", err)
		}
	})
	return nil
}

func hostPort(host string, port, usual int) string {
	if port == usual {
		return host
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}

// close ends everything and waits for it.
func (b *BMC) close() {
	// The board first: what hangs or waits on it lets go.
	b.board.Close()
	if b.redfish != nil {
		b.redfish.Close()
	}
	if b.server != nil {
		_ = b.server.Close() // sockets only
	}
	if b.ipmi != nil {
		if err := b.ipmi.Close(); err != nil {
			b.log.Debug("closing a BMC", "bmc", b.ipmiAddr, "err", err)
		}
	}
	b.work.Wait()
}

// deafListener gives connections that hear nothing while the board has board.FaultDead.
type deafListener struct {
	net.Listener
	board *board.Board
}

func (l deafListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return deafConn{conn, l.board}, nil
}

type deafConn struct {
	net.Conn
	board *board.Board
}

// Read throws away what comes in while the board is dead.
func (c deafConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if _, dead := c.board.Fault(board.FaultDead); !dead || err != nil {
			return n, err
		}
	}
}

// startBMC starts the machine's BMC, if it has one, on an address of its own.
func (m *Machine) startBMC(ctx context.Context) error {
	spec := m.spec.BMC
	if !spec.there() {
		return nil
	}
	if err := m.namespace.addAddress(m.spec.Network, spec.Address); err != nil {
		return err
	}
	faults, err := spec.faults()
	if err != nil {
		return err
	}
	b, err := board.New(board.Config{
		Machine: m, Dir: m.dir, Username: spec.Username, Password: spec.Password, Address: net.ParseIP(spec.Address), MAC: bmcMAC(m.spec.MAC),
		Faults: faults, Dial: m.namespace.Dial, Now: m.now, Log: m.log,
	})
	if err != nil {
		return err
	}
	m.observe = b.Observe
	m.bmc, err = startBMC(ctx, b, spec, m.dir, listen{
		tcp: func(ctx context.Context, port int) (l net.Listener, err error) {
			err = m.namespace.Do(func() error {
				var config net.ListenConfig
				l, err = config.Listen(ctx, "tcp4", net.JoinHostPort(spec.Address, fmt.Sprint(port)))
				return err
			})
			return l, err
		},
		udp: func(ctx context.Context, port int) (c net.PacketConn, err error) {
			err = m.namespace.Do(func() error {
				var config net.ListenConfig
				c, err = config.ListenPacket(ctx, "udp4", net.JoinHostPort(spec.Address, fmt.Sprint(port)))
				return err
			})
			return c, err
		},
	}, m.log)
	return err
}

func (m *Machine) stopBMC() {
	if m.bmc != nil {
		m.bmc.close()
	}
}

// bmcMAC is like the machine's own, locally administered in another range.
func bmcMAC(mac string) string {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return ""
	}
	hw[0], hw[1], hw[2] = 0x52, 0x54, 0xbc
	return hw.String()
}
