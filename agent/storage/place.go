package storage

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/layout"
)

// wholeName is the name of the one partition of a disk that is used as a whole.
func wholeName(n *layout.Node) string { return n.Name }

// space is where partitions can go on one disk, in its blocks.
type space struct {
	unit uint64 // blocks of one alignment unit
	next uint64
	end  uint64 // first block behind
}

func newSpace(d Disk) (space, error) {
	g, err := partition.NewGPT(partition.GUID{}, d.BlockSize, uint64(d.Size)/uint64(d.BlockSize))
	if err != nil {
		return space{}, fmt.Errorf("%s (%s): %w", d.Name, d.Path, err)
	}
	unit := uint64(align / d.BlockSize)
	return space{unit: unit, next: unit, end: (g.LastUsable + 1) / unit * unit}, nil
}

// take cuts off a size, or everything.
func (s *space) take(d Disk, size layout.Size) (start, blocks uint64, err error) {
	blocks = (uint64(size.Bytes) + align - 1) / align * s.unit
	free := uint64(0)
	if s.end > s.next {
		free = s.end - s.next
	}
	if size.Rest {
		blocks = free
	}
	if blocks == 0 || blocks > free {
		return 0, 0, fmt.Errorf("it wants %s, but %s of %s (%s) are free", mib(max(size.Bytes, align)), mib(int64(free)*int64(d.BlockSize)), d.Name, d.Path)
	}
	start = s.next
	s.next += blocks
	return start, blocks, nil
}

// wanted are the nodes that get a partition each: those declared, or the disk
// itself when it is used as a whole.
func (p *planner) wanted(n *layout.Node) []*layout.Node {
	if parts := p.Layout.Partitions(n.Name); len(parts) > 0 {
		return parts
	}
	return []*layout.Node{n}
}

// places gives each partition its place.
func (p *planner) places(n *layout.Node, d Disk, s space, number func() int) []Place {
	var out []Place
	for _, part := range p.wanted(n) {
		size := layout.Size{Rest: true}
		if part.Kind == layout.Partition {
			size, _ = layout.ParseSize(p.Layout.Spec.Partitions[part.Index].GetSize()) // Read has seen to it.
		}
		kind, err := p.typeOf(part)
		if err != nil {
			p.fail(part, "%v", err)
			continue
		}
		start, blocks, err := s.take(d, size)
		if err != nil {
			p.fail(part, "%v", err)
			continue
		}
		p.sizes[part] = int64(blocks) * int64(d.BlockSize)
		out = append(out, Place{Number: number(), Node: part, Start: start, Blocks: blocks, Type: kind})
	}
	return out
}

// typeOf is the type that is declared, or goes with what lies on the partition.
func (p *planner) typeOf(n *layout.Node) (partition.Type, error) {
	word := ""
	if n.Kind == layout.Partition {
		word = p.Layout.Spec.Partitions[n.Index].GetType()
	}
	if word == "" && len(n.Users) > 0 {
		switch u := n.Users[0]; u.Kind {
		case layout.Raid:
			word = "raid"
		case layout.VolumeGroup:
			word = "lvm"
		case layout.Filesystem:
			f := p.Layout.Spec.Filesystems[u.Index]
			if f.GetType() == "swap" {
				word = "swap"
			}
			if f.GetType() == "vfat" && f.GetPath() == "/boot/efi" {
				word = "esp"
			}
		}
	}
	t, err := partition.TypeNamed(word)
	if err == nil && t.GUID.IsZero() {
		return t, fmt.Errorf("%q is no type of a GPT partition", word)
	}
	return t, err
}

func counter(from int) func() int {
	return func() int {
		from++
		return from
	}
}

func (p *planner) freshTable(n *layout.Node, d Disk) {
	s, err := newSpace(d)
	if err != nil {
		p.fail(n, "%v", err)
		return
	}
	places := p.places(n, d, s, counter(0))
	p.ops = append(p.ops, Operation{Verb: Table, Node: n, Places: places, Text: "partition " + title(d) + ": " + texts(places, d)})
}

func texts(places []Place, d Disk) string {
	var out []string
	for _, pl := range places {
		out = append(out, fmt.Sprintf("%d %s %s %s", pl.Number, pl.Node.Name, mib(int64(pl.Blocks)*int64(d.BlockSize)), pl.Type.Name))
	}
	return strings.Join(out, ", ")
}

// partitionID is the GUID of a partition that we add to an image's table: the
// same at each try, so that one that was left by an earlier try is known.
func partitionID(table partition.GUID, name string) partition.GUID {
	sum := sha256.Sum256(append(append([]byte("bedplate partition\x00"), table[:]...), name...))
	return partition.RandomGUID([16]byte(sum[:16]))
}

// behindImage adds partitions in the space that an image leaves.
func (p *planner) behindImage(n *layout.Node, d Disk) {
	if len(n.Users) == 0 && p.Layout.Spec.GetRootSize() == "" {
		return
	}
	s, err := newSpace(d)
	if err != nil {
		p.fail(n, "%v", err)
		return
	}
	op := Operation{Verb: Add, Node: n}
	number := counter(0)
	if !p.ImageToCome {
		if d.Table == nil || d.Table.Kind != partition.KindGPT {
			p.fail(n, "the image on %s has no GPT: partitions can be added behind one with a GPT only", d.Path)
			return
		}
		parts := p.ofImage(n, d)
		number = free(parts)
		last := p.lastOf(parts)
		if op.Grow = p.grow(parts, d, &s); op.Grow == nil && last.Number > 0 {
			s.next = (last.End()/s.unit + 1) * s.unit
		}
	} else if size, _ := layout.ParseSize(p.Layout.Spec.GetRootSize()); size.Bytes > 0 {
		if _, _, err := s.take(d, size); err != nil {
			p.fail(n, "root_size: %v", err)
		}
	}
	if len(n.Users) > 0 {
		op.Places = p.places(n, d, s, number)
	}
	op.Text = "add to " + title(d) + ": " + texts(op.Places, d)
	if p.ImageToCome {
		op.Text = fmt.Sprintf("add behind the image on %s (%s): %s", d.Name, d.Path, texts(op.Places, d))
	} else if op.Grow != nil {
		op.Text += fmt.Sprintf(" (partition %d grows to %s)", op.Grow.Number, mib(int64(op.Grow.Blocks)*int64(d.BlockSize)))
	}
	p.ops = append(p.ops, op)
}

// ofImage leaves out the partitions that an earlier try of ours has added.
func (p *planner) ofImage(n *layout.Node, d Disk) []disk.Part {
	return slices.DeleteFunc(slices.Clone(d.Parts), func(part disk.Part) bool {
		return slices.ContainsFunc(p.wanted(n), func(w *layout.Node) bool { return part.ID == partitionID(d.Table.Disk, w.Name) })
	})
}

// free counts the entries of a table that aren't taken.
func free(parts []disk.Part) func() int {
	number := 0
	return func() int {
		for number++; slices.ContainsFunc(parts, func(p disk.Part) bool { return p.Number == number }); number++ {
		}
		return number
	}
}

func (p *planner) lastOf(parts []disk.Part) disk.Part {
	var last disk.Part
	for _, part := range parts {
		if last.Number == 0 || part.Start > last.Start {
			last = part
		}
	}
	return last
}

// grow makes the image's root partition larger; nil when that isn't declared.
func (p *planner) grow(parts []disk.Part, d Disk, s *space) *Place {
	text := p.Layout.Spec.GetRootSize()
	if text == "" {
		return nil
	}
	n := p.Layout.Node(layout.Root)
	root, err := disk.Find(parts, disk.Root, p.ImageRoot)
	if err != nil {
		p.fail(n, "root_size: %v", err)
		return nil
	}
	if last := p.lastOf(parts); last.Number != root.Number {
		p.fail(n, "root_size: partition %d, the image's root, can't grow: partition %d is behind it", root.Number, last.Number)
		return nil
	}
	size, _ := layout.ParseSize(text) // Read has seen to it.
	s.next = root.Start
	_, blocks, err := s.take(d, size)
	switch {
	case err != nil:
		p.fail(n, "root_size: %v", err)
	case blocks < root.Blocks:
		p.fail(n, "root_size: the image's root partition is %s already", mib(int64(root.Blocks)*int64(d.BlockSize)))
	}
	// An image's partition need not begin at a multiple of the unit.
	s.next = (s.next + s.unit - 1) / s.unit * s.unit
	return &Place{Number: root.Number, Start: root.Start, Blocks: blocks}
}

// compareTable looks for the declared partitions on a disk that is kept.
func (p *planner) compareTable(n *layout.Node, d Disk) {
	wanted := p.wanted(n)
	if d.Table == nil || d.Table.Kind != partition.KindGPT {
		p.fail(n, "%s (%s) is to be kept, and a GPT with %s is declared, but it holds %s: declare what is there, or say wipe: fresh, which loses it", n.Name, d.Path, quoted(wanted), strings.Join(d.Holds, ", "))
		return
	}
	var places []Place
	for i, w := range wanted {
		kind, err := p.typeOf(w)
		if err != nil {
			p.fail(w, "%v", err)
			continue
		}
		at := slices.IndexFunc(d.Parts, func(part disk.Part) bool { return part.Number == i+1 })
		if at < 0 {
			p.fail(w, "%s (%s) is to be kept, and partition %d %q is declared, but there are %s", n.Name, d.Path, i+1, wholeName(w), listed(d.Parts))
			continue
		}
		part := d.Parts[at]
		if why := p.differs(w, kind, part); why != "" {
			p.fail(w, "%s (%s) is to be kept, but of partition %d %s: declare what is there, or say wipe: fresh, which loses it", n.Name, d.Path, i+1, why)
			continue
		}
		p.sizes[w] = part.Length
		places = append(places, Place{Number: part.Number, Node: w, Start: part.Start, Blocks: part.Blocks, Type: kind})
	}
	p.ops = append(p.ops, Operation{Verb: Compare, Node: n, Places: places, Text: fmt.Sprintf("keep %s (%s): %s", n.Name, d.Path, texts(places, d))})
}

func (p *planner) differs(w *layout.Node, kind partition.Type, part disk.Part) string {
	if part.Label != wholeName(w) {
		return fmt.Sprintf("the name %q is declared and %q found", wholeName(w), part.Label)
	}
	if part.Type != kind.GUID {
		return fmt.Sprintf("the type %s is declared and %s found", kind.Name, partition.TypeName(part.Partition))
	}
	if w.Kind != layout.Partition {
		return ""
	}
	size, _ := layout.ParseSize(p.Layout.Spec.Partitions[w.Index].GetSize()) // Read has seen to it.
	if want := (size.Bytes + align - 1) / align * align; !size.Rest && want != part.Length {
		return fmt.Sprintf("the size %s is declared and %s found", mib(want), mib(part.Length))
	}
	return ""
}

func quoted(nodes []*layout.Node) string {
	var out []string
	for _, n := range nodes {
		out = append(out, fmt.Sprintf("%q", n.Name))
	}
	return strings.Join(out, ", ")
}

func listed(parts []disk.Part) string {
	if len(parts) == 0 {
		return "no partitions"
	}
	var out []string
	for _, p := range parts {
		out = append(out, p.String())
	}
	return strings.Join(out, "; ")
}

// compareImage looks for the partitions that were added behind an image.
func (p *planner) compareImage(n *layout.Node, d Disk) {
	if len(n.Users) == 0 {
		return
	}
	var places []Place
	for _, w := range p.wanted(n) {
		at := slices.IndexFunc(d.Parts, func(part disk.Part) bool { return d.Table != nil && part.ID == partitionID(d.Table.Disk, w.Name) })
		if at < 0 {
			p.fail(w, "it is not on %s (%s): make it first (phase make)", n.Name, d.Path)
			continue
		}
		places = append(places, Place{Number: d.Parts[at].Number, Node: w, Start: d.Parts[at].Start, Blocks: d.Parts[at].Blocks})
	}
	p.ops = append(p.ops, Operation{Verb: Compare, Node: n, Places: places, Text: fmt.Sprintf("find the partitions behind the image on %s (%s)", n.Name, d.Path)})
}
