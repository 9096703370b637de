package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// PeerTLS returns a configuration for connections between the agents of one
// server, for either end: both show the certificate that they were enrolled
// with, and both want one of the CA whose certificate has the digest. Who the
// other is, Peer says after the handshake.
func PeerTLS(caDigest string, certificate *tls.Certificate, now func() time.Time) (*tls.Config, error) {
	want, err := parseDigest(caDigest)
	if err != nil {
		return nil, err
	}
	if certificate == nil || now == nil {
		return nil, errors.New("connecting agents: a certificate and a clock are needed")
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		Certificates:         []tls.Certificate{*certificate},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil },
		// The usual checks are for host names and server certificates;
		// VerifyConnection makes those that fit agents, at both ends.
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true, //nolint:gosec // see above
		// A resumed session is verified by the same function.
		VerifyConnection: func(state tls.ConnectionState) error { return verifyPeer(state.PeerCertificates, want, now()) },
		Time:             now,
	}, nil
}

// Peer returns who is at the other end of a connection that PeerTLS's
// configuration was used for.
func Peer(state tls.ConnectionState) (Agent, error) {
	if !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return Agent{}, ErrNoAgent
	}
	return agentOf(state.PeerCertificates[0])
}

// verifyPeer checks an agent's chain against the one CA that has the digest.
func verifyPeer(chain []*x509.Certificate, want [sha256.Size]byte, at time.Time) error {
	if len(chain) == 0 {
		return ErrNoAgent
	}
	roots := x509.NewCertPool()
	found := false
	for _, cert := range chain[1:] {
		if sha256.Sum256(cert.Raw) == want {
			roots.AddCert(cert)
			found = true
		}
	}
	if !found {
		return fmt.Errorf("%w: it is an agent of another server", ErrPin)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fmt.Errorf("checking agent certificate: %w", err)
	}
	_, err = agentOf(chain[0])
	return err
}
