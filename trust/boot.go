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
	// BootTokenValidity is how long a boot token is good for unless said
	// otherwise: firmware, kernel and agent together take some minutes.
	BootTokenValidity = 15 * time.Minute

	bootTokenPrefix  = "bpb_"
	bootTokenVersion = 1
	bootHeaderSize   = 1 + 4 + 8 + 6
	bootTagSize      = 16
	// maxMachineName is the limit of Metadata.name.
	maxMachineName = 253
	maxBootToken   = len(bootTokenPrefix) + (bootHeaderSize+maxMachineName+bootTagSize+2)/3*4
)

var (
	// ErrForeignToken means that a boot token isn't one of this server's: it
	// was cut or altered, or another server made it.
	ErrForeignToken = errors.New("boot token is not this server's: restart the machine so that it gets a new one; if it comes back, look for a second server on its network")
	// ErrExpiredToken means that a boot token was this server's, and is too old.
	ErrExpiredToken = errors.New("boot token has expired: restart the machine so that it gets a new one")
)

// BootToken is what a boot token says.
type BootToken struct {
	// Machine is who may enrol with it; empty when the machine is yet to be discovered.
	Machine machine.Name
	// MAC is the address that the machine asked from; zero when it wasn't told.
	MAC machine.MAC
	// Expires has a resolution of one second.
	Expires time.Time
	// ID is random: whoever redeems the token records it, so that it is used once.
	ID string
}

// Discover reports whether the token is for a machine that has no name yet.
func (t BootToken) Discover() bool { return t.Machine == "" }

// Subject returns the machine's name, or `discover:` and its MAC address.
func (t BootToken) Subject() string {
	if t.Discover() {
		return "discover:" + t.MAC.String()
	}
	return string(t.Machine)
}

// BootTokens makes and checks the one-time tokens that machines boot with.
type BootTokens struct {
	key      []byte
	rand     io.Reader
	validity time.Duration
}

// BootTokens returns the maker of boot tokens; a validity of 0 means BootTokenValidity.
func (k *Key) BootTokens(rand io.Reader, validity time.Duration) *BootTokens {
	if validity <= 0 {
		validity = BootTokenValidity
	}
	return &BootTokens{key: k.boot, rand: rand, validity: validity}
}

// Mint returns a token for a machine that is good from now on. With an empty
// name it is for the discovery of the machine with that MAC address.
func (b *BootTokens) Mint(name machine.Name, mac machine.MAC, now time.Time) (string, error) {
	switch {
	case len(name) > maxMachineName:
		return "", fmt.Errorf("making boot token: machine name of %d characters, at most %d", len(name), maxMachineName)
	case name == "" && mac.IsZero():
		return "", errors.New("making boot token: neither a machine name nor a MAC address")
	}
	expires := now.Add(b.validity).Unix()
	if expires < 0 || expires > math.MaxUint32 {
		return "", fmt.Errorf("making boot token: no expiry after %s can be written: set the clock", now.Format(time.DateOnly))
	}
	var id [8]byte
	if _, err := io.ReadFull(b.rand, id[:]); err != nil {
		return "", fmt.Errorf("reading randomness: %w", err)
	}
	raw := make([]byte, 0, bootHeaderSize+len(name)+bootTagSize)
	raw = append(raw, bootTokenVersion)
	raw = binary.BigEndian.AppendUint32(raw, uint32(expires))
	raw = append(raw, id[:]...)
	raw = append(raw, mac[:]...)
	raw = append(raw, name...)
	raw = append(raw, b.tag(raw)...)
	return bootTokenPrefix + base64.RawURLEncoding.EncodeToString(raw), nil
}

// Verify returns what the token says if it is one of this server's and still
// good. The errors wrap ErrForeignToken or ErrExpiredToken; with the second
// one the token is returned as well, so that the caller can say whose it was.
func (b *BootTokens) Verify(token string, now time.Time) (BootToken, error) {
	text, ok := strings.CutPrefix(token, bootTokenPrefix)
	// encoding/base64 passes over line ends, which would make one token many.
	if !ok || len(token) > maxBootToken || strings.ContainsAny(text, "\r\n") {
		return BootToken{}, ErrForeignToken
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < bootHeaderSize+bootTagSize {
		return BootToken{}, ErrForeignToken
	}
	body, tag := raw[:len(raw)-bootTagSize], raw[len(raw)-bootTagSize:]
	if !hmac.Equal(tag, b.tag(body)) || body[0] != bootTokenVersion {
		return BootToken{}, ErrForeignToken
	}
	t := BootToken{
		Expires: time.Unix(int64(binary.BigEndian.Uint32(body[1:])), 0).UTC(),
		ID:      hex.EncodeToString(body[5:13]),
		MAC:     machine.MAC(body[13:19]),
		Machine: machine.Name(body[19:]),
	}
	if !now.Before(t.Expires) {
		return t, fmt.Errorf("%w (it was for %s and ended %s ago)", ErrExpiredToken, t.Subject(), now.Sub(t.Expires).Round(time.Second))
	}
	return t, nil
}

// tag authenticates the rest of a token.
func (b *BootTokens) tag(body []byte) []byte {
	mac := hmac.New(sha256.New, b.key)
	mac.Write(body)
	return mac.Sum(nil)[:bootTagSize]
}
