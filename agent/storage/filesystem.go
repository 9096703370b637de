package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/layout"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// mkfs is how a file system is made, and the option for its label.
var mkfs = map[string]struct {
	args  []string
	label string
}{
	"ext4": {[]string{"mkfs.ext4", "-F", "-q"}, "-L"},
	"xfs":  {[]string{"mkfs.xfs", "-f", "-q"}, "-L"},
	"vfat": {[]string{"mkfs.vfat"}, "-n"},
	"swap": {[]string{"mkswap"}, "-L"},
}

func (r *runner) makeFilesystem(ctx context.Context, op Operation) error {
	f := r.layout.Spec.Filesystems[op.Node.Index]
	dev := r.device[op.Node.On[0]]
	err := onDisk(dev, func(d *disk.Device) error { return clearFront(ctx, d) })
	if err != nil {
		return err
	}
	m := mkfs[f.GetType()]
	args := m.args[:len(m.args):len(m.args)]
	if f.GetLabel() != "" {
		args = append(args, m.label, f.GetLabel())
	}
	if err := r.tool(ctx, nil, append(args, dev)...); err != nil {
		return err
	}
	return r.compareFilesystem(ctx, op)
}

// clearFront removes what an older file system left, for mkfs doesn't overwrite
// what isn't its own.
func clearFront(ctx context.Context, d *disk.Device) error {
	n := min(d.Size(), ends)
	if err := disk.Clear(ctx, d, 0, n, nil); err != nil {
		return err
	}
	return disk.Clear(ctx, d, d.Size()-n, n, nil)
}

// compareFilesystem looks whether a device holds the file system that is declared.
func (r *runner) compareFilesystem(_ context.Context, op Operation) error {
	f := r.layout.Spec.Filesystems[op.Node.Index]
	dev := r.device[op.Node.On[0]]
	got, err := filesystem(dev)
	if err != nil {
		return err
	}
	if got.Type != f.GetType() || f.GetLabel() != "" && got.Label != f.GetLabel() {
		return fmt.Errorf("%s is declared, but %s (%s) holds %s", named(f.GetType(), f.GetLabel()), op.Node.Name, dev, named(got.Type, got.Label))
	}
	return nil
}

func named(kind, label string) string {
	switch {
	case kind == "":
		return "nothing that is known"
	case label != "":
		return fmt.Sprintf("%s %q", kind, label)
	}
	return kind
}

// filesystem reads what is on a device, past the page cache.
func filesystem(dev string) (s disk.Signature, err error) {
	d, err := disk.OpenRead(dev)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.DropCache(); err != nil {
		return s, err
	}
	s, _, err = disk.FileSystem(d, d.Size())
	return s, err
}

// mount is a file system that the installed system mounts.
type mount struct {
	node *layout.Node
	spec *pb.StorageFilesystem
	uuid string
}

func (r *runner) mounts() ([]mount, error) {
	var out []mount
	for _, n := range r.layout.Of(layout.Filesystem) {
		f := r.layout.Spec.Filesystems[n.Index]
		if f.GetPath() == "" && f.GetType() != "swap" {
			continue
		}
		got, err := filesystem(r.device[n.On[0]])
		if err != nil {
			return nil, err
		}
		if got.UUID == "" {
			return nil, fmt.Errorf("%s has no UUID to mount it by", n)
		}
		out = append(out, mount{n, f, got.UUID})
	}
	return out, nil
}
