package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/lab"
)

const (
	provisionBinary = "../../bin/bedplate"
	provisionAgent  = "../../build/agentos"
	provisionImage  = "../../build/images/debian.raw.zst"
	// provisionTime bounds each of the ways, under software emulation beside other work.
	provisionTime = 12 * time.Minute
)

// TestProvision takes a machine with UEFI from a wish for an instance to a login
// on the installed system: once cold, from power-on, and once warm, from where it
// waits in the agent. It prints the seconds of each phase.
//
//	BEDPLATE_E2E=1 go test -run TestProvision -v ./test/bench
func TestProvision(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") == "" {
		t.Skip("boots real firmware: run `make bench`, or with BEDPLATE_E2E=1")
	}
	r := newProvisioning(t)
	r.run("image", "import", "debian", "--file", provisionImage)
	r.apply(fmt.Sprintf("apiVersion: bedplate/v1\nkind: Machine\nmetadata: {name: m1}\nspec:\n  interfaces: [{mac: %q, address: 10.77.0.31/24}]\n", r.machine.Spec().MAC))
	cold := r.measure("cold", func() {
		if err := r.machine.PowerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	r.run("instance", "delete", "cold")
	if err := r.machine.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await("the machine waits in the agent", func() string {
		m := r.get("machine", "m1")
		if m.Status.State != "available" || !m.Status.Agent.Connected {
			return fmt.Sprintf("it is %s: %s", m.Status.State, m.Status.Cause)
		}
		return ""
	})
	warm := r.measure("warm", func() {})
	if !strings.Contains(warm.log, "kexec") {
		t.Errorf("the warm machine went through its firmware:\n%s", warm.log)
	}
	t.Logf("from the wish to a login\ncold %6.1f s\n%s\nwarm %6.1f s\n%s", cold.took.Seconds(), cold.log, warm.took.Seconds(), warm.log)
}

// provisioning is a lab with one machine and a server.
type provisioning struct {
	t       *testing.T
	dir     string
	ns      *lab.Namespace
	machine *lab.Machine
}

func newProvisioning(t *testing.T) *provisioning {
	t.Helper()
	for _, path := range []string{provisionBinary, provisionAgent + "/vmlinuz", provisionImage} {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%v: run `make build agentos debian-image`", err)
		}
	}
	dir := t.TempDir()
	l, err := lab.New(lab.Config{Dir: filepath.Join(dir, "lab"), Spec: lab.Spec{Machines: []lab.MachineSpec{{Name: "m1", Firmware: lab.UEFI}}}, Now: time.Now})
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
	r := &provisioning{t: t, dir: dir}
	if r.ns, err = l.Namespace(""); err != nil {
		t.Fatal(err)
	}
	if r.machine, err = l.Machine("m1"); err != nil {
		t.Fatal(err)
	}
	r.serve()
	return r
}

func (r *provisioning) serve() {
	r.t.Helper()
	log, err := os.Create(filepath.Join(r.dir, "server.log"))
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(provisionBinary, "serve", "--interface", "br0", "--data-dir", filepath.Join(r.dir, "data"), "--agentos-dir", provisionAgent)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, r.env()
	if err := r.ns.Start(cmd); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
		if b, err := os.ReadFile(log.Name()); err == nil && r.t.Failed() {
			r.t.Logf("server log:\n%s", b[max(0, len(b)-8<<10):])
		}
	})
	r.await("the server is ready", func() string {
		if _, err := r.try("version", "--with-server"); err != nil {
			return err.Error()
		}
		return ""
	})
}

func (r *provisioning) env() []string {
	return append(os.Environ(), "BEDPLATE_CONFIG="+filepath.Join(r.dir, "client.yaml"), "NO_COLOR=1")
}

func (r *provisioning) try(args ...string) (string, error) {
	cmd := exec.Command(provisionBinary, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &out, r.env()
	if err := r.ns.Run(cmd); err != nil {
		return "", fmt.Errorf("bedplate %s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

func (r *provisioning) run(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *provisioning) apply(manifest string) {
	r.t.Helper()
	path := filepath.Join(r.dir, "manifest.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.run("apply", "-f", path)
}

// object is what is read of a resource.
type object struct {
	Status struct {
		State, Cause string
		Agent        struct{ Connected bool }
	}
}

func (r *provisioning) get(kind, name string) (o object) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.run("get", kind, name, "-o", "json")), &o); err != nil {
		r.t.Fatal(err)
	}
	return o
}

// await asks twice a second until what says nothing any more.
func (r *provisioning) await(what string, missing func() string) {
	r.t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(provisionTime); ; <-tick.C {
		why := missing()
		if why == "" {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("not within %s: %s: %s", provisionTime, what, why)
		}
	}
}

// measured is one way to a login.
type measured struct {
	took time.Duration
	log  string // the timeline of it
}

// measure wishes for an instance and waits for its login.
func (r *provisioning) measure(name string, begin func()) measured {
	r.t.Helper()
	console := r.machine.Serial()
	r.apply(fmt.Sprintf("apiVersion: bedplate/v1\nkind: Instance\nmetadata: {name: %[1]s}\nspec: {machine: m1, image: debian, hostname: %[1]s}\n", name))
	began := time.Now()
	begin()
	ctx, cancel := context.WithTimeout(r.t.Context(), provisionTime)
	defer cancel()
	if _, err := console.WaitFor(ctx, regexp.MustCompile(name+` login:`)); err != nil {
		r.t.Fatal(err)
	}
	took := time.Since(began)
	r.await("instance "+name+" is active", func() string {
		if o := r.get("instance", name); o.Status.State != "active" {
			return o.Status.State + ": " + o.Status.Cause
		}
		return ""
	})
	return measured{took, r.since(began)}
}

// since returns the lines of the timeline that begin with a later time of day.
func (r *provisioning) since(t time.Time) string {
	var out []string
	for line := range strings.Lines(r.run("machine", "timeline", "m1")) {
		if clock, _, _ := strings.Cut(line, " "); len(clock) == 8 && clock >= t.UTC().Add(-time.Second).Format(time.TimeOnly) {
			out = append(out, "  "+strings.TrimRight(line, "\n "))
		}
	}
	return strings.Join(out, "\n")
}
