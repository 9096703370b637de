// Package chunk says how an image is kept and sent in pieces. The server's store
// and the agent share it, and so do agents that serve one another.
//
// An image of Size bytes is cut at every multiple of [Size] (1 MiB; the last
// piece may be shorter). Pieces that are all zeros are left out. Each other one is
// a chunk, named by the SHA-256 of its plain content, so the same content is kept
// once, whatever images it is in, and a disk can be compared with an image by
// reading the disk alone. The [Index] lists them, and the SHA-256 of its encoding is
// what a workflow's plan pins: from it follows every byte that may be written.
//
// A chunk is stored, and crosses the network, as one zstd frame (RFC 8878) with
// no dictionary, or as it is where zstd saves nothing. Which of both, the lengths
// say: a stored chunk as long as its plain content is not compressed.
//
// # On the network
//
//	GET …/images/indexes/sha256:<digest of the index>   the index, as encoded
//	GET …/images/chunks/sha256:<digest of the content>  one chunk, as stored
//
// Answers carry Content-Length, and an ETag that is the digest. 404: not here.
// 429 and 503 with Retry-After: later, or from somebody else. One request a chunk:
// at 1 MiB what a request costs is hidden by a handful in flight.
//
// # Why 1 MiB
//
// It is what a disk takes in one write without losing speed, a multiple of every
// sector, page and cluster size, small enough that a hundred in flight are memory
// an agent has, and large enough that zstd loses little by starting anew with each.
// Fixed cuts, and not by content: file systems don't move what they hold between
// two versions of an image, and a disk can only be compared in place.
package chunk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Size of a chunk's plain content in bytes; that of an image's last may be less.
const Size = 1 << 20

var (
	// ErrDigest means that content isn't what its digest says.
	ErrDigest = errors.New("wrong digest")
	// ErrIndex means that an index can't be what this package wrote.
	ErrIndex = errors.New("not a valid chunk index")
)

// Digest is the SHA-256 of a chunk's plain content, or of an encoded index.
type Digest [sha256.Size]byte

// Sum is the digest of b.
func Sum(b []byte) Digest { return sha256.Sum256(b) }

// String is `sha256:` and 64 hexadecimal digits in lower case.
func (d Digest) String() string { return "sha256:" + hex.EncodeToString(d[:]) }

// ParseDigest reads what String writes, and nothing else.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != 2*len(d) || strings.ToLower(h) != h {
		return Digest{}, fmt.Errorf("%q is not sha256: and 64 hexadecimal digits", s)
	}
	if _, err := hex.Decode(d[:], []byte(h)); err != nil {
		return Digest{}, fmt.Errorf("%q is not sha256: and 64 hexadecimal digits", s)
	}
	return d, nil
}

// zeros is what a piece that is left out holds.
var zeros [Size]byte

// IsZero reports whether b, at most Size bytes, is all zeros.
func IsZero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// Encoder makes stored chunks. It may be used by several goroutines at once.
type Encoder struct{ z *zstd.Encoder }

// NewEncoder returns one that compresses at most `workers` chunks at a time.
func NewEncoder(workers int) (*Encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(workers), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("chunk: %w", err)
	}
	return &Encoder{z}, nil
}

// Encode appends plain as it is stored to dst, which may be nil.
func (e *Encoder) Encode(dst, plain []byte) []byte {
	was := len(dst)
	dst = e.z.EncodeAll(plain, dst)
	if len(dst)-was < len(plain) {
		return dst
	}
	return append(dst[:was], plain...)
}

// Decoder reads stored chunks. It may be used by several goroutines at once.
type Decoder struct{ z *zstd.Decoder }

// NewDecoder returns one that decompresses at most `workers` chunks at a time.
func NewDecoder(workers int) (*Decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(workers), zstd.WithDecoderMaxMemory(2*Size), zstd.WithDecoderMaxWindow(2*Size), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("chunk: %w", err)
	}
	return &Decoder{z}, nil
}

// Close frees what the decoder holds.
func (d *Decoder) Close() { d.z.Close() }

// Decode fills plain, whose length is that of the chunk's content, from its
// stored bytes, whoever sent them, and verifies. ErrDigest: they are not that chunk.
func (d *Decoder) Decode(plain, stored []byte, want Digest) error {
	switch {
	case len(plain) > Size || len(stored) > len(plain):
		return fmt.Errorf("chunk %s: %d bytes stored for %d: %w", want, len(stored), len(plain), ErrDigest)
	case len(stored) == len(plain):
		copy(plain, stored)
	default:
		got, err := d.z.DecodeAll(stored, plain[:0:len(plain)])
		if err != nil {
			return fmt.Errorf("chunk %s: %w: %w", want, err, ErrDigest)
		}
		if len(got) != len(plain) {
			return fmt.Errorf("chunk %s: %d bytes, not %d: %w", want, len(got), len(plain), ErrDigest)
		}
		if len(got) > 0 && &got[0] != &plain[0] { // The decoder took memory of its own.
			copy(plain, got)
		}
	}
	if got := Sum(plain); got != want {
		return fmt.Errorf("chunk %s: content has %s: %w", want, got, ErrDigest)
	}
	return nil
}
