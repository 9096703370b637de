package trust

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/bedplate/bedplate/machine"
)

const (
	mediaTokenPrefix  = "bpm_"
	mediaTokenVersion = 1
	mediaIDSize       = 8
	mediaHeaderSize   = 1 + 4 + mediaIDSize
	mediaTagSize      = 16
	mediaURLTagSize   = 12
	maxMediaToken     = len(mediaTokenPrefix) + (mediaHeaderSize+maxMachineName+mediaTagSize+2)/3*4
)

var (
	// ErrForeignMedium means that a boot medium isn't one of this server's: it
	// was altered, or another server made it.
	ErrForeignMedium = errors.New("this boot medium is not this server's: make one for this machine (`bedplate machine media`), or have its BMC insert it")
	// ErrExpiredMedium means that a boot medium was this server's, and is too old.
	ErrExpiredMedium = errors.New("this boot medium has expired: make a new one (`bedplate machine media`), or have the BMC insert it anew")
)

// MediaToken is what a boot medium enrols with. Unlike a boot token it is good
// for any number of boots; whoever redeems it has to look up that the medium
// with that ID has not been taken out since.
type MediaToken struct {
	Machine machine.Name
	// ID is 16 hexadecimal digits, the medium's own.
	ID string
	// Expires has a resolution of one second.
	Expires time.Time
}

// MediaTokens makes and checks the tokens of boot media and the secret parts of
// their URLs. Neither tells the other.
type MediaTokens struct {
	token, url []byte
	rand       io.Reader
}

// MediaTokens returns the maker of media tokens.
func (k *Key) MediaTokens(rand io.Reader) *MediaTokens {
	return &MediaTokens{token: k.media, url: k.mediaURL, rand: rand}
}

// NewID returns the ID of a new medium.
func (m *MediaTokens) NewID() (string, error) {
	var id [mediaIDSize]byte
	if _, err := io.ReadFull(m.rand, id[:]); err != nil {
		return "", fmt.Errorf("reading randomness: %w", err)
	}
	return hex.EncodeToString(id[:]), nil
}

// body is what both kinds of secrets are made over:
// expiry in Unix seconds, ID, name.
func (t MediaToken) body() ([]byte, error) {
	id, err := hex.DecodeString(t.ID)
	if err != nil || len(id) != mediaIDSize {
		return nil, fmt.Errorf("medium id %.40q is not %d hexadecimal digits", t.ID, 2*mediaIDSize)
	}
	if t.Machine == "" || len(t.Machine) > maxMachineName {
		return nil, fmt.Errorf("machine name of %d characters, want 1 to %d", len(t.Machine), maxMachineName)
	}
	expires := t.Expires.Unix()
	if expires < 0 || expires > math.MaxUint32 {
		return nil, fmt.Errorf("no expiry after %s can be written: set the clock", t.Expires.Format(time.DateOnly))
	}
	raw := append(make([]byte, 0, mediaHeaderSize+len(t.Machine)+mediaTagSize), mediaTokenVersion)
	raw = binary.BigEndian.AppendUint32(raw, uint32(expires))
	raw = append(raw, id...)
	return append(raw, t.Machine...), nil
}

// Mint returns the token's text. The same token has the same text.
func (m *MediaTokens) Mint(t MediaToken) (string, error) {
	raw, err := t.body()
	if err != nil {
		return "", fmt.Errorf("making media token: %w", err)
	}
	raw = append(raw, tag(m.token, raw, mediaTagSize)...)
	return mediaTokenPrefix + base64.RawURLEncoding.EncodeToString(raw), nil
}

// IsMediaToken reports whether a token says that it is a boot medium's.
func IsMediaToken(token string) bool { return strings.HasPrefix(token, mediaTokenPrefix) }

// Verify returns what the token says if it is one of this server's and has not
// expired. The errors wrap ErrForeignMedium or ErrExpiredMedium; with the second
// one the token is returned as well.
func (m *MediaTokens) Verify(token string, now time.Time) (MediaToken, error) {
	text, ok := strings.CutPrefix(token, mediaTokenPrefix)
	// encoding/base64 passes over line ends, which would make one token many.
	if !ok || len(token) > maxMediaToken || strings.ContainsAny(text, "\r\n") {
		return MediaToken{}, ErrForeignMedium
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) <= mediaHeaderSize+mediaTagSize {
		return MediaToken{}, ErrForeignMedium
	}
	body, sum := raw[:len(raw)-mediaTagSize], raw[len(raw)-mediaTagSize:]
	if !hmac.Equal(sum, tag(m.token, body, mediaTagSize)) || body[0] != mediaTokenVersion {
		return MediaToken{}, ErrForeignMedium
	}
	t := MediaToken{
		Expires: time.Unix(int64(binary.BigEndian.Uint32(body[1:])), 0).UTC(),
		ID:      hex.EncodeToString(body[5:mediaHeaderSize]),
		Machine: machine.Name(body[mediaHeaderSize:]),
	}
	if !now.Before(t.Expires) {
		return t, fmt.Errorf("%w (it was for %s and ended %s ago)", ErrExpiredMedium, t.Machine, now.Sub(t.Expires).Round(time.Second))
	}
	return t, nil
}

// URLKey returns the part of a medium's URL that can't be guessed: 32 lower-case
// letters and digits, of which the first 8 octets are the ID.
func (m *MediaTokens) URLKey(t MediaToken) (string, error) {
	body, err := t.body()
	if err != nil {
		return "", fmt.Errorf("making media URL: %w", err)
	}
	id := body[5:mediaHeaderSize:mediaHeaderSize]
	return metadataEncoding.EncodeToString(append(id, tag(m.url, body, mediaURLTagSize)...)), nil
}

// URLID returns the ID of the medium that a URLKey says it is for. Nothing is
// proved by that: the medium's own URLKey has to be compared.
func URLID(key string) (string, bool) {
	raw, err := metadataEncoding.DecodeString(key)
	if err != nil || len(raw) != mediaIDSize+mediaURLTagSize {
		return "", false
	}
	return hex.EncodeToString(raw[:mediaIDSize]), true
}

// VerifyURLKey reports whether key is the medium's, in constant time.
func (m *MediaTokens) VerifyURLKey(key string, t MediaToken) bool {
	want, err := m.URLKey(t)
	return err == nil && hmac.Equal([]byte(key), []byte(want))
}

// tag is the first n octets of the HMAC-SHA-256 of body.
func tag(key, body []byte, n int) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(body)
	return mac.Sum(nil)[:n]
}
