package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bedplate/bedplate/bmc/console"
)

// front is a server over one console that echoes what is typed in capitals.
type front struct {
	t      *testing.T
	server *Server
	key    ssh.Signer

	mu       sync.Mutex
	good     bool // the token is
	attached []string
}

func newFront(t *testing.T) *front {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{t: t, key: key, good: true}
	log := slog.New(slog.DiscardHandler)
	hub, err := console.New(console.Config{Open: echo, Unsupported: errors.ErrUnsupported, Dir: t.TempDir(), Now: time.Now, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	host, err := HostKey(t.TempDir(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.server = New(Config{
		Address: "127.0.0.1:0", HostKey: host, Consoles: hub, Token: f.token, Now: time.Now, Logger: log,
		Key: func(k []byte, _ netip.Addr) (Principal, error) {
			if bytes.Equal(k, key.PublicKey().Marshal()) {
				return Principal{Name: "ci", MayType: true}, nil
			}
			return Principal{}, errors.New("unknown key")
		},
		Machine: func(name string) error {
			if name != "web-1" {
				return errors.New("machine/" + name + ": not found")
			}
			return nil
		},
		Attached: func(_ context.Context, machine, who string, _ bool) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.attached = append(f.attached, who+"@"+machine)
			return nil
		},
	})
	if err := f.server.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	g.Go(func() { _ = hub.Run(ctx) })
	g.Go(func() {
		if err := f.server.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); g.Wait() })
	return f
}

func (f *front) token(secret string, _ netip.Addr) (Principal, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	still := func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.good {
			return errors.New("deleted")
		}
		return nil
	}
	switch secret {
	case "operator":
		return Principal{Name: "op", MayType: true, Still: still}, nil
	case "viewer":
		return Principal{Name: "eyes", Still: still}, nil
	}
	return Principal{}, errors.New("unknown token")
}

// echo is a console that says what was typed in capitals.
func echo(context.Context, string) (io.ReadWriteCloser, error) {
	ours, theirs := net.Pipe()
	go func() {
		buf := make([]byte, 1024)
		for {
			n, err := theirs.Read(buf)
			if err != nil {
				return
			}
			if _, err := theirs.Write(bytes.ToUpper(buf[:n])); err != nil {
				return
			}
		}
	}()
	return ours, nil
}

func (f *front) dial(user string, auth ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", f.server.Addr().String(), &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{auth}, HostKeyCallback: ssh.FixedHostKey(f.server.cfg.HostKey.PublicKey()), Timeout: 10 * time.Second,
	})
}

// shell opens a session and returns its ends.
func (f *front) shell(user string, auth ssh.AuthMethod) (io.WriteCloser, *reader) {
	f.t.Helper()
	c, err := f.dial(user, auth)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	s, err := c.NewSession()
	if err != nil {
		f.t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.RequestPty("xterm", 24, 80, ssh.TerminalModes{}); err != nil {
		f.t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		f.t.Fatal(err)
	}
	return in, &reader{t: f.t, from: out}
}

// reader waits for words.
type reader struct {
	t    *testing.T
	from io.Reader
	all  string
}

func (r *reader) until(word string) {
	r.t.Helper()
	buf := make([]byte, 1024)
	for !strings.Contains(r.all, word) {
		n, err := r.from.Read(buf)
		r.all += string(buf[:n])
		if err != nil {
			r.t.Fatalf("%v before %q came: %q", err, word, r.all)
		}
	}
}

func TestServer(t *testing.T) {
	t.Run("a token opens the console of the machine that is the user", func(t *testing.T) {
		f := newFront(t)
		in, out := f.shell("web-1", ssh.Password("operator"))
		out.until("you may type")
		out.until("is open")
		if _, err := io.WriteString(in, "hello"); err != nil {
			t.Fatal(err)
		}
		out.until("HELLO")
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.attached) != 1 || f.attached[0] != "op@web-1" {
			t.Errorf("on record is %q", f.attached)
		}
	})
	t.Run("so does a key", func(t *testing.T) {
		f := newFront(t)
		_, out := f.shell("web-1", ssh.PublicKeys(f.key))
		out.until("you may type")
	})
	t.Run("a viewer watches what others type, and types nothing", func(t *testing.T) {
		f := newFront(t)
		in, out := f.shell("web-1", ssh.Password("viewer"))
		out.until("you may watch")
		if _, err := io.WriteString(in, "rm -rf"); err != nil {
			t.Fatal(err)
		}
		typing, other := f.shell("web-1", ssh.Password("operator"))
		other.until("you may type")
		out.until("is open")
		if _, err := io.WriteString(typing, "hello"); err != nil {
			t.Fatal(err)
		}
		out.until("HELLO")
		if strings.Contains(out.all, "RM -RF") {
			t.Error("what the viewer typed arrived")
		}
	})
	t.Run("log prints the recording", func(t *testing.T) {
		f := newFront(t)
		in, out := f.shell("web-1", ssh.Password("operator"))
		out.until("is open")
		if _, err := io.WriteString(in, "kept"); err != nil {
			t.Fatal(err)
		}
		out.until("KEPT")
		c, err := f.dial("web-1", ssh.Password("viewer"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Output("log")
		if err != nil || string(got) != "KEPT" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("strangers, other machines and other services are refused", func(t *testing.T) {
		f := newFront(t)
		if _, err := f.dial("web-1", ssh.Password("guess")); err == nil {
			t.Error("a wrong token was let in")
		}
		_, out := f.shell("web-2", ssh.Password("operator"))
		out.until("machine/web-2: not found")
		c, err := f.dial("web-1", ssh.Password("operator"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Dial("tcp", "127.0.0.1:1"); err == nil {
			t.Error("it forwards")
		}
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run("cat /etc/passwd"); err == nil {
			t.Error("it runs commands")
		}
	})
	t.Run("a login that doesn't come to an end, and bytes that are no SSH, end the connection", func(t *testing.T) {
		f := newFront(t)
		conn, err := net.Dial("tcp", f.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(bytes.Repeat([]byte("x\n"), 1<<16)); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Log(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
			t.Error("the connection stays open")
		}
	})
}

func TestHostKey(t *testing.T) {
	dir := t.TempDir()
	first, err := HostKey(dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second, err := HostKey(dir, rand.Reader)
	if err != nil || !bytes.Equal(first.PublicKey().Marshal(), second.PublicKey().Marshal()) {
		t.Errorf("it changed: %v", err)
	}
}
