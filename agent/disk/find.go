package disk

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/bedplate/bedplate/agent/disk/partition"
)

// Root is the word that stands for the partition of the root file system.
const Root = "root"

// Part is a partition together with what is on it.
type Part struct {
	partition.Partition
	// Offset and Length are in bytes.
	Offset, Length int64
	// Content is what was recognised there; its Type is empty when nothing was.
	Content Signature
}

// String describes the partition for people.
func (p Part) String() string {
	s := fmt.Sprintf("%d: %s, %d MiB", p.Number, partition.TypeName(p.Partition), p.Length>>20)
	if p.Label != "" {
		s += fmt.Sprintf(", label %q", p.Label)
	}
	if p.Content.Type != "" {
		s += ", " + p.Content.Type
	}
	if p.Content.Label != "" {
		s += fmt.Sprintf(" %q", p.Content.Label)
	}
	return s
}

// Parts reads a disk's table and what is on each partition. Entries that lie
// beyond the disk, and extended MBR partitions, are left out.
func Parts(r io.ReaderAt, size int64, blockSize int) ([]Part, error) {
	t, err := partition.Read(r, size, blockSize)
	if err != nil {
		return nil, fmt.Errorf("reading partition table: %w", err)
	}
	var out []Part
	for _, p := range t.Partitions {
		off, n, err := t.Span(p, size)
		if err != nil || p.Type.IsZero() && (p.MBRType == 0x05 || p.MBRType == 0x0f || p.MBRType == 0x85) {
			continue
		}
		content, _, err := FileSystem(io.NewSectionReader(r, off, n), n)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p.Number, err)
		}
		out = append(out, Part{Partition: p, Offset: off, Length: n, Content: content})
	}
	return out, nil
}

// Find returns the partition that a word stands for: its number, `root`, its
// label, the label of its file system, or its type (esp, swap). root is the
// number that the image names for its root partition, or 0.
func Find(parts []Part, word string, root int) (Part, error) {
	if n, err := strconv.Atoi(word); err == nil {
		return only(parts, fmt.Sprintf("partition %d", n), func(p Part) bool { return p.Number == n })
	}
	if word == "" || word == Root {
		return findRoot(parts, root)
	}
	for _, match := range []func(Part) bool{
		func(p Part) bool { return p.Label == word },
		func(p Part) bool { return p.Content.Label == word },
		typeMatch(word),
	} {
		if slices.ContainsFunc(parts, match) {
			return only(parts, fmt.Sprintf("partition %q", word), match)
		}
	}
	return only(parts, fmt.Sprintf("partition %q", word), func(Part) bool { return false })
}

func typeMatch(word string) func(Part) bool {
	t, err := partition.TypeNamed(word)
	if err != nil {
		return func(Part) bool { return false }
	}
	return func(p Part) bool {
		return !t.GUID.IsZero() && p.Type == t.GUID || t.MBR != 0 && p.MBRType == t.MBR
	}
}

func findRoot(parts []Part, root int) (Part, error) {
	if root > 0 {
		return only(parts, fmt.Sprintf("root partition %d, which the image names,", root), func(p Part) bool { return p.Number == root })
	}
	typed := func(p Part) bool { return slices.Contains(partition.TypeRoot, p.Type) && linuxFS(p.Content.Type) }
	var best Part
	for _, p := range parts {
		better := p.Length > best.Length
		if t := typed(p); t != typed(best) {
			better = t
		}
		if linuxFS(p.Content.Type) && better {
			best = p
		}
	}
	if best.Number == 0 {
		return Part{}, fmt.Errorf("no partition has a Linux file system: %s", list(parts))
	}
	return best, nil
}

func linuxFS(kind string) bool {
	return slices.Contains([]string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"}, kind)
}

func only(parts []Part, what string, match func(Part) bool) (Part, error) {
	var found []Part
	for _, p := range parts {
		if match(p) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Part{}, fmt.Errorf("there is no %s; there are %s", strings.TrimSuffix(what, ","), list(parts))
	}
	return Part{}, fmt.Errorf("%d partitions are called so: %s; give the number", len(found), list(found))
}

func list(parts []Part) string {
	if len(parts) == 0 {
		return "no partitions"
	}
	var s []string
	for _, p := range parts {
		s = append(s, p.String())
	}
	return strings.Join(s, "; ")
}

// IsNoTable reports whether an error of Parts means that the disk has no
// partition table, so that a file system may be on the whole of it.
func IsNoTable(err error) bool { return errors.Is(err, partition.ErrNone) }

// Node returns the path of a partition's device node.
func Node(disk string, number int) string {
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		return disk + "p" + strconv.Itoa(number) // nvme0n1p1, mmcblk0p1
	}
	return disk + strconv.Itoa(number)
}
