package ipmi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/protocol"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/lab/board"
)

// This file moves packets: from the socket to the session that they are of, in
// their order, and back. The library has a server, too; but it starts a
// goroutine for each packet, which nobody waits for, and in which a malformed
// RAKP message ends the program (seen in v0.9.1: a user name of 255 characters).

// Places in a packet (§13.1, tables 13-1, 13-2 and 13-8).
const (
	classASF, classIPMI = 0x06, 0x07
	authNone, authPlus  = 0x00, 0x06
	rmcpHeader          = 4
	plusHeader          = 12
	oldHeader           = 10
	nextHeader          = 0x07
)

// Bounds of what waits: sessions and strangers at once, and packets of each.
const (
	maxFlows   = 32
	maxWaiting = 16
	// sweepInterval is between searches for sessions that nobody uses.
	sweepInterval = 3 * time.Second
)

// packet is one that came in.
type packet struct {
	data []byte
	from net.Addr
}

// session is what we keep of one beside the library's: for how many requests
// it was used, and which of the last 64 sequence numbers were seen.
type session struct {
	uses int
	last uint32
	seen uint64
}

// Serve answers until Close.
func (s *Server) Serve() error {
	buf := make([]byte, maxPacket)
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(sweepInterval)); err != nil {
			return s.served(err)
		}
		n, from, err := s.conn.ReadFrom(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.sweep()
		case err != nil:
			if errors.Is(err, net.ErrClosed) {
				return s.served(err)
			}
			// An ICMP error about an answer of ours is no reason to end.
			s.log.Debug("reading an IPMI packet", "err", err)
			select {
			case <-s.life.Done():
				return nil
			case <-time.After(10 * time.Millisecond):
			}
		default:
			if _, dead := s.board.Fault(board.FaultDead); !dead {
				s.take(packet{append([]byte(nil), buf[:n]...), from})
			}
		}
	}
}

// served is nil for what Close causes.
func (s *Server) served(err error) error {
	if s.life.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving IPMI: %w", err)
}

// sweep ends the sessions that nobody uses any more (§6.12.15).
func (s *Server) sweep() {
	s.bmc.Sessions.EvictExpired()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.sessions {
		if _, err := s.bmc.Sessions.Get(id); err != nil {
			delete(s.sessions, id)
		}
	}
}

// take gives a packet to the goroutine of its session, or of its sender; there
// is one while packets wait for it. What is too much is lost, as on any network.
func (s *Server) take(p packet) {
	key := flowOf(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting, there := s.flows[key]
	if s.closed || !there && len(s.flows) >= maxFlows || len(waiting) >= maxWaiting {
		return
	}
	s.flows[key] = append(waiting, p)
	if !there {
		s.work.Go(func() { s.flow(key) })
	}
}

// flowOf is the session of a packet, or its sender while there is none.
func flowOf(p packet) string {
	if len(p.data) >= rmcpHeader+plusHeader && p.data[3]&0x1f == classIPMI && p.data[4] == authPlus {
		if id := binary.LittleEndian.Uint32(p.data[6:]); id != 0 {
			return fmt.Sprintf("session %x", id)
		}
	}
	return p.from.String()
}

// flow answers the packets of one session or sender, in order.
func (s *Server) flow(key string) {
	for {
		s.mu.Lock()
		waiting := s.flows[key]
		if len(waiting) == 0 || s.closed {
			delete(s.flows, key)
			s.mu.Unlock()
			return
		}
		s.flows[key] = waiting[1:]
		s.mu.Unlock()
		s.answer(waiting[0])
	}
}

// answer answers one packet. The library's decoders may panic on what is
// malformed; such a packet is dropped like any other.
func (s *Server) answer(p packet) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Debug("dropping an IPMI packet", "addr", p.from.String(), "err", fmt.Sprint(r))
		}
	}()
	if len(p.data) < rmcpHeader+1 {
		return
	}
	switch p.data[3] & 0x1f {
	case classASF:
		s.pong(p)
	case classIPMI:
		if p.data[4] == authPlus {
			s.answerPlus(p)
		} else {
			s.answerOld(p)
		}
	}
}

// pong answers a presence ping (§13.2.3).
func (s *Server) pong(p packet) {
	const presencePing = 0x80
	if len(p.data) >= 12 && p.data[8] == presencePing {
		s.send(p.from, protocol.BuildASFPresencePong(p.data[9]))
	}
}

// answerOld answers what comes in the format of IPMI 1.5: questions before a
// session. Sessions of IPMI 1.5 there are none.
func (s *Server) answerOld(p packet) {
	b := p.data[rmcpHeader:]
	if len(b) < oldHeader || b[0] != authNone || binary.LittleEndian.Uint32(b[5:]) != 0 {
		return
	}
	size := int(b[9])
	if len(b) < oldHeader+size {
		return
	}
	response, ok := s.command(&handlers.HandlerContext{BMC: s.bmc}, b[oldHeader:oldHeader+size])
	if !ok || len(response) > 0xff {
		return
	}
	out := append([]byte{0x06, 0, 0xff, classIPMI}, make([]byte, oldHeader)...)
	out[rmcpHeader+oldHeader-1] = byte(len(response))
	s.send(p.from, append(out, response...))
}

// command carries out a request message and returns the response message.
func (s *Server) command(h *handlers.HandlerContext, message []byte) ([]byte, bool) {
	fn, cmd, data, seq, ok := protocol.ParseIPMIRequest(message)
	if !ok || protocol.Checksum(message[:2]) != message[2] || protocol.Checksum(message[3:len(message)-1]) != message[len(message)-1] {
		return nil, false
	}
	response, code, err := s.commands.Dispatch(s.life, h, fn, cmd, data)
	if err != nil {
		s.log.Debug("carrying out an IPMI command", "err", err)
	}
	return protocol.BuildIPMIResponse(fn, cmd, seq, byte(code), response), true
}

// answerPlus answers what comes by RMCP+.
func (s *Server) answerPlus(p packet) {
	id, seq, kind, flags, payload, ok := protocol.ParseRMCPPlusHeader(p.data)
	if !ok {
		return
	}
	if id == 0 {
		s.answerStranger(p, types.PayloadType(kind), payload)
		return
	}
	ses, err := s.bmc.Sessions.Get(id)
	if err != nil {
		return
	}
	ses.ProcMu.Lock()
	defer ses.ProcMu.Unlock()
	if ses.State != bmc.SessionStateActive || !authentic(p.data, ses, flags&types.PayloadFlagAuthenticated != 0) || !s.fresh(id, seq) {
		return
	}
	ses.SetAddr(p.from)
	s.bmc.Sessions.Touch(id)
	encrypted := flags&types.PayloadFlagEncrypted != 0
	if encrypted {
		if payload, err = crypto.DecryptAESPayload(payload, ses.K2); err != nil {
			return
		}
	}
	switch types.PayloadType(kind) {
	case types.PayloadTypeIPMI:
		s.answerCommand(p, ses, payload, encrypted)
	case types.PayloadTypeSOL:
		s.answerSOL(ses, payload)
	}
}

// answerStranger answers what comes before there is a session (§13.17 to §13.23).
func (s *Server) answerStranger(p packet, kind types.PayloadType, payload []byte) {
	var response []byte
	var err error
	reply := kind
	switch kind {
	case types.PayloadTypeRmcpOpenSessionRequest:
		reply = types.PayloadTypeRmcpOpenSessionResponse
		response, err = handlers.HandleOpenSession(s.life, s.bmc, payload)
	case types.PayloadTypeRAKPMessage1:
		reply = types.PayloadTypeRAKPMessage2
		response, err = handlers.HandleRAKP1(s.life, s.bmc, payload)
	case types.PayloadTypeRAKPMessage3:
		reply = types.PayloadTypeRAKPMessage4
		response, err = handlers.HandleRAKP3(s.life, s.bmc, payload)
	case types.PayloadTypeIPMI:
		response, _ = s.command(&handlers.HandlerContext{BMC: s.bmc}, payload)
	}
	if err != nil || response == nil {
		return
	}
	s.send(p.from, protocol.BuildRMCPPlusPacket(byte(reply), 0, 0, 0, response))
}

// fresh reports whether a sequence number is new to the session (§6.12.13), and
// whether the session is still there by the board's faults.
func (s *Server) fresh(id, seq uint32) bool {
	const window = 64
	_, drops := s.board.Fault(board.FaultDroppedSessions)
	s.mu.Lock()
	x := s.sessions[id]
	if x == nil {
		x = &session{}
		s.sessions[id] = x
	}
	ok := false
	switch ahead := int64(seq) - int64(x.last); {
	case seq == 0:
	case ahead > 0 && ahead < window:
		x.seen, x.last, ok = x.seen<<ahead|1, seq, true
	case ahead <= 0 && ahead > -window && x.seen>>-ahead&1 == 0:
		x.seen, ok = x.seen|1<<-ahead, true
	}
	if ok {
		x.uses++
	}
	gone := drops && x.uses > board.SessionRequests
	if gone {
		delete(s.sessions, id)
	}
	s.mu.Unlock()
	if gone {
		_ = s.bmc.Sessions.Close(id) // it may be gone already
	}
	return ok && !gone
}

func (s *Server) answerCommand(p packet, ses *bmc.Session, payload []byte, encrypted bool) {
	channel, err := s.bmc.Channels.Get(ses.Channel)
	if err != nil {
		return
	}
	response, ok := s.command(&handlers.HandlerContext{BMC: s.bmc, Session: ses, Channel: channel, User: ses.User}, payload)
	if ok {
		s.sendIn(p.from, ses, types.PayloadTypeIPMI, encrypted, response)
	}
}

// answerSOL answers a packet of Serial over LAN (§15.9).
func (s *Server) answerSOL(ses *bmc.Session, payload []byte) {
	instance := s.bmc.SOL.InstanceBySession(ses.BMCID)
	if instance == nil {
		return
	}
	var in types.SOLPayloadPacket
	if in.Unpack(payload) != nil {
		return
	}
	if out := s.bmc.SOL.ProcessPacket(s.life, ses.BMCID, &in); out != nil {
		s.sendIn(ses.GetAddr(), ses, types.PayloadTypeSOL, instance.OutboundEncrypted(), out.Pack())
	}
}

// sendIn sends a payload in a session.
func (s *Server) sendIn(to net.Addr, ses *bmc.Session, kind types.PayloadType, encrypt bool, payload []byte) {
	var flags uint8
	if encrypt && len(ses.K2) >= 16 {
		var err error
		if payload, err = crypto.EncryptAESPayload(payload, ses.K2, crypto.RandomBytes(16)); err != nil {
			return
		}
		flags |= types.PayloadFlagEncrypted
	}
	size, ok := crypto.IntegrityAuthCodeLen(ses.IntegrityAlg)
	if !ok {
		return
	}
	if size > 0 {
		flags |= types.PayloadFlagAuthenticated
	}
	out := protocol.BuildRMCPPlusPacket(byte(kind), flags, ses.ConsoleID, ses.NextOutboundSeq(), payload)
	if size > 0 {
		// A trailer: pad to a multiple of 4, its length, next header, and the code (table 13-8).
		pad := padding(len(payload))
		for range pad {
			out = append(out, 0xff)
		}
		out = append(out, byte(pad), nextHeader)
		code, err := crypto.SessionIntegrityAuthCode(ses.IntegrityAlg, out[rmcpHeader:], ses.K1, "")
		if err != nil {
			return
		}
		out = append(out, code...)
	}
	s.send(to, out)
}

// padding is what a payload lacks so that all from the session header to the
// next header is a multiple of 4.
func padding(payload int) int { return (4 - (plusHeader+payload+2)%4) % 4 }

// authentic checks the trailer of a packet.
func authentic(b []byte, ses *bmc.Session, claimed bool) bool {
	size, ok := crypto.IntegrityAuthCodeLen(ses.IntegrityAlg)
	if !ok || size == 0 || !claimed {
		return false // every suite that we take has one
	}
	payload := int(binary.LittleEndian.Uint16(b[rmcpHeader+10:]))
	end := rmcpHeader + plusHeader + payload + padding(payload) + 2
	if len(b) != end+size || b[end-1] != nextHeader || int(b[end-2]) != padding(payload) {
		return false
	}
	code, err := crypto.SessionIntegrityAuthCode(ses.IntegrityAlg, b[rmcpHeader:end], ses.K1, "")
	return err == nil && crypto.Equal(code, b[end:])
}

// send sends a packet, late if the board is slow, not at all if it is dead.
func (s *Server) send(to net.Addr, b []byte) {
	if to == nil || !s.board.Delay(s.life) {
		return
	}
	if _, dead := s.board.Fault(board.FaultDead); dead {
		return
	}
	if _, err := s.conn.WriteTo(b, to); err != nil && s.life.Err() == nil {
		s.log.Debug("sending an IPMI packet", "addr", to.String(), "err", err)
	}
}
