package scan

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		want string
	}{
		{[]string{"10.0.0.0/30"}, "10.0.0.1 10.0.0.2"},
		{[]string{"10.0.0.8/31"}, "10.0.0.8 10.0.0.9"},
		{[]string{"10.0.0.5", "10.0.0.4-10.0.0.6"}, "10.0.0.5 10.0.0.4 10.0.0.6"},
		{[]string{"127.0.0.1:8443"}, "127.0.0.1:8443"},
		{[]string{"fd00::1", "[fd00::2]:443"}, "fd00::1 [fd00::2]:443"},
	} {
		targets, err := Parse(tt.in)
		var got []string
		for _, x := range targets {
			got = append(got, x.String())
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", tt.in, err, diff)
		}
	}
	for _, in := range [][]string{nil, {"web-1"}, {"10.0.0.0/8"}, {"10.0.0.9-10.0.0.1"}, {"10.0.0.0/16", "10.1.0.0/16"}, {"fd00::/64"}} {
		if targets, err := Parse(in); err == nil {
			t.Errorf("%q gave %d addresses", in, len(targets))
		}
	}
}

// bmcAt is a Redfish service on loopback.
func bmcAt(t *testing.T, root string) Target {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/redfish/v1/" || r.Header.Get("Authorization") != "" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, root)
	}))
	t.Cleanup(s.Close)
	ap := netip.MustParseAddrPort(s.Listener.Addr().String())
	return Target{ap.Addr(), ap.Port()}
}

// ipmiAt answers what it is sent with reply.
func ipmiAt(t *testing.T, reply func([]byte) []byte) uint16 {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if r := reply(buf[:n]); r != nil {
				_, _ = conn.WriteTo(r, from)
			}
		}
	}()
	return netip.MustParseAddrPort(conn.LocalAddr().String()).Port()
}

// pong is what openipmi's ipmi_sim 2.0.34 answers to a presence ping.
func pong(tag byte) []byte {
	return append([]byte{0x06, 0, 0xff, 0x06, 0, 0, 0x11, 0xbe, 0x40, tag, 0, 16}, 0, 0, 0x11, 0xbe, 0, 0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0, 0)
}

func TestRun(t *testing.T) {
	const root = `{"@odata.type":"#ServiceRoot.v1_5_0.ServiceRoot","RedfishVersion":"1.6.0","Vendor":"Contoso\u001b[31m","Product":"Server","UUID":"92384634-2938-2342-8820-489239905423"}`
	redfish := bmcAt(t, root)
	web := bmcAt(t, `<html>a web server</html>`)
	other := bmcAt(t, `{"hello":"world"}`)
	silent := ipmiAt(t, func([]byte) []byte { return nil })
	var found []Found
	done := 0
	err := Run(t.Context(), []Target{redfish, web, other}, Options{Now: time.Now, IPMIPort: silent},
		func(f Found) error { found = append(found, f); return nil }, func() error { done++; return nil })
	if err != nil || done != 3 {
		t.Fatalf("%d were asked, %v", done, err)
	}
	if len(found) != 1 || !strings.HasPrefix(found[0].Pin, "sha256:") {
		t.Fatalf("found %+v", found)
	}
	found[0].Pin = ""
	want := Found{Address: redfish.String(), Redfish: true, Vendor: "Contoso[31m", Product: "Server", UUID: "92384634-2938-2342-8820-489239905423"}
	if diff := cmp.Diff(want, found[0]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAskIPMI(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reply func([]byte) []byte
		want  bool
	}{
		{"a BMC that answers pings", func(p []byte) []byte {
			if p[3] == classASF {
				return pong(p[9])
			}
			return nil
		}, true},
		{"one that answers Get Channel Authentication Capabilities only", func(p []byte) []byte {
			if p[3] != classIPMI {
				return nil
			}
			head := []byte{0x81, 0x1c}
			body := []byte{0x20, p[18], 0x38, 0, 0x01, 0x96, 0x04, 0x02, 0, 0, 0, 0}
			out := append([]byte{6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16}, head...)
			out = append(append(out, checksum(head)), body...)
			return append(out, checksum(body))
		}, true},
		{"something that sends back what it gets", func(p []byte) []byte { return p }, false},
		{"silence", func([]byte) []byte { return nil }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := ipmiAt(t, tt.reply)
			if got := askIPMI(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), time.Now); got != tt.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

func TestRun_Ends(t *testing.T) {
	targets, err := Parse([]string{"127.0.0.1-127.0.0.250"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range targets {
		targets[i].Port = 1
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err = Run(ctx, targets, Options{Rate: 100, Now: time.Now, IPMIPort: 1}, func(Found) error { return nil }, func() error {
		if n++; n == 5 {
			cancel()
		}
		return nil
	})
	if err == nil || n > 20 {
		t.Errorf("after a cancel %d were asked, err = %v", n, err)
	}
	stop := fmt.Errorf("stop")
	if err := Run(t.Context(), targets, Options{Now: time.Now, IPMIPort: 1}, func(Found) error { return nil }, func() error { return stop }); err != stop { //nolint:errorlint // it is passed on as it is
		t.Errorf("err = %v", err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(pong(0))
	f.Add(presencePing(1))
	f.Add(channelAuth(1))
	f.Add([]byte{6, 0, 0xff, 7})
	f.Fuzz(func(_ *testing.T, p []byte) { isAnswer(p) })
}

func FuzzRoot(f *testing.F) {
	f.Add(200, []byte(`{"RedfishVersion":"1.6.0","Vendor":"x"}`))
	f.Add(401, []byte(`{"error":{"@Message.ExtendedInfo":[]}}`))
	f.Fuzz(func(t *testing.T, code int, body []byte) {
		root, _ := parseRoot(code, body)
		if strings.ContainsAny(root.Vendor+root.Product+root.UUID, "\x1b\n") || len([]rune(root.Vendor)) > maxWord {
			t.Errorf("%q", root)
		}
	})
}
