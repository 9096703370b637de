package redfish_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/bmc/redfish"
)

const password = "s3cret-password"

// service starts a Redfish service in front of a fake BMC.
func service(t *testing.T, q bmctest.Quirks) (*bmctest.Fake, *bmctest.Redfish, bmc.Target) {
	t.Helper()
	f := bmctest.NewFake("admin", password)
	r := bmctest.NewRedfish(f, q)
	s := httptest.NewTLSServer(r)
	t.Cleanup(s.Close)
	target := bmc.Target{
		Machine: "web-1", Address: strings.TrimPrefix(s.URL, "https://"), Protocol: bmc.ProtocolRedfish,
		Username: "admin", Password: password, TLS: bmc.TLS{Pin: bmc.PinOf(s.Certificate())},
	}
	return f, r, target
}

func dial(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
	d, err := redfish.Dial(ctx, t, time.Now)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func open(t *testing.T, target bmc.Target) *redfish.Driver {
	t.Helper()
	d, err := redfish.Dial(t.Context(), target, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
}

// required is what the driver must be able to do.
var required = []bmctest.Capability{
	bmctest.Login, bmctest.Power, bmctest.NMI, bmctest.Boot, bmctest.HTTPBoot, bmctest.VirtualMedia, bmctest.Identity, bmctest.Inventory,
	bmctest.Sensors, bmctest.HealthReport, bmctest.EventLog, bmctest.Firmware, bmctest.Update, bmctest.BIOS, bmctest.SecureBoot,
	bmctest.Users, bmctest.Manager,
}

func TestDriver(t *testing.T) {
	for name, q := range map[string]bmctest.Quirks{
		"a service after the schemas":                   {},
		"a service without sessions":                    {NoSessions: true},
		"a service that wants If-Match":                 {NeedETag: true},
		"a service with slots for accounts":             {Slots: true},
		"a service whose InsertMedia has one parameter": {ImageOnly: true},
		"a service that can expand collections":         {Expand: true},
		"a service with properties of other types":      {OddTypes: true},
		"a service that repeats secrets":                {EchoSecrets: true},
		"a service that keeps what it has ejected":      {KeepsImage: true},
	} {
		t.Run(name, func(t *testing.T) {
			bmctest.Run(t, func(t *testing.T) bmctest.Setup {
				f, _, target := service(t, q)
				return f.Setup(target, dial)
			}, required...)
		})
	}
}

func TestDriver_Sessions(t *testing.T) {
	t.Run("one session serves every call, and is gone after Close", func(t *testing.T) {
		_, r, target := service(t, bmctest.Quirks{})
		d := open(t, target)
		for range 3 {
			if _, err := d.PowerState(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.Sessions(); got != 1 {
			t.Errorf("%d sessions are open, want 1", got)
		}
		if err := d.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := r.Sessions(); got != 0 {
			t.Errorf("%d sessions are open after Close, want none", got)
		}
	})
	t.Run("a session that the BMC has dropped is opened anew, and the change is made once", func(t *testing.T) {
		f, r, target := service(t, bmctest.Quirks{})
		d := open(t, target)
		if _, err := d.PowerState(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.DropSessions()
		if err := d.RequestPower(t.Context(), bmc.ActionOn); err != nil {
			t.Fatal(err)
		}
		r.DropSessions()
		if err := d.RequestBoot(t.Context(), bmc.BootOverride{Device: bmc.BootNetwork}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]bmc.PowerAction{bmc.ActionOn}, f.Actions()); diff != "" {
			t.Errorf("power actions (-want +got):\n%s", diff)
		}
	})
	t.Run("a password that was changed meanwhile is a refused login", func(t *testing.T) {
		f, r, target := service(t, bmctest.Quirks{})
		d := open(t, target)
		other := open(t, target)
		if err := other.SetPassword(t.Context(), "admin", "an0ther-password"); err != nil {
			t.Fatal(err)
		}
		r.DropSessions()
		if _, err := d.PowerState(t.Context()); !errors.Is(err, bmc.ErrAuth) {
			t.Errorf("error is %v, want bmc.ErrAuth", err)
		}
		if f.Password() != "an0ther-password" {
			t.Errorf("password is %q", f.Password())
		}
	})
}

func TestDriver_Certificates(t *testing.T) {
	_, _, target := service(t, bmctest.Quirks{})
	pin := target.TLS.Pin
	t.Run("a certificate that isn't the pinned one is refused with both fingerprints and what to do", func(t *testing.T) {
		other := target
		other.TLS.Pin = "sha256:" + bmc.Pin(strings.Repeat("ab", 32))
		_, err := redfish.Dial(t.Context(), other, time.Now)
		var cert *bmc.CertificateError
		if !errors.As(err, &cert) || cert.Want != other.TLS.Pin || cert.Got != pin {
			t.Fatalf("error is %v, want a CertificateError with both pins", err)
		}
		for _, want := range []string{string(pin), string(other.TLS.Pin), "spec.bmc.certificate_digest"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error doesn't say %s: %v", want, err)
			}
		}
	})
	t.Run("a certificate of no known CA is refused", func(t *testing.T) {
		strict := target
		strict.TLS = bmc.TLS{Roots: x509.NewCertPool()}
		if _, err := redfish.Dial(t.Context(), strict, time.Now); !errors.Is(err, bmc.ErrCertificate) {
			t.Errorf("error is %v, want bmc.ErrCertificate", err)
		}
	})
	t.Run("the first contact is trusted and its pin told", func(t *testing.T) {
		first := target
		first.TLS = bmc.TLS{}
		if got := open(t, first).Pin(); got != pin {
			t.Errorf("pin is %s, want %s", got, pin)
		}
	})
	t.Run("HTTP without TLS is refused unless it is asked for", func(t *testing.T) {
		plain := target
		plain.Address = "http://" + plain.Address
		if _, err := redfish.Dial(t.Context(), plain, time.Now); err == nil || !strings.Contains(err.Error(), "leave http:// out") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestDriver_Hostile(t *testing.T) {
	elsewhere := httptest.NewTLSServer(bmctest.NewRedfish(bmctest.NewFake("admin", password), bmctest.Quirks{}))
	defer elsewhere.Close()
	host := strings.TrimPrefix(elsewhere.URL, "https://")
	for name, q := range map[string]bmctest.Quirks{
		"a redirect to another host is not followed":       {Redirect: elsewhere.URL},
		"a link to another host is not followed":           {Link: elsewhere.URL + "/redfish/v1/Systems/Box-1"},
		"a link with the own host as user isn't either":    {Link: "@" + host + "/redfish/v1/Systems/Box-1"},
		"a link with two slashes is no host":               {Link: "//" + host + "/redfish/v1/Systems/Box-1"},
		"a link that is no path is an error":               {Link: "javascript:alert(1)"},
		"an answer without end is cut off, and not stored": {Endless: true},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, target := service(t, q)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			d := open(t, target)
			state, err := d.PowerState(ctx)
			if err == nil {
				t.Fatalf("power is %v, want an error", state)
			}
			if strings.Contains(err.Error(), password) || ctx.Err() != nil {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestDriver_Secrets(t *testing.T) {
	_, _, target := service(t, bmctest.Quirks{EchoSecrets: true})
	t.Run("a password that the BMC repeats is not in the error", func(t *testing.T) {
		err := open(t, target).SetPassword(t.Context(), "admin", "shorty")
		if err == nil || strings.Contains(err.Error(), "shorty") || !strings.Contains(err.Error(), "too short") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("nor is a wrong one at login", func(t *testing.T) {
		wrong := target
		wrong.Password = "wr0ng-password"
		_, err := redfish.Dial(t.Context(), wrong, time.Now)
		if !errors.Is(err, bmc.ErrAuth) || strings.Contains(err.Error(), wrong.Password) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestDriver_Inventory(t *testing.T) {
	_, _, target := service(t, bmctest.Quirks{})
	inv, err := open(t, target).Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("what isn't fitted is left out", func(t *testing.T) {
		if len(inv.Processors) != 1 || len(inv.Memory.Modules) != 2 || inv.Memory.InstalledBytes != 32<<30 {
			t.Errorf("processors %v, memory %v", inv.Processors, inv.Memory)
		}
	})
	t.Run("what can't be read is a warning, and the rest is there", func(t *testing.T) {
		if len(inv.Disks) != 1 || inv.Disks[0].Type != "nvme" || len(inv.Warnings) != 1 || !strings.Contains(inv.Warnings[0], "disks") {
			t.Errorf("disks %v, warnings %q", inv.Disks, inv.Warnings)
		}
	})
	t.Run("interfaces that only the adapter knows are there as well", func(t *testing.T) {
		var macs []string
		for _, n := range inv.Nics {
			macs = append(macs, n.Mac)
		}
		if diff := cmp.Diff([]string{"52:54:00:77:00:01", "52:54:00:77:00:02"}, macs); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	})
	t.Run("the BMC's own address isn't one of the machine's", func(t *testing.T) {
		if inv.Bmc.Mac != "52:54:00:bb:00:01" || inv.Bmc.Address != "192.0.2.1" {
			t.Errorf("BMC is %v", inv.Bmc)
		}
	})
	t.Run("a TPM is one", func(t *testing.T) {
		if !inv.Tpm.Present || inv.Tpm.Version != 2 {
			t.Errorf("TPM is %v", inv.Tpm)
		}
	})
}

func TestDriver_BootMode(t *testing.T) {
	f, _, target := service(t, bmctest.Quirks{NoBootMode: true})
	err := open(t, target).RequestBoot(t.Context(), bmc.BootOverride{Device: bmc.BootNetwork, Mode: bmc.ModeUEFI})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := f.Boot(), (bmc.BootOverride{Device: bmc.BootNetwork}); got != want {
		t.Errorf("override is %v, want %v: the mode can't be written, the device can", got, want)
	}
}
