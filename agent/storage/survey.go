package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/layout"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// mark is what the first block of a disk begins with while it is being filled.
// A BIOS that starts it finds `int 18h`: there is nothing to boot here. The
// protective MBR's table, which begins at byte 446, is not in its way.
var mark = []byte("\xcd\x18bedplate: storage that is not complete")

// survey looks at what the disks hold. Nothing is written.
func (r *runner) survey(ctx context.Context, found map[string]*pb.Disk) error {
	r.disks = map[string]Disk{}
	for _, n := range r.layout.Of(layout.Disk) {
		real := found[n.Name]
		if n.Keep && len(n.Users) == 0 {
			r.disks[n.Name] = Disk{Name: n.Name, Path: real.GetPath(), Size: int64(real.GetSizeBytes()), BlockSize: 512}
			continue
		}
		d, err := examine(n.Name, real.GetPath())
		if err != nil {
			return fmt.Errorf("looking at %s: %w", n.Name, err)
		}
		if d.Users, err = disk.Users(r.Sys, r.Proc, d.Path); err != nil {
			return fmt.Errorf("looking at %s: %w", n.Name, err)
		}
		r.disks[n.Name] = d
	}
	return context.Cause(ctx)
}

// examine reads what one disk holds.
func examine(name, path string) (d Disk, err error) {
	dev, err := disk.OpenRead(path)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	d = Disk{Name: name, Path: path, Size: dev.Size(), BlockSize: dev.BlockSize()}
	if err := dev.DropCache(); err != nil {
		return d, err
	}
	head := make([]byte, len(mark))
	if _, err := dev.ReadAt(head, 0); err != nil {
		return d, fmt.Errorf("reading its first block: %w", err)
	}
	d.Unfinished = bytes.Equal(head, mark)
	signatures, err := disk.Signatures(dev, dev.Size())
	if err != nil {
		return d, err
	}
	for _, s := range signatures {
		if s.Type != "gpt_backup" && s.Type != "mbr" && !slices.Contains(d.Holds, s.Type) {
			d.Holds = append(d.Holds, s.Type)
		}
	}
	t, err := partition.Read(dev, dev.Size(), dev.BlockSize())
	if errors.Is(err, partition.ErrNone) {
		return d, nil
	}
	if err != nil {
		d.Holds = append(d.Holds, "a partition table that can't be read")
		return d, nil
	}
	d.Table = t
	if d.Parts, err = disk.Parts(dev, dev.Size(), dev.BlockSize()); err != nil {
		return d, err
	}
	if !slices.Contains(d.Holds, string(t.Kind)) {
		d.Holds = append(d.Holds, string(t.Kind))
	}
	for _, p := range d.Parts {
		d.Holds = append(d.Holds, p.String())
	}
	return d, nil
}

// stopAll deactivates every array, volume and container on the disks of the
// declaration: those of an earlier try, or of this one when it is done. What is
// mounted makes it fail.
func (r *runner) stopAll(ctx context.Context) error {
	for _, n := range r.layout.Of(layout.Disk) {
		if d, ok := r.paths[n.Name]; ok && !(n.Keep && len(n.Users) == 0) {
			if err := r.stop(ctx, d); err != nil {
				return err
			}
		}
	}
	for _, g := range r.layout.Of(layout.VolumeGroup) {
		removeDangling(filepath.Join("/dev", g.Name))
	}
	return nil
}

// stop takes away what is on a device, from the top.
func (r *runner) stop(ctx context.Context, path string) error {
	name := filepath.Base(path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		name = filepath.Base(real)
	}
	dir := filepath.Join(r.Sys, "class/block", name)
	parts, err := filepath.Glob(filepath.Join(dir, name+"*", "holders", "*"))
	if err != nil {
		return err
	}
	held, err := filepath.Glob(filepath.Join(dir, "holders", "*"))
	if err != nil {
		return err
	}
	for _, h := range append(parts, held...) {
		if err := r.stopHolder(ctx, filepath.Base(h)); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) stopHolder(ctx context.Context, name string) error {
	path := filepath.Join("/dev", name)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil // It was on another device as well, and went with that.
	}
	if err := r.stop(ctx, path); err != nil {
		return err
	}
	users, err := disk.Users(r.Sys, r.Proc, path)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fmt.Errorf("%s can't be stopped: %s", path, strings.Join(users, "; "))
	}
	if strings.HasPrefix(name, "md") {
		return r.tool(ctx, nil, "mdadm", "--quiet", "--stop", path)
	}
	b, err := os.ReadFile(filepath.Join(r.Sys, "class/block", name, "dm/name"))
	if err != nil {
		return fmt.Errorf("%s is neither RAID nor a mapped device, and can't be stopped: %w", path, err)
	}
	// A probe of the new device may still have it open: the kernel's own, of
	// partitions.
	return r.tool(ctx, nil, "dmsetup", "remove", "--retry", strings.TrimSpace(string(b)))
}

// removeDangling removes a folder of links that lead nowhere, in whose place
// vgcreate would refuse to make a group.
func removeDangling(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if _, err := os.Stat(path); e.Type()&os.ModeSymlink != 0 && errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(path) // vgcreate says what is wrong if it stays.
		}
	}
	_ = os.Remove(dir)
}
