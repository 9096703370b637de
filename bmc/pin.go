package bmc

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
)

// Pin is the SHA-256 of a certificate, or of the public key in it, as `sha256:`
// and 64 hexadecimal digits. The empty Pin pins nothing.
type Pin string

const pinPrefix = "sha256:"

// ParsePin reads a digest with or without `sha256:` in front, in either case and
// with or without colons, as openssl x509 -fingerprint and browsers write it.
func ParsePin(s string) (Pin, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	if text == "" {
		return "", nil
	}
	if _, after, ok := strings.Cut(text, "="); ok { // openssl: "sha256 Fingerprint=AB:CD:…"
		text = after
	}
	text = strings.ReplaceAll(strings.TrimPrefix(text, pinPrefix), ":", "")
	if b, err := hex.DecodeString(text); err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("pin %q: want sha256: and 64 hexadecimal digits, as `openssl x509 -noout -fingerprint -sha256` prints them", s)
	}
	return Pin(pinPrefix + text), nil
}

// PinOf returns the pin of a certificate's public key (its
// SubjectPublicKeyInfo): a certificate renewed with the same key keeps it.
func PinOf(cert *x509.Certificate) Pin {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return Pin(pinPrefix + hex.EncodeToString(sum[:]))
}

// Matches reports whether p is the digest of cert or of its public key.
func (p Pin) Matches(cert *x509.Certificate) bool {
	whole := sha256.Sum256(cert.Raw)
	return p == PinOf(cert) || p == Pin(pinPrefix+hex.EncodeToString(whole[:]))
}
