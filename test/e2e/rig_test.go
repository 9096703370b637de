// Package e2e boots real firmware in QEMU against the real binaries: from a
// powered-off machine with an empty disk to a login on the installed system.
//
//	make e2e
//
// needs root (or user namespaces), QEMU, OVMF and what `make agentos
// debian-image build` makes. Without BEDPLATE_E2E=1 everything here is skipped.
package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bedplate/bedplate/lab"
)

const (
	bedplate = "../../bin/bedplate"
	agentOS  = "../../build/agentos"
	image    = "../../build/images/debian.raw.zst"
	// serverAddress is the lab's bridge, where the server runs.
	serverAddress = "10.77.0.1"
	// installTime is how long a machine may take from power-on to its first
	// report under software emulation on two busy cores.
	installTime = 8 * time.Minute
)

// TestMain skips everything without the switch.
func TestMain(m *testing.M) {
	if os.Getenv("BEDPLATE_E2E") == "" {
		fmt.Println("SKIP: end-to-end tests boot real firmware: run `make e2e`")
		return
	}
	for _, path := range []string{bedplate, agentOS + "/vmlinuz", image} {
		if _, err := os.Stat(path); err != nil {
			fmt.Fprintf(os.Stderr, "%v: run `make e2e`, which builds it\n", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// all reports whether everything is to be run, as `make e2e-all` does, and not
// only what the gate has the time for.
func all() bool { return os.Getenv("BEDPLATE_E2E_ALL") != "" }

// rig is a lab with a server in it.
type rig struct {
	t   *testing.T
	lab *lab.Lab
	ns  *lab.Namespace
	dir string
	key ssh.Signer
	// authorized is the key as authorized_keys has it.
	authorized string
	server     *server
}

// server is the server's process; cmd is nil while it is down.
type server struct {
	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan error
}

// in returns the rig for a sub-test.
func (r *rig) in(t *testing.T) *rig {
	sub := *r
	sub.t = t
	return &sub
}

// newRig sets up the lab and starts a server with the arguments.
func newRig(t *testing.T, spec lab.Spec, args ...string) *rig {
	t.Helper()
	r := newRack(t, spec)
	r.start(args...)
	return r
}

// newRack sets up the lab alone, for those who need something in it before the server.
func newRack(t *testing.T, spec lab.Spec) *rig {
	t.Helper()
	dir := t.TempDir()
	// Where KVM starts a guest now and then only, tcg is asked for.
	spec.Accelerator = os.Getenv("BEDPLATE_E2E_ACCELERATOR")
	l, err := lab.New(lab.Config{Dir: filepath.Join(dir, "lab"), Spec: spec, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, lab: l, dir: dir, server: &server{}}
	t.Cleanup(r.down)
	if err := l.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.ns, err = l.Namespace(""); err != nil {
		t.Fatal(err)
	}
	r.makeKey()
	return r
}

func (r *rig) makeKey() {
	r.t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.key, err = ssh.NewSignerFromKey(private); err != nil {
		r.t.Fatal(err)
	}
	r.authorized = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(r.key.PublicKey())))
}

func (r *rig) down() {
	r.kill()
	if r.t.Failed() {
		r.dump()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.lab.Down(ctx); err != nil {
		r.t.Errorf("taking the lab down: %v", err)
	}
}

// dump logs what helps to understand a failure.
func (r *rig) dump() {
	if b, err := os.ReadFile(r.serverLog()); err == nil {
		r.t.Logf("server log:\n%s", tail(b, 60))
	}
	for _, m := range r.lab.Machines() {
		if b, err := os.ReadFile(m.SerialLog()); err == nil {
			r.t.Logf("serial port of %s:\n%s", m.Name(), tail(b, 60))
		}
	}
}

func tail(b []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (r *rig) serverLog() string { return filepath.Join(r.dir, "server.log") }

// start starts the server and waits until it is ready.
func (r *rig) start(args ...string) {
	r.t.Helper()
	log, err := os.OpenFile(r.serverLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(bedplate, append([]string{"serve", "--interface", "br0", "--data-dir", filepath.Join(r.dir, "data"), "--agentos-dir", agentOS}, args...)...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, r.env()
	if err := r.ns.Start(cmd); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	r.server.mu.Lock()
	r.server.cmd, r.server.ended = cmd, ended
	r.server.mu.Unlock()
	r.eventually(time.Minute, "the server is ready", func() error {
		select {
		case err := <-ended:
			ended <- err
			r.t.Fatalf("the server ended: %v\n%s", err, r.log())
		default:
		}
		_, err := r.run("version", "--with-server")
		return err
	})
}

func (r *rig) log() string {
	b, _ := os.ReadFile(r.serverLog())
	return tail(b, 40)
}

// kill is kill -9.
func (r *rig) kill() {
	r.server.mu.Lock()
	cmd, ended := r.server.cmd, r.server.ended
	r.server.cmd = nil
	r.server.mu.Unlock()
	if cmd == nil {
		return
	}
	cmd.Process.Kill()
	<-ended
}

func (r *rig) env() []string {
	return append(os.Environ(), "BEDPLATE_CONFIG="+filepath.Join(r.dir, "client.yaml"), "NO_COLOR=1")
}

// run runs the command line client inside the lab.
func (r *rig) run(args ...string) (string, error) {
	cmd := exec.Command(bedplate, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, r.env()
	if err := r.ns.Run(cmd); err != nil {
		return out.String(), fmt.Errorf("bedplate %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func (r *rig) must(args ...string) string {
	r.t.Helper()
	out, err := r.run(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// apply applies a manifest.
func (r *rig) apply(manifest string) {
	r.t.Helper()
	if err := r.tryApply(manifest); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) tryApply(manifest string) error {
	path := filepath.Join(r.dir, "manifest.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		return err
	}
	_, err := r.run("apply", "-f", path)
	return err
}

// importDebian makes the image debian.
func (r *rig) importDebian() {
	r.t.Helper()
	r.must("image", "import", "debian", "--file", image)
}

// machineYAML describes a machine of the lab with a reserved address.
func (r *rig) machineYAML(name, address string) string {
	r.t.Helper()
	m, err := r.lab.Machine(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return fmt.Sprintf(`
apiVersion: bedplate/v1
kind: Machine
metadata: {name: %s}
spec:
  interfaces: [{mac: %q, address: %q}]
---
`, name, m.Spec().MAC, address)
}

// instanceYAML is an instance whose user data leaves a proof.
func (r *rig) instanceYAML(name string) string {
	return fmt.Sprintf(`
apiVersion: bedplate/v1
kind: Instance
metadata: {name: %[1]s}
spec:
  machine: %[1]s
  image: debian
  hostname: host-%[1]s
  ssh_keys: [%[2]q]
  user_data: |
    #cloud-config
    write_files:
    - path: /etc/proof
      content: "configured for %[1]s\n"
---
`, name, r.authorized)
}

func (r *rig) machine(name string) *lab.Machine {
	r.t.Helper()
	m, err := r.lab.Machine(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r *rig) powerOn(name string) {
	r.t.Helper()
	if err := r.machine(name).PowerOn(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// object returns a resource as JSON has it.
func (r *rig) object(kind, name string) map[string]any {
	r.t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(r.must("get", kind, name, "-o", "json")), &v); err != nil {
		r.t.Fatal(err)
	}
	return v
}

// field returns a field by its path; "" when it isn't there.
func field(v any, path ...string) string {
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[p]
	}
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

func (r *rig) state(kind, name string) string { return field(r.object(kind, name), "status", "state") }

// waitState waits until a resource is in a state; another one of bad ends it.
func (r *rig) waitState(limit time.Duration, kind, name, want string, bad ...string) {
	r.t.Helper()
	r.eventually(limit, kind+"/"+name+" is "+want, func() error {
		o := r.object(kind, name)
		state := field(o, "status", "state")
		for _, b := range bad {
			if state == b {
				r.t.Fatalf("%s/%s is %s: %s", kind, name, state, field(o, "status", "cause"))
			}
		}
		if state != want {
			return fmt.Errorf("it is %q: %s", state, field(o, "status", "cause"))
		}
		return nil
	})
}

// eventually asks once a second until ok returns nil.
func (r *rig) eventually(limit time.Duration, what string, ok func() error) {
	r.t.Helper()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	end := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("not within %s: %s: %v", limit, what, err)
		}
		<-tick.C
	}
}

// ssh runs a command on an installed system as its default user.
func (r *rig) ssh(address, command string) (string, error) {
	return r.sshAs("debian", address, command)
}

// sshAs runs a command as a user of the installed system.
func (r *rig) sshAs(user, address, command string) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	conn, err := r.ns.Dial(ctx, "tcp", net.JoinHostPort(address, "22"))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(r.key)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // a machine made a minute ago
	})
	if err != nil {
		return "", err
	}
	client := ssh.NewClient(c, chans, reqs)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return "", err
	}
	defer session.Close()
	out, err := session.CombinedOutput(command)
	return strings.TrimSpace(string(out)), err
}

// proves checks from inside that the system is what was asked for, and returns
// its SSH host key, which is made at an installation's first boot. (The
// machine-id is no sign: in a virtual machine systemd makes it from the UUID.)
func (r *rig) proves(name, address string) string {
	r.t.Helper()
	var out string
	r.eventually(3*time.Minute, "SSH to "+name, func() (err error) {
		out, err = r.ssh(address, "hostname; cat /etc/proof; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub")
		return err
	})
	lines := strings.Split(out, "\n")
	if len(lines) != 3 || lines[0] != "host-"+name || lines[1] != "configured for "+name {
		r.t.Fatalf("inside %s: %q", name, out)
	}
	return lines[2]
}

// bootID returns the installed system's boot id.
func (r *rig) bootID(address string) (string, error) {
	return r.ssh(address, "cat /proc/sys/kernel/random/boot_id")
}

// steps returns the attempts of every step of a workflow: id → states.
func (r *rig) attempts(workflow string) map[string][]string {
	r.t.Helper()
	out := map[string][]string{}
	steps, _ := r.object("workflow", workflow)["status"].(map[string]any)["steps"].([]any)
	for _, s := range steps {
		attempts, _ := s.(map[string]any)["attempts"].([]any)
		for _, a := range attempts {
			out[field(s, "id")] = append(out[field(s, "id")], field(a, "state"))
		}
	}
	return out
}

// workflowOf returns the name of the instance's workflow.
func (r *rig) workflowOf(instance string) string {
	r.t.Helper()
	var name string
	r.eventually(time.Minute, "instance "+instance+" has a workflow", func() error {
		if name = field(r.object("instance", instance), "status", "workflow"); name == "" {
			return errors.New("none yet")
		}
		return nil
	})
	return name
}
