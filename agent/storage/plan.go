package storage

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/layout"
)

// Disk is a real disk, and what was found on it.
type Disk struct {
	// Name is what the declaration calls it.
	Name      string
	Path      string
	Size      int64
	BlockSize int
	// Table is its partition table; nil when it has none.
	Table *partition.Table
	Parts []disk.Part
	// Holds describes everything that was recognised; a blank disk has nothing.
	Holds []string
	// Unfinished disks carry the mark of a run of ours that didn't get to its end.
	Unfinished bool
	// Users are what keeps it busy, such as mounts.
	Users []string
}

// Verb is what an operation does.
type Verb string

// The verbs.
const (
	Clear   Verb = "clear"
	Table   Verb = "partition"
	Add     Verb = "add partitions"
	Make    Verb = "make"
	Open    Verb = "open"
	Compare Verb = "compare"
	Finish  Verb = "finish"
)

// Place is where a partition goes, in blocks of its disk.
type Place struct {
	Number        int
	Node          *layout.Node
	Start, Blocks uint64
	Type          partition.Type
}

// Operation is one thing to do.
type Operation struct {
	Verb Verb
	Node *layout.Node
	// Places are the partitions of Table and Add.
	Places []Place
	// Grow is the partition of the image that Add makes larger; nil for none.
	Grow *Place
	// Text says it for people.
	Text string
}

// Request is what a plan is made of.
type Request struct {
	Layout *layout.Layout
	// Disks are the real ones, by their declared names; root included.
	Disks map[string]Disk
	// ImageToCome says that the image is not on its disk yet: what that holds doesn't count.
	ImageToCome bool
	// ImageRoot is the number of the image's root partition; 0: found by what is on it.
	ImageRoot int
	// Made says that everything has been made already, by an earlier step: all
	// of it is compared and opened.
	Made bool
}

// planner makes a plan.
type planner struct {
	Request
	sizes map[*layout.Node]int64
	// kept are the disks whose content stays.
	kept  map[string]bool
	ops   []Operation
	wrong []error
}

// Plan returns what has to be done, in order. It touches nothing. Its error
// says everything that stands in the way.
func Plan(r Request) ([]Operation, error) {
	p := &planner{Request: r, sizes: map[*layout.Node]int64{}, kept: map[string]bool{}}
	p.busy()
	p.decide()
	if len(p.wrong) > 0 {
		return nil, errors.Join(p.wrong...)
	}
	for _, n := range r.Layout.Nodes {
		p.node(n)
	}
	if len(p.wrong) > 0 {
		return nil, errors.Join(p.wrong...)
	}
	p.finish()
	return p.ops, nil
}

func (p *planner) fail(n *layout.Node, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if n.Path != "" {
		text = n.Path + ": " + text
	}
	p.wrong = append(p.wrong, errors.New(text))
}

func (p *planner) busy() {
	for _, n := range p.Layout.Of(layout.Disk) {
		d := p.Disks[n.Name]
		if len(d.Users) > 0 && !p.leftAlone(n) {
			p.fail(n, "%s (%s) is in use: %s", n.Name, d.Path, strings.Join(d.Users, "; "))
		}
	}
}

// leftAlone are disks to be kept of which nothing is declared.
func (p *planner) leftAlone(n *layout.Node) bool { return n.Keep && len(n.Users) == 0 }

// image reports whether a disk holds a whole-disk image.
func (p *planner) image(n *layout.Node) bool {
	return n.Name == layout.Root && n.Kind == layout.Disk && !p.Layout.DeclaresRoot()
}

// decide says which disks keep what they hold. Those that share a part are
// either all blank or unfinished, and filled, or all hold something, and are
// kept. Where only some are unfinished, everything was complete and the marks
// were being taken off: they are kept as well, and have to stand comparison.
func (p *planner) decide() {
	for _, group := range p.groups() {
		var blank, full []string
		for _, name := range group {
			switch d := p.Disks[name]; {
			case d.Unfinished:
			case len(d.Holds) == 0:
				blank = append(blank, fmt.Sprintf("%s (%s)", name, d.Path))
			default:
				full = append(full, fmt.Sprintf("%s (%s: %s)", name, d.Path, strings.Join(d.Holds, ", ")))
			}
		}
		if len(blank) > 0 && len(full) > 0 {
			p.fail(p.Layout.Node(group[0]), "disks that belong together are to be kept, but %s is blank while there is something on %s: put the right disk in, or repair it by hand and declare that", strings.Join(blank, ", "), strings.Join(full, ", "))
			continue
		}
		for _, name := range group {
			p.kept[name] = len(full) > 0
		}
	}
}

// groups are the disks to be kept, those together that share a part.
func (p *planner) groups() [][]string {
	var out [][]string
	for _, n := range p.Layout.Nodes {
		if !n.Keep || n.Kind == layout.Disk && len(n.Users) == 0 {
			continue
		}
		joined := slices.Clone(n.Disks)
		out = slices.DeleteFunc(out, func(g []string) bool {
			shares := slices.ContainsFunc(g, func(d string) bool { return slices.Contains(n.Disks, d) })
			if shares {
				joined = append(joined, g...)
			}
			return shares
		})
		slices.Sort(joined)
		out = append(out, slices.Compact(joined))
	}
	return out
}

// stays reports whether a part is there already and is kept.
func (p *planner) stays(n *layout.Node) bool {
	return p.Made || len(n.Disks) > 0 && p.kept[n.Disks[0]]
}

func (p *planner) add(verb Verb, n *layout.Node, format string, args ...any) {
	p.ops = append(p.ops, Operation{Verb: verb, Node: n, Text: fmt.Sprintf(format, args...)})
}

func (p *planner) node(n *layout.Node) {
	switch n.Kind {
	case layout.Disk:
		p.disk(n)
	case layout.Partition: // With its disk.
	case layout.Raid:
		p.raid(n)
	case layout.Encryption:
		p.encryption(n)
	case layout.VolumeGroup:
		p.group(n)
	case layout.LogicalVolume: // With its group.
	case layout.Filesystem:
		p.filesystem(n)
	}
}

func (p *planner) disk(n *layout.Node) {
	d := p.Disks[n.Name]
	switch {
	case p.leftAlone(n):
	case p.image(n) && p.Made:
		p.compareImage(n, d)
	case p.image(n):
		p.behindImage(n, d)
	case len(n.Users) == 0 && n.Name == layout.Root:
	case len(n.Users) == 0 && !p.Made:
		p.add(Clear, n, "clear %s", title(d))
	case len(n.Users) == 0:
	case p.stays(n):
		p.compareTable(n, d)
	default:
		p.freshTable(n, d)
	}
}

// title names a disk with what will be lost.
func title(d Disk) string {
	s := fmt.Sprintf("%s (%s, %.1f GB)", d.Name, d.Path, float64(d.Size)/1e9)
	switch {
	case d.Unfinished:
		s += ", which was being filled"
	case len(d.Holds) > 0:
		s += ", which holds " + strings.Join(d.Holds, ", ")
	}
	return s
}

func names(nodes []*layout.Node) string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return strings.Join(out, ", ")
}

func (p *planner) raid(n *layout.Node) {
	a := p.Layout.Spec.Raid[n.Index]
	members := n.On[:len(a.GetDevices())]
	of := names(members)
	if spares := n.On[len(members):]; len(spares) > 0 {
		of += ", with " + names(spares) + " to spare"
	}
	if p.stays(n) {
		p.add(Open, n, "assemble %s %s of %s, which is kept", a.GetLevel(), n.Name, of)
		return
	}
	p.sizes[n] = p.raidSize(n, a.GetLevel(), members)
	p.add(Make, n, "make %s %s of %s, %s", a.GetLevel(), n.Name, of, mib(p.sizes[n]))
}

func (p *planner) encryption(n *layout.Node) {
	if p.stays(n) {
		p.add(Open, n, "open encrypted %s on %s, which is kept", n.Name, n.On[0].Name)
		return
	}
	p.sizes[n] = p.larger(n, p.size(n.On[0])-luksHeader)
	p.add(Make, n, "encrypt %s as %s", n.On[0].Name, n.Name)
}

func (p *planner) group(n *layout.Node) {
	if p.stays(n) {
		p.add(Open, n, "activate volume group %s of %s, which is kept", n.Name, names(n.On))
		return
	}
	var total int64
	for _, on := range n.On {
		total += p.larger(n, (p.size(on)-extent)/extent*extent)
	}
	p.sizes[n] = total
	p.add(Make, n, "make volume group %s of %s, %s", n.Name, names(n.On), mib(total))
	p.volumes(n, total)
}

func (p *planner) filesystem(n *layout.Node) {
	f := p.Layout.Spec.Filesystems[n.Index]
	what := f.GetType()
	if f.GetLabel() != "" {
		what += fmt.Sprintf(" %q", f.GetLabel())
	}
	at := ""
	if f.GetPath() != "" {
		at = ", mounted at " + f.GetPath()
	}
	if p.stays(n) {
		p.add(Compare, n, "keep %s on %s%s", what, n.Name, at)
		return
	}
	if size, least := p.size(n.On[0]), smallest[f.GetType()]; size > 0 && size < least {
		p.fail(n, "%s is %s, and %s needs %s", n.Name, mib(size), f.GetType(), mib(least))
	}
	p.add(Make, n, "make %s on %s%s", what, n.Name, at)
}

// finish takes the marks away, once everything is complete.
func (p *planner) finish() {
	for _, n := range p.Layout.Of(layout.Disk) {
		if !p.image(n) && len(n.Users) > 0 && (!p.stays(n) || p.Disks[n.Name].Unfinished) {
			p.add(Finish, n, "mark %s as complete", n.Name)
		}
	}
}
