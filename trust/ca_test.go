package trust

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOpenCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	c := newClock()
	first := mustCA(t, dir, c)

	t.Run("the key file is for its owner alone", func(t *testing.T) {
		info, err := os.Stat(filepath.Join(dir, caKeyFile))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode().Perm(), os.FileMode(0o600); got != want {
			t.Errorf("mode = %v, want %v", got, want)
		}
	})
	t.Run("a second start has the same CA", func(t *testing.T) {
		if got, want := mustCA(t, dir, c).Digest(), first.Digest(); got != want {
			t.Errorf("digest = %s, want %s", got, want)
		}
	})
	t.Run("a lost copy for people is made again", func(t *testing.T) {
		path := filepath.Join(dir, caCertFile)
		if err := os.WriteFile(path, []byte("half"), 0o644); err != nil {
			t.Fatal(err)
		}
		ca := mustCA(t, dir, c)
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, ca.PEM()) {
			t.Errorf("copy = %q, %v", got, err)
		}
	})
	t.Run("no temporary file is left", func(t *testing.T) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 2 {
			t.Errorf("directory has %v, want two files", entries)
		}
	})
	t.Run("after ten years it says so", func(t *testing.T) {
		late := newClock()
		late.advance(11 * 365 * 24 * time.Hour)
		_, err := OpenCA(dir, rand.Reader, late.now)
		if err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("err = %v, want one that says expired", err)
		}
	})
}

func TestOpenCA_Damaged(t *testing.T) {
	c := newClock()
	whole := func(t *testing.T, dir string) []byte {
		mustCA(t, dir, c)
		data, err := os.ReadFile(filepath.Join(dir, caKeyFile))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	tests := []struct {
		name   string
		damage func(data, other []byte) []byte
	}{
		{"empty", func(_, _ []byte) []byte { return nil }},
		{"half", func(data, _ []byte) []byte { return data[:len(data)/2] }},
		{"without the certificate", func(data, _ []byte) []byte { return data[:bytes.Index(data, []byte("-----BEGIN CERT"))] }},
		{"another CA's certificate", func(data, other []byte) []byte {
			i, j := bytes.Index(data, []byte("-----BEGIN CERT")), bytes.Index(other, []byte("-----BEGIN CERT"))
			return append(bytes.Clone(data[:i]), other[j:]...)
		}},
		{"something else", func(_, _ []byte) []byte { return []byte("hello\n") }},
		{"more after it", func(data, _ []byte) []byte { return append(data, "x"...) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			data := tt.damage(whole(t, dir), whole(t, t.TempDir()))
			path := filepath.Join(dir, caKeyFile)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := OpenCA(dir, rand.Reader, c.now)
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("err = %v, want ErrDamaged", err)
			}
			for _, part := range []string{path, "restore it from a backup", "digest"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("err = %v, want it to contain %q", err, part)
				}
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
				t.Errorf("the damaged file was changed (%v)", err)
			}
		})
	}
	t.Run("readable by others", func(t *testing.T) {
		dir := t.TempDir()
		whole(t, dir)
		path := filepath.Join(dir, caKeyFile)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := OpenCA(dir, rand.Reader, c.now)
		if err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("err = %v, want one that says chmod 600", err)
		}
	})
}

func TestPinnedClientTLS(t *testing.T) {
	c := newClock()
	ca := mustCA(t, t.TempDir(), c)
	server, err := ca.NewServerCertificate([]string{"bedplate.example"}, []netip.Addr{netip.MustParseAddr("10.77.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	client := func(digest, host string, now func() time.Time) *tls.Config {
		config, err := PinnedClientTLS(digest, host, now)
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	good := []struct{ name, host string }{
		{"by name", "bedplate.example"},
		{"by address", "10.77.0.1"},
		{"by address and port", "10.77.0.1:8443"},
		{"by the address connected to", "127.0.0.1"},
	}
	for _, tt := range good {
		t.Run("accepts the server "+tt.name, func(t *testing.T) {
			_, _, _, err := handshake(t, server.TLS(), client(ca.Digest(), tt.host, c.now))
			if err != nil {
				t.Errorf("handshake: %v", err)
			}
		})
	}
	t.Run("refuses another CA", func(t *testing.T) {
		other := mustCA(t, t.TempDir(), c)
		_, _, _, err := handshake(t, server.TLS(), client(other.Digest(), "10.77.0.1", c.now))
		if !errors.Is(err, ErrPin) {
			t.Errorf("err = %v, want ErrPin", err)
		}
	})
	t.Run("refuses a chain that only shows the pinned certificate", func(t *testing.T) {
		other := mustCA(t, t.TempDir(), c)
		cert, err := other.signServer(nil, []netip.Addr{netip.MustParseAddr("10.77.0.1")})
		if err != nil {
			t.Fatal(err)
		}
		cert.Certificate = append(cert.Certificate, ca.cert.Raw)
		_, _, _, err = handshake(t, &tls.Config{Certificates: []tls.Certificate{*cert}}, client(ca.Digest(), "10.77.0.1", c.now))
		var unknown x509.UnknownAuthorityError
		if !errors.As(err, &unknown) {
			t.Errorf("err = %v, want x509.UnknownAuthorityError", err)
		}
	})
	t.Run("refuses an agent's certificate as the server's", func(t *testing.T) {
		der, key := mustRequest(t)
		req, err := ParseAgentRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := ca.SignAgent(req, Agent{Machine: "web-1", BootID: strings.Repeat("a", 32)})
		if err != nil {
			t.Fatal(err)
		}
		config := &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}}
		if _, _, _, err := handshake(t, config, client(ca.Digest(), "web-1", c.now)); err == nil {
			t.Error("handshake succeeded")
		}
	})
	t.Run("refuses another name", func(t *testing.T) {
		for _, host := range []string{"other.example", "10.77.0.2"} {
			_, _, _, err := handshake(t, server.TLS(), client(ca.Digest(), host, c.now))
			var name x509.HostnameError
			if !errors.As(err, &name) {
				t.Errorf("%s: err = %v, want x509.HostnameError", host, err)
			}
		}
	})
	t.Run("a client with a wrong clock refuses, one that says it has none accepts", func(t *testing.T) {
		wrong := func() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }
		if _, _, _, err := handshake(t, server.TLS(), client(ca.Digest(), "10.77.0.1", wrong)); err == nil {
			t.Error("handshake with a clock at 2000 succeeded")
		}
		if _, _, _, err := handshake(t, server.TLS(), client(ca.Digest(), "10.77.0.1", nil)); err != nil {
			t.Errorf("handshake without a clock: %v", err)
		}
	})
	t.Run("a digest that is none is refused at once", func(t *testing.T) {
		for _, digest := range []string{"", "sha256:", "sha256:zz", strings.TrimPrefix(ca.Digest(), "sha256:")} {
			if _, err := PinnedClientTLS(digest, "10.77.0.1", c.now); err == nil {
				t.Errorf("%q was accepted", digest)
			}
		}
	})
}

func TestServerCertificate(t *testing.T) {
	c := newClock()
	ca := mustCA(t, t.TempDir(), c)
	addrs := []netip.Addr{netip.MustParseAddr("10.77.0.1")}
	server, err := ca.NewServerCertificate(nil, addrs)
	if err != nil {
		t.Fatal(err)
	}
	get := func() *tls.Certificate {
		cert, err := server.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := get()
	t.Run("the same names make no new certificate", func(t *testing.T) {
		if err := server.SetNames(nil, append(addrs, addrs...)); err != nil {
			t.Fatal(err)
		}
		if get() != first {
			t.Error("certificate changed")
		}
	})
	t.Run("other names make one", func(t *testing.T) {
		if err := server.SetNames([]string{"a.example"}, addrs); err != nil {
			t.Fatal(err)
		}
		if err := get().Leaf.VerifyHostname("a.example"); err != nil {
			t.Error(err)
		}
	})
	t.Run("it is renewed before its end", func(t *testing.T) {
		before := get()
		c.advance(serverValidity - serverRenewal - time.Minute)
		if get() != before {
			t.Error("renewed too early")
		}
		c.advance(2 * time.Minute)
		after := get()
		if after == before || !after.Leaf.NotAfter.After(c.now().Add(serverRenewal)) {
			t.Errorf("not renewed: it ends %v", after.Leaf.NotAfter)
		}
	})
	t.Run("too many names are refused", func(t *testing.T) {
		if err := server.SetNames(make([]string, maxServerNames), nil); err != nil {
			t.Errorf("the same name many times: %v", err)
		}
		var many []netip.Addr
		for a := netip.MustParseAddr("10.0.0.1"); len(many) <= maxServerNames; a = a.Next() {
			many = append(many, a)
		}
		if err := server.SetNames(nil, many); err == nil {
			t.Error("no error")
		}
	})
}

func TestPeerAgent(t *testing.T) {
	c := newClock()
	ca := mustCA(t, t.TempDir(), c)
	server, err := ca.NewServerCertificate(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	agent := Agent{Machine: "web-1.rack-2", BootID: strings.Repeat("0a", 16)}
	der, key := mustRequest(t)
	req, err := ParseAgentRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	client := func(certs ...tls.Certificate) *tls.Config {
		config, err := PinnedClientTLS(ca.Digest(), "127.0.0.1", c.now)
		if err != nil {
			t.Fatal(err)
		}
		if len(certs) > 0 {
			// Unlike Certificates, this sends one that the server did not ask for.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
		}
		return config
	}
	chain, err := ca.SignAgent(req, agent)
	if err != nil {
		t.Fatal(err)
	}
	mine := tls.Certificate{Certificate: chain, PrivateKey: key}

	t.Run("reads machine and boot from a verified certificate", func(t *testing.T) {
		state, _, serverErr, clientErr := handshake(t, server.AgentTLS(), client(mine))
		if serverErr != nil || clientErr != nil {
			t.Fatal(serverErr, clientErr)
		}
		got, err := PeerAgent(state)
		if err != nil || got != agent {
			t.Errorf("PeerAgent = %+v, %v; want %+v", got, err, agent)
		}
	})
	t.Run("a connection without one is nobody", func(t *testing.T) {
		state, _, serverErr, _ := handshake(t, server.AgentTLS(), client())
		if serverErr != nil {
			t.Fatal(serverErr)
		}
		if _, err := PeerAgent(state); !errors.Is(err, ErrNoAgent) {
			t.Errorf("err = %v, want ErrNoAgent", err)
		}
	})
	t.Run("the server's own certificate is no agent's", func(t *testing.T) {
		cert, err := server.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, serverErr, _ := handshake(t, server.AgentTLS(), client(*cert))
		if serverErr == nil {
			t.Error("handshake succeeded")
		}
	})
	t.Run("another CA's agent is refused", func(t *testing.T) {
		foreign, err := mustCA(t, t.TempDir(), c).SignAgent(req, agent)
		if err != nil {
			t.Fatal(err)
		}
		_, _, serverErr, _ := handshake(t, server.AgentTLS(), client(tls.Certificate{Certificate: foreign, PrivateKey: key}))
		if serverErr == nil {
			t.Error("handshake succeeded")
		}
	})
	t.Run("after a day it is refused", func(t *testing.T) {
		late := newClock()
		late.advance(agentValidity + time.Minute)
		config := server.AgentTLS()
		config.Time = late.now
		_, _, serverErr, _ := handshake(t, config, client(mine))
		if serverErr == nil {
			t.Error("handshake succeeded")
		}
	})
	t.Run("names that could be read as others' are not signed", func(t *testing.T) {
		for _, a := range []Agent{
			{"", agent.BootID}, {"web/boot/x", agent.BootID}, {"Web", agent.BootID}, {"../a", agent.BootID},
			{"web", ""}, {"web", "short"}, {"web", strings.Repeat("g", 32)}, {"web", strings.Repeat("a", 65)},
		} {
			if _, err := ca.SignAgent(req, a); err == nil {
				t.Errorf("%+v was signed", a)
			}
		}
	})
	t.Run("requests that are none are refused", func(t *testing.T) {
		bad := bytes.Clone(der)
		bad[len(bad)-1] ^= 1
		for _, der := range [][]byte{nil, der[:20], bad, make([]byte, maxRequestBytes+1)} {
			if _, err := ParseAgentRequest(der); err == nil {
				t.Errorf("%d bytes were accepted", len(der))
			}
		}
	})
	t.Run("the key's digest follows the key", func(t *testing.T) {
		again, err := ParseAgentRequest(der)
		if err != nil || again.KeyDigest != req.KeyDigest {
			t.Errorf("digest = %s, %v; want %s", again.KeyDigest, err, req.KeyDigest)
		}
		der, _ := mustRequest(t)
		other, err := ParseAgentRequest(der)
		if err != nil || other.KeyDigest == req.KeyDigest {
			t.Errorf("another key has the same digest (%v)", err)
		}
	})
}
