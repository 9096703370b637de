// Package checksum reads the lists of digests that publishers put beside their
// images: GNU coreutils' (`HEX  NAME`, `HEX *NAME`), BSD's (`SHA256 (NAME) = HEX`),
// and a lone digest. SHA-256 and SHA-512 count; what is weaker is passed over.
package checksum

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"path"
	"regexp"
	"strings"
)

// MaxList bounds a list, in bytes.
const MaxList = 4 << 20

var (
	// ErrNotListed means that a list has no digest of the file.
	ErrNotListed = errors.New("not in the list of checksums")
	// ErrAmbiguous means that a list has two digests of one file.
	ErrAmbiguous = errors.New("the list of checksums contradicts itself")
)

// Digest is a digest by its algorithm: `sha256:` or `sha512:` and hexadecimal digits.
type Digest string

// Hash returns a new hash of the digest's algorithm.
func (d Digest) Hash() hash.Hash {
	if strings.HasPrefix(string(d), "sha512:") {
		return sha512.New()
	}
	return sha256.New()
}

// Is reports whether h, of the digest's algorithm, has come to it.
func (d Digest) Is(h hash.Hash) bool { return d == of(hex.EncodeToString(h.Sum(nil))) }

// ParseDigest reads `sha256:HEX` or `sha512:HEX`.
func ParseDigest(s string) (Digest, error) {
	_, h, _ := strings.Cut(s, ":")
	if d := of(strings.ToLower(h)); d != "" && string(d) == strings.ToLower(s) {
		return d, nil
	}
	return "", fmt.Errorf("%q: want sha256: and 64 hexadecimal digits, or sha512: and 128", s)
}

// of returns the digest that hexadecimal digits are by their number; empty: none that counts.
func of(digits string) Digest {
	if _, err := hex.DecodeString(digits); err != nil {
		return ""
	}
	switch len(digits) {
	case 2 * sha256.Size:
		return Digest("sha256:" + digits)
	case 2 * sha512.Size:
		return Digest("sha512:" + digits)
	}
	return ""
}

var (
	bsdLine = regexp.MustCompile(`^SHA(?:256|512) \((.+)\) = ([0-9a-fA-F]+)$`)
	gnuLine = regexp.MustCompile(`^\\?([0-9a-fA-F]+)(?:[ \t]+[ *]?(.+))?$`)
)

// Find returns the digest that a list has of a file, by the last element of its
// path; the stronger one of two algorithms. A list of one digest without a name
// is about the file it lies beside. Errors: ErrNotListed, ErrAmbiguous.
func Find(list []byte, file string) (Digest, error) {
	if len(list) > MaxList {
		return "", fmt.Errorf("a list of checksums of %d bytes, at most %d", len(list), MaxList)
	}
	found := map[int]Digest{}
	for line := range strings.Lines(string(list)) {
		name, d := parseLine(strings.TrimSpace(line))
		if d == "" || name != "" && path.Base(name) != file {
			continue
		}
		if old, ok := found[len(d)]; ok && old != d {
			return "", fmt.Errorf("%s is %s and %s: %w", file, old, d, ErrAmbiguous)
		}
		found[len(d)] = d
	}
	var best Digest
	for _, d := range found {
		if len(d) > len(best) {
			best = d
		}
	}
	if best == "" {
		return "", fmt.Errorf("%s: %w", file, ErrNotListed)
	}
	return best, nil
}

func parseLine(line string) (name string, d Digest) {
	if m := bsdLine.FindStringSubmatch(line); m != nil {
		return m[1], of(strings.ToLower(m[2]))
	}
	if m := gnuLine.FindStringSubmatch(line); m != nil {
		return m[2], of(strings.ToLower(m[1]))
	}
	return "", ""
}
