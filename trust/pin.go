package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"
)

// ErrPin means that a server showed no certificate of the CA that the client
// was told to trust: it is another server, or the CA was made anew.
var ErrPin = errors.New("server is not the one that was pinned")

// PinnedClientTLS returns a client's configuration that trusts exactly the CA
// whose certificate has the digest (as CA.Digest writes it), and nobody else.
// The server's certificate has to be signed by it and to name host, which is
// a DNS name or an IP address, without a port.
//
// A nil now means that the client's clock can't be trusted yet (a machine with
// an empty RTC battery): the certificate's dates are then not checked. That is
// for the agent alone; the pin still holds.
func PinnedClientTLS(caDigest, host string, now func() time.Time) (*tls.Config, error) {
	want, err := parseDigest(caDigest)
	if err != nil {
		return nil, err
	}
	if host == "" {
		return nil, errors.New("pinning server: no host name or address to check its certificate for")
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: host,
		// The usual check needs the CA's certificate beforehand;
		// VerifyConnection makes all of it with the one that the server sends.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyPinned(state.PeerCertificates, want, host, now)
		},
	}
	if now != nil {
		config.Time = now
	}
	return config, nil
}

// verifyPinned checks a chain against the one CA that has the digest.
func verifyPinned(chain []*x509.Certificate, want [sha256.Size]byte, host string, now func() time.Time) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: it sent no certificate", ErrPin)
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
		return fmt.Errorf("%w: no certificate it sent has the digest sha256:%x (check that the address is right and the digest is the server's)", ErrPin, want)
	}
	leaf := chain[0]
	at := leaf.NotBefore
	if now != nil {
		at = now()
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		DNSName:     host,
		Roots:       roots,
		CurrentTime: at,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("checking server certificate: %w", err)
	}
	return nil
}
