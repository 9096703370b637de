package vendor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	"github.com/bedplate/bedplate/bmc/vendor"
)

// serve starts a BMC over TLS and returns how it is logged in to.
func serve(t *testing.T, h http.Handler) bmc.Target {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	return bmc.Target{
		Machine: "web-1", Address: strings.TrimPrefix(s.URL, "https://"), Username: "admin", Password: password,
		TLS: bmc.TLS{Pin: bmc.PinOf(s.Certificate())},
	}
}

// x11 is the web interface of a Supermicro X11 board in front of its Redfish:
// its cookie is for TLS only, and it wants its own address as referer.
func x11(t *testing.T, f *bmctest.Fake) (bmc.Target, func() int) {
	r := bmctest.NewRedfish(f, bmctest.Quirks{})
	mux := http.NewServeMux()
	var mu sync.Mutex
	logins := 0
	mux.HandleFunc("POST /cgi/login.cgi", func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		logins++
		body, _ := io.ReadAll(req.Body)
		if !strings.Contains(string(body), "pwd="+password) { // firmware that wants it plain
			_, _ = io.WriteString(w, "wrong")
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "SID", Value: "s1", Path: "/", Secure: true, HttpOnly: true})
		_, _ = io.WriteString(w, "url_redirect.cgi?url_name=mainmenu")
	})
	loggedIn := func(fn http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			c, err := req.Cookie("SID")
			if err != nil || c.Value != "s1" || !strings.HasPrefix(req.Referer(), "https://"+req.Host) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fn(w, req)
		}
	}
	mux.HandleFunc("GET /cgi/url_redirect.cgi", loggedIn(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `"CSRF_TOKEN", "t1"`) }))
	mux.HandleFunc("POST /cgi/ipmi.cgi", loggedIn(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `<?xml version="1.0"?><IPMI><FRU_INFO><BOARD MFC_NAME="Supermicro" PART_NUM="X11SCM-F" PROD_NAME="x" SERIAL_NUM="1"/></FRU_INFO></IPMI>`)
	}))
	mux.HandleFunc("GET /cgi/logout.cgi", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("/redfish/", r)
	return serve(t, mux), func() int { mu.Lock(); defer mu.Unlock(); return logins }
}

func TestSupermicro(t *testing.T) {
	f := bmctest.NewFake("admin", password)
	target, _ := x11(t, f)
	d := open(t, vendor.Supermicro, target)
	if err := d.RequestPower(t.Context(), bmc.ActionOn); err != nil {
		t.Fatal(err)
	}
	if state, err := d.PowerState(t.Context()); err != nil || state != bmc.PowerOn || f.Power() != bmc.PowerOn {
		t.Errorf("power %s, %v", state, err)
	}
	if err := d.RequestPower(t.Context(), bmc.ActionSoft); err != nil {
		t.Errorf("a soft shutdown that the BMC has accepted: %v", err)
	}
	t.Run("a wrong password is a refused login, tried in two forms", func(t *testing.T) {
		target, logins := x11(t, f)
		target.Password = "mistyped"
		if _, err := dial(vendor.Supermicro)(t.Context(), target); !errors.Is(err, bmc.ErrAuth) || strings.Contains(err.Error(), "mistyped") {
			t.Errorf("err = %v", err)
		}
		if logins() != 2 {
			t.Errorf("%d logins", logins())
		}
	})
}

// asrock is the web API of an ASRock Rack board.
type asrock struct {
	mu       sync.Mutex
	model    string
	on       bool
	commands []int
}

func (a *asrock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	path := "/" + strings.TrimLeft(r.URL.Path, "/")
	if path != "/api/session" && r.Header.Get("X-CSRFTOKEN") != "token" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch r.Method + " " + path {
	case "POST /api/session":
		body, _ := io.ReadAll(r.Body)
		if form, err := url.ParseQuery(string(body)); err != nil || form.Get("password") != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"csrftoken":"token"}`)
	case "GET /api/fru":
		_, _ = fmt.Fprintf(w, `[{"device":{"id":0,"name":"x"},"board":{"manufacturer":"ASRockRack","product_name":%q,"serial_number":"S1"}}]`, a.model)
	case "GET /api/chassis-status":
		_, _ = fmt.Fprintf(w, `{"power_status":%d}`, map[bool]int{true: 1}[a.on])
	case "POST /api/actions/power":
		var body struct {
			Command int `json:"power_command"`
		}
		_ = json.NewDecoder(r.Body).Decode(&body)
		a.commands = append(a.commands, body.Command)
		a.on = body.Command == 1
	case "DELETE /api/session":
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestASRockRack(t *testing.T) {
	board := &asrock{model: "E3C246D4I-NL"}
	target := serve(t, board)
	d := open(t, vendor.ASRockRack, target)
	if err := d.RequestPower(t.Context(), bmc.ActionOn); err != nil {
		t.Fatal(err)
	}
	if state, err := d.PowerState(t.Context()); err != nil || state != bmc.PowerOn {
		t.Errorf("power %s, %v; it was told %v", state, err, board.commands)
	}
	if err := d.RequestPower(t.Context(), bmc.ActionNMI); !errors.Is(err, bmc.ErrUnsupported) {
		t.Errorf("an NMI: %v", err)
	}
	t.Run("a wrong password is a refused login", func(t *testing.T) {
		target.Password = "mistyped"
		if _, err := dial(vendor.ASRockRack)(t.Context(), target); !errors.Is(err, bmc.ErrAuth) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("another model is refused", func(t *testing.T) {
		if _, err := dial(vendor.ASRockRack)(t.Context(), serve(t, &asrock{model: "X570D4U"})); !errors.Is(err, bmc.ErrUnsupported) {
			t.Errorf("err = %v", err)
		}
	})
}

// amt answers as Intel AMT does a client that isn't logged in, whatever it sends.
func TestAMT_Refused(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	target := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != "" {
			asked++
		}
		w.Header().Set("WWW-Authenticate", `Digest realm="Digest:A1", nonce="n1", stale="false", qop="auth"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	_, err := dial(vendor.AMT)(t.Context(), target)
	if !errors.Is(err, bmc.ErrAuth) || strings.Contains(err.Error(), password) {
		t.Errorf("err = %v", err)
	}
	if mu.Lock(); asked == 0 || asked > 2 {
		t.Errorf("%d logins", asked)
	}
	mu.Unlock()
}
