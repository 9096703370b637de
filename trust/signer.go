package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"time"
)

const (
	signerKeyFile = "erasure.key"
	signerLoss    = "records that are signed from then on show another key, under the same CA"
	signerHost    = "server"
	signerPath    = "/erasure"
)

// ErrSigner means that a signature's certificate is not one for erasure
// records of the CA or key that was to be trusted.
var ErrSigner = errors.New("it is not signed by a key that is trusted")

// ErrExpired means that a record was made outside its certificate's dates.
var ErrExpired = errors.New("its certificate was not valid when it was made")

// Signer signs erasure records: an Ed25519 key that outlives the process, and a
// certificate of the CA for it, so that who trusts the CA needs to know no more.
type Signer struct {
	key   ed25519.PrivateKey
	chain [][]byte
}

// OpenSigner loads the key that is kept in dir, or makes one. Its certificate
// is made anew each time, and ends with the CA's.
func OpenSigner(dir string, ca *CA) (*Signer, error) {
	path := filepath.Join(dir, signerKeyFile)
	data, err := loadOrCreate(path, func() ([]byte, error) { return createSignerKey(ca.rand) })
	if err != nil {
		return nil, fmt.Errorf("opening the key of erasure records: %w", err)
	}
	key, err := parseSignerKey(data)
	if err != nil {
		return nil, damaged(path, err, signerLoss)
	}
	der, err := ca.signSigner(key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return &Signer{key: key, chain: [][]byte{der, ca.cert.Raw}}, nil
}

func createSignerKey(rand io.Reader) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand)
	if err != nil {
		return nil, fmt.Errorf("making the key of erasure records: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of erasure records: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseSignerKey(data []byte) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("no single private key in it")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T, not Ed25519", parsed)
	}
	return key, nil
}

func signerURI() *url.URL { return &url.URL{Scheme: agentScheme, Host: signerHost, Path: signerPath} }

func (ca *CA) signSigner(key ed25519.PublicKey) ([]byte, error) {
	serial, err := newSerial(ca.rand)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(ca.rand, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Bedplate erasure records"},
		NotBefore: ca.now().Add(-clockSlack), NotAfter: ca.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, URIs: []*url.URL{signerURI()},
	}, ca.cert, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of erasure records: %w", err)
	}
	return der, nil
}

// Sign returns the Ed25519 signature of the message.
func (s *Signer) Sign(message []byte) []byte { return ed25519.Sign(s.key, message) }

// Chain returns the certificate of the key and the CA's, both DER.
func (s *Signer) Chain() [][]byte { return s.chain }

// KeyDigest returns `sha256:` and the SHA-256 of the public key
// (its SubjectPublicKeyInfo), by which it can be pinned without the CA.
func (s *Signer) KeyDigest() string {
	cert, err := x509.ParseCertificate(s.chain[0])
	if err != nil {
		return "" // it was made by us
	}
	return keyDigest(cert)
}

func keyDigest(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return digestPrefix + hex.EncodeToString(sum[:])
}

// SignerPins are what an erasure record's signature is held against; one of
// them has to be given.
type SignerPins struct {
	// CADigest is the CA's, as CA.Digest writes it.
	CADigest string
	// KeyDigest is the key's, as Signer.KeyDigest writes it.
	KeyDigest string
}

// VerifySigner checks the chain of certificates of a record that was made at a
// time, and returns the key that must have signed it. The errors wrap
// ErrSigner or ErrExpired.
func VerifySigner(chain [][]byte, pins SignerPins, made time.Time) (ed25519.PublicKey, error) {
	if len(chain) == 0 || len(chain) > 4 {
		return nil, fmt.Errorf("%w: it has %d certificates", ErrSigner, len(chain))
	}
	var certs []*x509.Certificate
	for _, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: reading its certificate: %v", ErrSigner, err)
		}
		certs = append(certs, cert)
	}
	leaf := certs[0]
	key, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: its key is a %T, not Ed25519", ErrSigner, leaf.PublicKey)
	}
	if err := pins.check(certs); err != nil {
		return nil, err
	}
	if made.Before(leaf.NotBefore) || made.After(leaf.NotAfter) {
		return key, fmt.Errorf("%w: it is for %s to %s, and the record is of %s", ErrExpired, leaf.NotBefore.Format(time.DateTime), leaf.NotAfter.Format(time.DateTime), made.UTC().Format(time.DateTime))
	}
	return key, nil
}

func (p SignerPins) check(certs []*x509.Certificate) error {
	leaf := certs[0]
	if p.KeyDigest != "" {
		if _, err := parseDigest(p.KeyDigest); err != nil {
			return err
		}
		if got := keyDigest(leaf); got != p.KeyDigest {
			return fmt.Errorf("%w: its key has the digest %s", ErrSigner, got)
		}
		return nil
	}
	want, err := parseDigest(p.CADigest)
	if err != nil {
		return err
	}
	for _, ca := range certs[1:] {
		if sha256.Sum256(ca.Raw) != want {
			continue
		}
		// An agent's certificate is this CA's as well, and must sign no record.
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != signerURI().String() {
			return fmt.Errorf("%w: its certificate is not one for erasure records", ErrSigner)
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return fmt.Errorf("%w: %v", ErrSigner, err)
		}
		return nil
	}
	return fmt.Errorf("%w: none of its certificates has the CA's digest %s", ErrSigner, p.CADigest)
}
