package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/bedplate/bedplate/lab"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// TestErrors has everything go wrong that commonly does, and wants one clear
// error of each that says what to do.
func TestErrors(t *testing.T) {
	r := newRig(t, lab.Spec{Machines: []lab.MachineSpec{{Name: "m1"}}})
	// It boots the agent while the others are tested.
	r.apply(r.machineYAML("m1", "10.77.0.31/24"))
	r.bootable("m1")
	r.powerOn("m1")

	t.Run("a template with a type error names file, line and column", func(t *testing.T) {
		r.in(t).refuses(template("typo", `
  - id: write
    uses: image.write
    with: {image: debian, disk: "${{ 1 + 2 }}"}
  - id: count
    uses: noop
    if: steps.write.outputs.bytes + "x" == "y"
`), "manifest.yaml:9:", "manifest.yaml:12:", "spec.steps[1].if")
	})
	t.Run("a cycle in needs is named", func(t *testing.T) {
		r.in(t).refuses(template("circle", `
  - {id: a, uses: noop, needs: [c]}
  - {id: b, uses: noop, needs: [a]}
  - {id: c, uses: noop, needs: [b]}
`), "manifest.yaml:", "steps need each other in a circle: a → c → b → a", "remove one of these needs")
	})
	t.Run("a workflow for a machine that is not there says so", func(t *testing.T) {
		r := r.in(t)
		_, err := r.run("workflow", "run", "inspect", "--machine", "m9")
		wantError(t, err, `spec.machine: there is no machine "m9"`, "`bedplate get machines`")
		r.refuses("apiVersion: bedplate/v1\nkind: Workflow\nmetadata: {name: w}\nspec: {template: inspect, machine: m9}\n", "manifest.yaml:4", "spec.machine", "m9")
	})
	t.Run("two machines can't have one MAC address or one IP address", func(t *testing.T) {
		r := r.in(t)
		m := r.machine("m1").Spec()
		r.refuses(machineNamed("twin", m.MAC, "10.77.0.40/24"), "manifest.yaml:6:", "spec.interfaces[0].mac", m.MAC+" is machine/m1's already")
		r.refuses(machineNamed("twin", "52:54:00:77:01:01", "10.77.0.31/24"), "manifest.yaml:6:", "spec.interfaces[0].address", "10.77.0.31 is machine/m1's already")
	})
	t.Run("another server's API token is refused", func(t *testing.T) {
		r := r.in(t)
		_, err := r.run("machine", "list", "--token", "bpt_RjyDDGugM3bJavlnvM24ejt93nqGmh8B8Ed0IRaNErB")
		wantError(t, err, "localhost:8443 doesn't accept the token", "it is another server's, or it was deleted", "bedplate token create")
	})
	t.Run("another server's boot token is refused", func(t *testing.T) {
		r := r.in(t)
		wantError(t, r.enroll("bpb_AQAAAAAAAAAAAAAAAAAAUlQAdwABbTHZ2dnZ2dnZ2dnZ2dnZ2dnZ"), "Unauthenticated", "restart the machine")
		mine := r.bootToken()
		// One changed letter is enough.
		wantError(t, r.enroll(flip(mine)), "Unauthenticated", "restart the machine")
	})
	t.Run("port 67 in use says by whom and what to do", func(t *testing.T) { r.in(t).portTaken() })

	r.waitState(installTime, "machine", "m1", "available", "failed")
	r.images()
	t.Run("a truncated image is not imported", func(t *testing.T) {
		_, err := r.in(t).run("image", "import", "truncated", "--file", filepath.Join(r.dir, "truncated.zst"))
		wantError(t, err, "storing image/truncated", "decompressing zstd: the file ends too early")
	})
	t.Run("one that is kept as it comes fails, and the disk boots nothing", func(t *testing.T) {
		r.in(t).badWrite("truncated", "--no-convert", "--file", filepath.Join(r.dir, "truncated.zst"))
		r.in(t).wantFailure("truncated", "decompressing zstd: the file ends too early")
	})
	t.Run("an image that its server cuts short fails, and the disk boots nothing", func(t *testing.T) {
		r.in(t).badWrite("short", "--url", "http://"+serverAddress+":9000/short.zst", "--digest", digestOf(t, image))
		r.in(t).wantFailure("short", "the file ends too early", "expected digest "+digestOf(t, image)+", got "+digestOf(t, filepath.Join(r.dir, "truncated.zst")))
	})
	t.Run("an image with another digest fails, and the disk boots nothing", func(t *testing.T) {
		wrong := "sha256:" + strings.Repeat("ab", sha256.Size)
		r.in(t).badWrite("wrong", "--url", "http://"+serverAddress+":9000/whole.zst", "--digest", wrong)
		r.in(t).wantFailure("wrong", "expected digest "+wrong+", got "+digestOf(t, image), "the file was changed or damaged")
	})
	t.Run("a machine that such a write has left finds nothing to boot", func(t *testing.T) {
		r := r.in(t)
		serial := r.machine("m1").Serial()
		if err := r.machine("m1").Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		got, err := serial.WaitFor(ctx, regexp.MustCompile(`GRUB|Linux version|No bootable device`))
		if err != nil {
			t.Fatal(err)
		}
		if got[0] != "No bootable device" {
			t.Errorf("it boots something: %q", got[0])
		}
	})
}

func template(name, steps string) string {
	return "apiVersion: bedplate/v1\nkind: Template\nmetadata:\n  name: " + name + "\nspec:\n  steps:" + steps
}

func machineNamed(name, mac, address string) string {
	return fmt.Sprintf("apiVersion: bedplate/v1\nkind: Machine\nmetadata: {name: %s}\nspec:\n  interfaces:\n  - {mac: %q, address: %q}\n", name, mac, address)
}

// wantError checks that an error says everything it should.
func wantError(t *testing.T, err error, phrases ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", phrases)
		return
	}
	for _, p := range phrases {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error doesn't say %q:\n%v", p, err)
		}
	}
}

// refuses applies a manifest that must be refused.
func (r *rig) refuses(manifest string, phrases ...string) {
	r.t.Helper()
	wantError(r.t, r.tryApply(manifest), phrases...)
}

// flip changes one letter of a token's middle.
func flip(token string) string {
	b := []byte(token)
	i := len(b) / 2
	if b[i]++; b[i] == 'z'+1 || b[i] == 'Z'+1 || b[i] == '9'+1 {
		b[i] = 'A'
	}
	return string(b)
}

// bootToken takes the token from the boot script of a machine that isn't there,
// asking from that machine's address: nobody else is given it.
func (r *rig) bootToken() string {
	r.t.Helper()
	const mac, address = "52:54:00:77:00:ee", "10.77.0.77"
	r.apply(fmt.Sprintf("apiVersion: bedplate/v1\nkind: Machine\nmetadata: {name: ghost}\nspec:\n  interfaces: [{mac: %q, address: %s/24}]\n", mac, address))
	url := "http://" + serverAddress + ":8080/ipxe/script?mac=" + strings.ReplaceAll(mac, ":", "-")
	if script := r.script(r.ns.Dial, url); strings.Contains(script, "bedplate.token=") {
		r.t.Errorf("an address that isn't the machine's was given its token:\n%s", script)
	}
	if err := r.ns.Run(exec.Command("ip", "addr", "add", address+"/32", "dev", "br0")); err != nil {
		r.t.Fatal(err)
	}
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	script := r.script(func(ctx context.Context, network, to string) (conn net.Conn, err error) {
		err = r.ns.Do(func() error {
			conn, err = from.DialContext(ctx, network, to)
			return err
		})
		return conn, err
	}, url)
	m := regexp.MustCompile(`bedplate\.token=(\S+)`).FindStringSubmatch(script)
	if m == nil {
		r.t.Fatalf("no token in the script:\n%s", script)
	}
	return m[1]
}

// script fetches a boot script.
func (r *rig) script(dial func(context.Context, string, string) (net.Conn, error), url string) string {
	r.t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Get(url)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// enroll exchanges a token as an agent does.
func (r *rig) enroll(token string) error {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		r.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+serverAddress+":8444",
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})), //nolint:gosec // it is the server that has to know us
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return r.ns.Dial(ctx, "tcp", a) }))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	_, err = pb.NewAgentServiceClient(conn).Enroll(ctx, &pb.EnrollRequest{
		Token: token, CertificateRequest: request, BootId: strings.Repeat("0a", 16), Macs: []string{r.machine("m1").Spec().MAC},
	})
	return err
}

// portTaken starts a second server where dnsmasq has port 67.
func (r *rig) portTaken() {
	r.t.Helper()
	second, err := lab.New(lab.Config{Dir: filepath.Join(r.dir, "taken"), Spec: lab.Spec{Name: "taken"}, Now: time.Now})
	if err != nil {
		r.t.Fatal(err)
	}
	other := &rig{t: r.t, lab: second, dir: r.t.TempDir(), server: &server{}}
	r.t.Cleanup(other.down)
	if err := second.Up(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	if other.ns, err = second.Namespace(""); err != nil {
		r.t.Fatal(err)
	}
	other.dnsmasq("", "br0", "--dhcp-range=10.77.0.50,10.77.0.99,255.255.255.0,1h")
	other.eventually(30*time.Second, "dnsmasq has port 67", func() error {
		out, err := exec.Command("nsenter", "--net="+other.ns.Path(), "ss", "-Hlnu", "sport = :67").Output()
		if err == nil && len(out) == 0 {
			err = errors.New("nobody has it yet")
		}
		return err
	})
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bedplate, "serve", "--interface", "br0", "--data-dir", filepath.Join(other.dir, "data"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &out, other.env()
	err = other.ns.Run(cmd)
	if err == nil || ctx.Err() != nil {
		r.t.Fatalf("the server runs without its port: %v\n%s", err, &out)
	}
	wantError(r.t, errors.New(out.String()), "port 67 on br0 is already in use by dnsmasq (pid ", "stop it, or set dhcp_mode")
}

// bootable puts the start of a disk that boots on the machine's disk, which
// must be off: what fails later must take it away.
func (r *rig) bootable(name string) {
	r.t.Helper()
	f, err := os.OpenFile(r.machine(name).Disk(0), os.O_WRONLY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	start := bytes.Repeat([]byte{0xeb}, 1<<20)
	start[510], start[511] = 0x55, 0xaa
	if _, err := f.WriteAt(start, 0); err != nil {
		r.t.Fatal(err)
	}
}

// images makes a truncated image, and serves it and the whole one at port 9000.
func (r *rig) images() {
	r.t.Helper()
	whole, err := os.ReadFile(image)
	if err != nil {
		r.t.Fatal(err)
	}
	// Far enough that a half of a system is on the disk by then.
	short := whole[:len(whole)/3]
	if err := os.WriteFile(filepath.Join(r.dir, "truncated.zst"), short, 0o600); err != nil {
		r.t.Fatal(err)
	}
	files := map[string][]byte{"/whole.zst": whole, "/short.zst": short}
	r.serve(":9000", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(files[req.URL.Path]))
	}))
}

// serve serves HTTP inside the lab until the test ends.
func (r *rig) serve(address string, h http.Handler) {
	r.t.Helper()
	var l net.Listener
	err := r.ns.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l)
	}()
	r.t.Cleanup(func() {
		s.Close()
		<-done
	})
}

func digestOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(b))
}

// badWrite imports an image and has the agent on m1 write it.
func (r *rig) badWrite(name string, from ...string) {
	r.t.Helper()
	r.must(append([]string{"image", "import", name}, from...)...)
	if err := r.tryApply(template("write-once", `
  - {id: disk, uses: disk.select}
  - {id: write, uses: image.write, with: {image: `+name+`, disk: "${{ steps.disk.outputs.path }}"}}
`)); err != nil {
		r.t.Fatal(err)
	}
	r.must("workflow", "run", "write-once", "--machine", "m1", "--name", name)
	r.waitState(installTime, "workflow", name, "failed", "succeeded")
}

// wantFailure checks what a workflow that could not write says, and that no
// boot sector nor partition table is on the disk.
func (r *rig) wantFailure(workflow string, phrases ...string) {
	r.t.Helper()
	w := r.object("workflow", workflow)
	wantError(r.t, errors.New(field(w, "status", "cause")), append(phrases, `step "write" (image.write) failed`, "/dev/vda is left so that nothing boots from it")...)
	if d := r.attempts(workflow)["write"]; len(d) != 1 || d[0] != "failed" {
		r.t.Errorf("attempts %v, want one that failed", d)
	}
	f, err := os.Open(r.machine("m1").Disk(0))
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	start := make([]byte, 1<<20)
	if _, err := io.ReadFull(f, start); err != nil {
		r.t.Fatal(err)
	}
	if i := bytes.IndexFunc(start, func(c rune) bool { return c != 0 }); i >= 0 {
		r.t.Errorf("the disk's first MiB isn't empty: byte %d is %#x", i, start[i])
	}
}
