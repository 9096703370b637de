package shell

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bedplate/bedplate/bmc"
)

// server is a BMC's SSH service whose shell has one machine behind it, which
// echoes in capitals.
type server struct {
	t        *testing.T
	key      ssh.Signer
	listener net.Listener
	greeting string
	prompt   string
	command  string // that gets the console; empty: the shell is it
	keyboard bool   // asks by keyboard-interactive only
	noPTY    bool
	done     sync.WaitGroup

	mu     sync.Mutex
	logins int
	said   []string
}

func listen(t *testing.T, change ...func(*server)) (*server, bmc.Target) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, greeting: "Welcome\r\n", prompt: "racadm>>", command: "console com2"}
	if s.key, err = ssh.NewSignerFromKey(private); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(s)
	}
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.done.Go(s.serve)
	t.Cleanup(func() { _ = s.listener.Close(); s.done.Wait() })
	addr := s.listener.Addr().(*net.TCPAddr)
	return s, bmc.Target{Machine: "web-1", Address: "127.0.0.1:443", Username: "root", Password: "calvin", SSH: &bmc.SSH{Port: uint16(addr.Port)}}
}

func (s *server) serve() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.done.Go(func() { s.handle(c) })
	}
}

func (s *server) check(user, password string) (*ssh.Permissions, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins++
	if user != "root" || password != "calvin" {
		return nil, errors.New("wrong password")
	}
	return nil, nil
}

func (s *server) handle(c net.Conn) {
	defer c.Close()
	config := &ssh.ServerConfig{KeyboardInteractiveCallback: func(m ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		answers, err := ask("", "", []string{"Password: "}, []bool{false})
		if err != nil || len(answers) != 1 {
			return nil, errors.New("no answer")
		}
		return s.check(m.User(), answers[0])
	}}
	if !s.keyboard {
		config.PasswordCallback = func(m ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) { return s.check(m.User(), string(p)) }
	}
	config.AddHostKey(s.key)
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	defer conn.Close()
	s.done.Go(func() { ssh.DiscardRequests(requests) })
	for ch := range channels {
		channel, asked, err := ch.Accept()
		if err != nil {
			return
		}
		s.done.Go(func() { s.shell(channel, asked) })
	}
}

func (s *server) shell(c ssh.Channel, requests <-chan *ssh.Request) {
	for r := range requests {
		ok := r.Type == "shell" || r.Type == "pty-req" && !s.noPTY
		_ = r.Reply(ok, nil)
		if r.Type == "shell" {
			s.done.Go(func() { s.talk(c) })
		}
	}
}

func (s *server) talk(c ssh.Channel) {
	defer c.Close()
	in := bufio.NewReader(c)
	if s.command != "" {
		_, _ = io.WriteString(c, s.greeting+s.prompt)
		line, err := in.ReadString('\r')
		if err != nil {
			return
		}
		s.mu.Lock()
		s.said = append(s.said, strings.TrimSpace(line))
		s.mu.Unlock()
		if strings.TrimSpace(line) != s.command {
			_, _ = io.WriteString(c, "unknown command\r\n"+s.prompt)
			return
		}
	}
	_, _ = io.WriteString(c, "\r\nConnected\r\n")
	for {
		line, err := in.ReadString('\r')
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, strings.ToUpper(line)+"\n")
	}
}

// until reads up to a word.
func until(t *testing.T, r io.Reader, word string) {
	t.Helper()
	got, buffer := "", make([]byte, 256)
	for !strings.Contains(got, word) {
		n, err := r.Read(buffer)
		got += string(buffer[:n])
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
	}
}

func TestConsole(t *testing.T) {
	for name, change := range map[string]func(*server){
		"with a password":                          func(*server) {},
		"with keyboard-interactive authentication": func(s *server) { s.keyboard = true },
		"of a BMC that refuses a terminal":         func(s *server) { s.noPTY = true },
		"with a long greeting":                     func(s *server) { s.greeting = strings.Repeat("all rights reserved > \r\n", 100) },
		"whose prompt ends in a blank":             func(s *server) { s.prompt = "</>hpiLO-> " },
		"of a shell that is it":                    func(s *server) { s.command = "" },
	} {
		t.Run("the console carries bytes both ways "+name, func(t *testing.T) {
			s, target := listen(t, change)
			c, err := Console(t.Context(), target, s.command)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			until(t, c, "Connected")
			if _, err := io.WriteString(c, "hello\r"); err != nil {
				t.Fatal(err)
			}
			until(t, c, "HELLO")
		})
	}
	t.Run("it ends with the BMC's connection", func(t *testing.T) {
		s, target := listen(t, func(s *server) { s.command = "other" })
		c, err := Console(t.Context(), target, "console com2")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got, err := io.ReadAll(c); err != nil || !strings.Contains(string(got), "unknown command") {
			t.Errorf("read %q, %v; said %q", got, err, s.said)
		}
	})
}

func TestConsole_Login(t *testing.T) {
	t.Run("a wrong password is sent once, and not shown", func(t *testing.T) {
		s, target := listen(t)
		target.Password = "mistyped"
		_, err := Console(t.Context(), target, s.command)
		if !errors.Is(err, bmc.ErrAuth) || strings.Contains(err.Error(), "mistyped") {
			t.Errorf("err = %v", err)
		}
		if s.logins != 1 {
			t.Errorf("%d logins: accounts get locked", s.logins)
		}
	})
	t.Run("nothing listens", func(t *testing.T) {
		s, target := listen(t)
		_ = s.listener.Close()
		if _, err := Console(t.Context(), target, s.command); !errors.Is(err, bmc.ErrUnreachable) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("a shell without a prompt is given up with the context", func(t *testing.T) {
		s, target := listen(t, func(s *server) { s.prompt = "please wait" })
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := Console(ctx, target, s.command); !errors.Is(err, bmc.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("a shell that says much and shows no prompt is given up", func(t *testing.T) {
		s, target := listen(t, func(s *server) { s.greeting, s.prompt = strings.Repeat("x", 2*maxGreeting), "" })
		if _, err := Console(t.Context(), target, s.command); !errors.Is(err, ErrNoPrompt) {
			t.Errorf("err = %v", err)
		}
	})
}

func TestConsole_HostKey(t *testing.T) {
	s, target := listen(t)
	want := ssh.FingerprintSHA256(s.key.PublicKey())
	t.Run("the first one is told", func(t *testing.T) {
		seen := ""
		target.SSH.Seen = func(f string) { seen = f }
		c, err := Console(t.Context(), target, s.command)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if seen != want {
			t.Errorf("told %q, want %q", seen, want)
		}
	})
	t.Run("another one than is wanted gets no password", func(t *testing.T) {
		before := s.logins
		target.SSH.HostKey = "SHA256:" + strings.Repeat("A", 43)
		_, err := Console(t.Context(), target, s.command)
		if !errors.Is(err, bmc.ErrCertificate) || !strings.Contains(err.Error(), want) {
			t.Errorf("err = %v", err)
		}
		if s.logins != before {
			t.Error("the password was sent")
		}
	})
	t.Run("the one that is wanted is accepted", func(t *testing.T) {
		target.SSH.HostKey = want
		c, err := Console(t.Context(), target, s.command)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	})
}

func TestCommandOf(t *testing.T) {
	for manufacturer, want := range map[string]string{"HPE": "VSP", "Dell Inc.": "console com2", "Supermicro": "start /system1/sol1", "Lenovo": "console 1", "Acme": "", "": ""} {
		if got := CommandOf(manufacturer); got != want {
			t.Errorf("%q: got %q, want %q", manufacturer, got, want)
		}
	}
}

func FuzzIsPrompt(f *testing.F) {
	for _, seed := range []string{"racadm>>", "Welcome\r\n</>hpiLO-> ", "$ ", "", "\n", "login: "} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, seen []byte) {
		if isPrompt(seen) && isPrompt(append(append([]byte{}, seen...), "\nwait"...)) {
			t.Errorf("%q is a prompt with a line after it", seen)
		}
	})
}
