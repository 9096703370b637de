package ipmi

import (
	"context"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/lab/board"
)

// command answers a request of a session.
type command = func(ctx context.Context, h *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error)

// registerApp adds the commands about the board itself (§20, §22.14).
func (s *Server) registerApp(r *handlers.Registry) {
	r.RegisterFunc(types.CommandGetDeviceID, s.deviceID)
	r.RegisterFunc(types.CommandColdReset, s.needs(bmc.PrivilegeLevelAdministrator, s.reset))
	r.RegisterFunc(types.CommandWarmReset, s.needs(bmc.PrivilegeLevelAdministrator, s.reset))
	r.RegisterFunc(types.CommandGetSystemGUID, s.systemGUID)
	r.RegisterFunc(types.CommandGetACPIPowerState, s.acpiState)
}

// needs is for commands that want more than the privilege of a user (appendix G).
func (s *Server) needs(p bmc.PrivilegeLevel, c command) command {
	return func(ctx context.Context, h *handlers.HandlerContext, request []byte) ([]byte, types.CompletionCode, error) {
		have := bmc.PrivilegeLevel(0)
		switch {
		case h.Session != nil:
			have = h.Session.PrivilegeLevel
		case h.V15Session != nil:
			have = h.V15Session.PrivilegeLevel
		}
		if have < p {
			return nil, types.CodeInsufficientPrivilege, nil
		}
		return c(ctx, h, request)
	}
}

// Identity of the board: an enterprise number for private use, as no vendor is meant (RFC 5612).
const (
	manufacturerID = 32473
	productID      = 0x0b1a
)

func deviceInfo(*board.Board) bmc.DeviceInfo {
	return bmc.DeviceInfo{DeviceID: 0x20, DeviceRevision: 1, IPMIVersion: 0x02, ManufacturerID: manufacturerID, ProductID: productID}
}

// deviceID answers Get Device ID (table 20-2), with the firmware's version of the moment.
func (s *Server) deviceID(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	major, minor := version(s.board.Version(board.FirmwareBMC))
	// Sensor device, SDR repository, SEL, FRU inventory, chassis device.
	const devices = 0x01 | 0x02 | 0x04 | 0x08 | 0x80
	return []byte{
		0x20, 0x01, major, minor, 0x02, devices,
		byte(manufacturerID & 0xff), byte(manufacturerID >> 8), byte(manufacturerID >> 16), byte(productID & 0xff), byte(productID >> 8), 0, 0, 0, 0,
	}, types.CodeOK, nil
}

// version returns the first two numbers of a version; the second in BCD.
func version(v string) (major, minor byte) {
	parts := strings.Split(v, ".")
	number := func(i, limit int) int {
		if i >= len(parts) {
			return 0
		}
		n, err := strconv.Atoi(parts[i])
		if err != nil || n < 0 || n > limit {
			return 0
		}
		return n
	}
	m := number(1, 99)
	return byte(number(0, 127)), byte(m/10<<4 | m%10)
}

// guid returns a UUID as SMBIOS has it: the first three fields little-endian
// (DSP0134 §7.2.1), which is how boards of the field answer, too.
func guid(uuid string) (g [16]byte) {
	b, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(b) != 16 {
		return g
	}
	copy(g[:], b)
	g[0], g[1], g[2], g[3] = b[3], b[2], b[1], b[0]
	g[4], g[5] = b[5], b[4]
	g[6], g[7] = b[7], b[6]
	return g
}

func (s *Server) systemGUID(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	return append([]byte(nil), s.bmc.GUID[:]...), types.CodeOK, nil
}

// reset restarts the board after it has answered (§20.2, §20.3).
func (s *Server) reset(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	s.bmc.SOL.Config().ResetVolatile()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Go(s.board.Restart)
	}
	return nil, types.CodeOK, nil
}

// acpiState answers Get ACPI Power State (table 20-8): S0 or S5.
func (s *Server) acpiState(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	if s.board.PowerOn() {
		return []byte{0x00, 0x00}, types.CodeOK, nil
	}
	return []byte{0x05, 0x03}, types.CodeOK, nil
}
