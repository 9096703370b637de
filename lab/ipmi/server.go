// Package ipmi serves a board.Board by IPMI 2.0 over LAN: RMCP+ with cipher
// suites 3 and 17 (HMAC-SHA1 and HMAC-SHA256, AES-CBC-128), and IPMI 1.5 with MD5.
//
// Framing, sessions, users, SDR and FRU access and Serial over LAN are those of
// github.com/bougou/go-ipmi; chassis, event log, sensors, identity and resets
// are here, because they are about the board. Section and table numbers are
// those of the IPMI specification v2.0 revision 1.1.
//
// A Server may be used by any number of goroutines.
package ipmi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/protocol"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/lab/board"
)

// Bounds of a server.
const (
	maxSessions = 16
	maxUsers    = 15
	// maxCommands is how many commands may be under way; more get "node busy".
	maxCommands = 16
	// lanChannel is the number of the channel that is the network (§6.3).
	lanChannel = 1
	// commandDeadline bounds what a command asks of the machine.
	commandDeadline = 40 * time.Second
	maxPacket       = 2048
)

// Server is an IPMI server; see New.
type Server struct {
	board  *board.Board
	bmc    *bmc.BMC
	server *server.Server
	conn   *packetConn
	log    *slog.Logger

	life     context.Context
	end      context.CancelFunc
	unlisten func()
	// commands are under way; Close waits for them.
	commands sync.WaitGroup
	running  atomic.Int32
	power    chan struct{} // holds one while a change of power is under way

	mu         sync.Mutex
	known      map[uint8]bool // slots that are accounts of the board
	uses       map[uint32]int // requests of each session, for board.FaultDroppedSessions
	reserved   uint16         // the reservation of the event log
	parameters map[byte][]byte
	closed     bool
}

// New returns a server of a board on a socket, which it owns. Serve must be
// called, and Close after use.
func New(b *board.Board, conn net.PacketConn, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{board: b, log: log, known: map[uint8]bool{}, uses: map[uint32]int{}, parameters: map[byte][]byte{}, power: make(chan struct{}, 1)}
	s.life, s.end = context.WithCancel(context.Background())
	s.bmc = bmc.New(deviceInfo(b), guid(b.Hardware().UUID), &hardware{s}, bmc.WithClock(realClock{b.Now}))
	s.bmc.Users = bmc.NewUserStore(bmc.WithMaxUsers(maxUsers))
	s.bmc.Sessions = bmc.NewSessionStoreWithOptions(realClock{b.Now}, bmc.WithMaxSessions(maxSessions))
	s.bmc.Sessions.SetOnRemove(s.bmc.SOL.DeactivateBySession)
	s.pushUsers()
	s.conn = &packetConn{PacketConn: conn, server: s}
	s.server = server.NewServer(s.bmc, s.conn, server.WithHandlerRegistry(s.registry()), server.WithServerBufferSize(maxPacket))
	s.unlisten = b.Subscribe(s.observe)
	return s
}

// Serve answers until Close.
func (s *Server) Serve() error {
	err := s.server.Serve(s.life)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Close ends all sessions and waits for the commands that are under way.
func (s *Server) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.unlisten()
	s.end()
	err := s.server.Close()
	s.commands.Wait()
	if err != nil {
		return fmt.Errorf("closing the IPMI server: %w", err)
	}
	return nil
}

// Sessions is how many sessions are open.
func (s *Server) Sessions() int { return s.bmc.Sessions.Count() }

func (s *Server) observe(e board.Event) {
	switch e.Kind {
	case board.UsersChanged, board.FaultChanged:
		s.pushUsers()
	case board.BoardReset:
		s.endSessions()
	}
}

// endSessions forgets all sessions, as a reset of the board does.
func (s *Server) endSessions() {
	s.mu.Lock()
	ids := make([]uint32, 0, len(s.uses))
	for id := range s.uses {
		ids = append(ids, id)
	}
	clear(s.uses)
	s.mu.Unlock()
	for _, id := range ids {
		_ = s.bmc.Sessions.Close(id) // it may be gone already
	}
}

// registry is the table of commands: the library's, and ours in their place.
func (s *Server) registry() *handlers.Registry {
	r := handlers.NewRegistry()
	r.Use(s.guard)
	handlers.RegisterAllHandlers(r)
	s.registerApp(r)
	s.registerChassis(r)
	s.registerLog(r)
	s.registerSensors(r)
	return r
}

// guard counts what is under way and does what the board's faults want.
func (s *Server) guard(next handlers.Handler) handlers.Handler {
	return handlers.HandlerFunc(func(ctx context.Context, h *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, types.CodeNodeBusy, nil
		}
		s.commands.Add(1)
		s.mu.Unlock()
		defer s.commands.Done()
		if s.running.Add(1) > maxCommands {
			s.running.Add(-1)
			return nil, types.CodeNodeBusy, nil
		}
		defer s.running.Add(-1)
		if _, faulty := s.board.Fault(board.FaultError); faulty && h.Session != nil {
			return nil, types.CodeUnspecifiedError, nil
		}
		ctx, cancel := context.WithTimeout(ctx, commandDeadline)
		defer cancel()
		defer context.AfterFunc(s.life, cancel)()
		response, code, err := next.Handle(ctx, h, request)
		if changesUsers(h.Command) && code == types.CodeOK {
			code = s.pullUser(request)
		}
		return response, code, err
	})
}

// packetConn is the socket with the board's faults in it.
type packetConn struct {
	net.PacketConn
	server *Server
}

// ReadFrom returns the next packet that the board hears.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, addr, err := c.PacketConn.ReadFrom(b)
		if err != nil || c.hears(b[:n]) {
			return n, addr, err
		}
	}
}

// LocalAddr tells the library the port that Serial over LAN is on.
func (c *packetConn) LocalAddr() net.Addr { return c.PacketConn.LocalAddr() }

// WriteTo sends an answer, late if the board is slow.
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if !c.server.board.Delay(c.server.life) {
		return len(b), nil
	}
	if _, dead := c.server.board.Fault(board.FaultDead); dead {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

// hears reports whether a packet is for the ears of the board, by its faults.
func (c *packetConn) hears(packet []byte) bool {
	s := c.server
	if _, dead := s.board.Fault(board.FaultDead); dead || s.running.Load() >= 2*maxCommands {
		return false
	}
	id, ok := sessionOf(packet)
	if !ok {
		return true
	}
	_, drops := s.board.Fault(board.FaultDroppedSessions)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.bmc.Sessions.Get(id); err != nil {
		delete(s.uses, id)
		return true
	}
	if len(s.uses) > 4*maxSessions { // sessions that ended without a word
		for id := range s.uses {
			if _, err := s.bmc.Sessions.Get(id); err != nil {
				delete(s.uses, id)
			}
		}
	}
	s.uses[id]++
	if !drops || s.uses[id] <= board.SessionRequests {
		return true
	}
	delete(s.uses, id)
	go func() { _ = s.bmc.Sessions.Close(id) }()
	return false
}

// sessionOf returns the session that a packet belongs to; false if to none.
func sessionOf(packet []byte) (uint32, bool) {
	const classIPMI, rmcpPlus = 0x07, 0x06 // §13.1.3, table 13-8
	if len(packet) < 5 || packet[3]&0x1f != classIPMI || packet[4] != rmcpPlus {
		return 0, false
	}
	id, _, payload, _, _, ok := protocol.ParseRMCPPlusHeader(packet)
	return id, ok && id != 0 && payload&0x3f <= byte(types.PayloadTypeSOL)
}
