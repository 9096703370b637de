package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/agent/step"
)

// cleanupTime bounds the attempt to make a disk unbootable again.
const cleanupTime = time.Minute

// seal is the end of a write: everything before is on stable storage and
// verified when the first MiB goes to the disk.
func (a *attempt) seal() error {
	if err := a.dev.Sync(); err != nil {
		return err
	}
	if err := a.readBack(); err != nil {
		return err
	}
	if err := a.fitTable(); err != nil {
		return err
	}
	err := a.writeEnds()
	if err == nil {
		err = a.dev.Reread(a.ctx)
	}
	if err != nil && !errors.Is(err, disk.ErrNoPartitions) {
		// Half of it may be there, or the kernel still counts with the partitions
		// of before, in which later steps would write to the wrong places.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), cleanupTime)
		defer cancel()
		if cerr := clearEnds(ctx, a.dev); cerr != nil {
			err = fmt.Errorf("%w; its partition table could not be cleared again: %w", err, cerr)
		}
		return err
	}
	return nil
}

// writeEnds writes the last MiB, then the first, each synced.
func (a *attempt) writeEnds() error {
	if err := context.Cause(a.ctx); err != nil {
		return err
	}
	for _, end := range []struct {
		off  int64
		data []byte
	}{{a.sink.tailAt, a.sink.tail}, {0, a.sink.head}} {
		if len(end.data) == 0 {
			continue
		}
		if _, err := a.dev.WriteAt(end.data, end.off); err != nil {
			return fmt.Errorf("writing to %s: %w", a.dev.Path(), err)
		}
		if err := a.dev.Sync(); err != nil {
			return err
		}
	}
	a.sink.written.Add(int64(len(a.sink.head) + len(a.sink.tail)))
	if !a.src.verify {
		return nil
	}
	if err := a.dev.DropCache(); err != nil {
		return err
	}
	for off, want := range map[int64][]byte{0: a.sink.head, a.sink.tailAt: a.sink.tail} {
		got := make([]byte, len(want))
		if _, err := a.dev.ReadAt(got, off); err != nil && len(want) > 0 {
			return fmt.Errorf("reading back: %w", err)
		}
		if !bytes.Equal(got, want) {
			return mismatch(off, int64(len(want)))
		}
	}
	return nil
}

func mismatch(off, n int64) error {
	return fmt.Errorf("reading back: %d bytes at offset %d are not what was written: the disk is failing; replace it", n, off)
}

// readBack compares the disk with what was written, when that was asked for.
func (a *attempt) readBack() error {
	if !a.src.verify {
		return nil
	}
	if err := a.dev.DropCache(); err != nil {
		return err
	}
	a.rep.Log(step.Agent, "reading back what was written")
	b := disk.Aligned(bufferSize)
	for _, c := range a.sink.checks {
		for at := c.off; at < c.off+c.n; {
			if a.ctx.Err() != nil {
				return context.Cause(a.ctx)
			}
			p := b[:min(bufferSize, c.off+c.n-at)] // Data is never longer than the buffer.
			if _, err := a.dev.ReadAt(p, at); err != nil {
				return fmt.Errorf("reading back: %w", err)
			}
			if c.zero && !allZero(p) || !c.zero && maphash.Bytes(a.sink.seed, p) != c.sum {
				return mismatch(at, int64(len(p)))
			}
			at += int64(len(p))
		}
	}
	return nil
}

// fits fails early for an image that can't work on this disk: its table counts
// in blocks of another size, or its partitions reach beyond the disk.
func fits(head []byte, dev Device) error {
	bs := dev.BlockSize()
	for _, other := range []int{512, 4096} {
		if other != bs && gptAt(head, other) && !gptAt(head, bs) {
			return fmt.Errorf("the image was made for disks with blocks of %d bytes, this disk has blocks of %d: choose another image or disk", other, bs)
		}
	}
	g, err := tableIn(head, dev)
	if err != nil {
		return nil // Judged at the end, when all of it is there.
	}
	if err := g.Place(blocks(dev)); err != nil {
		return fmt.Errorf("the image is larger than the disk's %d bytes: %w: select a larger disk", dev.Size(), err)
	}
	return nil
}

func blocks(dev Device) uint64 { return uint64(dev.Size()) / uint64(dev.BlockSize()) }

func gptAt(head []byte, off int) bool {
	return len(head) >= off+8 && string(head[off:off+8]) == "EFI PART"
}

// tableIn reads the primary GPT of an image's first MiB, of whatever size the
// disk was that it was made for.
func tableIn(head []byte, dev Device) (*partition.GPT, error) {
	return partition.ReadGPT(bytes.NewReader(head), dev.BlockSize(), 1, 1<<40)
}

// fitTable makes the image's table one for this disk: the backup copy of a GPT
// belongs into the last block, and the last partition may grow up to it.
func (a *attempt) fitTable() error {
	head, tail := a.sink.head, a.sink.tail
	if err := fits(head, a.dev); err != nil {
		return err
	}
	g, err := tableIn(head, a.dev)
	if errors.Is(err, partition.ErrNone) {
		return a.growMBR()
	}
	if err != nil {
		a.rep.Log(step.Agent, fmt.Sprintf("warning: the image's partition table is left as it is: %v", err))
		return nil
	}
	bs := int64(a.dev.BlockSize())
	if g.AlternateLBA == blocks(a.dev)-1 && !a.src.grow {
		return nil
	}
	if err := g.Place(blocks(a.dev)); err != nil {
		return err
	}
	if a.src.grow {
		if err := growGPT(g); err != nil {
			return err
		}
	}
	header, entries := g.Primary()
	backup, lba := g.Backup()
	at := int64(lba)*bs - a.sink.tailAt
	if at < 0 || int64(g.EntriesLBA)*bs+int64(len(entries)) > int64(len(head)) {
		a.rep.Log(step.Agent, "warning: the image's partition table is too large to be fitted to the disk, and left as it is")
		return nil
	}
	partition.ResizeProtective(head, blocks(a.dev))
	copy(head[bs:], header)
	copy(head[int64(g.EntriesLBA)*bs:], entries)
	copy(tail[at:], backup)
	return nil
}

// lastOf returns the partition that ends last.
func lastOf(parts []partition.Partition) (last partition.Partition, ok bool) {
	for _, p := range parts {
		if !ok || p.End() > last.End() {
			last, ok = p, true
		}
	}
	return last, ok
}

// alignment in bytes of the end of a partition that grows.
const growAlign = 1 << 20

func growGPT(g *partition.GPT) error {
	p, ok := lastOf(g.Partitions())
	unit := uint64(growAlign / g.BlockSize)
	end := (g.LastUsable + 1) / unit * unit
	if !ok || end <= p.End()+1 {
		return nil
	}
	p.Blocks = end - p.Start
	return g.Set(p)
}

// growMBR makes the last primary partition reach the end of the disk.
func (a *attempt) growMBR() error {
	head := a.sink.head
	if !a.src.grow || len(head) < 512 {
		return nil
	}
	m, err := partition.ReadMBR(bytes.NewReader(head), a.dev.BlockSize())
	if err != nil {
		a.rep.Log(step.Agent, fmt.Sprintf("the image has no partition to grow: %v", err))
		return nil
	}
	p, ok := lastOf(m.Partitions())
	unit := uint64(growAlign / a.dev.BlockSize())
	end := min(blocks(a.dev), 1<<32-1) / unit * unit
	if !ok || p.Number > 4 || end <= p.End()+1 {
		return nil
	}
	p.Blocks = end - p.Start
	return partition.ResizeMBR(head, p)
}
