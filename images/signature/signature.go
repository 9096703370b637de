// Package signature checks who made a file: OpenPGP (RFC 9580, RFC 4880),
// minisign, and cosign with a key (a raw signature of the file's SHA-256). A
// key counts only by its fingerprint: a key file that comes over the network is
// as good as what it is compared with. The clock is passed in: a key that has
// expired signs nothing.
package signature

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	// MaxKey bounds a key file, in bytes: Fedora's keyring has 30 KB.
	MaxKey = 1 << 20
	// MaxSignature bounds a detached signature, in bytes.
	MaxSignature = 64 << 10
	// MaxText bounds a text that holds its own signature, in bytes.
	MaxText = 4 << 20
)

var (
	// ErrKey means that none of the keys given is one that is trusted.
	ErrKey = errors.New("no trusted key")
	// ErrExpired means that the key, or the signature, is out of date.
	ErrExpired = errors.New("expired")
	// ErrSignature means that the signature isn't one of this content by a trusted key.
	ErrSignature = errors.New("wrong signature")
)

// Trust is what a signature is checked against.
type Trust struct {
	// Kind is gpg, minisign or cosign.
	Kind string
	// Keys are public keys as files have them: armored or not, several in one.
	Keys []byte
	// Fingerprints of keys that count. Empty: all in Keys, for a key file that a person gave.
	Fingerprints []string
	// Now is when it is checked.
	Now time.Time
}

// Detached checks a detached signature of content and returns the fingerprint
// of the key that made it. Errors: ErrKey, ErrExpired, ErrSignature.
func Detached(t Trust, content io.Reader, sig []byte) (string, error) {
	if len(t.Keys) > MaxKey || len(sig) > MaxSignature {
		return "", fmt.Errorf("a key of %d and a signature of %d bytes, at most %d and %d: %w", len(t.Keys), len(sig), MaxKey, MaxSignature, ErrSignature)
	}
	switch t.Kind {
	case "gpg":
		return gpgDetached(t, content, sig)
	case "minisign":
		return minisignDetached(t, content, sig)
	case "cosign":
		return cosignDetached(t, content, sig)
	}
	return "", fmt.Errorf("signatures of kind %q: can be gpg, minisign, cosign", t.Kind)
}

// trusts reports whether a key of that fingerprint counts.
func (t Trust) trusts(fingerprint string) bool {
	return len(t.Fingerprints) == 0 || slices.ContainsFunc(t.Fingerprints, func(f string) bool {
		return strings.EqualFold(f, fingerprint)
	})
}

// noKey says which keys there are, and which there should be.
func (t Trust) noKey(have []string) error {
	if len(t.Fingerprints) == 0 {
		return fmt.Errorf("the key file has none: %w", ErrKey)
	}
	return fmt.Errorf("the key file has %s, not %s: %w", orNone(have), strings.Join(t.Fingerprints, " or "), ErrKey)
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "no key"
	}
	return strings.Join(words[:min(len(words), 5)], ", ")
}
