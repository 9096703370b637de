package trust

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

const (
	hmacKeyFile = "hmac.key"
	hmacKeySize = 32
	hmacLoss    = "machines that are booting the agent right now have to be restarted, and metadata URLs change"
)

// Key is the server's secret for what it hands out without storing it. Each
// use has a key of its own, derived by HKDF (RFC 5869).
type Key struct {
	boot, metadata, media, mediaURL []byte
}

// OpenKey loads the key that is kept in dir, or makes one.
func OpenKey(dir string, rand io.Reader) (*Key, error) {
	path := filepath.Join(dir, hmacKeyFile)
	data, err := loadOrCreate(path, func() ([]byte, error) {
		raw := make([]byte, hmacKeySize)
		if _, err := io.ReadFull(rand, raw); err != nil {
			return nil, fmt.Errorf("reading randomness: %w", err)
		}
		return []byte(hex.EncodeToString(raw) + "\n"), nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening token key: %w", err)
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(raw) != hmacKeySize {
		return nil, damaged(path, fmt.Errorf("not %d hexadecimal digits", 2*hmacKeySize), hmacLoss)
	}
	k := &Key{}
	for info, to := range map[string]*[]byte{
		"bedplate boot token": &k.boot, "bedplate metadata key": &k.metadata, "bedplate media token": &k.media, "bedplate media url": &k.mediaURL,
	} {
		if *to, err = hkdf.Key(sha256.New, raw, nil, info, sha256.Size); err != nil {
			return nil, fmt.Errorf("deriving %s: %w", info, err)
		}
	}
	return k, nil
}

// metadataEncoding is lower-case base32: the key is part of a URL that people read out.
var metadataEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// MetadataKey returns the secret part of an instance's metadata URL: 32
// characters that can't be guessed and differ for every instance, also for one
// that is made again under the same name.
func (k *Key) MetadataKey(instance, uid string) string {
	mac := hmac.New(sha256.New, k.metadata)
	mac.Write(binary.BigEndian.AppendUint32(nil, uint32(len(instance)))) // so that name and uid can't run together
	mac.Write([]byte(instance))
	mac.Write([]byte(uid))
	return metadataEncoding.EncodeToString(mac.Sum(nil)[:20])
}

// VerifyMetadataKey reports whether key is the instance's, in constant time.
func (k *Key) VerifyMetadataKey(key, instance, uid string) bool {
	return subtle.ConstantTimeCompare([]byte(key), []byte(k.MetadataKey(instance, uid))) == 1
}
