package signature

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

const armorHead = "-----BEGIN PGP"

// keyring returns the keys that count.
func (t Trust) keyring() (openpgp.EntityList, error) {
	read := openpgp.ReadKeyRing
	if bytes.Contains(t.Keys, []byte(armorHead)) {
		read = readArmored
	}
	all, err := read(bytes.NewReader(t.Keys))
	if err != nil {
		return nil, fmt.Errorf("reading the key file: %w: %w", err, ErrKey)
	}
	var ring openpgp.EntityList
	var have []string
	for _, e := range all {
		print := strings.ToUpper(hex.EncodeToString(e.PrimaryKey.Fingerprint))
		if have = append(have, print); t.trusts(print) {
			ring = append(ring, e)
		}
	}
	if len(ring) == 0 {
		return nil, t.noKey(have)
	}
	return ring, nil
}

// readArmored reads every armored block of a file: some publishers put one key after another.
func readArmored(r io.Reader) (openpgp.EntityList, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var all openpgp.EntityList
	for _, part := range strings.Split(string(text), armorHead)[1:] {
		if len(all) > 256 {
			return nil, errors.New("over 256 keys")
		}
		list, err := openpgp.ReadArmoredKeyRing(strings.NewReader(armorHead + part))
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

func (t Trust) config() *packet.Config {
	return &packet.Config{Time: func() time.Time { return t.Now }}
}

func gpgDetached(t Trust, content io.Reader, sig []byte) (string, error) {
	ring, err := t.keyring()
	if err != nil {
		return "", err
	}
	var body io.Reader = bytes.NewReader(sig)
	if bytes.HasPrefix(bytes.TrimSpace(sig), []byte(armorHead)) {
		block, err := armor.Decode(bytes.NewReader(bytes.TrimSpace(sig)))
		if err != nil {
			return "", fmt.Errorf("reading the signature: %w: %w", err, ErrSignature)
		}
		body = block.Body
	}
	signer, err := openpgp.CheckDetachedSignature(ring, content, body, t.config())
	return signedBy(signer, err)
}

// Cleartext checks a text that holds its own OpenPGP signature (RFC 9580 §7)
// and returns what was signed, and nothing around it, with the key's fingerprint.
func Cleartext(t Trust, text []byte) (signed []byte, fingerprint string, err error) {
	if len(text) > MaxText || len(t.Keys) > MaxKey {
		return nil, "", fmt.Errorf("a signed text of %d bytes, at most %d: %w", len(text), MaxText, ErrSignature)
	}
	ring, err := t.keyring()
	if err != nil {
		return nil, "", err
	}
	block, _ := clearsign.Decode(text)
	if block == nil {
		return nil, "", fmt.Errorf("the text isn't signed: %w", ErrSignature)
	}
	signer, err := block.VerifySignature(ring, t.config())
	if fingerprint, err = signedBy(signer, err); err != nil {
		return nil, "", err
	}
	return block.Plaintext, fingerprint, nil
}

func signedBy(signer *openpgp.Entity, err error) (string, error) {
	switch {
	case errors.Is(err, pgperrors.ErrKeyExpired), errors.Is(err, pgperrors.ErrSignatureExpired):
		return "", fmt.Errorf("%w: %w: take a newer release, or give the digest yourself", err, ErrExpired)
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return "", fmt.Errorf("another key has signed it: %w", ErrSignature)
	case err != nil:
		return "", fmt.Errorf("%w: %w", err, ErrSignature)
	case signer == nil:
		return "", ErrSignature
	}
	return strings.ToUpper(hex.EncodeToString(signer.PrimaryKey.Fingerprint)), nil
}
