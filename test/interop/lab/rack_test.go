package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

// bootTime is how long firmware may take to a boot device under emulation.
const bootTime = time.Minute

// rack is a lab and a server of images in it.
type rack struct {
	t   *testing.T
	lab *lab.Lab
	ns  *lab.Namespace
	// images are served at the bridge's address, by path.
	images map[string][]byte
	url    string
}

func newRack(t *testing.T, machines ...lab.MachineSpec) *rack {
	t.Helper()
	if os.Getenv("BEDPLATE_E2E") == "" {
		t.Skip("SKIPPED: boots real firmware in QEMU; set BEDPLATE_E2E=1")
	}
	if err := lab.Privileges(); err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(lab.Config{
		Dir: t.TempDir(), Now: time.Now, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Spec: lab.Spec{Networks: []lab.Network{{}, {Name: "far", Address: "10.79.0.1/24"}}, Machines: machines},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Down(ctx); err != nil {
			t.Errorf("taking the lab down: %v", err)
		}
	})
	if err := l.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := &rack{t: t, lab: l, images: map[string][]byte{}}
	if r.ns, err = l.Namespace(""); err != nil {
		t.Fatal(err)
	}
	r.serve()
	return r
}

// in is the rack for a sub-test.
func (r *rack) in(t *testing.T) *rack {
	sub := *r
	sub.t = t
	return &sub
}

func (r *rack) serve() {
	r.t.Helper()
	var listener net.Listener
	if err := r.ns.Do(func() (err error) {
		listener, err = net.Listen("tcp4", "10.77.0.1:0")
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
	r.url = "http://" + listener.Addr().String()
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		image, ok := r.images[q.URL.Path]
		if !ok {
			http.NotFound(w, q)
			return
		}
		http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(image))
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	r.t.Cleanup(func() { _ = server.Close(); <-ended })
}

func (r *rack) machine(name string) *lab.Machine {
	r.t.Helper()
	m, err := r.lab.Machine(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// tool skips the test loudly if a witness isn't there.
func (r *rack) tool(name string) {
	r.t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		r.t.Skipf("SKIPPED: %s isn't installed: apt-get install ipmitool redfishtool python3-sushy", name)
	}
}

// run runs a program in the lab's network.
func (r *rack) run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// They check certificates by these even when told not to.
	for _, e := range os.Environ() {
		if k, _, _ := strings.Cut(e, "="); k != "REQUESTS_CA_BUNDLE" && k != "CURL_CA_BUNDLE" && k != "SSL_CERT_FILE" {
			cmd.Env = append(cmd.Env, e)
		}
	}
	if err := r.ns.Run(cmd); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

func (r *rack) must(name string, args ...string) string {
	r.t.Helper()
	out, err := r.run(name, args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// ipmi runs ipmitool against a machine.
func (r *rack) ipmi(machine string, args ...string) string {
	r.t.Helper()
	b := r.machine(machine).Spec().BMC
	return r.must("ipmitool", append([]string{"-I", "lanplus", "-H", b.Address, "-U", b.Username, "-P", b.Password}, args...)...)
}

// redfish sends a request, wants a status below 300, and returns the answer.
func (r *rack) redfish(machine, method, path, body string) map[string]any {
	r.t.Helper()
	b := r.machine(machine).Spec().BMC
	req, err := http.NewRequestWithContext(r.t.Context(), method, "https://"+b.Address+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.SetBasicAuth(b.Username, b.Password)
	transport := &http.Transport{DialContext: r.ns.Dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // a test
	resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= http.StatusMultipleChoices {
		r.t.Fatalf("%s %s: %s: %s, %v", method, path, resp.Status, text, err)
	}
	var answer map[string]any
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			r.t.Fatal(err)
		}
	}
	return answer
}

const system = "/redfish/v1/Systems/1"

// reset changes the power by Redfish.
func (r *rack) reset(machine, kind string) {
	r.t.Helper()
	r.redfish(machine, http.MethodPost, system+"/Actions/ComputerSystem.Reset", `{"ResetType": "`+kind+`"}`)
}

// override sets the boot override by Redfish.
func (r *rack) override(machine, target, enabled, more string) {
	r.t.Helper()
	r.redfish(machine, http.MethodPatch, system, `{"Boot": {"BootSourceOverrideTarget": "`+target+`", "BootSourceOverrideEnabled": "`+enabled+`"`+more+`}}`)
}

// insert puts an image into a virtual drive.
func (r *rack) insert(machine, drive, image string) {
	r.t.Helper()
	r.redfish(machine, http.MethodPost, "/redfish/v1/Managers/1/VirtualMedia/"+drive+"/Actions/VirtualMedia.InsertMedia", `{"Image": "`+r.url+image+`"}`)
}

// says waits until the machine says something on its serial port.
func (r *rack) says(s *lab.Serial, what string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), bootTime)
	defer cancel()
	if _, err := s.WaitFor(ctx, regexp.MustCompile(what)); err != nil {
		r.t.Fatal(err)
	}
}
