package rescue

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
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

	"github.com/bedplate/bedplate/agent/step"
)

// recorder is a step.Reporter whose lines can be waited for.
type recorder struct {
	mu    sync.Mutex
	lines []string
	news  chan struct{}
}

func newRecorder() *recorder { return &recorder{news: make(chan struct{}, 100)} }

func (r *recorder) Log(_, line string) {
	r.mu.Lock()
	r.lines = append(r.lines, line)
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *recorder) Progress(int64, int64, string, string) {}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// await waits for a line.
func (r *recorder) await(t *testing.T, part string) {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for !strings.Contains(r.text(), part) {
		select {
		case <-r.news:
		case <-limit.C:
			t.Fatalf("no line with %q:\n%s", part, r.text())
		}
	}
}

// person is somebody with a key.
type person struct {
	signer     ssh.Signer
	authorized string
	file       string // the private key, for ssh -i
}

func newPerson(t *testing.T, comment string) person {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return person{signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " " + comment, file}
}

func busybox(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox: apt-get install busybox-static")
	}
	return path
}

// started is a rescue that runs.
type started struct {
	port   string
	rep    *recorder
	stop   func() (step.Result, error)
	folder string
}

func start(t *testing.T, keys []any, with map[string]any) *started {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free now
	if err != nil {
		t.Fatal(err)
	}
	port := int64(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	s := &started{port: fmt.Sprint(port), rep: newRecorder(), folder: t.TempDir()}
	service, err := New(Config{Busybox: busybox(t), Folder: s.folder, Cgroup: "/sys/fs/cgroup", Banner: "welcome\n", Random: rand.Reader, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	inputs := map[string]any{"authorized_keys": keys, "port": port}
	for k, v := range with {
		inputs[k] = v
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	type end struct {
		r   step.Result
		err error
	}
	done := make(chan end, 1)
	go func() {
		r, err := service.serve(ctx, step.Request{Step: fmt.Sprintf("test-%d", port), With: inputs}, s.rep)
		done <- end{r, err}
	}()
	var once sync.Once
	var ended end
	s.stop = func() (step.Result, error) {
		once.Do(func() {
			cancel(errStopped)
			select {
			case ended = <-done:
			case <-time.After(20 * time.Second):
				t.Error("it doesn't stop")
			}
		})
		return ended.r, ended.err
	}
	t.Cleanup(func() { s.stop() })
	s.rep.await(t, "ssh -p "+s.port)
	return s
}

var errStopped = errors.New("stopped")

// openSSH runs OpenSSH's client.
func (s *started) openSSH(t *testing.T, p person, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", append([]string{"-F", "none", "-p", s.port, "-i", p.file, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=" + filepath.Join(t.TempDir(), "known"), "-o", "LogLevel=ERROR"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func TestServe_OpenSSH(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("needs OpenSSH's client: apt-get install openssh-client")
	}
	alice, mallory := newPerson(t, "alice@example"), newPerson(t, "mallory")
	s := start(t, []any{alice.authorized}, nil)
	t.Run("a command's output and exit code come back", func(t *testing.T) {
		out, err := s.openSSH(t, alice, "", "root@127.0.0.1", "echo out; echo err >&2; exit 7")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
			t.Errorf("%v: %q", err, out)
		}
	})
	t.Run("what goes in comes out", func(t *testing.T) {
		in := strings.Repeat("0123456789abcdef", 1<<16)
		out, err := s.openSSH(t, alice, in, "root@127.0.0.1", "cat")
		if err != nil || out != in {
			t.Errorf("%v: %d bytes of %d", err, len(out), len(in))
		}
	})
	t.Run("a shell on a terminal has job control and the client's size", func(t *testing.T) {
		out, err := s.openSSH(t, alice, "tty; echo $TERM; id -u; exit 3\n", "-tt", "root@127.0.0.1")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(out, "/dev/pts/") || !strings.Contains(out, "welcome") || strings.Contains(out, "can't access tty") {
			t.Errorf("%v: %q", err, out)
		}
	})
	t.Run("busybox's programs are in its path only", func(t *testing.T) {
		out, err := s.openSSH(t, alice, "", "root@127.0.0.1", "command -v awk vi mount >/dev/null && echo all")
		if err != nil || out != "all\n" {
			t.Errorf("%v: %q", err, out)
		}
	})
	t.Run("SFTP carries files both ways", func(t *testing.T) {
		if _, err := exec.LookPath("scp"); err != nil {
			t.Skip("needs scp")
		}
		here, there := filepath.Join(t.TempDir(), "here"), filepath.Join(t.TempDir(), "there")
		if err := os.WriteFile(here, bytes.Repeat([]byte("x"), 300_000), 0o640); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "scp", "-q", "-P", s.port, "-i", alice.file, "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
			"-o", "UserKnownHostsFile=/dev/null", here, "root@127.0.0.1:"+there).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if st, err := os.Stat(there); err != nil || st.Size() != 300_000 {
			t.Errorf("%v, %v", st, err)
		}
	})
	t.Run("a key that is not given is refused", func(t *testing.T) {
		out, err := s.openSSH(t, mallory, "", "root@127.0.0.1", "true")
		if err == nil || !strings.Contains(out, "Permission denied (publickey)") {
			t.Errorf("%v: %q", err, out)
		}
	})
	t.Run("forwarding is refused", func(t *testing.T) {
		out, err := s.openSSH(t, alice, "", "-W", "127.0.0.1:1", "root@127.0.0.1")
		if err == nil {
			t.Errorf("forwarded: %q", out)
		}
	})
	t.Run("who did what is logged", func(t *testing.T) {
		for _, want := range []string{
			"by key " + ssh.FingerprintSHA256(alice.signer.PublicKey()) + " alice@example", "command: echo out; echo err >&2; exit 7", "exit status 7",
			": shell", ": files", "did not get in",
		} {
			s.rep.await(t, want)
		}
	})
	t.Run("the host key is the one that the log names", func(t *testing.T) {
		r, err := s.stop()
		if !errors.Is(err, errStopped) {
			t.Errorf("stopping: %v", err)
		}
		if fp, _ := r.Outputs["host_key"].(string); !strings.HasPrefix(fp, "SHA256:") || !strings.Contains(s.rep.text(), "host key "+fp) {
			t.Errorf("output %v; log:\n%s", r.Outputs, s.rep.text())
		}
		if left, err := os.ReadDir(s.folder); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

// dial connects with Go's client.
func (s *started) dial(t *testing.T, p person) *ssh.Client {
	t.Helper()
	c, err := ssh.Dial("tcp", "127.0.0.1:"+s.port, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(p.signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second, //nolint:gosec // ours
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestServe_Stops(t *testing.T) {
	alice := newPerson(t, "alice")
	s := start(t, []any{alice.authorized}, nil)
	session, err := s.dial(t, alice).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start("echo $$; exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if _, err := s.stop(); !errors.Is(err, errStopped) {
		t.Errorf("stopping: %v", err)
	}
	if err := session.Wait(); err == nil {
		t.Error("the session goes on")
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); !os.IsNotExist(err) {
		t.Errorf("process %d goes on (%v)", pid, err)
	}
	if _, err := net.DialTimeout("tcp", "127.0.0.1:"+s.port, time.Second); err == nil {
		t.Error("it listens still")
	}
}

func TestServe_Timeout(t *testing.T) {
	alice := newPerson(t, "alice")
	service, err := New(Config{Busybox: busybox(t), Folder: t.TempDir(), Random: rand.Reader, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	rep := newRecorder()
	_, err = service.serve(t.Context(), step.Request{With: map[string]any{"authorized_keys": []any{alice.authorized}, "port": int64(freePort(t)), "timeout": "50ms"}}, rep)
	if err != nil || !strings.Contains(rep.text(), "the 50ms are over") {
		t.Errorf("%v:\n%s", err, rep.text())
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestServe_HostKey(t *testing.T) {
	service, err := New(Config{Busybox: busybox(t), Folder: t.TempDir(), Random: rand.Reader, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	a, err := service.hostKey()
	if err != nil {
		t.Fatal(err)
	}
	b, err := service.hostKey()
	if err != nil || !bytes.Equal(a.PublicKey().Marshal(), b.PublicKey().Marshal()) {
		t.Errorf("another key in the same boot (%v)", err)
	}
}

func TestServe_Console(t *testing.T) {
	term, err := newTerminal("vt100")
	if err != nil {
		t.Skip(err)
	}
	defer term.close()
	service, err := New(Config{
		Busybox: busybox(t), Folder: t.TempDir(), Cgroup: "/sys/fs/cgroup", Banner: "welcome\n", Random: rand.Reader, Now: time.Now,
		Consoles: func() []string { return []string{term.slave.Name()} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rep := newRecorder()
	done := make(chan error, 1)
	go func() {
		_, err := service.serve(ctx, step.Request{Step: "console", With: map[string]any{"console": true}}, rep)
		done <- err
	}()
	rep.await(t, "session 1: console")
	if _, err := term.master.WriteString("echo $((6*7))-answers\n"); err != nil {
		t.Fatal(err)
	}
	var said []byte
	buf := make([]byte, 1024)
	for !bytes.Contains(said, []byte("42-answers")) {
		n, err := term.master.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, said)
		}
		said = append(said, buf[:n]...)
	}
	if strings.Contains(rep.text(), "ssh -p") {
		t.Error("it listens, though no key was given")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("stopping: %v", err)
	}
}

func TestParseOptions(t *testing.T) {
	good := newPerson(t, "alice").authorized
	for want, with := range map[string]map[string]any{
		"nobody could get in":                            {},
		"is no public key":                               {"authorized_keys": []any{"ssh-rsa nonsense"}},
		`has the option from="10.0.0.1"`:                 {"authorized_keys": []any{`from="10.0.0.1" ` + good}},
		"has more than one line":                         {"authorized_keys": []any{good + "\n" + good}},
		"port is 70000":                                  {"authorized_keys": []any{good}, "port": int64(70000)},
		`timeout is "soon"`:                              {"authorized_keys": []any{good}, "timeout": "soon"},
		`timeout is "9000h": want a duration such as 2h`: {"authorized_keys": []any{good}, "timeout": "9000h"},
		"authorized_keys has 65 keys: at most 64":        {"authorized_keys": slicesRepeat(good, 65)},
	} {
		t.Run(want, func(t *testing.T) {
			if _, err := parseOptions(with); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func slicesRepeat(s string, n int) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = s
	}
	return out
}

func FuzzParseKeys(f *testing.F) {
	f.Add("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ alice") // a key with a comment
	f.Add(`command="true" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ`)
	f.Add("# nothing")
	f.Fuzz(func(t *testing.T, line string) {
		k, err := parseKeys([]any{line})
		if err == nil && len(k) > 1 {
			t.Errorf("one line became %d keys", len(k))
		}
	})
}
