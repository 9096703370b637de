package images

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/bedplate/bedplate/images/chunk"
)

// Verified is what Verify has found. Lengths are in bytes.
type Verified struct {
	Chunks int
	Data   int64
	// Damaged are the offsets on the disk of chunks that are missing or wrong, at most maxDamaged.
	Damaged []int64
	// Bad is how many there are.
	Bad int
}

const maxDamaged = 16

// Verify reads everything of an image: an index and all its chunks, or a whole
// file. A chunk that is wrong isn't served any more. report is told after each chunk.
func (s *Store) Verify(ctx context.Context, digest, index string, report func(done, total int)) (Verified, error) {
	if index == "" {
		return s.verifyFile(ctx, digest)
	}
	d, err := chunk.ParseDigest(index)
	if err != nil {
		return Verified{}, err
	}
	x, err := s.chunks.index(d)
	if err != nil {
		return Verified{}, err
	}
	decoder, err := chunk.NewDecoder(1)
	if err != nil {
		return Verified{}, err
	}
	defer decoder.Close()
	v := Verified{Chunks: len(x.Entries), Data: x.DataSize()}
	plain := make([]byte, chunk.Size)
	for i, e := range x.Entries {
		if err := context.Cause(ctx); err != nil {
			return v, err
		}
		if err := s.chunks.read(e, plain[:x.Length(e)], decoder); err != nil {
			s.log.Error("a chunk is damaged", "image", index, "err", err)
			s.chunks.spoil(e.Digest)
			if v.Bad++; len(v.Damaged) < maxDamaged {
				v.Damaged = append(v.Damaged, e.Offset())
			}
		}
		report(i+1, len(x.Entries))
	}
	return v, nil
}

func (s *Store) verifyFile(ctx context.Context, digest string) (Verified, error) {
	f, c, err := s.Get(digest)
	if err != nil {
		return Verified{}, err
	}
	defer f.Close()
	v := Verified{Data: c.Size}
	_, err = copyContent(ctx, io.Discard, f, Expect{Digest: digest})
	if errors.Is(err, ErrDigest) {
		v.Bad, v.Damaged, err = 1, []int64{0}, nil
	}
	return v, err
}

// Err says what is wrong, for people.
func (v Verified) Err() error {
	switch {
	case v.Bad == 0:
		return nil
	case v.Chunks == 0:
		return errors.New("its file has changed: import it again")
	}
	return fmt.Errorf("%d of %d chunks are missing or damaged, the first at offset %d of the disk: import it again, which writes them anew", v.Bad, v.Chunks, v.Damaged[0])
}
