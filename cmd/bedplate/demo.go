package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/bedplate/bedplate/lab"
)

const (
	demoMachine  = "demo-1"
	demoHostname = "first-light"
	demoAddress  = "10.77.0.31"
	demoProof    = "/etc/bedplate-demo"
	// demoTime is how long the machine may take, under software emulation too.
	demoTime = 15 * time.Minute
)

// demoFlags are the flags of `bedplate demo`.
type demoFlags struct {
	dir, agentOS, image, firmware string
}

func newDemoCommand(a *app) *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job in a virtual rack",
		Long: `Set up a virtual rack with one powered-off machine and an empty disk, run a server
beside it, install an operating system from the network, and prove from inside,
over the serial console and SSH, that the machine is what was asked for.

Nothing outside the folder is touched: the rack has network namespaces of its own.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTime)
			defer cancel()
			return a.demo(ctx, f)
		},
	}
	cmd.Flags().StringVar(&f.dir, "dir", "build/demo", "`folder` for the rack, the server's data and logs; emptied first")
	cmd.Flags().StringVar(&f.agentOS, "agentos-dir", "build/agentos", "`folder` with the agent's system")
	cmd.Flags().StringVar(&f.image, "image", "build/images/debian.raw.zst", "disk image to install")
	cmd.Flags().StringVar(&f.firmware, "firmware", "uefi", "bios, uefi, uefi-http or uefi-secure")
	return cmd
}

// demo is one run of the demonstration.
type demo struct {
	a      *app
	dir    string
	self   string
	lab    *lab.Lab
	ns     *lab.Namespace
	server *exec.Cmd
	ended  chan error
	signer ssh.Signer
	serial *lab.Serial
	start  time.Time
}

func (a *app) demo(ctx context.Context, f demoFlags) (err error) {
	for path, make := range map[string]string{f.image: "debian-image", filepath.Join(f.agentOS, "vmlinuz"): "agentos"} {
		if _, err := os.Stat(path); err != nil {
			return hint(err, "`make "+make+"` builds it, `make demo` builds all")
		}
	}
	if err := lab.Privileges(); err != nil {
		return err
	}
	d := &demo{a: a, start: a.now()}
	if d.dir, err = filepath.Abs(f.dir); err != nil {
		return err
	}
	if d.self, err = os.Executable(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.down(context.WithoutCancel(ctx))) }()
	for _, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"A rack with one machine: " + f.firmware + " firmware, an empty disk, powered off", func(ctx context.Context) error { return d.up(ctx, f) }},
		{"A server, with nothing but a network interface", func(ctx context.Context) error { return d.serve(ctx, f) }},
		{"An image, into the server's store", func(ctx context.Context) error { return d.client(ctx, "image", "import", "debian", "--file", f.image) }},
		{"What is wanted: a machine, and an instance on it", d.want},
		{"Power on", d.install},
		{"Proof from inside, over the serial console", d.proveConsole},
		{"Proof from inside, over SSH", d.proveSSH},
		{"Where the time went", func(ctx context.Context) error { return d.client(ctx, "machine", "timeline", demoMachine) }},
	} {
		fmt.Fprintf(a.stdout, "\n=== %s\n\n", step.title)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(step.title[:1])+step.title[1:], err)
		}
	}
	fmt.Fprintf(a.stdout, "\nDone in %s. The serial log and the server's log are in %s.\n", a.now().Sub(d.start).Round(time.Second), d.dir)
	return nil
}

func (d *demo) up(ctx context.Context, f demoFlags) error {
	if err := lab.Clear(ctx, filepath.Join(d.dir, "lab")); err != nil {
		return err
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return err
	}
	var err error
	d.lab, err = lab.New(lab.Config{Dir: filepath.Join(d.dir, "lab"), Now: d.a.now, Spec: lab.Spec{
		Name: "demo", Machines: []lab.MachineSpec{{Name: demoMachine, Firmware: lab.Firmware(f.firmware)}},
	}})
	if err != nil {
		return err
	}
	if err := d.lab.Up(ctx); err != nil {
		return err
	}
	if d.ns, err = d.lab.Namespace(""); err != nil {
		return err
	}
	spec := d.lab.Spec().Machines[0]
	fmt.Fprintf(d.a.stdout, "%s  %s  MAC %s  memory %s  disk %s on %s\n", spec.Name, spec.Firmware, spec.MAC, spec.Memory, spec.Disks[0].Size, spec.Disks[0].Bus)
	return nil
}

// command is a bedplate command inside the rack's namespace.
func (d *demo) command(ctx context.Context, words ...string) *exec.Cmd {
	fmt.Fprintf(d.a.stdout, "$ bedplate %s\n", strings.Join(words, " "))
	cmd := exec.CommandContext(ctx, d.self, words...)
	cmd.Env = append(os.Environ(), "BEDPLATE_CONFIG="+filepath.Join(d.dir, "client.yaml"))
	cmd.Stdout, cmd.Stderr = d.a.stdout, d.a.stderr
	return cmd
}

func (d *demo) client(ctx context.Context, words ...string) error {
	return d.ns.Run(d.command(ctx, words...))
}

// serve starts the server and shows what it says until it serves.
func (d *demo) serve(ctx context.Context, f demoFlags) error {
	agentOS, err := filepath.Abs(f.agentOS)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(d.dir, "server.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	d.server = d.command(context.WithoutCancel(ctx), "serve", "--interface", "br0", "--data-dir", filepath.Join(d.dir, "data"), "--agentos-dir", agentOS)
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	d.server.Stdout, d.server.Stderr = in, log
	if err := d.ns.Start(d.server); err != nil {
		return errors.Join(err, in.Close())
	}
	in.Close()
	d.ended = make(chan error, 1)
	go func() { d.ended <- d.server.Wait() }()
	return d.firstWords(ctx, out, log.Name())
}

// firstWords copies what a server prints at its first start, and waits until it answers.
func (d *demo) firstWords(ctx context.Context, out io.Reader, log string) error {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		fmt.Fprintln(d.a.stdout, lines.Text())
		if strings.Contains(lines.Text(), "were written to") {
			break
		}
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-d.ended:
			d.ended <- err
			b, _ := os.ReadFile(log)
			return fmt.Errorf("the server ended: %w\n%s", err, b)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if conn, err := d.ns.Dial(ctx, "tcp", "127.0.0.1:8443"); err == nil {
			return conn.Close()
		}
	}
}

// want applies what a person would write.
func (d *demo) want(ctx context.Context) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if d.signer, err = ssh.NewSignerFromKey(private); err != nil {
		return err
	}
	manifest := fmt.Sprintf(`apiVersion: bedplate/v1
kind: Machine
metadata: {name: %s, labels: {rack: demo}}
spec:
  interfaces:
  - {mac: "%s", address: %s/24}
---
apiVersion: bedplate/v1
kind: Instance
metadata: {name: %s}
spec:
  machine: %s
  image: debian
  hostname: %s
  ssh_keys:
  - %s
  user_data: |
    #cloud-config
    chpasswd: {expire: false, users: [{name: debian, password: demo, type: text}]}
    write_files:
    - path: %s
      content: "from power-on to here without a hand on a keyboard\n"
`, demoMachine, d.lab.Spec().Machines[0].MAC, demoAddress, "demo", demoMachine, demoHostname, d.authorizedKey(), demoProof)
	path := filepath.Join(d.dir, "rack.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(d.a.stdout, "%s\n", indent(manifest))
	return d.client(ctx, "apply", "-f", path)
}

func (d *demo) authorizedKey() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(d.signer.PublicKey())))
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ")
}

// install presses the power button and shows what happens.
func (d *demo) install(ctx context.Context) error {
	m, err := d.lab.Machine(demoMachine)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.a.stdout, "$ bedplate lab power %s on\n", demoMachine)
	d.serial = m.Serial()
	if err := m.PowerOn(ctx); err != nil {
		return err
	}
	return d.client(ctx, "machine", "follow", demoMachine, "--until", "active")
}

// proveConsole logs in on the serial port.
func (d *demo) proveConsole(ctx context.Context) error {
	m, err := d.lab.Machine(demoMachine)
	if err != nil {
		return err
	}
	say := func(wait, answer string) ([]string, error) {
		limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		found, err := d.serial.WaitFor(limit, regexp.MustCompile(wait))
		if err != nil || answer == "" {
			return found, err
		}
		return found, m.Type(limit, answer+"\n")
	}
	for _, turn := range [][2]string{
		{regexp.QuoteMeta(demoHostname) + ` login: `, "debian"},
		{`Password: `, "demo"},
		{`debian@` + regexp.QuoteMeta(demoHostname) + `.*\$ `, `echo "<$(hostname)|$(cat ` + demoProof + `)|$(cut -d' ' -f2 ~/.ssh/authorized_keys)>"`},
	} {
		if _, err := say(turn[0], turn[1]); err != nil {
			return err
		}
	}
	found, err := say(`\r?\n<([^|\r\n]*)\|([^|\r\n]*)\|([^|>\r\n]*)>`, "exit")
	if err != nil {
		return err
	}
	return d.check(found[1], found[2], found[3])
}

// proveSSH logs in with the key that was asked for.
func (d *demo) proveSSH(ctx context.Context) error {
	conn, err := d.ns.Dial(ctx, "tcp", net.JoinHostPort(demoAddress, "22"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(d.a.now().Add(2 * time.Minute)); err != nil {
		return err
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, demoAddress, &ssh.ClientConfig{
		User: "debian", Auth: []ssh.AuthMethod{ssh.PublicKeys(d.signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // a machine that was made a minute ago
	})
	if err != nil {
		return err
	}
	client := ssh.NewClient(c, chans, reqs)
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	out, err := session.Output("hostname; cat " + demoProof + "; cut -d' ' -f2 ~/.ssh/authorized_keys")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 3 {
		return fmt.Errorf("the machine answered %q", out)
	}
	return d.check(lines[0], lines[1], lines[2])
}

// check compares what the machine says with what was asked for.
func (d *demo) check(hostname, proof, key string) error {
	_, want, _ := strings.Cut(d.authorizedKey(), " ")
	for _, c := range []struct{ what, got, want string }{
		{"host name", hostname, demoHostname},
		{"user data", strings.TrimSpace(proof), "from power-on to here without a hand on a keyboard"},
		{"SSH key", key, want},
	} {
		if c.got != c.want {
			return fmt.Errorf("the %s is %q, want %q", c.what, c.got, c.want)
		}
		fmt.Fprintf(d.a.stdout, "  %-10s %s\n", c.what, c.got)
	}
	return nil
}

// down ends the server and takes the rack down.
func (d *demo) down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var errs []error
	if d.server != nil && d.ended != nil {
		if err := d.server.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
		select {
		case <-d.ended:
		case <-ctx.Done():
			errs = append(errs, d.server.Process.Kill())
		}
	}
	if d.lab != nil {
		errs = append(errs, d.lab.Down(ctx))
	}
	return errors.Join(errs...)
}
