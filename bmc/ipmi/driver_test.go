package ipmi_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/bmc/ipmi"
)

const password = "s3cret-password"

// serve starts a BMC that speaks IPMI.
func serve(t *testing.T, suites ...types.CipherSuiteID) (*bmctest.Fake, bmc.Target) {
	t.Helper()
	f := bmctest.NewFake("admin", password)
	return f, bmc.Target{
		Machine: "web-1", Address: f.ServeIPMI(t, suites...), Protocol: bmc.ProtocolIPMI, Username: "admin", Password: password,
	}
}

func dial(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	d, err := ipmi.Dial(ctx, t)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func TestDriver(t *testing.T) {
	for name, suites := range map[string][]types.CipherSuiteID{
		"a BMC with cipher suite 17":     {types.CipherSuiteID17},
		"a BMC with cipher suite 3 only": {types.CipherSuiteID3},
	} {
		t.Run(name, func(t *testing.T) {
			bmctest.Run(t, func(t *testing.T) bmctest.Setup {
				f, target := serve(t, suites...)
				s := f.Setup(target, dial)
				s.Identity.MACs = nil // IPMI doesn't know them
				return s
			}, bmctest.Login, bmctest.Power, bmctest.Boot, bmctest.Identity, bmctest.Inventory, bmctest.Sensors,
				bmctest.HealthReport, bmctest.EventLog, bmctest.Firmware, bmctest.Users, bmctest.Console)
		})
	}
}

func TestDial(t *testing.T) {
	t.Run("a BMC that isn't there is unreachable", func(t *testing.T) {
		conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		_, err = ipmi.Dial(ctx, bmc.Target{Address: conn.LocalAddr().String(), Protocol: bmc.ProtocolIPMI, Username: "admin", Password: password})
		if !errors.Is(err, bmc.ErrUnreachable) {
			t.Errorf("error is %v, want bmc.ErrUnreachable", err)
		}
	})
	t.Run("a name or password that IPMI has no room for is refused before anything is sent", func(t *testing.T) {
		_, err := ipmi.Dial(t.Context(), bmc.Target{Address: "192.0.2.1", Protocol: bmc.ProtocolIPMI, Username: "admin", Password: strings.Repeat("x", 21)})
		if err == nil || !strings.Contains(err.Error(), "20 bytes") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestDriver_Console(t *testing.T) {
	f, target := serve(t)
	f.SetPower(bmc.PowerOn)
	first, err := ipmi.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close(context.Background()) }()
	old, err := first.Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	t.Run("a console that another session holds is taken over", func(t *testing.T) {
		second, err := ipmi.Dial(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = second.Close(context.Background()) }()
		c, err := second.Console(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		go func() { _, _ = f.SerialPort().Write([]byte("hello")) }()
		buf := make([]byte, 5)
		if n, err := c.Read(buf); err != nil || n == 0 || !strings.HasPrefix("hello", string(buf[:n])) {
			t.Errorf("read %q, %v", buf[:n], err)
		}
	})
}
