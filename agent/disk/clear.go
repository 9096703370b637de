package disk

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/bedplate/bedplate/agent/disk/partition"
)

const (
	// ends is how much of either end is cleared to make signatures go: it covers
	// both GPTs, boot code, every superblock in signature.go, both LUKS2 headers,
	// and LVM's metadata.
	ends = 4 << 20
	// writePiece is the length of one write of zeros.
	writePiece = 4 << 20
)

// btrfsMirrors are where btrfs keeps further superblocks, which its tools find
// when the first is gone.
var btrfsMirrors = []int64{64 << 20, 256 << 30}

// Clearer is what clearing needs of a disk; *Device is one.
type Clearer interface {
	io.ReaderAt
	io.WriterAt
	ZeroRange(off, n int64) (bool, error)
	Size() int64
	BlockSize() int
}

// Clear makes a range read as zeros, by the device's own means where it has
// them. done is called with the bytes that each piece cleared.
func Clear(ctx context.Context, d Clearer, off, n int64, done func(int64)) error {
	var zeros []byte
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		piece := min(n, zeroPiece)
		ok, err := d.ZeroRange(off, piece)
		if err != nil {
			return err
		}
		if !ok {
			if zeros == nil {
				zeros = Aligned(int(min(n, writePiece)))
			}
			piece = min(n, int64(len(zeros)))
			if _, err := d.WriteAt(zeros[:piece], off); err != nil {
				return err
			}
		}
		off, n = off+piece, n-piece
		if done != nil {
			done(piece)
		}
	}
	return nil
}

// ClearEnds clears what could be recognised at the ends of a whole disk.
func ClearEnds(ctx context.Context, d Clearer) error { return clearEnds(ctx, d, 0, d.Size()) }

// clearEnds clears what could be recognised in one range of a disk.
func clearEnds(ctx context.Context, d Clearer, off, n int64) error {
	if n <= 2*ends {
		return Clear(ctx, d, off, n, nil)
	}
	if err := Clear(ctx, d, off, ends, nil); err != nil {
		return err
	}
	for _, m := range btrfsMirrors {
		if m+4096 <= n {
			if err := Clear(ctx, d, off+m, 4096, nil); err != nil {
				return err
			}
		}
	}
	return Clear(ctx, d, off+n-ends, ends, nil)
}

// ClearSignatures clears the ends of each partition, then those of the disk:
// in that order, so that a second try after a power cut still finds the
// partitions. It returns what was recognised before.
func ClearSignatures(ctx context.Context, d Clearer) ([]string, error) {
	var found []string
	whole, err := Signatures(d, d.Size())
	if err != nil {
		return nil, err
	}
	for _, s := range whole {
		found = append(found, s.Type)
	}
	parts, err := Parts(d, d.Size(), d.BlockSize())
	if err != nil {
		parts = nil // No table, or one that can't be read: nothing more to find.
	}
	for _, p := range parts {
		found = append(found, fmt.Sprintf("partition %s", p))
		if p.Offset < int64(d.BlockSize()) {
			continue // A hybrid entry that covers the table itself.
		}
		if err := clearEnds(ctx, d, p.Offset, p.Length); err != nil {
			return found, fmt.Errorf("clearing partition %d: %w", p.Number, err)
		}
	}
	if err := clearEnds(ctx, d, 0, d.Size()); err != nil {
		return found, fmt.Errorf("clearing the disk's ends: %w", err)
	}
	return found, nil
}

// CheckCleared fails if a partition table, file system or member of an array is
// still recognised on the disk.
func CheckCleared(d Clearer) error {
	left, err := Signatures(d, d.Size())
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if t, err := partition.Read(d, d.Size(), d.BlockSize()); err == nil {
		left = append(left, Signature{Type: string(t.Kind)})
	}
	if len(left) == 0 {
		return nil
	}
	var names []string
	for _, s := range left {
		names = append(names, fmt.Sprintf("%s at offset %d", s.Type, s.Offset))
	}
	return fmt.Errorf("the disk still shows %s after zeros were written over it: it drops writes; replace it", strings.Join(names, ", "))
}
