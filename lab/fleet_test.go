package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	ipmiclient "github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"

	"github.com/bedplate/bedplate/lab/board"
)

// newTestFleet starts a fleet that ends with the test.
func newTestFleet(t *testing.T, cfg FleetConfig) *Fleet {
	t.Helper()
	cfg.Now = time.Now
	f, err := NewFleet(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// client is somebody who drives a BMC by Redfish.
type client struct {
	t   *testing.T
	bmc *BMC
	// token is used in place of the password.
	token string
}

// do sends a request and returns the answer; body is JSON or nothing.
func (c client) do(method, path, body string) (status int, answer map[string]any, header http.Header) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.bmc.Redfish()+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	username, password := c.bmc.Login()
	if c.token != "" {
		req.Header.Set("X-Auth-Token", c.token)
	} else {
		req.SetBasicAuth(username, password)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true} //nolint:gosec // a test
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if len(bytes.TrimSpace(text)) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			c.t.Fatalf("%s %s: %v in %s", method, path, err, text)
		}
	}
	return resp.StatusCode, answer, resp.Header
}

// must wants a status.
func (c client) must(want int, method, path, body string) map[string]any {
	c.t.Helper()
	status, answer, _ := c.do(method, path, body)
	if status != want {
		c.t.Fatalf("%s %s: status %d, want %d: %v", method, path, status, want, answer)
	}
	return answer
}

const system = "/redfish/v1/Systems/1"

func (c client) reset(kind string) {
	c.t.Helper()
	c.must(http.StatusNoContent, http.MethodPost, system+"/Actions/ComputerSystem.Reset", `{"ResetType": "`+kind+`"}`)
}

// ipmiClient connects by IPMI.
func ipmiClient(t *testing.T, b *BMC) *ipmiclient.Client {
	t.Helper()
	c := newIPMIClient(t, b)
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

// tryIPMI returns what comes of a login.
func tryIPMI(t *testing.T, b *BMC) error {
	t.Helper()
	c := newIPMIClient(t, b)
	err := c.Connect(t.Context())
	_ = c.Close(context.Background())
	return err
}

func newIPMIClient(t *testing.T, b *BMC) *ipmiclient.Client {
	t.Helper()
	username, password := b.Login()
	host, p, err := net.SplitHostPort(b.IPMI())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ipmiclient.NewClient(host, port, username, password)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFleet(t *testing.T) {
	f := newTestFleet(t, FleetConfig{Count: 3, Dir: t.TempDir()})
	b, m := f.BMCs()[0], f.Machines()[0]
	c := client{t: t, bmc: b}
	t.Run("what Redfish switches on IPMI sees, and the other way round", func(t *testing.T) {
		i := ipmiClient(t, b)
		c.reset("On")
		status, err := i.GetChassisStatus(t.Context())
		if err != nil || !status.PowerIsOn {
			t.Fatalf("by IPMI the power is %+v, %v", status, err)
		}
		if _, err := i.ChassisControl(t.Context(), chassis.ChassisControlPowerDown); err != nil {
			t.Fatal(err)
		}
		if got := c.must(http.StatusOK, http.MethodGet, system, "")["PowerState"]; got != "Off" {
			t.Errorf("by Redfish the power is %v", got)
		}
	})
	t.Run("a boot override is for one boot", func(t *testing.T) {
		c.must(http.StatusOK, http.MethodPatch, system, `{"Boot": {"BootSourceOverrideTarget": "Cd", "BootSourceOverrideEnabled": "Once"}}`)
		c.reset("On")
		if last, _ := m.Booted(); last.Boot != board.BootCD {
			t.Errorf("it booted from %s", last.Boot)
		}
		c.reset("ForceRestart")
		if last, _ := m.Booted(); last.Boot != board.BootNone {
			t.Errorf("the second time it booted from %s", last.Boot)
		}
	})
	t.Run("an image by its address", func(t *testing.T) {
		images := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("an image")) }))
		defer images.Close()
		const cd = "/redfish/v1/Managers/1/VirtualMedia/Cd"
		c.must(http.StatusNoContent, http.MethodPost, cd+"/Actions/VirtualMedia.InsertMedia", `{"Image": "`+images.URL+`/a.iso"}`)
		if got := c.must(http.StatusOK, http.MethodGet, cd, ""); got["Inserted"] != true || got["ImageName"] != "a.iso" {
			t.Errorf("the drive is %v", got)
		}
		if got := m.Media(board.CD); got.Size != 8 {
			t.Errorf("the machine sees %+v", got)
		}
		c.must(http.StatusConflict, http.MethodPost, cd+"/Actions/VirtualMedia.InsertMedia", `{"Image": "`+images.URL+`/b.iso"}`)
		c.must(http.StatusNoContent, http.MethodPost, cd+"/Actions/VirtualMedia.EjectMedia", `{}`)
		c.must(http.StatusConflict, http.MethodPost, cd+"/Actions/VirtualMedia.EjectMedia", `{}`)
		c.must(http.StatusBadRequest, http.MethodPost, cd+"/Actions/VirtualMedia.InsertMedia", `{"Image": "http://127.0.0.1:1/none.iso"}`)
	})
	t.Run("each has a certificate of its own", func(t *testing.T) {
		if f.BMCs()[0].Fingerprint() == f.BMCs()[1].Fingerprint() || len(b.Fingerprint()) != 64 {
			t.Error("two BMCs show the same certificate")
		}
	})
}

// BenchmarkFleet starts 500 BMCs and asks each for its power by Redfish; it
// reports the memory and the goroutines that one takes after that.
func BenchmarkFleet(b *testing.B) {
	const count = 500
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		goroutines := runtime.NumGoroutine()
		f, err := NewFleet(b.Context(), FleetConfig{Count: count, Now: time.Now})
		if err != nil {
			b.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true} //nolint:gosec // a test
		for _, bmc := range f.BMCs() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, bmc.Redfish()+system, http.NoBody)
			if err != nil {
				b.Fatal(err)
			}
			req.SetBasicAuth(bmc.Login())
			resp, err := transport.RoundTrip(req)
			if err != nil || resp.StatusCode != http.StatusOK {
				b.Fatalf("%v, %v", resp, err)
			}
			_ = resp.Body.Close()
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/count, "B/BMC")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/count, "goroutines/BMC")
		f.Close()
	}
}
