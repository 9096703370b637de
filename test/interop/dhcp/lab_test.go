package dhcp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lab is a set of namespaces joined by bridges, and the processes in them.
type lab struct {
	t      *testing.T
	dir    string
	prefix string
}

func newLab(t *testing.T, tools ...string) *lab {
	t.Helper()
	if os.Getenv("BEDPLATE_E2E") != "1" {
		t.Skip("SKIPPED: needs root and network namespaces; set BEDPLATE_E2E=1")
	}
	if os.Geteuid() != 0 {
		t.Fatal("BEDPLATE_E2E=1 needs root")
	}
	for _, tool := range append(tools, "ip") {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s isn't installed: apt-get install iproute2 isc-dhcp-client isc-dhcp-relay dnsmasq-base busybox-static", tool)
		}
	}
	return &lab{t: t, dir: t.TempDir(), prefix: fmt.Sprintf("bp%d", os.Getpid())}
}

// sub returns the lab for a subtest.
func (l *lab) sub(t *testing.T) *lab { return &lab{t: t, dir: l.dir, prefix: l.prefix} }

// namespace makes a namespace with its loopback up.
func (l *lab) namespace(name string) {
	l.t.Helper()
	l.run("ip", "netns", "add", l.ns(name))
	l.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", l.ns(name)).Run() })
	l.in(name, "ip", "link", "set", "lo", "up")
}

func (l *lab) ns(name string) string { return l.prefix + name }

// plug joins interface iface of namespace a to one of namespace b.
func (l *lab) plug(a, ifaceA, b, ifaceB string) {
	l.t.Helper()
	l.run("ip", "-n", l.ns(a), "link", "add", ifaceA, "type", "veth", "peer", "name", ifaceB, "netns", l.ns(b))
	l.in(a, "ip", "link", "set", ifaceA, "up")
	l.in(b, "ip", "link", "set", ifaceB, "up")
}

// bridge makes a namespace that is a switch with a port to each of the others'
// interface called eth0.
func (l *lab) bridge(name string, others ...string) {
	l.t.Helper()
	l.namespace(name)
	l.in(name, "ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
	l.in(name, "ip", "link", "set", "br0", "up")
	for _, o := range others {
		l.plug(name, o, o, "eth0")
		l.in(name, "ip", "link", "set", o, "master", "br0")
	}
}

func (l *lab) run(name string, args ...string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	b, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, b)
	}
	return string(b)
}

// in runs a command in a namespace and returns its output.
func (l *lab) in(ns, name string, args ...string) string {
	l.t.Helper()
	return l.run("ip", append([]string{"netns", "exec", l.ns(ns), name}, args...)...)
}

// mac returns the address of an interface.
func (l *lab) mac(ns, iface string) string {
	l.t.Helper()
	return strings.TrimSpace(l.in(ns, "cat", "/sys/class/net/"+iface+"/address"))
}

// address returns the IPv4 addresses of an interface, as ip prints them.
func (l *lab) address(ns, iface string) string {
	l.t.Helper()
	var got []string
	for _, f := range strings.Fields(l.in(ns, "ip", "-4", "-o", "addr", "show", "dev", iface)) {
		if strings.Contains(f, "/") {
			got = append(got, f)
		}
	}
	return strings.Join(got, " ")
}

// process is a program that runs beside the test.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	name string
	done chan struct{}
	mu   sync.Mutex
	out  bytes.Buffer
	more chan struct{}
}

// start runs a program in a namespace until the test ends.
func (l *lab) start(ns string, env []string, name string, args ...string) *process {
	l.t.Helper()
	p := &process{t: l.t, name: filepath.Base(name), done: make(chan struct{}), more: make(chan struct{}, 1)}
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", l.ns(ns), name}, args...)...)
	p.cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
	r, w, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	_ = w.Close()
	go p.collect(r)
	l.t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		_ = p.cmd.Wait()
		<-p.done
		if l.t.Failed() {
			l.t.Logf("%s said:\n%s", p.name, p.output())
		}
	})
	return p
}

func (p *process) collect(r io.ReadCloser) {
	defer close(p.done)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		p.mu.Lock()
		p.out.Write(append(lines.Bytes(), '\n'))
		p.mu.Unlock()
		select {
		case p.more <- struct{}{}:
		default:
		}
	}
	_ = r.Close()
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// kill ends the process as a power cut does.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// waitFor waits until the process has said something.
func (p *process) waitFor(text string) {
	p.t.Helper()
	deadline := time.After(20 * time.Second)
	for !strings.Contains(p.output(), text) {
		select {
		case <-p.more:
		case <-p.done:
			if !strings.Contains(p.output(), text) {
				p.t.Fatalf("%s ended without saying %q:\n%s", p.name, text, p.output())
			}
		case <-deadline:
			p.t.Fatalf("%s didn't say %q:\n%s", p.name, text, p.output())
		}
	}
}

// serve starts our server in a namespace and waits until it serves.
func (l *lab) serve(ns string, set setup) *process {
	l.t.Helper()
	p := l.tryServe(ns, set)
	p.waitFor("SERVING")
	return p
}

func (l *lab) tryServe(ns string, set setup) *process {
	l.t.Helper()
	if set.Store == "" {
		set.Store = filepath.Join(l.dir, "leases.json")
	}
	b, err := json.Marshal(set)
	if err != nil {
		l.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	return l.start(ns, []string{serverEnv + "=" + string(b)}, self)
}

// script writes the program that dhclient and udhcpc call with what they were
// told. It sets the address, and appends its environment to a file.
func (l *lab) script() (path, log string) {
	l.t.Helper()
	path, log = filepath.Join(l.dir, "script"), filepath.Join(l.dir, "script.log")
	if _, err := os.Stat(path); err == nil {
		return path, log // it may be running
	}
	text := `#!/bin/sh
{ echo "event=$reason$1"; env | sort; echo; } >> ` + log + `
case "$reason$1" in
BOUND|REBOOT) ip addr flush dev $interface; ip addr add $new_ip_address/24 dev $interface;;
bound) ip addr flush dev $interface; ip addr add $ip/$mask dev $interface;;
RELEASE|STOP|EXPIRE|deconfig) ip addr flush dev $interface; ip link set $interface up;;
PREINIT) ip link set $interface up;;
esac
exit 0
`
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil { //nolint:gosec // it has to be run
		l.t.Fatal(err)
	}
	return path, log
}

// waitInFile waits until a file has every text, or says which it hasn't.
func waitInFile(t *testing.T, what, name string, wants ...string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		text, missing := readFile(t, name), false
		for _, w := range wants {
			missing = missing || !strings.Contains(text, w)
		}
		if !missing {
			return
		}
		time.Sleep(20 * time.Millisecond) // a foreign process writes it, on real time
	}
	wantAll(t, what, readFile(t, name), wants...)
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

func wantAll(t *testing.T, what, text string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(text, w) {
			t.Errorf("%s doesn't have %q:\n%s", what, w, text)
		}
	}
}
