package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

// mustServe serves the system service over TLS, and returns its address and CA.
func mustServe(t *testing.T) (string, *trust.CA) {
	t.Helper()
	ca, err := trust.OpenCA(t.TempDir(), rand.Reader, noon)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.NewServerCertificate(nil, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(cert.TLS())))
	pb.RegisterSystemServiceServer(server, system{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	return listener.Addr().String(), ca
}

// system says who asks.
type system struct {
	pb.UnimplementedSystemServiceServer
}

func (system) GetServerInfo(ctx context.Context, _ *pb.GetServerInfoRequest) (*pb.GetServerInfoResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	token := strings.Join(md.Get("authorization"), " ")
	if token != "Bearer bpt_good" {
		return nil, status.Error(codes.Unauthenticated, "the token is not known")
	}
	return &pb.GetServerInfoResponse{Version: "v1", Token: "me", Role: pb.Role_ADMIN, StartTime: at(-5)}, nil
}

// environment returns an app with a home of its own and these variables.
func environment(t *testing.T, vars map[string]string) *app {
	t.Helper()
	a := newTestApp(nil, nil, nil)
	home := t.TempDir()
	a.getenv = func(name string) string {
		if name == "HOME" {
			return home
		}
		return vars[name]
	}
	return a
}

func TestDial(t *testing.T) {
	server, ca := mustServe(t)
	const good = "server   v1, up 5s; you are me with the role admin\n"
	ask := func(t *testing.T, a *app, flags string) string {
		t.Helper()
		out := command(t.Context(), a, "version --with-server "+flags)
		_, out, _ = strings.Cut(out, "\n")
		return strings.ReplaceAll(out, server, "SERVER")
	}
	t.Run("the configuration file has all that is needed", func(t *testing.T) {
		for what, c := range map[string]clientConfig{
			"ca":        {Server: server, Token: "bpt_good", CA: string(ca.PEM())},
			"ca_digest": {Server: "https://" + server + "/", Token: "bpt_good", CADigest: ca.Digest()},
		} {
			a := environment(t, nil)
			if err := writeConfig(filepath.Join(a.getenv("HOME"), ".config", "bedplate", "config.yaml"), c); err != nil {
				t.Fatal(err)
			}
			if got := ask(t, a, ""); got != good {
				t.Errorf("%s: %s", what, got)
			}
		}
	})
	t.Run("the environment goes before the file, and flags before both", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := writeConfig(path, clientConfig{Server: "file.invalid", Token: "bpt_file", CADigest: ca.Digest()}); err != nil {
			t.Fatal(err)
		}
		a := environment(t, map[string]string{"BEDPLATE_CONFIG": path, "BEDPLATE_SERVER": server, "BEDPLATE_TOKEN": "bpt_good"})
		if got := ask(t, a, ""); got != good {
			t.Error(got)
		}
		a = environment(t, map[string]string{"BEDPLATE_CONFIG": "/nonexistent/x", "BEDPLATE_SERVER": "env.invalid", "BEDPLATE_TOKEN": "bpt_env"})
		file := filepath.Join(t.TempDir(), "ca.crt")
		if err := os.WriteFile(file, ca.PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, a, "--config "+path+" --token bpt_good --server "+server+" --ca "+file); got != good {
			t.Error(got)
		}
	})
	t.Run("each way to fail says what to do", func(t *testing.T) {
		other, err := trust.OpenCA(t.TempDir(), rand.Reader, noon)
		if err != nil {
			t.Fatal(err)
		}
		closed := mustRefuse(t)
		plain := mustPlain(t)
		for flags, want := range map[string]string{
			"--server " + server + " --token bpt_bad --ca " + ca.Digest(): "error: SERVER doesn't accept the token: the token is not known\n" +
				"hint: give one with BEDPLATE_TOKEN or --token, or in the configuration file; an admin makes one with `bedplate token create NAME --role operator`",
			"--server " + server + " --ca " + other.Digest(): "hint: check that --server is right, and give the server's own CA with --ca FILE or --ca sha256:DIGEST (`bedplate serve` prints it; ca.crt in its data directory)",
			"--server " + server:                             "hint: check that --server is right, and give the server's own CA",
			"--server " + closed + " --ca " + ca.Digest():    "connect: connection refused\nhint: is `bedplate serve` running there? choose another server with --server or BEDPLATE_SERVER",
			"--server " + plain + " --ca " + ca.Digest():     "hint: that port does not speak TLS: the API is on port 8443",
			"":                                    "hint: name one with --server or BEDPLATE_SERVER; `bedplate serve` writes the file on the machine it first runs on",
			"--server http://x":                   "error: \"http://x\" is not a server: host or host:port is expected",
			"--server " + server + " --ca nofile": "error: reading the CA: open nofile: no such file or directory",
		} {
			got := ask(t, environment(t, nil), flags)
			if !strings.Contains(got, want) || !strings.Contains(got, "[exit code ") {
				t.Errorf("%s:\n%s", flags, got)
			}
		}
	})
}

// mustRefuse returns an address where nothing listens.
func mustRefuse(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// mustPlain returns an address where something that isn't TLS answers.
func mustPlain(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\n"))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func TestConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "config.yaml")
	want := clientConfig{Server: "s:1", Token: "t", CA: "-----BEGIN\n", CADigest: "sha256:0"}
	if err := writeConfig(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := readConfig(path)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v (%v)", info.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("there are %v (%v)", left, err)
	}
	t.Run("others can read it", func(t *testing.T) {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		a := environment(t, map[string]string{"BEDPLATE_CONFIG": path})
		a.stderr = &stderr
		if _, err := a.settings(); err != nil || !strings.Contains(stderr.String(), "chmod 600") {
			t.Errorf("%v, %s", err, stderr.String())
		}
	})
	t.Run("a misspelt key is an error", func(t *testing.T) {
		if err := os.WriteFile(path, []byte("sever: x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		a := environment(t, map[string]string{"BEDPLATE_CONFIG": path})
		out := command(t.Context(), a, "machine list")
		if !strings.Contains(out, "line 1: field sever not found") || !strings.Contains(out, "hint: it may have server, token, ca and ca_digest") {
			t.Error(out)
		}
	})
}

func TestServerAddress(t *testing.T) {
	for in, want := range map[string]string{
		"host": "host:8443", "host:1": "host:1", "https://host:1/": "host:1", "10.0.0.1": "10.0.0.1:8443",
		"[fd00::1]": "[fd00::1]:8443", "[fd00::1]:1": "[fd00::1]:1", "fd00::1": "[fd00::1]:8443",
	} {
		if got, err := serverAddress(in); got != want || err != nil {
			t.Errorf("%s is %s (%v), want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", ":1", "http://host", "host/path"} {
		if got, err := serverAddress(in); err == nil {
			t.Errorf("%q is %s", in, got)
		}
	}
}
