package erase

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/bedplate/bedplate/agent/disk"
)

const (
	// sampleSize is how much is read at each place.
	sampleSize = 4096
	// endsRead is how much of either end is read in any case: partition tables,
	// superblocks and the metadata of arrays are there.
	endsRead = 1 << 20
	// readPiece is the length of one read where everything is read.
	readPiece = 4 << 20
)

// What was found where a method's effect was read back.
const (
	foundChanged = "changed"
	foundNothing = ""
)

var (
	ones  = bytes.Repeat([]byte{0xff}, sampleSize)
	zeros = make([]byte, sampleSize)
)

// places returns where a disk is read: its ends, then at random. The random
// ones are those of PCG seeded with seed and the disk's size.
func places(size int64, samples int, seed uint64) []int64 {
	var out []int64
	last := max(0, (size-1)/sampleSize)
	for off := int64(0); off < endsRead && off/sampleSize <= last; off += sampleSize {
		out = append(out, off)
	}
	for i := max(last-endsRead/sampleSize+1, int64(len(out))); i <= last; i++ {
		out = append(out, i*sampleSize)
	}
	r := rand.New(rand.NewPCG(seed, uint64(size)))
	for range samples {
		out = append(out, r.Int64N(last+1)*sampleSize)
	}
	return out
}

// prints are the digests of what was at each place before; a place that read
// as nothing but zeros or ones, or not at all, is absent.
type prints map[int64][sha256.Size]byte

// maxUnreadable is how many places may fail to be read beforehand. A dying disk
// takes half a minute over each.
const maxUnreadable = 8

// fingerprint reads every place, and reports whether that was possible. The
// disk may be locked, broken, or in the middle of something.
func fingerprint(ctx context.Context, m Medium, at []int64) (prints, bool) {
	out, unreadable := prints{}, 0
	buf := disk.Aligned(sampleSize)
	for _, off := range at {
		if ctx.Err() != nil {
			return nil, false
		}
		b, err := readPlace(m, buf, off)
		switch {
		case err != nil:
			if unreadable++; unreadable > maxUnreadable {
				return nil, false
			}
		case uniform(b) == foundNothing:
			out[off] = sha256.Sum256(b)
		}
	}
	return out, unreadable == 0
}

func readPlace(m Medium, buf []byte, off int64) ([]byte, error) {
	b := buf[:min(int64(len(buf)), m.Size()-off)]
	if _, err := m.ReadDirect(b, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading back at offset %d: %w", off, err)
	}
	return b, nil
}

// uniform returns zeros or ones where b holds nothing else.
func uniform(b []byte) string {
	found := foundNothing
	for len(b) > 0 {
		piece := b[:min(len(b), sampleSize)]
		b = b[len(piece):]
		switch {
		case bytes.Equal(piece, zeros[:len(piece)]) && found != fillOnes:
			found = fillZeros
		case bytes.Equal(piece, ones[:len(piece)]) && found != fillZeros:
			found = fillOnes
		default:
			return foundNothing
		}
	}
	return found
}

// errStillThere means that a disk holds what it held before.
var errStillThere = errors.New("the disk still holds what it held before")

// errUncertain means that what is read can't be told from old content.
var errUncertain = errors.New("what the disk holds can't be told from old content")

// sample reads the places and compares: with the fill where there is one, else
// everything that isn't just zeros or ones must have changed.
func sample(ctx context.Context, m Medium, at []int64, f *fill, before prints, known bool, done advance) (Verification, error) {
	v := Verification{kind: verifySample, samples: len(at)}
	buf, want := disk.Aligned(sampleSize), make([]byte, sampleSize)
	for i, off := range at {
		if ctx.Err() != nil {
			return v, stopped(ctx)
		}
		b, err := readPlace(m, buf, off)
		if err != nil {
			return v, err
		}
		v.bytes += int64(len(b))
		var found string
		if f != nil {
			found = f.kind
			if f.at(want[:len(b)], off); !bytes.Equal(b, want[:len(b)]) {
				return v, fmt.Errorf("offset %d doesn't hold the %s that it should", off, f.kind)
			}
		} else if found, err = compare(b, off, before, known); err != nil {
			return v, err
		}
		v.add(found)
		done(float64(i+1) / float64(len(at)))
	}
	return v, nil
}

func compare(b []byte, off int64, before prints, known bool) (string, error) {
	if found := uniform(b); found != foundNothing {
		return found, nil
	}
	if was, ok := before[off]; ok && was == sha256.Sum256(b) {
		return "", fmt.Errorf("%w at offset %d", errStillThere, off)
	}
	if !known {
		return "", fmt.Errorf("%w at offset %d", errUncertain, off)
	}
	return foundChanged, nil
}

// readAll reads every block and compares it with the fill, or where there is
// none wants nothing but zeros or ones.
func readAll(ctx context.Context, m Medium, f *fill, done advance) (Verification, error) {
	v := Verification{kind: verifyFull}
	buf := disk.Aligned(int(min(readPiece, m.Size())))
	var want []byte
	if f != nil {
		want = make([]byte, len(buf))
		f.at(want, 0)
	}
	for off := int64(0); off < m.Size(); {
		if ctx.Err() != nil {
			return v, stopped(ctx)
		}
		b, err := readPlace(m, buf, off)
		if err != nil {
			return v, err
		}
		if f != nil {
			if f.kind == fillRandom {
				f.at(want[:len(b)], off)
			}
			if !bytes.Equal(b, want[:len(b)]) {
				return v, fmt.Errorf("offset %d doesn't hold the %s that it should", off+int64(differs(b, want)), f.kind)
			}
			v.add(f.kind)
		} else if err := v.addPieces(b, off); err != nil {
			return v, err
		}
		off += int64(len(b))
		v.bytes = off
		done(float64(off) / float64(m.Size()))
	}
	return v, nil
}

// addPieces takes up content of which each piece is zeros or ones.
func (v *Verification) addPieces(b []byte, off int64) error {
	for i := 0; i < len(b); i += sampleSize {
		found := uniform(b[i:min(len(b), i+sampleSize)])
		if found == foundNothing {
			return fmt.Errorf("%w at offset %d", errUncertain, off+int64(i))
		}
		v.add(found)
	}
	return nil
}

func differs(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// add takes up what was found at one place.
func (v *Verification) add(found string) {
	switch {
	case v.result == foundNothing || v.result == found:
		v.result = found
	default:
		v.result = foundChanged
	}
}
