// Package ipmi serves a board.Board by IPMI 2.0 over LAN: RMCP+ with cipher
// suites 3 and 17 (HMAC-SHA1 and HMAC-SHA256, AES-CBC-128). There are no
// sessions of IPMI 1.5.
//
// The handshake, users, SDR and FRU access and the state of Serial over LAN are
// those of github.com/bougou/go-ipmi; moving packets, chassis, event log,
// sensors, identity and resets are here. Section and table numbers are
// those of the IPMI specification v2.0 revision 1.1.
//
// A Server may be used by any number of goroutines.
package ipmi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/lab/board"
)

// Bounds of a server.
const (
	maxSessions = 16
	maxUsers    = 15
	// lanChannel is the number of the channel that is the network (§6.3).
	lanChannel = 1
	// commandDeadline bounds what a command asks of the machine.
	commandDeadline = 40 * time.Second
	maxPacket       = 2048
)

// Server is an IPMI server; see New.
type Server struct {
	board *board.Board
	bmc   *bmc.BMC
	conn  net.PacketConn
	log   *slog.Logger
	// commands is the table of what can be asked.
	commands *handlers.Registry

	life     context.Context
	end      context.CancelFunc
	unlisten func()
	work     sync.WaitGroup
	power    chan struct{} // holds one while a change of power is under way

	mu         sync.Mutex
	known      map[uint8]bool // slots that are accounts of the board
	sessions   map[uint32]*session
	flows      map[string][]packet // what waits, by session or sender
	reserved   uint16              // the reservation of the event log
	parameters map[byte][]byte     // boot options that are only kept
	closed     bool
}

// New returns a server of a board on a socket, which it owns. Serve must be
// called, and Close after use.
func New(b *board.Board, conn net.PacketConn, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		board: b, conn: conn, log: log, known: map[uint8]bool{}, sessions: map[uint32]*session{}, flows: map[string][]packet{},
		parameters: map[byte][]byte{}, power: make(chan struct{}, 1),
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.bmc = bmc.New(deviceInfo(b), guid(b.Hardware().UUID), &hardware{s}, bmc.WithClock(realClock{b.Now}), bmc.WithV15Disabled())
	s.bmc.Users = bmc.NewUserStore(bmc.WithMaxUsers(maxUsers))
	s.bmc.Sessions = bmc.NewSessionStoreWithOptions(realClock{b.Now}, bmc.WithMaxSessions(maxSessions))
	s.bmc.Sessions.SetOnRemove(s.bmc.SOL.DeactivateBySession)
	if at, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		s.bmc.SOL.Config().PayloadPort = uint16(at.Port)
	}
	// What the machine says is sent as it comes, in the session that listens.
	s.bmc.SOL.SetSenderFactory(func(ses *bmc.Session, i *bmc.SOLInstance) bmc.SOLSendFunc {
		return func(p *types.SOLPayloadPacket) error {
			s.sendIn(ses.GetAddr(), ses, types.PayloadTypeSOL, i.OutboundEncrypted(), p.Pack())
			return nil
		}
	})
	s.pushUsers()
	s.commands = s.registry()
	s.unlisten = b.Subscribe(s.observe)
	return s
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
	s.bmc.SOL.CloseAll()
	err := s.conn.Close()
	s.work.Wait()
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
	ids := make([]uint32, 0, len(s.sessions))
	for id := range s.sessions {
		ids = append(ids, id)
	}
	clear(s.sessions)
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

// guard does what the board's faults want, and takes what commands change to the board.
func (s *Server) guard(next handlers.Handler) handlers.Handler {
	return handlers.HandlerFunc(func(ctx context.Context, h *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
		if _, faulty := s.board.Fault(board.FaultError); faulty && h.Session != nil {
			return nil, types.CodeUnspecifiedError, nil
		}
		ctx, cancel := context.WithTimeout(ctx, commandDeadline)
		defer cancel()
		response, code, err := next.Handle(ctx, h, request)
		if changesUsers(h.Command) && code == types.CodeOK {
			code = s.pullUser(request)
		}
		return response, code, err
	})
}
