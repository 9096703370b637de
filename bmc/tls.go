package bmc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Seen is the certificate that a BMC has shown in the connections of one session.
type Seen struct {
	mu  sync.Mutex
	pin Pin
}

// Pin returns the pin of the certificate; empty before the first connection.
func (s *Seen) Pin() Pin {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pin
}

// note keeps the first pin and returns it.
func (s *Seen) note(pin Pin) Pin {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pin == "" {
		s.pin = pin
	}
	return s.pin
}

// ClientTLS returns the configuration that checks the BMC's certificate as
// Target.TLS says, and where the certificate's pin can be read after. With an
// empty Target.TLS the certificate of the first connection is taken at its word,
// and no other is accepted by that configuration. Errors of a handshake are
// *CertificateError. now is the clock for certificates that a CA signed.
func (t Target) ClientTLS(now func() time.Time) (*tls.Config, *Seen, error) {
	host, _, err := t.HostPort(443)
	if err != nil {
		return nil, nil, err
	}
	if t.TLS.ServerName != "" {
		host = t.TLS.ServerName
	}
	seen := &Seen{}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: host,
		Time:       now,
		// BMCs sign their certificates themselves: VerifyConnection makes the
		// whole check, with the pin or the CAs, on resumed connections too.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			return t.verify(state.PeerCertificates, host, seen, now)
		},
	}, seen, nil
}

// verify checks a BMC's chain of certificates.
func (t Target) verify(chain []*x509.Certificate, host string, seen *Seen, now func() time.Time) error {
	if len(chain) == 0 {
		return &CertificateError{Address: t.Address, Reason: errors.New("it sent none")}
	}
	leaf := chain[0]
	got := PinOf(leaf)
	first := seen.note(got)
	switch {
	case t.TLS.Insecure:
		return nil
	case t.TLS.Pin != "":
		if !t.TLS.Pin.Matches(leaf) {
			return &CertificateError{Address: t.Address, Want: t.TLS.Pin, Got: got}
		}
		return nil
	case t.TLS.Roots != nil:
		if err := verifyChain(chain, host, t.TLS.Roots, now); err != nil {
			return &CertificateError{Address: t.Address, Got: got, Reason: err}
		}
		return nil
	case got != first:
		return &CertificateError{Address: t.Address, Want: first, Got: got}
	}
	return nil
}

// verifyChain checks a chain against CAs.
func verifyChain(chain []*x509.Certificate, host string, roots *x509.CertPool, now func() time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between, CurrentTime: now()})
	if err != nil {
		return fmt.Errorf("checking it against the CA: %w", err)
	}
	return nil
}
