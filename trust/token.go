package trust

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"strings"
)

const (
	// APITokenPrefix begins every API token, so that one is recognised in a
	// log, a commit or a paste.
	APITokenPrefix = "bpt_"
	// apiTokenDigits is how many base-62 digits 32 random octets take.
	apiTokenDigits = 43
	// APITokenLength is the length of every API token in characters.
	APITokenLength = len(APITokenPrefix) + apiTokenDigits
	// apiTokenShown is how much of a token is kept to recognise it by.
	apiTokenShown = len(APITokenPrefix) + 6
)

// APIToken is a token as it is at its creation, the only time that it is seen.
type APIToken struct {
	// Secret is what its holder sends.
	Secret string
	// Digest is what the server keeps, as APITokenDigest writes it.
	Digest string
	// Prefix is the first characters, to recognise it by.
	Prefix string
}

// NewAPIToken returns a token of 256 random bits.
func NewAPIToken(rand io.Reader) (APIToken, error) {
	raw := make([]byte, 32)
	if _, err := io.ReadFull(rand, raw); err != nil {
		return APIToken{}, fmt.Errorf("reading randomness: %w", err)
	}
	digits := new(big.Int).SetBytes(raw).Text(62)
	secret := APITokenPrefix + strings.Repeat("0", apiTokenDigits-len(digits)) + digits
	return APIToken{Secret: secret, Digest: APITokenDigest(secret), Prefix: secret[:apiTokenShown]}, nil
}

// IsAPIToken reports whether s has the form of an API token.
func IsAPIToken(s string) bool {
	if len(s) != APITokenLength || !strings.HasPrefix(s, APITokenPrefix) {
		return false
	}
	for _, c := range []byte(s[len(APITokenPrefix):]) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// APITokenDigest returns `sha256:` and the hexadecimal SHA-256 of a token. A
// token has 256 random bits, so that a slow hash would add nothing.
func APITokenDigest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return digestPrefix + hex.EncodeToString(sum[:])
}

// EqualDigest compares two digests in constant time.
func EqualDigest(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
