package ipmi_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/lab"
	"github.com/bedplate/bedplate/lab/board"
	"github.com/bedplate/bedplate/lab/ipmi"
)

// rig is a server of a simulated machine.
type rig struct {
	t       testing.TB
	board   *board.Board
	machine *lab.Simulated
	server  *ipmi.Server
	addr    *net.UDPAddr
}

func newRig(t testing.TB, uefi bool) *rig {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := serve(t, uefi, conn)
	r.addr = conn.LocalAddr().(*net.UDPAddr)
	return r
}

func serve(t testing.TB, uefi bool, conn net.PacketConn) *rig {
	t.Helper()
	m := lab.NewSimulated(board.Hardware{
		Name: "m1", Manufacturer: "Bedplate", Model: "Lab", Serial: "SN1", UUID: "00112233-4455-6677-8899-aabbccddeeff", UEFI: uefi, BIOSVersion: "1.0.0",
	}, 0, 0, time.Now)
	b, err := board.New(board.Config{Machine: m, Username: "admin", Password: "secret", MAC: "52:54:bc:00:00:01", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	m.Attach(b)
	r := &rig{t: t, board: b, machine: m, server: ipmi.New(b, conn, nil)}
	served := make(chan error, 1)
	go func() { served <- r.server.Serve() }()
	t.Cleanup(func() {
		b.Close()
		if err := r.server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		m.Close()
	})
	return r
}

// dial returns a session, or an error.
func (r *rig) dial(username, password string, suite types.CipherSuiteID) (*client.Client, error) {
	c, err := client.NewClient("127.0.0.1", r.addr.Port, username, password)
	if err != nil {
		r.t.Fatal(err)
	}
	c.WithCipherSuiteID(suite).WithTimeout(5 * time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		return nil, err
	}
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c, nil
}

func (r *rig) must(username, password string) *client.Client {
	r.t.Helper()
	c, err := r.dial(username, password, types.CipherSuiteID17)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func TestServer_Suites(t *testing.T) {
	r := newRig(t, false)
	for _, suite := range []types.CipherSuiteID{types.CipherSuiteID3, types.CipherSuiteID17} {
		if _, err := r.dial("admin", "secret", suite); err != nil {
			t.Errorf("suite %d: %v", suite, err)
		}
	}
	for name, c := range map[string]struct {
		username, password string
		suite              types.CipherSuiteID
	}{
		"a wrong password":        {"admin", "wrong", types.CipherSuiteID17},
		"an unknown user":         {"nobody", "secret", types.CipherSuiteID17},
		"the nameless user":       {"", "", types.CipherSuiteID17},
		"a suite without secrecy": {"admin", "secret", types.CipherSuiteID2},
		"a suite without proof":   {"admin", "secret", types.CipherSuiteID0},
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			if _, err := r.dial(c.username, c.password, c.suite); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestServer_Power(t *testing.T) {
	r := newRig(t, false)
	c := r.must("admin", "secret")
	control := func(k chassis.ChassisControl) error {
		_, err := c.ChassisControl(t.Context(), k)
		return err
	}
	if err := control(chassis.ChassisControlHardReset); err == nil {
		t.Error("a machine that is off was reset")
	}
	if err := control(chassis.ChassisControlPowerUp); err != nil || !r.machine.On() {
		t.Fatalf("powering on: %v, on: %t", err, r.machine.On())
	}
	if err := control(chassis.ChassisControlDiagnosticInterrupt); err != nil || r.machine.NMIs() != 1 {
		t.Errorf("interrupting: %v, %d interrupts", err, r.machine.NMIs())
	}
	if err := control(chassis.ChassisControlPowerCycle); err != nil || !r.machine.On() {
		t.Errorf("cycling: %v, on: %t", err, r.machine.On())
	}
	if _, boots := r.machine.Booted(); boots != 2 {
		t.Errorf("%d boots", boots)
	}
	if err := control(chassis.ChassisControlSoftShutdown); err != nil || r.machine.On() {
		t.Errorf("shutting down: %v, on: %t", err, r.machine.On())
	}
}

func TestServer_Boot(t *testing.T) {
	r := newRig(t, true)
	c := r.must("admin", "secret")
	set := func(f *types.BootOptionParam_BootFlags) error {
		return c.SetSystemBootOptionsParamFor(t.Context(), f)
	}
	flags := &types.BootOptionParam_BootFlags{BootFlagsValid: true, Persist: true, BIOSBootType: true, BootDeviceSelector: types.BootDeviceSelectorForceCDROM}
	if err := set(flags); err != nil {
		t.Fatal(err)
	}
	if got := r.board.Override(); got.Target != board.BootCD || got.Enabled != board.Continuous {
		t.Errorf("override is %+v", got)
	}
	got := &types.BootOptionParam_BootFlags{}
	if err := c.GetSystemBootOptionsParamFor(t.Context(), got); err != nil || *got != *flags {
		t.Errorf("read back: %+v, %v", got, err)
	}
	if err := set(&types.BootOptionParam_BootFlags{}); err != nil || r.board.Override().Enabled != board.Disabled {
		t.Errorf("clearing: %v, %+v", err, r.board.Override())
	}
	t.Run("a device that isn't there", func(t *testing.T) {
		if err := set(&types.BootOptionParam_BootFlags{BootFlagsValid: true, BootDeviceSelector: 0x0c}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("UEFI boot of a machine with BIOS", func(t *testing.T) {
		c := newRig(t, false).must("admin", "secret")
		if err := c.SetSystemBootOptionsParamFor(t.Context(), flags); err == nil {
			t.Error("no error")
		}
	})
}

func TestServer_Users(t *testing.T) {
	r := newRig(t, false)
	c := r.must("admin", "secret")
	if _, err := c.SetUsername(t.Context(), 5, "ops"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SetUserPassword(t.Context(), 5, "first", false); err != nil {
		t.Fatal(err)
	}
	if err := c.EnableUser(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	a, err := r.board.Account(5)
	if err != nil || a.Username != "ops" || a.Password != "first" {
		t.Fatalf("the account is %+v, %v", a, err)
	}
	t.Run("what Redfish makes can log in", func(t *testing.T) {
		if _, err := r.board.PutAccount(board.Account{Username: "web", Password: "a password of 20!!!!", Role: board.Operator, Enabled: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.dial("web", "a password of 20!!!!", types.CipherSuiteID3); err == nil {
			t.Error("an operator was given an administrator's session")
		}
	})
	t.Run("the last administrator can't be switched off", func(t *testing.T) {
		if err := c.DisableUser(t.Context(), 2); err == nil {
			t.Error("no error")
		}
		r.must("admin", "secret")
	})
}

func TestServer_Identity(t *testing.T) {
	r := newRig(t, false)
	c := r.must("admin", "secret")
	guid, err := c.GetSystemGUID(t.Context())
	if err != nil || hex.EncodeToString(guid.GUID[:]) != "33221100554477668899aabbccddeeff" {
		t.Errorf("GUID is %x, %v", guid, err)
	}
	fru, err := c.GetFRU(t.Context(), 0, "")
	if err != nil || string(fru.ProductInfoArea.SerialNumber) != "SN1" || string(fru.ProductInfoArea.Manufacturer) != "Bedplate" {
		t.Errorf("FRU is %+v, %v", fru, err)
	}
	sensors, err := c.GetSensors(t.Context())
	if err != nil || len(sensors) != 6 {
		t.Fatalf("%d sensors, %v", len(sensors), err)
	}
	if sensors[0].Name != "Inlet Temp" || sensors[0].Value != 22 {
		t.Errorf("the first is %s with %v", sensors[0].Name, sensors[0].Value)
	}
}

func TestServer_Log(t *testing.T) {
	r := newRig(t, false)
	c := r.must("admin", "secret")
	if err := r.board.Power(t.Context(), board.On); err != nil {
		t.Fatal(err)
	}
	entries, err := c.GetSELEntries(t.Context(), 0)
	if err != nil || len(entries) != 1 || entries[0].Standard.SensorType != types.SensorTypeSystemBootRestartInitiated {
		t.Fatalf("entries are %v, %v", entries, err)
	}
	reservation, err := c.ReserveSEL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ClearSEL(t.Context(), reservation.ReservationID+1); err == nil {
		t.Error("cleared with a reservation that is none")
	}
	if _, err := c.ClearSEL(t.Context(), reservation.ReservationID); err != nil || len(r.board.Log()) != 0 {
		t.Errorf("clearing: %v, %d entries left", err, len(r.board.Log()))
	}
}

// packets is a socket that a test feeds; what is sent is thrown away.
type packets struct {
	in     chan []byte
	closed chan struct{}
	once   sync.Once
}

func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case in := <-p.in:
		return copy(b, in), p.LocalAddr(), nil
	case <-p.closed:
		return 0, nil, net.ErrClosed
	}
}

func (p *packets) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }
func (p *packets) Close() error                              { p.once.Do(func() { close(p.closed) }); return nil }
func (p *packets) LocalAddr() net.Addr                       { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 623} }
func (p *packets) SetDeadline(time.Time) error               { return nil }
func (p *packets) SetReadDeadline(time.Time) error           { return nil }
func (p *packets) SetWriteDeadline(time.Time) error          { return nil }

// FuzzServer feeds packets to a server: whatever comes, it must stand.
func FuzzServer(f *testing.F) {
	for _, s := range []string{
		"0600ff0700000000000000000009" + "20 18 c8 81 00 38 8e 04 b5",                                                    // Get Channel Authentication Capabilities, IPMI 1.5
		"0600ff07 06 10 00000000 00000000 2000 00000000 01020304 0000000801000000 0100000801000000 0200000801000000",     // Open Session, suite 3
		"0600ff07 06 12 00000000 00000000 2000 00000000 00000000 00112233445566778899aabbccddeeff 14 0000 05 61646d696e", // RAKP 1
		"0600ff07 06 14 00000000 00000000 0800 00000000 00000000",                                                        // RAKP 3
		"0600ff07 06 c0 01020304 01000000 1000 00112233445566778899aabbccddeeff",                                         // a command of a session, encrypted
		"0600ff07 06 01 01020304 01000000 0400 01000000",                                                                 // Serial over LAN
		"0600ff06 000011be 80 00 00 00",                                                                                  // presence ping
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	p := &packets{in: make(chan []byte), closed: make(chan struct{})}
	r := serve(f, true, p)
	f.Fuzz(func(t *testing.T, packet []byte) {
		select {
		case p.in <- bytes.Clone(packet):
		case <-time.After(time.Minute):
			t.Error("the server doesn't read any more")
		}
		if n := r.server.Sessions(); n > 16 {
			t.Errorf("%s sessions", strconv.Itoa(n))
		}
	})
}
