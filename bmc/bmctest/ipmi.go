package bmctest

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	ipmibmc "github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/transport/udp"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
)

// ServeIPMI speaks IPMI over LAN in front of f, at a port of the loopback
// interface, until the test ends, and returns its address.
func (f *Fake) ServeIPMI(t *testing.T, suites ...types.CipherSuiteID) string {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	h := &ipmiHAL{HAL: mock.New(), f: f}
	h.storage = mock.New().Storage()
	b := ipmibmc.New(ipmibmc.DeviceInfo{IPMIVersion: 0x20, FirmwareMajor: 2, FirmwareMinor: 0x41, ManufacturerID: 343}, f.guid(), h)
	if len(suites) > 0 {
		b.SetCipherSuites(suites)
	}
	u, err := b.Users.Add(2, f.user)
	if err != nil {
		t.Fatal(err)
	}
	u.SetPassword([]byte(f.password))
	u.Enabled = true
	u.ChannelAccess[1] = ipmibmc.UserChannelAccess{MaxPrivilege: ipmibmc.PrivilegeLevelAdministrator, Enabled: true}
	if err := h.writeStorage(); err != nil {
		t.Fatal(err)
	}
	reg := handlers.NewRegistry()
	handlers.RegisterAllHandlers(reg)
	reg.RegisterFunc(types.CommandGetSystemGUID, func(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
		guid := f.guid()
		return guid[:], types.CodeOK, nil
	})
	f.registerSEL(reg)
	f.registerSensors(reg)
	s := server.NewServer(b, udp.Wrap(conn), server.WithHandlerRegistry(reg))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		_ = s.Close()
		_ = conn.Close()
		<-ended
	})
	return conn.LocalAddr().String()
}

// guid returns the UUID as SMBIOS has it, which is how most BMCs send it.
func (f *Fake) guid() [16]byte {
	b, _ := hex.DecodeString(strings.ReplaceAll(string(f.identity.UUID), "-", ""))
	g := [16]byte(b)
	binary.LittleEndian.PutUint32(g[0:], binary.BigEndian.Uint32(b[0:]))
	binary.LittleEndian.PutUint16(g[4:], binary.BigEndian.Uint16(b[4:]))
	binary.LittleEndian.PutUint16(g[6:], binary.BigEndian.Uint16(b[6:]))
	return g
}

// ipmiHAL is the fake's hardware in the words of the library.
type ipmiHAL struct {
	*mock.HAL
	f       *Fake
	storage hal.StorageHAL
}

func (h *ipmiHAL) Chassis() hal.ChassisHAL { return ipmiChassis{h.f} }
func (h *ipmiHAL) Console() hal.ConsoleHAL { return &ipmiSerial{f: h.f} }
func (h *ipmiHAL) Storage() hal.StorageHAL { return h.storage }

// ipmiChassis makes calls of a driver of chassis commands.
type ipmiChassis struct{ f *Fake }

func (c ipmiChassis) driver() *session {
	return &session{Lacking: bmc.Lacking{Driver: "fake"}, f: c.f}
}

func (c ipmiChassis) PowerState(ctx context.Context) (bool, error) {
	s, err := c.driver().PowerState(ctx)
	return s == bmc.PowerOn, err
}

func (c ipmiChassis) SetPower(ctx context.Context, on bool) error {
	if on {
		return c.driver().RequestPower(ctx, bmc.ActionOn)
	}
	return c.driver().RequestPower(ctx, bmc.ActionOff)
}

func (c ipmiChassis) PowerCycle(ctx context.Context) error {
	return c.driver().RequestPower(ctx, bmc.ActionCycle)
}

func (c ipmiChassis) ColdReset(ctx context.Context) error {
	return c.driver().RequestPower(ctx, bmc.ActionReset)
}

func (c ipmiChassis) WarmReset(ctx context.Context) error {
	return c.driver().RequestPower(ctx, bmc.ActionSoft)
}
func (c ipmiChassis) Identify(context.Context, uint8) error        { return nil }
func (c ipmiChassis) IntrusionState(context.Context) (bool, error) { return false, nil }
func (c ipmiChassis) SetBootInfoAcknowledge(context.Context, *types.BootOptionParam_BootInfoAcknowledge) error {
	return nil
}

func (c ipmiChassis) GetBootInfoAcknowledge(context.Context) (*types.BootOptionParam_BootInfoAcknowledge, error) {
	return &types.BootOptionParam_BootInfoAcknowledge{}, nil
}

var selectors = map[bmc.BootDevice]types.BootDeviceSelector{
	bmc.BootNone: types.BootDeviceSelectorNoOverride, bmc.BootNetwork: types.BootDeviceSelectorForcePXE,
	bmc.BootDisk: types.BootDeviceSelectorForceHardDrive, bmc.BootCD: types.BootDeviceSelectorForceCDROM,
	bmc.BootUSB: types.BootDeviceSelectorForceFloppy, bmc.BootSetup: types.BootDeviceSelectorForceBIOSSetup,
	bmc.BootDiagnostic: types.BootDeviceSelectorForceDiagnosticPartition,
}

func (c ipmiChassis) SetBootFlags(ctx context.Context, flags *types.BootOptionParam_BootFlags) error {
	o := bmc.BootOverride{Device: bmc.BootNone, Persistent: flags.Persist, Mode: bmc.ModeBIOS}
	for device, selector := range selectors {
		if selector == flags.BootDeviceSelector {
			o.Device = device
		}
	}
	if flags.BIOSBootType == types.BIOSBootTypeEFI {
		o.Mode = bmc.ModeUEFI
	}
	return c.driver().RequestBoot(ctx, o)
}

func (c ipmiChassis) GetBootFlags(ctx context.Context) (*types.BootOptionParam_BootFlags, error) {
	o, err := c.driver().BootOverride(ctx)
	return &types.BootOptionParam_BootFlags{
		BootFlagsValid: o.Device != bmc.BootNone, Persist: o.Persistent,
		BIOSBootType: types.BIOSBootType(o.Mode == bmc.ModeUEFI), BootDeviceSelector: selectors[o.Device],
	}, err
}

// ipmiSerial is the fake's serial port.
type ipmiSerial struct {
	f    *Fake
	conn io.ReadWriteCloser

	mu      sync.Mutex
	pending []byte
	closed  bool
}

func (s *ipmiSerial) Open(ctx context.Context) (hal.ConsoleConn, error) {
	conn, err := ipmiChassis{s.f}.driver().Console(ctx)
	if err != nil {
		return nil, err
	}
	open := &ipmiSerial{f: s.f, conn: conn}
	go open.fill()
	return open, nil
}

// fill reads until the port is closed.
func (s *ipmiSerial) fill() {
	buf := make([]byte, 256)
	for {
		n, err := s.conn.Read(buf)
		s.mu.Lock()
		s.pending = append(s.pending, buf[:n]...)
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *ipmiSerial) ReadAvailable(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, io.EOF
	}
	n := copy(p, s.pending)
	s.pending = s.pending[n:]
	return n, nil
}

// Write passes bytes on. The pipe behind would wait for a reader of none, which
// is what a poll for output brings.
func (s *ipmiSerial) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return s.conn.Write(p)
}

// SendBreak is not supported.
func (s *ipmiSerial) SendBreak(context.Context) error { return hal.ErrNotSupported }

// Close closes the port.
func (s *ipmiSerial) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return s.conn.Close()
}

// writeStorage writes FRU data with the identity, and the record of one sensor.
func (h *ipmiHAL) writeStorage() error {
	id := h.f.identity
	if err := h.storage.FRU().Write(context.Background(), 0, FRU(id)); err != nil {
		return err
	}
	return h.storage.SDR().Write(context.Background(), 1, SensorRecord("CPU Temp"))
}

// FRU returns FRU data with a product area alone (FRU 1.0 rev. 1.3, §8, §12).
func FRU(id bmc.Identity) []byte {
	area := []byte{1, 0, 25}
	for _, text := range []string{id.Manufacturer, id.Product, "PART1", "v1", id.Serial, id.AssetTag, ""} {
		area = append(area, 0xc0|byte(len(text)))
		area = append(area, text...)
	}
	area = append(area, 0xc1)
	for len(area)%8 != 7 {
		area = append(area, 0)
	}
	area[1] = byte((len(area) + 1) / 8)
	area = append(area, checksum(area))
	header := []byte{1, 0, 0, 0, 1, 0, 0}
	return append(append(header, checksum(header)), area...)
}

func checksum(b []byte) (sum byte) {
	for _, v := range b {
		sum -= v
	}
	return sum
}

// SensorRecord returns a full sensor record (§43.1) of a temperature in °C.
func SensorRecord(name string) []byte {
	r := make([]byte, 48, 48+len(name))
	r[0], r[2], r[3] = 1, 0x51, 0x01 // record 1, version 1.5, full sensor
	r[5], r[7] = 0x20, sensorNumber  // owner: the BMC
	r[8], r[9] = 3, 1                // entity: processor 1
	r[10], r[11] = 0x7f, 0x68        // initialised; hysteresis and thresholds
	r[12], r[13] = 1, 1              // temperature; threshold events
	r[20], r[21] = 0, 1              // unsigned; unit °C
	r[24] = 1                        // M = 1: the reading is the value
	r[47] = 0xc0 | byte(len(name))
	r = append(r, name...)
	r[4] = byte(len(r) - 5)
	return r
}

const sensorNumber = 0x30

// registerSensors answers Get Sensor Reading (§35.14) for the one sensor.
func (f *Fake) registerSensors(reg *handlers.Registry) {
	reg.RegisterFunc(types.CommandGetSensorReading, func(_ context.Context, _ *handlers.HandlerContext, _ []byte) ([]byte, types.CompletionCode, error) {
		return []byte{41, 0xc0, 0x00}, types.CodeOK, nil
	})
	reg.RegisterFunc(types.CommandGetSensorThresholds, func(_ context.Context, _ *handlers.HandlerContext, _ []byte) ([]byte, types.CompletionCode, error) {
		return make([]byte, 7), types.CodeOK, nil
	})
	reg.RegisterFunc(types.CommandGetSensorHysteresis, func(_ context.Context, _ *handlers.HandlerContext, _ []byte) ([]byte, types.CompletionCode, error) {
		return make([]byte, 2), types.CodeOK, nil
	})
}

// registerSEL answers the commands of the SEL (§31) from the fake's events.
func (f *Fake) registerSEL(reg *handlers.Registry) {
	reg.RegisterFunc(types.CommandGetSELInfo, func(ctx context.Context, _ *handlers.HandlerContext, _ []byte) ([]byte, types.CompletionCode, error) {
		entries, err := ipmiChassis{f}.driver().EventLog(ctx, 0)
		out := make([]byte, 14)
		out[0] = 0x51
		binary.LittleEndian.PutUint16(out[1:], uint16(len(entries)))
		return out, codeOf(err), nil
	})
	reg.RegisterFunc(types.CommandReserveSEL, func(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
		return []byte{1, 0}, types.CodeOK, nil
	})
	reg.RegisterFunc(types.CommandGetSELEntry, func(ctx context.Context, _ *handlers.HandlerContext, req []byte) ([]byte, types.CompletionCode, error) {
		entries, err := ipmiChassis{f}.driver().EventLog(ctx, 0)
		n := max(int(binary.LittleEndian.Uint16(req[2:])), 1)
		if err != nil || n > len(entries) {
			return nil, types.CodeRequestedDataNotPresent, nil
		}
		out := make([]byte, 18)
		binary.LittleEndian.PutUint16(out[0:], uint16(n+1))
		if n == len(entries) {
			out[0], out[1] = 0xff, 0xff
		}
		binary.LittleEndian.PutUint16(out[2:], uint16(n))
		out[4] = 0x02
		binary.LittleEndian.PutUint32(out[5:], uint32(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Unix()))
		copy(out[9:], []byte{0x20, 0, 4, 0x10, 0x30, 0x6f, 2, 0xff, 0xff}) // event logging disabled: log area cleared
		return out, types.CodeOK, nil
	})
	reg.RegisterFunc(types.CommandClearSEL, func(ctx context.Context, _ *handlers.HandlerContext, req []byte) ([]byte, types.CompletionCode, error) {
		if req[0] != 1 || string(req[2:5]) != "CLR" {
			return nil, types.CodeReservationCanceled, nil
		}
		return []byte{1}, codeOf(ipmiChassis{f}.driver().ClearEventLog(ctx)), nil
	})
}

// codeOf returns the completion code of what the fake's driver returned.
func codeOf(err error) types.CompletionCode {
	switch {
	case err == nil:
		return types.CodeOK
	case errors.Is(err, bmc.ErrBusy):
		return types.CodeNodeBusy
	case errors.Is(err, bmc.ErrUnsupported):
		return types.CodeInvalidCommand
	}
	return types.CodeUnspecifiedError
}
