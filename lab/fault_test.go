package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/command/chassis"

	"github.com/bedplate/bedplate/lab/board"
)

// setFault gives a BMC a fault for the rest of the test.
func setFault(t *testing.T, b *BMC, fault string) {
	t.Helper()
	f, err := board.ParseFault(fault)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Board().SetFault(t.Context(), f, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Board().SetFault(context.Background(), f, false) })
}

// TestFaults has one of each fault, by Redfish and by IPMI.
func TestFaults(t *testing.T) {
	f := newTestFleet(t, FleetConfig{Count: 1, Dir: t.TempDir()})
	b, m := f.BMCs()[0], f.Machines()[0]
	images := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("an image")) }))
	t.Cleanup(images.Close)

	t.Run("slow", func(t *testing.T) {
		c := client{t: t, bmc: b}
		setFault(t, b, "slow=150ms")
		start := time.Now()
		c.must(http.StatusOK, http.MethodGet, system, "")
		if took := time.Since(start); took < 150*time.Millisecond {
			t.Errorf("Redfish answered after %s", took)
		}
		start = time.Now()
		i := ipmiClient(t, b)
		if _, err := i.GetChassisStatus(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 150*time.Millisecond {
			t.Errorf("IPMI answered after %s", took)
		}
	})
	t.Run("error", func(t *testing.T) {
		c, i := client{t: t, bmc: b}, ipmiClient(t, b)
		setFault(t, b, "error")
		answer := c.must(http.StatusInternalServerError, http.MethodGet, system, "")
		if answer["error"] == nil {
			t.Errorf("the answer is %v", answer)
		}
		if _, err := i.GetChassisStatus(t.Context()); err == nil {
			t.Error("IPMI answered without an error")
		}
	})
	t.Run("wrong-power-state", func(t *testing.T) {
		c, i := client{t: t, bmc: b}, ipmiClient(t, b)
		setFault(t, b, "wrong-power-state")
		c.reset("On")
		if got := c.must(http.StatusOK, http.MethodGet, system, "")["PowerState"]; got != "Off" || !m.On() {
			t.Errorf("Redfish says %v, and the machine is on: %t", got, m.On())
		}
		status, err := i.GetChassisStatus(t.Context())
		if err != nil || status.PowerIsOn {
			t.Errorf("IPMI says %v, %v", status, err)
		}
		c.reset("ForceOff")
	})
	t.Run("dropped-sessions", func(t *testing.T) {
		c, i := client{t: t, bmc: b}, ipmiClient(t, b)
		setFault(t, b, "dropped-sessions")
		username, password := b.Login()
		_, _, header := c.do(http.MethodPost, "/redfish/v1/SessionService/Sessions", `{"UserName": "`+username+`", "Password": "`+password+`"}`)
		if c.token = header.Get("X-Auth-Token"); c.token == "" {
			t.Fatal("no token")
		}
		for range board.SessionRequests {
			c.must(http.StatusOK, http.MethodGet, system, "")
		}
		c.must(http.StatusUnauthorized, http.MethodGet, system, "")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var err error
		for range board.SessionRequests + 1 {
			if _, err = i.GetChassisStatus(ctx); err != nil {
				break
			}
		}
		if err == nil {
			t.Error("the IPMI session lives on")
		}
	})
	t.Run("boot-override-ignored", func(t *testing.T) {
		c := client{t: t, bmc: b}
		setFault(t, b, "boot-override-ignored")
		answer := c.must(http.StatusOK, http.MethodPatch, system, `{"Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Continuous"}}`)
		if got := answer["Boot"].(map[string]any)["BootSourceOverrideTarget"]; got != "Pxe" {
			t.Errorf("it shows %v", got)
		}
		c.reset("On")
		if last, _ := m.Booted(); last.Boot != board.BootNone {
			t.Errorf("it booted from %s", last.Boot)
		}
		c.reset("ForceOff")
		c.must(http.StatusOK, http.MethodPatch, system, `{"Boot": {"BootSourceOverrideTarget": "None", "BootSourceOverrideEnabled": "Disabled"}}`)
	})
	t.Run("media-ejects-itself", func(t *testing.T) {
		c := client{t: t, bmc: b}
		setFault(t, b, "media-ejects-itself")
		const cd = "/redfish/v1/Managers/1/VirtualMedia/Cd"
		c.must(http.StatusNoContent, http.MethodPost, cd+"/Actions/VirtualMedia.InsertMedia", `{"Image": "`+images.URL+`/a.iso"}`)
		if got := c.must(http.StatusOK, http.MethodGet, cd, "")["Inserted"]; got != true {
			t.Errorf("Inserted is %v at first", got)
		}
		c.reset("On")
		if got := c.must(http.StatusOK, http.MethodGet, cd, "")["Inserted"]; got != false || m.Media(board.CD).File != "" {
			t.Errorf("Inserted is %v, and the machine sees %+v", got, m.Media(board.CD))
		}
		c.reset("ForceOff")
	})
	t.Run("dead", func(t *testing.T) {
		i := ipmiClient(t, b)
		setFault(t, b, "dead")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.Redfish()+"/redfish/v1/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true} //nolint:gosec // a test
		resp, err := transport.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
			t.Error("a dead BMC answered by Redfish")
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a dead BMC is not silent: %v", err)
		}
		late, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if _, err := i.GetChassisStatus(late); err == nil {
			t.Error("a dead BMC answered by IPMI")
		}
	})
	t.Run("and alive again", func(t *testing.T) {
		client{t: t, bmc: b}.must(http.StatusOK, http.MethodGet, system, "")
		if _, err := ipmiClient(t, b).ChassisControl(t.Context(), chassis.ChassisControlPowerUp); err != nil {
			t.Error(err)
		}
	})
	t.Run("unauthorized", func(t *testing.T) {
		c := client{t: t, bmc: b}
		setFault(t, b, "unauthorized")
		c.must(http.StatusUnauthorized, http.MethodGet, system, "")
		if err := tryIPMI(t, b); err == nil {
			t.Error("IPMI took the password")
		}
	})
	t.Run("hot", func(t *testing.T) {
		c := client{t: t, bmc: b}
		setFault(t, b, "hot")
		if got := c.must(http.StatusOK, http.MethodGet, system, "")["Status"].(map[string]any)["Health"]; got != "Critical" {
			t.Errorf("health is %v", got)
		}
		log := b.Board().Log()
		if last := log[len(log)-1]; last.Severity != board.Critical {
			t.Errorf("the log's last entry is %+v", last)
		}
	})
	t.Run("an unknown one is refused with the list", func(t *testing.T) {
		for _, s := range []string{"asleep", "slow=never", "slow=1h", "dead=1s", ""} {
			if _, err := board.ParseFault(s); err == nil || !strings.Contains(err.Error(), "want") && !strings.Contains(err.Error(), "only slow") {
				t.Errorf("%q: %v", s, err)
			}
		}
	})
}
