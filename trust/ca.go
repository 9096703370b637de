package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	caValidity = 10 * 365 * 24 * time.Hour
	// clockSlack is how far certificates are dated back, for peers whose clock is slow.
	clockSlack = time.Hour

	caKeyFile  = "ca.key"
	caCertFile = "ca.crt"
	caLoss     = "clients and agents then have to be told the new CA digest"
)

// CA is the server's certificate authority.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	rand io.Reader
	now  func() time.Time
}

// OpenCA loads the certificate authority that is kept in dir, or makes one:
// ECDSA P-256, valid for ten years. rand and now are kept for what it signs.
func OpenCA(dir string, rand io.Reader, now func() time.Time) (*CA, error) {
	path := filepath.Join(dir, caKeyFile)
	data, err := loadOrCreate(path, func() ([]byte, error) { return createCA(rand, now()) })
	if err != nil {
		return nil, fmt.Errorf("opening certificate authority: %w", err)
	}
	ca := &CA{rand: rand, now: now}
	if ca.key, ca.cert, err = parseCA(data); err != nil {
		return nil, damaged(path, err, caLoss)
	}
	if now().After(ca.cert.NotAfter) {
		return nil, fmt.Errorf("certificate authority in %s expired on %s: check this machine's clock; if it is right, move the file away and start again (%s)",
			path, ca.cert.NotAfter.Format(time.DateOnly), caLoss)
	}
	// The copy for people follows the key file, whatever happened to it.
	public := filepath.Join(dir, caCertFile)
	if have, err := os.ReadFile(public); err != nil || !bytes.Equal(have, ca.PEM()) {
		if err := writeFile(public, ca.PEM(), 0o644); err != nil {
			return nil, err
		}
	}
	return ca, nil
}

// createCA returns a new key and its self-signed certificate in one PEM text,
// so that there is no moment at which only one of them is on disk.
func createCA(rand io.Reader, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, fmt.Errorf("making CA key: %w", err)
	}
	serial, err := newSerial(rand)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Bedplate CA " + serial.Text(16)[:8]},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              now.Add(caValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, err := x509.CreateCertificate(rand, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making CA certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding CA key: %w", err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...), nil
}

// parseCA reads what createCA wrote.
func parseCA(data []byte) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	first, rest := pem.Decode(data)
	if first == nil || first.Type != "PRIVATE KEY" {
		return nil, nil, errors.New("no private key in it")
	}
	second, rest := pem.Decode(rest)
	if second == nil || second.Type != "CERTIFICATE" {
		return nil, nil, errors.New("no certificate in it")
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, nil, errors.New("something after the certificate")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(first.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("the key is a %T, not ECDSA", parsed)
	}
	cert, err := x509.ParseCertificate(second.Bytes)
	if err != nil {
		return nil, nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errors.New("the certificate is for another key")
	}
	if !cert.IsCA {
		return nil, nil, errors.New("the certificate is not a CA's")
	}
	return key, cert, nil
}

// newSerial returns a positive random number of 127 bits (RFC 5280 §4.1.2.2).
func newSerial(rand io.Reader) (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(rand, b); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}

// Digest returns what a client pins the CA by: `sha256:` and the hexadecimal
// SHA-256 of the certificate's DER form.
func (ca *CA) Digest() string { return CertificateDigest(ca.cert) }

// PEM returns the CA's certificate for clients that want it whole.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Pool returns a new pool with the CA's certificate alone, for tls.Config's
// RootCAs and ClientCAs.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// CertificateDigest returns `sha256:` and the hexadecimal SHA-256 of the
// certificate's DER form.
func CertificateDigest(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return digestPrefix + hex.EncodeToString(sum[:])
}

const digestPrefix = "sha256:"

// parseDigest reads the form that CertificateDigest writes.
func parseDigest(s string) ([sha256.Size]byte, error) {
	var out [sha256.Size]byte
	text, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(s)), digestPrefix)
	raw, err := hex.DecodeString(text)
	if !ok || err != nil || len(raw) != len(out) {
		return out, fmt.Errorf("CA digest %q is not `sha256:` and 64 hexadecimal digits: take it from the server's start-up message", s)
	}
	return [sha256.Size]byte(raw), nil
}
