package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/partition"
)

// ends is how much of either end of a partition is cleared, so that nothing
// that lay there before shows through.
const ends = 4 << 20

// onDisk opens a disk for writing, and syncs it afterwards.
func onDisk(path string, f func(*disk.Device) error) error {
	d, err := disk.Open(path)
	if err != nil {
		return err
	}
	err = f(d)
	if err == nil {
		err = d.Sync()
	}
	return errors.Join(err, d.Close())
}

func (r *runner) clearDisk(ctx context.Context, op Operation) error {
	return onDisk(r.disks[op.Node.Name].Path, func(d *disk.Device) error {
		if _, err := disk.ClearSignatures(ctx, d); err != nil {
			return err
		}
		if err := d.Sync(); err != nil {
			return err
		}
		return r.reread(ctx, d)
	})
}

// reread has the kernel look at the table; a file that stands for a disk has no
// partitions.
func (r *runner) reread(ctx context.Context, d *disk.Device) error {
	if err := d.Reread(ctx); err != nil && (d.IsBlock() || !errors.Is(err, disk.ErrNoPartitions)) {
		return err
	}
	return nil
}

// freshTable gives a disk a new table, with the mark in front of it: both are
// written at once.
func (r *runner) freshTable(ctx context.Context, op Operation) error {
	path := r.disks[op.Node.Name].Path
	err := onDisk(path, func(d *disk.Device) error {
		id, err := r.guid()
		if err != nil {
			return err
		}
		blocks := uint64(d.Size()) / uint64(d.BlockSize())
		g, err := partition.NewGPT(id, d.BlockSize(), blocks)
		if err != nil {
			return err
		}
		for _, pl := range op.Places {
			if id, err = r.guid(); err != nil {
				return err
			}
			if err := g.Set(partition.Partition{Number: pl.Number, Start: pl.Start, Blocks: pl.Blocks, Type: pl.Type.GUID, ID: id, Label: wholeName(pl.Node)}); err != nil {
				return err
			}
		}
		found, err := disk.ClearSignatures(ctx, d)
		if err != nil {
			return err
		}
		for _, f := range found {
			r.say("%s: cleared %s", path, f)
		}
		head := disk.Aligned(align)
		partition.PutProtective(head, blocks)
		copy(head, mark)
		return r.writeTable(ctx, d, g, head, op.Places)
	})
	if err != nil {
		return fmt.Errorf("partitioning %s: %w", path, err)
	}
	return r.nodes(ctx, path, op.Places)
}

// addPartitions adds to the table of an image.
func (r *runner) addPartitions(ctx context.Context, op Operation) error {
	path := r.disks[op.Node.Name].Path
	err := onDisk(path, func(d *disk.Device) error {
		blocks := uint64(d.Size()) / uint64(d.BlockSize())
		g, err := partition.ReadGPT(d, d.BlockSize(), 1, blocks)
		if err != nil {
			return err
		}
		if err := g.Place(blocks); err != nil {
			return err
		}
		for _, p := range g.Partitions() {
			for _, pl := range op.Places {
				if p.ID == partitionID(g.Disk, pl.Node.Name) {
					clear(g.Entries[(p.Number-1)*int(g.EntrySize):][:g.EntrySize])
				}
			}
			if op.Grow != nil && p.Number == op.Grow.Number {
				p.Blocks = op.Grow.Blocks
				if err := g.Set(p); err != nil {
					return err
				}
			}
		}
		for _, pl := range op.Places {
			if err := g.Set(partition.Partition{Number: pl.Number, Start: pl.Start, Blocks: pl.Blocks, Type: pl.Type.GUID, ID: partitionID(g.Disk, pl.Node.Name), Label: wholeName(pl.Node)}); err != nil {
				return err
			}
		}
		// What the image has in front of its first partition stays.
		head := disk.Aligned(int(min(int64(g.EntriesLBA)*int64(d.BlockSize())+align, d.Size())))
		if _, err := d.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the image's table: %w", err)
		}
		return r.writeTable(ctx, d, g, head, op.Places)
	})
	if err != nil {
		return fmt.Errorf("adding partitions to %s: %w", path, err)
	}
	return r.nodes(ctx, path, op.Places)
}

// writeTable clears the places of new partitions and writes both copies of the
// table: the backup first, so that one of them is whole at any time.
func (r *runner) writeTable(ctx context.Context, d *disk.Device, g *partition.GPT, head []byte, places []Place) error {
	for _, pl := range places {
		off, n := int64(pl.Start)*int64(d.BlockSize()), int64(pl.Blocks)*int64(d.BlockSize())
		for _, span := range [][2]int64{{off, min(n, ends)}, {off + max(n-ends, 0), min(n, ends)}} {
			if err := disk.Clear(ctx, d, span[0], span[1], nil); err != nil {
				return fmt.Errorf("clearing the place of partition %d: %w", pl.Number, err)
			}
		}
	}
	backup, lba := g.Backup()
	if _, err := d.WriteAt(backup, int64(lba)*int64(d.BlockSize())); err != nil {
		return fmt.Errorf("writing backup GPT: %w", err)
	}
	if err := d.Sync(); err != nil {
		return err
	}
	header, entries := g.Primary()
	copy(head[g.BlockSize:], header)
	copy(head[int(g.EntriesLBA)*g.BlockSize:], entries)
	whole := int(g.EntriesLBA)*g.BlockSize + len(entries)
	if _, err := d.WriteAt(head[:whole], 0); err != nil {
		return fmt.Errorf("writing partition table: %w", err)
	}
	if err := errors.Join(d.Sync(), d.DropCache()); err != nil {
		return err
	}
	t, err := partition.Read(d, d.Size(), d.BlockSize())
	if err != nil || t.Warning != "" || len(t.Partitions) != len(g.Partitions()) {
		return fmt.Errorf("the new table doesn't read back as it was written: %w", errors.Join(err, errors.New("replace the disk")))
	}
	return r.reread(ctx, d)
}

// nodes notes the device of each partition once it is there.
func (r *runner) nodes(ctx context.Context, path string, places []Place) error {
	for _, pl := range places {
		node := disk.Node(path, pl.Number)
		if err := disk.WaitNode(ctx, node, r.NodeWait); err != nil {
			return err
		}
		r.device[pl.Node] = node
	}
	return nil
}

// unmark takes the mark off a disk whose content is complete.
func (r *runner) unmark(_ context.Context, op Operation) error {
	path := r.disks[op.Node.Name].Path
	// Not exclusively, and not by disk.Open: its partitions are in use by now.
	d, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	block := make([]byte, 4096)
	_, err = d.ReadAt(block, 0)
	if err == nil {
		clear(block[:len(mark)])
		_, err = d.WriteAt(block, 0)
	}
	if err == nil {
		err = d.Sync()
	}
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("marking %s as complete: %w", path, err)
	}
	return nil
}

func (r *runner) guid() (partition.GUID, error) {
	var b [16]byte
	if _, err := io.ReadFull(r.Random, b[:]); err != nil {
		return partition.GUID{}, fmt.Errorf("reading random bytes: %w", err)
	}
	return partition.RandomGUID(b), nil
}
