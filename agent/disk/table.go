package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/agent/step"
)

const (
	// align is where partitions begin and end: a multiple of every erase block
	// and stripe that matters, and what every partitioning tool uses.
	align = 1 << 20
	// maxPartitions is how many entries a GPT of ours has.
	maxPartitions = 128
	// legacyBoot is attribute 2 of a GPT entry: bootable by legacy BIOS.
	legacyBoot = 1 << 2
)

// wanted is one item of disk.partition's list.
type wanted struct {
	label    string
	size     int64
	kind     partition.Type
	id       partition.GUID
	bootable bool
}

func (s *Service) partition(ctx context.Context, req step.Request, rep step.Reporter) (step.Result, error) {
	in := input.Of(req.With)
	word := in.Required("disk")
	kind := partition.Kind(in.Choice("table", "gpt", "mbr"))
	list := s.wanted(in, kind)
	if err := in.Err(); err != nil {
		return step.Result{}, err
	}
	path, err := Path(word)
	if err != nil {
		return step.Result{}, err
	}
	d, err := Open(path)
	if err != nil {
		return step.Result{}, err
	}
	parts, err := s.writeTable(ctx, d, kind, list, rep)
	var nodes []any
	if err == nil {
		nodes, err = s.nodes(ctx, d, parts)
	}
	if err := errors.Join(err, d.Close()); err != nil {
		return step.Result{}, fmt.Errorf("partitioning %s: %w", path, err)
	}
	return step.Result{Outputs: map[string]any{"partitions": nodes}}, nil
}

func (s *Service) wanted(in *input.Reader, kind partition.Kind) []wanted {
	var out []wanted
	items := in.Maps("partitions")
	for i, p := range items {
		w := wanted{label: p.String("name"), bootable: p.Bool("bootable")}
		if l := p.String("label"); w.label == "" {
			w.label = l
		}
		if size := p.String("size"); size != "" && size != "rest" {
			w.size = p.Size("size")
		} else if i != len(items)-1 {
			p.Fail("size", "only the last partition may leave it out")
		}
		var err error
		if w.kind, err = partition.TypeNamed(p.String("type")); err != nil {
			p.Fail("type", "%w", err)
		} else if kind == partition.KindMBR && w.kind.MBR == 0 || kind == partition.KindGPT && w.kind.GUID.IsZero() {
			p.Fail("type", "%s doesn't exist in a table of kind %s", w.kind.Name, kind)
		}
		if id := p.String("uuid"); id != "" {
			if w.id, err = partition.ParseGUID(id); err != nil {
				p.Fail("uuid", "%w", err)
			}
		} else if w.id, err = s.guid(); err != nil {
			p.Fail("uuid", "%w", err)
		}
		if err := p.Err(); err != nil {
			in.Fail("partitions", "item %d: %w", i, err)
		}
		out = append(out, w)
	}
	if most := map[partition.Kind]int{partition.KindMBR: 4, partition.KindGPT: maxPartitions}[kind]; len(out) == 0 || len(out) > most {
		in.Fail("partitions", "a table of kind %s has 1 to %d partitions, not %d", kind, most, len(out))
	}
	return out
}

func (s *Service) guid() (partition.GUID, error) {
	var b [16]byte
	if _, err := io.ReadFull(s.Random, b[:]); err != nil {
		return partition.GUID{}, fmt.Errorf("reading random bytes: %w", err)
	}
	return partition.RandomGUID(b), nil
}

// layout gives each partition its place, in blocks.
func layout(list []wanted, blockSize int, last uint64) ([]partition.Partition, error) {
	unit := uint64(align / blockSize)
	next, end := unit, (last+1)/unit*unit
	var out []partition.Partition
	for i, w := range list {
		blocks := (uint64(w.size) + align - 1) / align * unit
		if w.size == 0 && end > next {
			blocks = end - next
		}
		if blocks == 0 || blocks > end || next > end-blocks {
			free := int64(0)
			if end > next {
				free = int64(end-next) * int64(blockSize)
			}
			return nil, fmt.Errorf("partition %d wants %d MiB, but %d MiB are free: make it smaller or select a larger disk", i+1, max(w.size, align)>>20, free>>20)
		}
		p := partition.Partition{Number: i + 1, Start: next, Blocks: blocks, Bootable: w.bootable,
			Type: w.kind.GUID, MBRType: w.kind.MBR, ID: w.id, Label: w.label}
		if w.bootable {
			p.Attributes = legacyBoot
		}
		out = append(out, p)
		next += blocks
	}
	return out, nil
}

func (s *Service) writeTable(ctx context.Context, d *Device, kind partition.Kind, list []wanted, rep step.Reporter) ([]partition.Partition, error) {
	id, err := s.guid()
	if err != nil {
		return nil, err
	}
	blocks := uint64(d.Size()) / uint64(d.BlockSize())
	g, err := partition.NewGPT(id, d.BlockSize(), blocks)
	if err != nil {
		return nil, err
	}
	last := g.LastUsable
	if kind == partition.KindMBR {
		last = min(blocks-1, 1<<32-1)
	}
	parts, err := layout(list, d.BlockSize(), last)
	if err != nil {
		return nil, err
	}
	head := Aligned(align)
	if kind == partition.KindMBR {
		err = partition.AppendMBR(head, uint32(id[0])|uint32(id[1])<<8|uint32(id[2])<<16|uint32(id[3])<<24, parts)
	} else {
		err = fillGPT(g, head, parts, blocks)
	}
	if err != nil {
		return nil, err
	}
	found, err := ClearSignatures(ctx, d)
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		rep.Log(step.Agent, d.Path()+": cleared "+f)
	}
	for _, p := range parts {
		if err := clearEnds(ctx, d, int64(p.Start)*int64(d.BlockSize()), int64(p.Blocks)*int64(d.BlockSize())); err != nil {
			return nil, fmt.Errorf("clearing the place of partition %d: %w", p.Number, err)
		}
	}
	if kind == partition.KindGPT {
		backup, lba := g.Backup()
		if _, err := d.WriteAt(backup, int64(lba)*int64(d.BlockSize())); err != nil {
			return nil, fmt.Errorf("writing backup GPT: %w", err)
		}
	}
	if _, err := d.WriteAt(head, 0); err != nil {
		return nil, fmt.Errorf("writing partition table: %w", err)
	}
	if err := d.Sync(); err != nil {
		return nil, err
	}
	return parts, checkTable(d, parts)
}

func fillGPT(g *partition.GPT, head []byte, parts []partition.Partition, blocks uint64) error {
	for _, p := range parts {
		if err := g.Set(p); err != nil {
			return err
		}
	}
	partition.PutProtective(head, blocks)
	header, entries := g.Primary()
	copy(head[g.BlockSize:], header)
	copy(head[int(g.EntriesLBA)*g.BlockSize:], entries)
	return nil
}

// checkTable reads the table back from the disk itself.
func checkTable(d *Device, want []partition.Partition) error {
	if err := d.DropCache(); err != nil {
		return err
	}
	t, err := partition.Read(d, d.Size(), d.BlockSize())
	if err != nil {
		return fmt.Errorf("reading the new table back: %w", err)
	}
	if len(t.Partitions) != len(want) || t.Warning != "" {
		return fmt.Errorf("the new table reads back as %d partitions instead of %d: %s", len(t.Partitions), len(want), t.Warning)
	}
	return nil
}

// nodes returns the partitions' device paths once they are there.
func (s *Service) nodes(ctx context.Context, d *Device, parts []partition.Partition) ([]any, error) {
	err := d.Reread(ctx)
	if err != nil && (d.IsBlock() || !errors.Is(err, ErrNoPartitions)) {
		return nil, err
	}
	var out []any
	for _, p := range parts {
		node := Node(d.Path(), p.Number)
		out = append(out, node)
		if d.IsBlock() {
			if err := WaitNode(ctx, node, s.NodeWait); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// WaitNode waits until a device node can be opened, for at most d.
func WaitNode(ctx context.Context, path string, d time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("%s didn't appear within %v: the kernel has read the partition table but made no such node", path, d))
	defer cancel()
	for {
		f, err := os.Open(path)
		if err == nil {
			return f.Close()
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
