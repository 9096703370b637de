package storage

import (
	"fmt"

	"github.com/bedplate/bedplate/layout"
)

// What the layers take for themselves.
const (
	// raidOffset is where a member's data begins: we tell mdadm so, whose own
	// choice depends on the size.
	raidOffset = 16 << 20
	// raidChunk is the unit that a member's size is cut to.
	raidChunk = 512 << 10
	// luksHeader is the size of LUKS2's header, both copies and key slots.
	luksHeader = 16 << 20
	// extent is LVM's unit; a volume group also loses up to one a device to metadata.
	extent = 4 << 20
	// align is where partitions begin and end.
	align = 1 << 20
)

// smallest are the sizes below which mkfs refuses (xfsprogs 5.19 and later
// want 300 MB) or nothing sensible comes of it.
var smallest = map[string]int64{"ext4": 2 << 20, "xfs": 300 << 20, "vfat": 1 << 20, "swap": 1 << 20}

func mib(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

// size is that of a device that is made; a whole disk stands for its one partition.
func (p *planner) size(n *layout.Node) int64 { return p.sizes[n] }

// larger fails a part that would have no room.
func (p *planner) larger(n *layout.Node, size int64) int64 {
	if size <= 0 && len(p.wrong) == 0 {
		p.fail(n, "%s has no room: what it lies on is too small", n)
	}
	return max(size, 0)
}

func (p *planner) raidSize(n *layout.Node, level string, members []*layout.Node) int64 {
	least := p.size(n.On[0])
	var sum int64
	for _, m := range n.On {
		least = min(least, p.size(m))
	}
	cut := func(size int64) int64 { return p.larger(n, (size-raidOffset)/raidChunk*raidChunk) }
	each, count := cut(least), int64(len(members))
	switch level {
	case "raid0": // Uses every member to its end.
		for _, m := range members {
			sum += cut(p.size(m))
		}
		return sum
	case "raid5":
		return each * (count - 1)
	case "raid6":
		return each * (count - 2)
	case "raid10":
		return each * count / 2
	default:
		return each
	}
}

// volumes plans the logical volumes of a group: those with a size, what takes
// the rest, then the thin ones, which are in a pool.
func (p *planner) volumes(group *layout.Node, total int64) {
	var fixed, rest, thin []*layout.Node
	free := total
	for _, n := range p.Layout.Of(layout.LogicalVolume) {
		v := p.Layout.Spec.LogicalVolumes[n.Index]
		if v.GetVolumeGroup() != group.Name {
			continue
		}
		size, _ := layout.ParseSize(v.GetSize()) // Read has seen to it.
		switch {
		case v.GetType() == "thin":
			p.sizes[n] = size.Bytes
			thin = append(thin, n)
			continue
		case size.Rest:
			rest = append(rest, n)
			continue
		case size.Percent > 0:
			p.sizes[n] = total * size.Percent / 100 / extent * extent
		default:
			p.sizes[n] = (size.Bytes + extent - 1) / extent * extent
		}
		fixed = append(fixed, n)
		free -= p.sizes[n] + poolMetadata(v.GetType(), p.sizes[n])
	}
	if free < 0 {
		p.fail(group, "its volumes want %s more than the %s that there are", mib(-free), mib(total))
		return
	}
	for _, n := range rest {
		v := p.Layout.Spec.LogicalVolumes[n.Index]
		p.sizes[n] = free - poolMetadata(v.GetType(), free)
		if p.sizes[n] < extent {
			p.fail(n, "%s is to take the rest of volume group %s, but nothing is left of its %s", n.Name, group.Name, mib(total))
		}
	}
	for _, list := range [][]*layout.Node{fixed, rest, thin} {
		for _, n := range list {
			v := p.Layout.Spec.LogicalVolumes[n.Index]
			kind := "volume"
			if v.GetType() != "" && v.GetType() != "linear" {
				kind = v.GetType() + " volume"
			}
			if v.GetType() == "thin-pool" {
				kind = "thin pool"
			}
			p.add(Make, n, "make %s %s, %s", kind, n.Name, mib(p.sizes[n]))
		}
	}
}

// poolMetadata is what lvcreate takes besides a thin pool's data: metadata and
// a spare copy of it, each of about a thousandth and at least one extent.
func poolMetadata(kind string, size int64) int64 {
	if kind != "thin-pool" {
		return 0
	}
	return 2 * ((size/1000 + extent - 1) / extent * extent)
}
