package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
)

// cosignDetached checks what `cosign sign-blob --key` makes: base64 of a
// signature of the content's SHA-256 (ECDSA in ASN.1, or RSA PKCS #1 v1.5).
// cosign signs with Ed25519 over the content itself, which would have to be
// kept in memory: that only for what is short.
func cosignDetached(t Trust, content io.Reader, sig []byte) (string, error) {
	block, _ := pem.Decode(t.Keys)
	if block == nil {
		return "", fmt.Errorf("the key file isn't PEM: %w", ErrKey)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("reading the key file: %w: %w", err, ErrKey)
	}
	sum := sha256.Sum256(block.Bytes)
	print := strings.ToUpper(hex.EncodeToString(sum[:]))
	if !t.trusts(print) {
		return "", t.noKey([]string{print})
	}
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(sig)))
	if err != nil {
		return "", fmt.Errorf("reading the signature: %w: %w", err, ErrSignature)
	}
	ok, err := signs(key, content, raw)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("the file was changed, or another key signed it: %w", ErrSignature)
	}
	return print, nil
}

func signs(key crypto.PublicKey, content io.Reader, sig []byte) (bool, error) {
	if k, ok := key.(ed25519.PublicKey); ok {
		text, err := io.ReadAll(io.LimitReader(content, MaxText+1))
		if err != nil || len(text) > MaxText {
			return false, fmt.Errorf("Ed25519 signs files of at most %d bytes here: sign a list of checksums (%w)", MaxText, ErrSignature)
		}
		return ed25519.Verify(k, text, sig), nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, content); err != nil {
		return false, fmt.Errorf("reading what was signed: %w", err)
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, h.Sum(nil), sig), nil
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, h.Sum(nil), sig) == nil, nil
	}
	return false, fmt.Errorf("a key of type %T: %w", key, ErrKey)
}
