package vendor_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/bmc/vendor"
)

const password = "s3cret-password"

// service starts a BMC of a manufacturer; its web page is OpenBMC's.
func service(t *testing.T, manufacturer string, q bmctest.Quirks) (*bmctest.Fake, *bmctest.Redfish, bmc.Target) {
	t.Helper()
	f := bmctest.NewFake("admin", password)
	f.SetIdentity(bmc.Identity{Serial: "S1", Manufacturer: manufacturer, Product: "R650"})
	r := bmctest.NewRedfish(f, q)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/" || req.URL.Path == "" {
			_, _ = w.Write([]byte("<title>OpenBMC</title>"))
			return
		}
		r.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	return f, r, bmc.Target{
		Machine: "web-1", Address: strings.TrimPrefix(s.URL, "https://"), Username: "admin", Password: password,
		TLS: bmc.TLS{Pin: bmc.PinOf(s.Certificate())},
	}
}

func dial(name string) func(context.Context, bmc.Target) (bmc.Driver, error) {
	return func(ctx context.Context, t bmc.Target) (bmc.Driver, error) {
		d, err := vendor.Dial(ctx, name, t, time.Now)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
}

func open(t *testing.T, name string, target bmc.Target) bmc.Driver {
	t.Helper()
	d, err := dial(name)(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
}

func TestDriver(t *testing.T) {
	for name, has := range map[string][]bmctest.Capability{
		vendor.Gofish:  {bmctest.Login, bmctest.Power, bmctest.NMI, bmctest.Boot},
		vendor.Dell:    {bmctest.Login, bmctest.Power, bmctest.NMI},
		vendor.OpenBMC: {bmctest.Login, bmctest.Power, bmctest.NMI},
	} {
		t.Run(name, func(t *testing.T) {
			bmctest.Run(t, func(t *testing.T) bmctest.Setup {
				f, _, target := service(t, "Dell Inc.", bmctest.Quirks{})
				return f.Setup(target, func(ctx context.Context, target bmc.Target) (bmc.Driver, error) {
					d, err := dial(name)(ctx, target)
					return noUpdate{d}, err
				})
			}, has...)
		})
	}
}

// noUpdate is a driver without updates: the fake has no list of tasks, which
// the providers want. They are held against the lab's BMC, in test/interop/bmc.
type noUpdate struct{ bmc.Driver }

func (d noUpdate) UpdateFirmware(context.Context, bmc.FirmwareUpdate) (bmc.TaskID, error) {
	return "", bmc.Unsupported(d.Name(), "firmware update")
}

func TestDriver_Certificate(t *testing.T) {
	other := httptest.NewTLSServer(nil)
	defer other.Close()
	for _, name := range []string{vendor.Gofish, vendor.Dell, vendor.OpenBMC, vendor.ASRockRack, vendor.Supermicro, vendor.AMT} {
		t.Run(name+" sends nothing to a BMC with another certificate", func(t *testing.T) {
			_, r, target := service(t, "Dell Inc.", bmctest.Quirks{})
			target.TLS.Pin = bmc.PinOf(&x509.Certificate{RawSubjectPublicKeyInfo: []byte("another key")})
			_, err := dial(name)(t.Context(), target)
			if !errors.Is(err, bmc.ErrCertificate) {
				t.Errorf("err = %v", err)
			}
			if got := r.Requests(); len(got) > 0 {
				t.Errorf("the BMC was sent %q", got)
			}
		})
	}
	t.Run("the certificate of the first contact is told", func(t *testing.T) {
		_, _, target := service(t, "Dell Inc.", bmctest.Quirks{})
		want := target.TLS.Pin
		target.TLS.Pin = ""
		if got := open(t, vendor.Gofish, target).Pin(); got != want {
			t.Errorf("pin %s, want %s", got, want)
		}
	})
}

func TestDriver_OtherVendor(t *testing.T) {
	for _, name := range []string{vendor.Dell, vendor.ASRockRack, vendor.Supermicro, vendor.AMT} {
		t.Run(name+" refuses another vendor's", func(t *testing.T) {
			_, r, target := service(t, "Lenovo", bmctest.Quirks{})
			_, err := dial(name)(t.Context(), target)
			if !errors.Is(err, bmc.ErrUnsupported) {
				t.Errorf("err = %v", err)
			}
			if n := r.Sessions(); n > 0 {
				t.Errorf("%d sessions were left behind", n)
			}
		})
	}
}

func TestDriver_Dead(t *testing.T) {
	for _, name := range vendor.Names() {
		t.Run(name+" says that nothing answers", func(t *testing.T) {
			s := httptest.NewServer(nil)
			s.Close()
			target := bmc.Target{Address: s.Listener.Addr().String(), Username: "admin", Password: password, TLS: bmc.TLS{Insecure: true}}
			if _, err := dial(name)(t.Context(), target); !errors.Is(err, bmc.ErrUnreachable) {
				t.Errorf("err = %v", err)
			}
		})
	}
}

func TestDriver_Hangs(t *testing.T) {
	for _, name := range vendor.Names() {
		t.Run(name+" ends with its context at a BMC that never answers", func(t *testing.T) {
			release := make(chan struct{})
			s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
			defer s.Close()
			defer close(release)
			target := bmc.Target{Address: strings.TrimPrefix(s.URL, "https://"), Username: "admin", Password: password, TLS: bmc.TLS{Insecure: true}}
			ctx, cancel := context.WithCancelCause(t.Context())
			asked := errors.New("the caller has given up")
			time.AfterFunc(100*time.Millisecond, func() { cancel(asked) })
			if _, err := dial(name)(ctx, target); !errors.Is(err, asked) {
				t.Errorf("err = %v", err)
			}
		})
	}
}

func TestDriver_Endless(t *testing.T) {
	_, _, target := service(t, "Dell Inc.", bmctest.Quirks{Endless: true})
	d := open(t, vendor.Gofish, target)
	if _, err := d.PowerState(t.Context()); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("err = %v", err)
	}
}

func TestDriver_DroppedSession(t *testing.T) {
	f, r, target := service(t, "Dell Inc.", bmctest.Quirks{})
	d := open(t, vendor.Gofish, target)
	r.DropSessions()
	if err := d.RequestPower(t.Context(), bmc.ActionOn); err != nil {
		t.Fatal(err)
	}
	if got := f.Actions(); len(got) != 1 || got[0] != bmc.ActionOn {
		t.Errorf("the BMC was asked for %v", got)
	}
}

func TestDriver_Secrets(t *testing.T) {
	_, _, target := service(t, "Dell Inc.", bmctest.Quirks{EchoSecrets: true})
	target.Password = "wr0ng & secret"
	for _, name := range vendor.Names() {
		if _, err := dial(name)(t.Context(), target); err == nil || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOf(t *testing.T) {
	for manufacturer, want := range map[string]string{
		"Dell Inc.": vendor.Dell, "DELL": vendor.Dell, "Supermicro": vendor.Supermicro, "Super Micro Computer": vendor.Supermicro,
		"ASRockRack": vendor.ASRockRack, "ASRock Rack": vendor.ASRockRack, "HPE": "", "": "",
	} {
		if got := vendor.Of(manufacturer); got != want {
			t.Errorf("%q: got %q, want %q", manufacturer, got, want)
		}
	}
}
