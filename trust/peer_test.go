package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// peerCertificate is what an agent is given when it enrols.
func peerCertificate(t *testing.T, ca *CA) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	req, err := ParseAgentRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.SignAgent(req, Agent{Machine: "node1", BootID: "0123456789abcdef"})
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key}
}

// shakeHands connects two ends and returns who the listening one saw.
func shakeHands(t *testing.T, listening, connecting *tls.Config) (Agent, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go func() {
		c := tls.Client(b, connecting)
		if err := c.Handshake(); err != nil {
			b.Close()
			return
		}
		var one [1]byte
		_, _ = c.Read(one[:]) // until the other end closes
	}()
	c := tls.Server(a, listening)
	if err := c.HandshakeContext(t.Context()); err != nil {
		return Agent{}, err
	}
	return Peer(c.ConnectionState())
}

func TestPeerTLS(t *testing.T) {
	open := func() *CA {
		ca, err := OpenCA(t.TempDir(), rand.Reader, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	ours, theirs := open(), open()
	config := func(ca *CA, certificate *tls.Certificate, now func() time.Time) *tls.Config {
		c, err := PeerTLS(ca.Digest(), certificate, now)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := config(ours, peerCertificate(t, ours), time.Now)
	t.Run("two agents of one server know each other", func(t *testing.T) {
		who, err := shakeHands(t, good, good)
		if err != nil || who.Machine != "node1" {
			t.Errorf("%+v, %v", who, err)
		}
	})
	t.Run("an agent of another server is refused", func(t *testing.T) {
		// It trusts ours, to come this far.
		if who, err := shakeHands(t, good, config(ours, peerCertificate(t, theirs), time.Now)); !errors.Is(err, ErrPin) {
			t.Errorf("%+v, %v", who, err)
		}
	})
	t.Run("one without a certificate is refused", func(t *testing.T) {
		none := good.Clone()
		none.Certificates, none.GetClientCertificate = nil, nil
		if who, err := shakeHands(t, good, none); err == nil {
			t.Errorf("it is %+v", who)
		}
	})
	t.Run("one whose certificate has run out is refused", func(t *testing.T) {
		later := config(ours, peerCertificate(t, ours), func() time.Time { return time.Now().Add(agentValidity + time.Hour) })
		if who, err := shakeHands(t, later, good); err == nil {
			t.Errorf("it is %+v", who)
		}
	})
	t.Run("the server's own certificate is no agent's", func(t *testing.T) {
		cert, err := ours.NewServerCertificate([]string{"server"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
		if err != nil {
			t.Fatal(err)
		}
		tlsOfServer := cert.TLS()
		own, err := tlsOfServer.GetCertificate(&tls.ClientHelloInfo{ServerName: "server"})
		if err != nil {
			t.Fatal(err)
		}
		if who, err := shakeHands(t, good, config(ours, own, time.Now)); err == nil {
			t.Errorf("it is %+v", who)
		}
	})
}
