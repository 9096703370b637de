package ipmi

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/lab/board"
)

// registerLog adds the commands about the event log (§31).
func (s *Server) registerLog(r *handlers.Registry) {
	r.RegisterFunc(types.CommandGetSELInfo, s.logInfo)
	r.RegisterFunc(types.CommandReserveSEL, s.reserveLog)
	r.RegisterFunc(types.CommandGetSELEntry, s.logEntry)
	r.RegisterFunc(types.CommandAddSELEntry, s.needs(bmc.PrivilegeLevelOperator, s.addEntry))
	r.RegisterFunc(types.CommandClearSEL, s.needs(bmc.PrivilegeLevelOperator, s.clearLog))
	r.RegisterFunc(types.CommandGetSELTime, s.logTime)
	r.RegisterFunc(types.CommandSetSELTime, s.needs(bmc.PrivilegeLevelOperator, s.setLogTime))
	r.RegisterFunc(types.CommandGetSELTimeUTCOffset, s.logOffset)
}

const (
	recordSize  = 16
	logCapacity = 512
)

// logInfo answers Get SEL Info (table 31-2).
func (s *Server) logInfo(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	entries := s.board.Log()
	const version, reserveSupported = 0x51, 0x02
	out := []byte{version}
	out = binary.LittleEndian.AppendUint16(out, uint16(len(entries)))
	out = binary.LittleEndian.AppendUint16(out, uint16(max(0, logCapacity-len(entries))*recordSize))
	added := uint32(0xffffffff) // never
	if len(entries) > 0 {
		added = seconds(entries[len(entries)-1].Time)
	}
	out = binary.LittleEndian.AppendUint32(out, added)
	erased := uint32(0xffffffff)
	if t := s.board.Erased(); !t.IsZero() {
		erased = seconds(t)
	}
	out = binary.LittleEndian.AppendUint32(out, erased)
	return append(out, reserveSupported), types.CodeOK, nil
}

func seconds(t time.Time) uint32 { return uint32(t.Unix()) }

func (s *Server) reserveLog(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved++
	if s.reserved == 0 {
		s.reserved = 1
	}
	return binary.LittleEndian.AppendUint16(nil, s.reserved), types.CodeOK, nil
}

// reservedBy reports whether a request's reservation is the last that was made; 0 is none.
func (s *Server) reservedBy(request []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return binary.LittleEndian.Uint16(request) == s.reserved
}

// logEntry answers Get SEL Entry (table 31-5). Record 0 is the first, FFFFh the last.
func (s *Server) logEntry(_ context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	if len(request) < 6 {
		return nil, types.CodeRequestDataLengthInvalid, nil
	}
	id, offset, count := binary.LittleEndian.Uint16(request[2:]), int(request[4]), int(request[5])
	if offset != 0 && !s.reservedBy(request) {
		return nil, types.CodeReservationCanceled, nil
	}
	entries := s.board.Log()
	at := -1
	for i, e := range entries {
		if uint16(e.ID) == id || id == 0 && i == 0 || id == 0xffff && i == len(entries)-1 {
			at = i
			break
		}
	}
	if at < 0 {
		return nil, types.CodeRequestedDataNotPresent, nil
	}
	next := uint16(0xffff)
	if at+1 < len(entries) {
		next = uint16(entries[at+1].ID)
	}
	record := logRecord(entries[at])
	if offset >= len(record) {
		return nil, types.CodeRequestDataFieldInvalid, nil
	}
	if count == 0xff {
		count = len(record)
	}
	record = record[offset:min(len(record), offset+count)]
	return append(binary.LittleEndian.AppendUint16(nil, next), record...), types.CodeOK, nil
}

// Event types (table 42-1): thresholds, and what a sensor has of its own.
const (
	typeThreshold = 0x01
	typeSpecific  = 0x6f
)

// logRecord is an entry as table 32-1 has it.
func logRecord(e board.Entry) []byte {
	r := binary.LittleEndian.AppendUint16(nil, uint16(e.ID))
	if len(e.Raw) == recordSize-2 {
		r = append(r, e.Raw...)
		if e.Raw[0] < 0xe0 { // those from E0h on have no timestamp (§32.2, §32.3)
			binary.LittleEndian.PutUint32(r[3:], seconds(e.Time))
		}
		return r
	}
	const systemEvent, generatorBMC, format = 0x02, 0x20, 0x04
	kind, number, data := byte(typeSpecific), byte(0), byte(0)
	switch e.MessageID {
	case "TemperatureAboveUpperCritical":
		kind, number, data = typeThreshold, 2, 0x09 // upper critical, going high
	case "TemperatureNormal":
		kind, number, data = typeThreshold|0x80, 2, 0x09 // the same, deasserted
	}
	r = append(r, systemEvent)
	r = binary.LittleEndian.AppendUint32(r, seconds(e.Time))
	return append(r, generatorBMC, 0, format, e.Type, number, kind, data, 0xff, 0xff)
}

// addEntry answers Add SEL Entry (table 31-6).
func (s *Server) addEntry(_ context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	if len(request) != recordSize {
		return nil, types.CodeRequestDataLengthInvalid, nil
	}
	e := board.Entry{Sensor: "External", Severity: board.OK, MessageID: "ExternalEvent", Message: "An entry that software made.", Raw: append([]byte(nil), request[2:]...)}
	if request[2] < 0xc0 {
		e.Type = request[10]
	}
	e = s.board.AddEntry(e)
	return binary.LittleEndian.AppendUint16(nil, uint16(e.ID)), types.CodeOK, nil
}

// clearLog answers Clear SEL (table 31-9).
func (s *Server) clearLog(_ context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	const initiate, status, completed = 0xaa, 0x00, 0x01
	if len(request) < 6 || string(request[2:5]) != "CLR" {
		return nil, types.CodeRequestDataFieldInvalid, nil
	}
	if !s.reservedBy(request) {
		return nil, types.CodeReservationCanceled, nil
	}
	switch request[5] {
	case initiate:
		if err := s.board.ClearLog(); err != nil {
			return nil, types.CodeUnspecifiedError, err
		}
	case status:
	default:
		return nil, types.CodeRequestDataFieldInvalid, nil
	}
	return []byte{completed}, types.CodeOK, nil
}

func (s *Server) logTime(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	return binary.LittleEndian.AppendUint32(nil, seconds(s.board.Now())), types.CodeOK, nil
}

// setLogTime: the board's clock is that of the host, and right.
func (s *Server) setLogTime(_ context.Context, _ *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
	if len(request) < 4 {
		return nil, types.CodeRequestDataLengthInvalid, nil
	}
	return nil, types.CodeOK, nil
}

func (s *Server) logOffset(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	return []byte{0, 0}, types.CodeOK, nil
}
