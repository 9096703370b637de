// Package sshd serves machines' serial consoles over SSH (RFC 4251 to 4254):
// the user name is the machine's name, the password an API token, or the key
// one of a token's ssh_keys.
//
//	ssh -p 8022 web-1@bedplate.example.net
//
// A session has the console and nothing else: no shell of the server's, no
// files, no forwarding. `ssh … log` prints the recording and ends. Who may not
// type watches. Connections, sessions and the time of a login are bounded, and
// a token that is deleted ends its sessions.
package sshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/netutil"

	"github.com/bedplate/bedplate/bmc/console"
)

const (
	maxConnections = 256
	// maxChannels bounds the sessions of one connection.
	maxChannels  = 4
	loginTimeout = 30 * time.Second
	// checkEvery is how soon the end of a token ends its sessions.
	checkEvery = 10 * time.Second
	// writeTimeout is how long a client may take nothing.
	writeTimeout = time.Minute
)

// Principal is who has logged in.
type Principal struct {
	// Name of the token.
	Name string
	// MayType: the token's role allows it.
	MayType bool
	// Still returns an error when the token is no longer good.
	Still func() error
}

// Consoles are what is served; console.Hub is it.
type Consoles interface {
	Attach(machine string, history int) (*console.Viewer, error)
	Log(machine string, bytes int) ([]byte, console.State, error)
}

// Config is what a Server needs.
type Config struct {
	// Address to listen on, such as :8022.
	Address  string
	HostKey  ssh.Signer
	Consoles Consoles
	// Token and Key find out who it is, by an API token or by a key in the form
	// of ssh.PublicKey.Marshal.
	Token func(secret string, from netip.Addr) (Principal, error)
	Key   func(key []byte, from netip.Addr) (Principal, error)
	// Machine returns why a machine has no console to be shown; nil if it has.
	Machine func(name string) error
	// Attached takes note of who opens which console.
	Attached func(ctx context.Context, machine, who string, types bool) error
	Now      func() time.Time
	Logger   *slog.Logger
}

// Server is the service.
type Server struct {
	cfg      Config
	listener net.Listener
}

// New returns a Server that listens to nobody yet.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Listen binds the port.
func (s *Server) Listen() error {
	l, err := net.Listen("tcp", s.cfg.Address)
	if err != nil {
		return fmt.Errorf("listening for SSH on %s: %w (another program has the port? use --ssh-port)", s.cfg.Address, err)
	}
	s.listener = netutil.LimitListener(l, maxConnections)
	return nil
}

// Addr returns the address that Listen has bound.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close releases the port of a server that won't be Run.
func (s *Server) Close() error {
	if s.listener == nil {
		return nil
	}
	return s.listener.Close()
}

// Run serves until ctx is done, and returns when every connection has ended.
func (s *Server) Run(ctx context.Context) error {
	var g sync.WaitGroup
	defer g.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer stop()
	for {
		conn, err := s.listener.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("serving SSH: %w", err)
		case err != nil:
			// Too many open files, or a client that was gone again: others may come.
			s.cfg.Logger.Warn("accepting an SSH connection", "err", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		g.Go(func() { s.serve(ctx, conn) })
	}
}

// serve is one connection.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if conn.SetDeadline(s.cfg.Now().Add(loginTimeout)) != nil {
		return
	}
	var who Principal
	login, channels, requests, err := ssh.NewServerConn(conn, s.handshake(addressOf(conn), &who))
	if err != nil {
		s.cfg.Logger.Debug("SSH login refused", "addr", conn.RemoteAddr(), "err", err)
		return
	}
	defer login.Close()
	if conn.SetDeadline(time.Time{}) != nil {
		return
	}
	s.cfg.Logger.Info("SSH login", "addr", conn.RemoteAddr(), "machine", login.User(), "action", who.Name)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	g.Go(func() { ssh.DiscardRequests(requests) })
	g.Go(func() { s.guard(ctx, who, login) })
	free := make(chan struct{}, maxChannels)
	for offer := range channels {
		if offer.ChannelType() != "session" {
			_ = offer.Reject(ssh.UnknownChannelType, "there are sessions only") // whether it hears of it is all the same
			continue
		}
		select {
		case free <- struct{}{}:
		default:
			_ = offer.Reject(ssh.ResourceShortage, "too many sessions") // the same
			continue
		}
		g.Go(func() {
			defer func() { <-free }()
			s.session(ctx, offer, login.User(), who)
		})
	}
}

// guard ends a connection whose token is no longer good.
func (s *Server) guard(ctx context.Context, who Principal, login ssh.Conn) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if who.Still != nil && who.Still() != nil {
				_ = login.Close() // ends everything of it
				return
			}
		}
	}
}

// handshake is the configuration of one login, which fills in who it is.
func (s *Server) handshake(from netip.Addr, who *Principal) *ssh.ServerConfig {
	cfg := &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-bedplate",
		MaxAuthTries:  6,
		PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			p, err := s.cfg.Token(string(password), from)
			if err != nil {
				return nil, err
			}
			*who = p
			return &ssh.Permissions{}, nil
		},
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			// Called for keys that are only asked about, too: who it is counts when
			// the signature has been checked.
			p, err := s.cfg.Key(key.Marshal(), from)
			if err != nil {
				return nil, err
			}
			return &ssh.Permissions{ExtraData: map[any]any{principalKey{}: p}}, nil
		},
		VerifiedPublicKeyCallback: func(_ ssh.ConnMetadata, _ ssh.PublicKey, perms *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			p, ok := perms.ExtraData[principalKey{}].(Principal)
			if !ok {
				return nil, errors.New("no principal")
			}
			*who = p
			return perms, nil
		},
	}
	cfg.AddHostKey(s.cfg.HostKey)
	return cfg
}

type principalKey struct{}

func addressOf(conn net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}
