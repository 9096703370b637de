package signature

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"aead.dev/minisign"
)

// minisignDetached checks a signature of the prehashed kind, which is what
// minisign makes since 0.10; it is told by the file's digest, so the file is
// read once and not kept.
func minisignDetached(t Trust, content io.Reader, sig []byte) (string, error) {
	var key minisign.PublicKey
	if err := key.UnmarshalText(t.Keys); err != nil {
		return "", fmt.Errorf("reading the key file: %w: %w", err, ErrKey)
	}
	raw := sha256.Sum256([]byte(key.String()))
	print := strings.ToUpper(hex.EncodeToString(raw[:]))
	if !t.trusts(print) {
		return "", t.noKey([]string{print})
	}
	r := minisign.NewReader(content)
	if _, err := io.Copy(io.Discard, r); err != nil {
		return "", fmt.Errorf("reading what was signed: %w", err)
	}
	if !r.Verify(key, sig) {
		return "", errors.Join(fmt.Errorf("the file was changed, or key %X didn't sign it: %w", key.ID(), ErrSignature))
	}
	return print, nil
}
