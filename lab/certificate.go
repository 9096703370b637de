package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Names of a BMC's certificate and key in its folder.
const (
	certFile = "bmc.crt"
	keyFile  = "bmc.key"
)

// certificateLife is as long as that of a server.
const certificateLife = 10 * 365 * 24 * time.Hour

// certificate returns the self-signed certificate that a BMC is delivered
// with: the one in its folder, or one made now. An empty folder keeps none.
func certificate(dir string, ip net.IP, name string, now time.Time) (tls.Certificate, error) {
	if dir != "" {
		cert, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile))
		if err == nil && cert.Leaf.VerifyHostname(ip.String()) == nil && now.Before(cert.Leaf.NotAfter) {
			return cert, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return cert, fmt.Errorf("reading the BMC's certificate (remove %s to make it anew): %w", filepath.Join(dir, certFile), err)
		}
	}
	certPEM, keyPEM, err := makeCertificate(ip, name, now)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the BMC's certificate: %w", err)
	}
	if dir != "" {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, certFile), certPEM, 0o644), os.WriteFile(filepath.Join(dir, keyFile), keyPEM, 0o600)); err != nil {
			return tls.Certificate{}, fmt.Errorf("keeping the BMC's certificate: %w", err)
		}
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}

func makeCertificate(ip net.IP, name string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name + "-bmc", Organization: []string{manufacturer + " " + product}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IPAddresses: []net.IP{ip}, DNSNames: []string{name + "-bmc"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}
