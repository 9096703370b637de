package inspection

import (
	"fmt"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// maxDisks bounds how many disks are compared with what is expected.
const maxDisks = 1024

// disks compares the disks with the groups that are expected. A disk counts
// for one group only; where it fits several, it goes to where it is needed.
func (c *checker) disks(e *pb.Expectation) {
	groups := e.GetDisks()
	if len(groups) == 0 {
		return
	}
	disks := c.inv.GetDisks()
	disks = disks[:min(len(disks), maxDisks)]
	a := assign(groups, disks)
	for i, g := range groups {
		if got := len(a.members[i]); got < int(g.GetCount()) {
			c.add(fmt.Sprintf("disks[%d]", i), groupText(g), countText(got, len(disks)))
		}
	}
	if e.GetAllowOtherDisks() {
		return
	}
	for d, disk := range disks {
		// A USB stick or virtual medium that is in the machine for now isn't its own.
		if a.group[d] < 0 && !disk.GetRemovable() && disk.GetBus() != "usb" {
			c.add("disks", "no other disks", describeDisk(disk))
		}
	}
}

// assignment says which disks count for which group.
type assignment struct {
	groups []*pb.ExpectedDisks
	disks  []*pb.Disk
	// group of each disk; -1: none.
	group   []int
	members [][]int
}

// assign gives as many disks as possible a place: it is a matching, found by
// augmenting paths (Kuhn).
func assign(groups []*pb.ExpectedDisks, disks []*pb.Disk) *assignment {
	a := &assignment{groups: groups, disks: disks, group: make([]int, len(disks)), members: make([][]int, len(groups))}
	for d := range disks {
		a.group[d] = -1
	}
	for d := range disks {
		a.place(d, make([]bool, len(groups)))
	}
	return a
}

// place finds a group for disk d, and another one for a disk that it displaces.
func (a *assignment) place(d int, tried []bool) bool {
	for g, want := range a.groups {
		if tried[g] || !fits(want, a.disks[d]) {
			continue
		}
		tried[g] = true
		if len(a.members[g]) < int(want.GetCount()) {
			a.members[g] = append(a.members[g], d)
			a.group[d] = g
			return true
		}
		for i, other := range a.members[g] {
			if a.place(other, tried) {
				a.members[g][i] = d
				a.group[d] = g
				return true
			}
		}
	}
	return false
}

// fits reports whether a disk is of the kind that a group wants.
func fits(g *pb.ExpectedDisks, d *pb.Disk) bool {
	switch {
	case g.GetType() != "" && !same(g.GetType(), d.GetType()),
		d.GetSizeBytes() < g.GetMinSizeBytes(),
		g.GetMaxSizeBytes() != 0 && d.GetSizeBytes() > g.GetMaxSizeBytes(),
		g.GetModel() != "" && !contains(d.GetModel(), g.GetModel()),
		g.GetFirmwareVersion() != "" && !same(g.GetFirmwareVersion(), d.GetFirmwareVersion()):
		return false
	}
	return true
}

// groupText writes a group as `2 × nvme of at least 960 GB, model PM9A3`.
func groupText(g *pb.ExpectedDisks) string {
	text := fmt.Sprintf("%d × %s", g.GetCount(), strings.TrimSpace(g.GetType()))
	if g.GetType() == "" {
		text = fmt.Sprintf("%d × any disk", g.GetCount())
	}
	switch low, high := g.GetMinSizeBytes(), g.GetMaxSizeBytes(); {
	case low != 0 && high != 0:
		text += " of " + decimal(low) + " to " + decimal(high)
	case low != 0:
		text += " of at least " + decimal(low)
	case high != 0:
		text += " of at most " + decimal(high)
	}
	if g.GetModel() != "" {
		text += ", model " + g.GetModel()
	}
	if g.GetFirmwareVersion() != "" {
		text += ", firmware " + g.GetFirmwareVersion()
	}
	return text
}

func countText(n, of int) string {
	if of == 0 {
		return "no disks"
	}
	return fmt.Sprintf("%d of its %d disks", n, of)
}
