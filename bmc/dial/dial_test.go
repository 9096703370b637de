package dial_test

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/bmc/dial"
)

var dialer = dial.Dialer{Now: time.Now}

// serve starts a BMC that speaks Redfish and IPMI.
func serve(t *testing.T) (*bmctest.Fake, bmc.Target) {
	t.Helper()
	f := bmctest.NewFake("admin", "s3cret-password")
	s := httptest.NewTLSServer(bmctest.NewRedfish(f, bmctest.Quirks{}))
	t.Cleanup(s.Close)
	return f, bmc.Target{
		Address: strings.TrimPrefix(s.URL, "https://"), Username: "admin", Password: "s3cret-password",
		IPMIPort: portOf(t, f.ServeIPMI(t)), TLS: bmc.TLS{Pin: bmc.PinOf(s.Certificate())},
	}
}

func portOf(t *testing.T, addr string) uint16 {
	t.Helper()
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

func TestDialer_Both(t *testing.T) {
	bmctest.Run(t, func(t *testing.T) bmctest.Setup {
		f, target := serve(t)
		return f.Setup(target, dialer.Dial)
	}, bmctest.Login, bmctest.Power, bmctest.NMI, bmctest.Boot, bmctest.HTTPBoot, bmctest.VirtualMedia, bmctest.Identity, bmctest.Inventory,
		bmctest.Sensors, bmctest.HealthReport, bmctest.EventLog, bmctest.Firmware, bmctest.Update, bmctest.BIOS, bmctest.SecureBoot,
		bmctest.Users, bmctest.Console, bmctest.Manager)
}

func TestDialer_Auto(t *testing.T) {
	f := bmctest.NewFake("admin", "s3cret-password")
	port := portOf(t, f.ServeIPMI(t))
	closed := httptest.NewServer(nil)
	closed.Close() // nothing listens there
	target := bmc.Target{Address: closed.Listener.Addr().String(), Username: "admin", Password: "s3cret-password", IPMIPort: port}
	t.Run("IPMI serves where nothing speaks Redfish", func(t *testing.T) {
		d, err := dialer.Dial(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = d.Close(context.Background()) }()
		if d.Name() != "ipmi" {
			t.Errorf("driver is %s, want ipmi", d.Name())
		}
	})
	t.Run("a web server that isn't Redfish is no BMC, so IPMI serves", func(t *testing.T) {
		web := httptest.NewTLSServer(nil)
		defer web.Close()
		other := target
		other.Address = web.Listener.Addr().String()
		d, err := dialer.Dial(t.Context(), other)
		if err != nil {
			t.Fatal(err)
		}
		_ = d.Close(context.Background())
	})
	t.Run("a pinned BMC is never given an IPMI login instead", func(t *testing.T) {
		pinned := target
		pinned.TLS.Pin = bmc.Pin("sha256:" + strings.Repeat("00", 32))
		before, _, _, _ := f.Counts()
		if _, err := dialer.Dial(t.Context(), pinned); !errors.Is(err, bmc.ErrUnreachable) {
			t.Errorf("error is %v, want bmc.ErrUnreachable", err)
		}
		if after, _, _, _ := f.Counts(); after != before {
			t.Error("IPMI was tried")
		}
	})
	t.Run("a refused login isn't tried again by IPMI", func(t *testing.T) {
		_, both := serve(t)
		both.Password = "wrong"
		if _, err := dialer.Dial(t.Context(), both); !errors.Is(err, bmc.ErrAuth) || strings.Contains(err.Error(), "ipmi") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestDialer_Driver(t *testing.T) {
	f, target := serve(t)
	target.Driver = "gofish"
	d, err := dialer.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close(context.Background()) }()
	if d.Name() != "gofish" {
		t.Errorf("it is driven by %s", d.Name())
	}
	if err := d.RequestPower(t.Context(), bmc.ActionOn); err != nil || f.Power() != bmc.PowerOn {
		t.Errorf("power on: %v; the machine is %s", err, f.Power())
	}
	c, err := d.Console(t.Context())
	if err != nil {
		t.Fatalf("the serial console, by IPMI: %v", err)
	}
	_ = c.Close()
	target.Driver = "acme"
	if _, err := dialer.Dial(t.Context(), target); err == nil || !strings.Contains(err.Error(), "supermicro") {
		t.Errorf("a driver that isn't there: %v", err)
	}
}
