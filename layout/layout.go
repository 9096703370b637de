// Package layout reads a storage declaration: what each part lies on, the
// order in which parts come to be, and which of them are kept on reinstall. It
// is shared by the server, which refuses what can't be, and the agent, which
// carries it out.
//
// A Layout is a graph without cycles:
//
//	disk ── partition ── raid ── encryption ── volume group ── logical volume ── file system
//
// where every part but the first may be left out, and a few may change places
// (a RAID of encrypted partitions, an encrypted logical volume).
//
// The package does no I/O. A Layout isn't changed after Read.
package layout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Root is the name of the disk that the operating system is on.
const Root = "root"

// Kind is what a part is.
type Kind string

// The kinds, in the order in which equals come to be.
const (
	Disk          Kind = "disk"
	Partition     Kind = "partition"
	Raid          Kind = "raid"
	Encryption    Kind = "encryption"
	VolumeGroup   Kind = "volume group"
	LogicalVolume Kind = "logical volume"
	Filesystem    Kind = "file system"
)

var kinds = []Kind{Disk, Partition, Raid, Encryption, VolumeGroup, LogicalVolume, Filesystem}

// Node is one part of a layout.
type Node struct {
	Kind Kind
	// Name is how others name it: that of a logical volume is GROUP/VOLUME. A
	// file system has none of its own and is called by its device.
	Name string
	// Path is the field that declares it, such as raid[0]; empty for the root disk.
	Path string
	// Index is its place in the list of its kind; -1 for the root disk.
	Index int
	// On is what it lies on, in the order declared; Users is what lies on it.
	On, Users []*Node
	// Disks are the names of the disks beneath it, sorted.
	Disks []string
	// Keep says that an installation must not touch what is there.
	Keep bool
}

// String names the node for people: raid data.
func (n *Node) String() string {
	if n.Kind == Filesystem {
		return "file system on " + n.Name
	}
	return string(n.Kind) + " " + n.Name
}

// Problem is one thing that is wrong with a declaration.
type Problem struct {
	// Path is the field, such as raid[0].devices[1].
	Path    string
	Message string
}

// Layout is a declaration that was understood.
type Layout struct {
	Spec *pb.StorageSpec
	// Nodes are in the order in which they come to be.
	Nodes  []*Node
	byName map[string]*Node
}

// Node returns the part of that name, or nil.
func (l *Layout) Node(name string) *Node { return l.byName[name] }

// Of returns the nodes of one kind, in the order in which they come to be.
func (l *Layout) Of(kind Kind) []*Node {
	var out []*Node
	for _, n := range l.Nodes {
		if n.Kind == kind {
			out = append(out, n)
		}
	}
	return out
}

// Partitions returns the partitions of a disk in their order.
func (l *Layout) Partitions(disk string) []*Node {
	var out []*Node
	for _, n := range l.Of(Partition) {
		if n.On[0].Name == disk {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *Node) int { return cmp.Compare(a.Index, b.Index) })
	return out
}

// DeclaresRoot reports whether the root file system is part of the
// declaration, so that no whole-disk image is.
func (l *Layout) DeclaresRoot() bool { return l.RootDevice() != nil }

// RootDevice returns the device of the declared root file system, or nil.
func (l *Layout) RootDevice() *Node {
	for _, n := range l.Of(Filesystem) {
		if l.Spec.Filesystems[n.Index].GetPath() == "/" {
			return n.On[0]
		}
	}
	return nil
}

// reader builds a Layout and collects what is wrong.
type reader struct {
	*Layout
	problems []Problem
}

func (r *reader) fail(path, format string, args ...any) {
	r.problems = append(r.problems, Problem{path, fmt.Sprintf(format, args...)})
}

// Read understands a declaration. Where there are problems the Layout is nil.
func Read(spec *pb.StorageSpec) (*Layout, []Problem) {
	r := &reader{Layout: &Layout{Spec: spec, byName: map[string]*Node{}}}
	r.declare()
	r.connect()
	if len(r.problems) == 0 {
		r.sort()
	}
	if len(r.problems) == 0 {
		r.settle()
		r.check()
	}
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return r.Layout, nil
}

// declare makes the nodes and gives them their names.
func (r *reader) declare() {
	s := r.Spec
	r.add(&Node{Kind: Disk, Name: Root, Index: -1})
	for i, d := range s.GetDisks() {
		r.name(Disk, d.GetName(), "disks", i)
	}
	for i, p := range s.GetPartitions() {
		r.name(Partition, p.GetName(), "partitions", i)
	}
	for i, a := range s.GetRaid() {
		r.name(Raid, a.GetName(), "raid", i)
	}
	for i, e := range s.GetEncryption() {
		r.name(Encryption, e.GetName(), "encryption", i)
	}
	for i, g := range s.GetVolumeGroups() {
		r.name(VolumeGroup, g.GetName(), "volume_groups", i)
	}
	for i, v := range s.GetLogicalVolumes() {
		r.name(LogicalVolume, v.GetVolumeGroup()+"/"+v.GetName(), "logical_volumes", i)
	}
	for i, f := range s.GetFilesystems() {
		r.Nodes = append(r.Nodes, &Node{Kind: Filesystem, Name: f.GetDevice(), Path: fmt.Sprintf("filesystems[%d]", i), Index: i})
	}
}

func (r *reader) name(kind Kind, name, list string, i int) {
	n := &Node{Kind: kind, Name: name, Path: fmt.Sprintf("%s[%d]", list, i), Index: i}
	switch was := r.byName[name]; {
	case name == "":
		r.fail(n.Path+".name", "missing")
	case was != nil && was.Path == "":
		r.fail(n.Path+".name", "%q is what the disk of the operating system is called", name)
	case was != nil:
		r.fail(n.Path+".name", "%q is given twice: %s has it too", name, was.Path)
	default:
		r.add(n)
	}
}

func (r *reader) add(n *Node) {
	r.Nodes = append(r.Nodes, n)
	r.byName[n.Name] = n
}

// connect follows the names.
func (r *reader) connect() {
	s := r.Spec
	for _, n := range r.Nodes {
		switch n.Kind {
		case Partition:
			r.lies(n, n.Path+".disk", s.Partitions[n.Index].GetDisk(), Disk)
		case Raid:
			r.liesOnAll(n, "devices", s.Raid[n.Index].GetDevices())
			r.liesOnAll(n, "spares", s.Raid[n.Index].GetSpares())
		case Encryption:
			r.lies(n, n.Path+".device", s.Encryption[n.Index].GetDevice())
		case VolumeGroup:
			r.liesOnAll(n, "devices", s.VolumeGroups[n.Index].GetDevices())
		case LogicalVolume:
			r.connectVolume(n, s.LogicalVolumes[n.Index])
		case Filesystem:
			r.lies(n, n.Path+".device", s.Filesystems[n.Index].GetDevice())
		}
	}
}

func (r *reader) connectVolume(n *Node, v *pb.StorageLogicalVolume) {
	switch {
	case v.GetType() == "thin" && v.GetPool() == "":
		r.fail(n.Path+".pool", "missing: a thin volume is in a thin pool")
	case v.GetType() == "thin":
		name := v.GetVolumeGroup() + "/" + v.GetPool()
		if p := r.byName[name]; p != nil && r.Spec.LogicalVolumes[p.Index].GetType() != "thin-pool" {
			r.fail(n.Path+".pool", "%q is no logical volume of type thin-pool", v.GetPool())
			return
		}
		r.lies(n, n.Path+".pool", name, LogicalVolume)
	case v.GetPool() != "":
		r.fail(n.Path+".pool", "goes with type thin only")
	default:
		r.lies(n, n.Path+".volume_group", v.GetVolumeGroup(), VolumeGroup)
	}
}

func (r *reader) liesOnAll(n *Node, field string, names []string) {
	for i, name := range names {
		r.lies(n, fmt.Sprintf("%s.%s[%d]", n.Path, field, i), name)
	}
}

// lies puts n on the part of that name, which has to be of one of the kinds;
// without kinds it has to be a device.
func (r *reader) lies(n *Node, path, name string, want ...Kind) {
	on := r.byName[name]
	if len(want) == 0 {
		want = []Kind{Disk, Partition, Raid, Encryption, LogicalVolume}
	}
	switch {
	case name == "":
		r.fail(path, "missing")
		return
	case on == nil:
		r.fail(path, "there is no %s %q; %s", either(want), name, r.known(want))
		return
	case !slices.Contains(want, on.Kind):
		r.fail(path, "%q is a %s, not a %s", name, on.Kind, either(want))
		return
	case on.Kind == LogicalVolume && n.Kind != LogicalVolume && r.Spec.LogicalVolumes[on.Index].GetType() == "thin-pool":
		r.fail(path, "%q is a thin pool: name a volume in it", name)
		return
	}
	shared := on.Kind == VolumeGroup || on.Kind == Disk && n.Kind == Partition || on.Kind == LogicalVolume && n.Kind == LogicalVolume
	for _, u := range on.Users {
		if !shared || on.Kind == Disk && u.Kind != Partition {
			r.fail(path, "%q is used twice: %s has it too", name, u.Path)
			return
		}
	}
	n.On = append(n.On, on)
	on.Users = append(on.Users, n)
}

func either(kinds []Kind) string {
	if len(kinds) > 1 {
		return "device"
	}
	return string(kinds[0])
}

func (r *reader) known(want []Kind) string {
	var names []string
	for _, n := range r.Nodes {
		if slices.Contains(want, n.Kind) {
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return "there is none"
	}
	return "there are " + strings.Join(names, ", ")
}

// sort puts the nodes into an order in which each comes after what it lies on.
func (r *reader) sort() {
	var out []*Node
	done := map[*Node]bool{}
	left := slices.Clone(r.Nodes)
	slices.SortStableFunc(left, func(a, b *Node) int {
		return cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind))
	})
	for len(left) > 0 {
		next := slices.IndexFunc(left, func(n *Node) bool {
			return !slices.ContainsFunc(n.On, func(on *Node) bool { return !done[on] })
		})
		if next < 0 {
			r.failCycle(left)
			return
		}
		done[left[next]] = true
		out = append(out, left[next])
		left = slices.Delete(left, next, next+1)
	}
	r.Nodes = out
}

// failCycle names the nodes of a cycle; all of left lie on one or are one.
func (r *reader) failCycle(left []*Node) {
	var way []*Node
	n := left[0]
	for !slices.Contains(way, n) {
		way = append(way, n)
		n = n.On[slices.IndexFunc(n.On, func(on *Node) bool { return slices.Contains(left, on) })]
	}
	way = way[slices.Index(way, n):]
	var names []string
	for _, n := range append(way, n) {
		names = append(names, n.Name)
	}
	r.fail(n.Path, "lies on itself: %s", strings.Join(names, " on "))
}

// settle finds the disks beneath each node, and whether they are kept.
func (r *reader) settle() {
	for _, n := range r.Nodes {
		if n.Kind == Disk {
			n.Disks = []string{n.Name}
			n.Keep = n.Index >= 0 && r.Spec.Disks[n.Index].GetWipe() == "keep"
			continue
		}
		for _, on := range n.On {
			n.Disks = append(n.Disks, on.Disks...)
		}
		slices.Sort(n.Disks)
		n.Disks = slices.Compact(n.Disks)
		n.Keep = len(n.On) > 0 && n.On[0].Keep
		for _, on := range n.On {
			if on.Keep != n.Keep {
				r.fail(n.Path+".devices", "some of its disks are kept on reinstall and others are not (%s, %s): give them the same `wipe`", n.On[0].Name, on.Name)
				break
			}
		}
	}
}
