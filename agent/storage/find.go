package storage

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/layout"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// wish is one declared disk on its way to a real one.
type wish struct {
	name string
	// how says how it is found, for messages.
	how string
	// fits are places in the list of disks, the best first.
	fits []int
	// passed says of each other disk why it doesn't fit.
	passed []string
}

// Match evaluates a hint, an expression over `disk`.
type Match func(hint string, d *pb.Disk) (bool, error)

// Find gives each declared disk one of the machine's, and each another one.
// Those that are named exactly come first, then those with a hint, each with
// the smallest disk that fits; a hint takes a larger one where only that lets
// everybody have one. rootHint, if not empty, goes before the declared root_disk.
func Find(l *layout.Layout, disks []*pb.Disk, rootHint string, match Match) (map[string]*pb.Disk, error) {
	disks = slices.Clone(disks)
	slices.SortFunc(disks, func(a, b *pb.Disk) int {
		return cmp.Or(cmp.Compare(a.GetSizeBytes(), b.GetSizeBytes()), cmp.Compare(a.GetPciAddress(), b.GetPciAddress()), cmp.Compare(a.GetName(), b.GetName()))
	})
	wishes, err := wishes(l, disks, rootHint, match)
	if err != nil {
		return nil, err
	}
	given := make([]int, len(disks)) // 1 + place of the wish; 0: free
	for i := range wishes {
		if !assign(wishes, i, given, map[int]bool{}) {
			return nil, unmet(wishes, i, disks, given)
		}
	}
	out := map[string]*pb.Disk{}
	for i, w := range given {
		if w > 0 {
			out[wishes[w-1].name] = disks[i]
		}
	}
	return out, nil
}

// assign finds a disk for a wish, and has earlier ones take another of theirs
// where that helps (a bipartite matching by augmenting paths).
func assign(wishes []wish, i int, given []int, tried map[int]bool) bool {
	for _, d := range wishes[i].fits {
		if given[d] == 0 {
			given[d] = i + 1
			return true
		}
	}
	for _, d := range wishes[i].fits {
		if tried[d] {
			continue
		}
		tried[d] = true
		if assign(wishes, given[d]-1, given, tried) {
			given[d] = i + 1
			return true
		}
	}
	return false
}

func wishes(l *layout.Layout, disks []*pb.Disk, rootHint string, match Match) ([]wish, error) {
	var exact, hinted []wish
	hint := cmp.Or(rootHint, l.Spec.GetRootDisk())
	root := wish{name: layout.Root, how: "hint " + hint}
	if hint == "" {
		root.how = "the smallest that is left"
	}
	if err := root.try(disks, func(d *pb.Disk) (string, error) { return unfit(d, hint, match) }); err != nil {
		return nil, err
	}
	for _, d := range l.Spec.GetDisks() {
		w := wish{name: d.GetName()}
		test := func(p *pb.Disk) (string, error) { return unfit(p, d.GetHint(), match) }
		w.how = "hint " + d.GetHint()
		if d.GetHint() == "" {
			w.how, test = identify(d)
		}
		if err := w.try(disks, test); err != nil {
			return nil, err
		}
		if d.GetHint() == "" {
			exact = append(exact, w)
		} else {
			hinted = append(hinted, w)
		}
	}
	if hint != "" {
		return slices.Concat(exact, []wish{root}, hinted), nil
	}
	return slices.Concat(exact, hinted, []wish{root}), nil
}

// try sorts the disks into those that fit and those that don't.
func (w *wish) try(disks []*pb.Disk, test func(*pb.Disk) (string, error)) error {
	for i, d := range disks {
		why, err := test(d)
		if err != nil {
			return fmt.Errorf("evaluating %s for %s: %w", w.how, d.GetName(), err)
		}
		if why == "" {
			w.fits = append(w.fits, i)
			continue
		}
		w.passed = append(w.passed, fmt.Sprintf("%s (%s): %s", d.GetName(), describe(d), why))
	}
	return nil
}

func unfit(d *pb.Disk, hint string, match Match) (string, error) {
	switch {
	case d.GetReadOnly():
		return "read only", nil
	case d.GetSizeBytes() == 0:
		return "no medium", nil
	case d.GetRemovable() && !strings.Contains(hint, "disk.removable"):
		return "removable", nil
	case hint == "":
		return "", nil
	}
	ok, err := match(hint, d)
	if err != nil || ok {
		return "", err
	}
	return "the hint is false", nil
}

// identify is for a disk that is named exactly.
func identify(d *pb.StorageDisk) (string, func(*pb.Disk) (string, error)) {
	what, want, of := "serial", d.GetSerial(), (*pb.Disk).GetSerial
	switch {
	case d.GetWwn() != "":
		what, want, of = "wwn", d.GetWwn(), (*pb.Disk).GetWwn
	case d.GetPath() != "":
		what, want, of = "path", d.GetPath(), (*pb.Disk).GetPath
	}
	return what + " " + want, func(p *pb.Disk) (string, error) {
		switch got := of(p); {
		case !strings.EqualFold(plain(got), plain(want)):
			return fmt.Sprintf("its %s is %q", what, got), nil
		case p.GetReadOnly():
			return "read only", nil
		case p.GetSizeBytes() == 0:
			return "no medium", nil
		}
		return "", nil
	}
}

// plain leaves out what WWNs are written with and without.
func plain(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimPrefix(strings.TrimPrefix(s, "0x"), "naa.")
}

func unmet(wishes []wish, i int, disks []*pb.Disk, given []int) error {
	w := wishes[i]
	var why []string
	for d, by := range given {
		if by > 0 && slices.Contains(w.fits, d) {
			why = append(why, fmt.Sprintf("%s (%s): taken by %s", disks[d].GetName(), describe(disks[d]), wishes[by-1].name))
		}
	}
	why = append(why, w.passed...)
	if len(why) == 0 {
		why = []string{"the machine has none; check that its storage controller's driver is in the agent's system"}
	}
	return fmt.Errorf("there is no disk for %s (%s): %s", w.name, w.how, strings.Join(why, "; "))
}

func describe(d *pb.Disk) string {
	parts := []string{fmt.Sprintf("%.1f GB", float64(d.GetSizeBytes())/1e9)}
	for _, s := range []string{d.GetType(), d.GetModel(), d.GetSerial()} {
		if s = strings.TrimSpace(s); s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, " ")
}
