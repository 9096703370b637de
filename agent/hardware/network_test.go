package hardware

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/trust"
)

// authority is a server's CA.
func authority(t *testing.T) *trust.CA {
	t.Helper()
	ca, err := trust.OpenCA(t.TempDir(), rand.Reader, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// identityOf is what a machine gets when it enrols.
func identityOf(t *testing.T, ca *trust.CA, name string) Identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	req, err := trust.ParseAgentRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.SignAgent(req, trust.Agent{Machine: machine.Name(name), BootID: "0123456789abcdef"})
	if err != nil {
		t.Fatal(err)
	}
	return Identity{Machine: name, CA: ca.Digest(), Certificate: &tls.Certificate{Certificate: chain, PrivateKey: key}}
}

// freePort is one that was free a moment ago.
func freePort(t *testing.T) int64 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return int64(l.Addr().(*net.TCPAddr).Port)
}

// oneNIC is a kernel with a network interface.
func oneNIC(t *testing.T) string {
	return kernel(t, map[string]string{
		"sys/class/net/eth0/type": "1\n", "sys/class/net/eth0/device/vendor": "", "sys/class/net/eth0/carrier": "1\n", "sys/class/net/eth0/speed": "25000\n",
		"sys/class/net/eth0/statistics/rx_errors": "4\n", "sys/class/net/lo/type": "772\n",
	})
}

// end is one machine of a pair.
type end struct {
	name string
	id   Identity
	with map[string]any
	rep  *recorder
	rows map[string]map[string]any
	err  error
}

// run carries out test.network on every end at once.
func runEnds(t *testing.T, ctx context.Context, ends ...*end) {
	t.Helper()
	done := make(chan struct{})
	for _, e := range ends {
		e.rep = &recorder{}
		s := newService(t, Config{Root: oneNIC(t), Identity: func() (Identity, bool) { return e.id, true }})
		go func() {
			defer func() { done <- struct{}{} }()
			var r step.Result
			if r, e.err = s.network(ctx, step.Request{With: e.with}, e.rep); e.err == nil {
				e.rows = rows(t, r)
			}
		}()
	}
	for range ends {
		<-done
	}
}

func TestService_Network_Pair(t *testing.T) {
	ca := authority(t)
	ports := [2]int64{freePort(t), freePort(t)}
	made := func(i int) *end {
		name := fmt.Sprintf("node%d", i)
		return &end{name: name, id: identityOf(t, ca, name), with: map[string]any{
			"port": ports[i], "peers": []any{fmt.Sprintf("127.0.0.1:%d", ports[1-i])}, "duration": "300ms", "window": "1m", "streams": int64(2),
		}}
	}
	a, b := made(0), made(1)
	runEnds(t, t.Context(), a, b)
	for i, e := range []*end{a, b} {
		peer := fmt.Sprintf("node%d", 1-i)
		if e.err != nil {
			t.Fatalf("%s: %v", e.name, e.err)
		}
		for _, measure := range []string{"peer_send", "peer_receive", "peer_latency_p50", "peer_met"} {
			if v, _ := e.rows["lo/"+peer+" "+measure]["value"].(float64); v <= 0 {
				t.Errorf("%s: %s is %v; log %q", e.name, measure, e.rows["lo/"+peer+" "+measure], e.rep.lines)
			}
		}
		if row := e.rows["lo/"+peer+" peer_corrupt"]; row["value"] != float64(0) || row["ok"] != true {
			t.Errorf("%s: %v", e.name, row)
		}
		if v, _ := e.rows["lo/"+peer+" peer_send_loss"]["value"].(float64); v > 0.5 {
			t.Errorf("%s: half of the datagrams were lost on the loopback interface", e.name)
		}
		if row := e.rows["eth0 link_speed"]; row["value"] != 25e9 {
			t.Errorf("%s: link speed %v", e.name, row)
		}
		if row := e.rows["eth0 link_errors"]; row["value"] != float64(0) {
			t.Errorf("%s: errors from before the test are counted: %v", e.name, row)
		}
	}
	if a.rows["lo/node1 peer_send"]["value"] != b.rows["lo/node0 peer_receive"]["value"] {
		t.Errorf("what one end sent is not what the other received: %v, %v", a.rows["lo/node1 peer_send"], b.rows["lo/node0 peer_receive"])
	}
}

func TestService_Network_Strangers(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	ports := [2]int64{freePort(t), freePort(t)}
	a := &end{name: "a", id: identityOf(t, ours, "a"), with: map[string]any{"role": "listen", "port": ports[0], "peers": []any{fmt.Sprintf("127.0.0.1:%d", ports[1])}, "window": "2s"}}
	b := &end{name: "b", id: identityOf(t, theirs, "b"), with: map[string]any{"role": "connect", "port": ports[1], "peers": []any{fmt.Sprintf("127.0.0.1:%d", ports[0])}, "window": "2s"}}
	runEnds(t, t.Context(), a, b)
	for _, e := range []*end{a, b} {
		if e.err != nil {
			t.Errorf("%s: a peer that didn't come fails the test: %v", e.name, e.err)
		}
		if row := e.rows["lo/127.0.0.1 peer_met"]; row["value"] != float64(0) || row["ok"] != true {
			t.Errorf("%s measured with an agent of another server: %v", e.name, e.rows)
		}
	}
	if log := strings.Join(b.rep.lines, "\n"); !strings.Contains(log, "another server") {
		t.Errorf("nothing says why: %q", log)
	}
}

func TestService_Network_Server(t *testing.T) {
	received := make(chan int64, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			n, _ := io.Copy(io.Discard, r.Body)
			received <- n
			return
		}
		b := make([]byte, 1<<20)
		for {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	s := newService(t, Config{Root: oneNIC(t)})
	r, err := s.network(t.Context(), step.Request{With: map[string]any{"duration": "200ms"}, Server: map[string]string{"http_url": server.URL}, HTTP: server.Client()}, &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	got := rows(t, r)
	for _, measure := range []string{"server_receive", "server_send"} {
		if v, _ := got["lo/server "+measure]["value"].(float64); v <= 0 {
			t.Errorf("%s: %v", measure, got)
		}
	}
}

func TestService_Network_Errors(t *testing.T) {
	root := oneNIC(t)
	s := newService(t, Config{Root: root})
	before, err := s.links()
	if err != nil {
		t.Fatal(err)
	}
	write(t, root, map[string]string{"sys/class/net/eth0/statistics/rx_errors": "6\n", "sys/class/net/eth0/statistics/rx_crc_errors": "1\n", "sys/class/net/eth0/statistics/rx_dropped": "9\n"})
	after, err := s.links()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range after[0].since(before) {
		got = append(got, fmt.Sprintf("%s %g %v %s", r.measure, r.value, r.bad, r.message))
	}
	want := "link 1 false |link_speed 2.5e+10 false |link_errors 3 true rx_errors: 2, rx_crc_errors: 1|link_drops 9 false rx_dropped: 9|link_changes 0 false "
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
}

func TestPair_Corrupt(t *testing.T) {
	p := &pair{token: make([]byte, tokenBytes), pattern: patternOf(make([]byte, tokenBytes)), duration: 50 * time.Millisecond}
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		b := append([]byte(nil), p.pattern[:1<<20]...)
		b[777] ^= 4
		_, _ = there.Write(b)
	}()
	n, corrupt := p.drain(t.Context(), []net.Conn{here})
	if n != 1<<20 || corrupt != 1 {
		t.Errorf("%d bytes, %d bad pieces; want 1 MiB and 1", n, corrupt)
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte(`{"busy":true}`))
	f.Add([]byte(`{"token":"00112233445566778899aabbccddeeff","data":40000,"echo":40001}`))
	f.Add([]byte(`{"way":"send","streams":4,"duration":10}`))
	f.Add([]byte(`{"way":"send","streams":-1}`)) // out of bounds
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parseMessage(line)
		if err != nil {
			return
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseMessage(b); err != nil || again.Streams != m.Streams || again.Way != m.Way {
			t.Errorf("%+v became %+v (%v)", m, again, err)
		}
	})
}

func FuzzParseDatagram(f *testing.F) {
	token := []byte("0123456789abcdef")
	f.Add(appendDatagram(nil, token, 7, time.Second)) // a good one
	f.Add([]byte("0123456789abcdef"))                 // a token alone
	f.Fuzz(func(t *testing.T, b []byte) {
		number, at, ok := parseDatagram(b, token)
		if !ok {
			return
		}
		if number >= datagrams {
			t.Errorf("number %d", number)
		}
		if again, _, _ := parseDatagram(appendDatagram(nil, token, number, at), token); again != number {
			t.Errorf("%d became %d", number, again)
		}
	})
}
