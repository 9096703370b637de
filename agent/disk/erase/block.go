package erase

import (
	"context"
	"fmt"

	"github.com/bedplate/bedplate/agent/disk"
)

const (
	// discardPiece is the length of one discard, between which a cancelled step stops.
	discardPiece = 8 << 30
	// writePiece is the length of one write.
	writePiece = 4 << 20
)

// blockMethods are what every disk can be erased by.
func blockMethods(m Medium, f fill, readOnly bool) []method {
	var blocked error
	if readOnly {
		blocked = errReadOnly
	}
	zeros := fill{kind: fillZeros}
	return []method{
		{name: "secure-discard", level: Clear, blocked: blocked, run: func(ctx context.Context, done advance) error {
			return discardAll(ctx, m, m.SecureDiscard, done)
		}},
		{name: "discard", level: Clear, blocked: blocked, fill: &zeros, checked: true, run: func(ctx context.Context, done advance) error {
			if err := discardAll(ctx, m, m.Discard, part(done, 0, 0.1)); err != nil {
				return err
			}
			// To a disk a discard is advice. Reading every block is quick where it was taken.
			if err := settle(m); err != nil {
				return err
			}
			_, err := readAll(ctx, m, &zeros, part(done, 0.1, 1))
			return err
		}},
		{name: "overwrite", level: Clear, blocked: blocked, fill: &f, run: func(ctx context.Context, done advance) error {
			return overwrite(ctx, m, f, done)
		}},
	}
}

// part makes a piece of a method's progress of one of its parts.
func part(done advance, from, to float64) advance {
	return func(fraction float64) { done(from + (to-from)*fraction) }
}

func discardAll(ctx context.Context, m Medium, discard func(off, n int64) (bool, error), done advance) error {
	for off := int64(0); off < m.Size(); off += discardPiece {
		if ctx.Err() != nil {
			return stopped(ctx)
		}
		n := min(discardPiece, m.Size()-off)
		ok, err := discard(off, n)
		if err != nil {
			return err
		}
		if !ok {
			return errNotOffered
		}
		done(float64(off+n) / float64(m.Size()))
	}
	return nil
}

// overwrite writes every block.
func overwrite(ctx context.Context, m Medium, f fill, done advance) error {
	buf := disk.Aligned(int(min(writePiece, m.Size())))
	if f.kind != fillRandom {
		f.at(buf, 0) // The same everywhere.
	}
	for off := int64(0); off < m.Size(); {
		if ctx.Err() != nil {
			return stopped(ctx)
		}
		b := buf[:min(int64(len(buf)), m.Size()-off)]
		if f.kind == fillRandom {
			f.at(b, off)
		}
		if _, err := m.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
		done(float64(off) / float64(m.Size()))
	}
	if err := m.Sync(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// settle has what was written on the disk, and what is read come from there.
func settle(m Medium) error {
	if err := m.Sync(); err != nil {
		return err
	}
	return m.DropCache()
}
