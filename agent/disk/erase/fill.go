package erase

import (
	"encoding/binary"
	"math/rand/v2"
)

// What blocks are overwritten with.
const (
	fillZeros  = "zeros"
	fillOnes   = "ones"
	fillRandom = "random"
)

// randomPiece is the unit of random content: each is made by itself, so that
// any place can be checked alone.
const randomPiece = 64 << 10

// fill is content that every place of a disk can be compared with.
type fill struct {
	kind string
	// seed of random content.
	seed uint64
}

// at fills p with what is at an offset.
func (f fill) at(p []byte, off int64) {
	switch f.kind {
	case fillZeros:
		clear(p)
	case fillOnes:
		for i := range p {
			p[i] = 0xff
		}
	case fillRandom:
		var piece [randomPiece]byte
		for len(p) > 0 {
			f.random(&piece, off/randomPiece)
			n := copy(p, piece[off%randomPiece:])
			p, off = p[n:], off+int64(n)
		}
	}
}

// random makes one piece: ChaCha8 keyed with the seed and the piece's number.
func (f fill) random(piece *[randomPiece]byte, number int64) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], f.seed)
	binary.LittleEndian.PutUint64(key[8:], uint64(number))
	_, _ = rand.NewChaCha8(key).Read(piece[:]) // It never fails.
}
