package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bedplate/bedplate/agent/boot/entry"
	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/step"
)

// Partition is one that may hold a part of an installed system.
type Partition struct {
	Number                 int
	Device                 string
	UUID, Label, PartLabel string
}

// Partitions lists those of a disk whose file systems can be mounted; the disk
// itself if it has no partition table.
func Partitions(ctx context.Context, path string) ([]Partition, error) {
	path, err := disk.Path(path)
	if err != nil {
		return nil, err
	}
	d, err := disk.OpenRead(path)
	if err != nil {
		return nil, err
	}
	defer d.Close() // only read
	parts, err := disk.Parts(d, d.Size(), d.BlockSize())
	if disk.IsNoTable(err) {
		s, _, err := disk.FileSystem(d, d.Size())
		return []Partition{{Device: path, UUID: s.UUID, Label: s.Label}}, err
	}
	if err != nil {
		return nil, err
	}
	var out []Partition
	for _, p := range parts {
		switch p.Content.Type {
		case "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat":
		default:
			continue
		}
		node := disk.Node(path, p.Number)
		if _, err := os.Stat(node); errors.Is(err, os.ErrNotExist) {
			if err := d.Reread(ctx); err != nil {
				return nil, err
			}
			if err := disk.WaitNode(ctx, node, nodeWait); err != nil {
				return nil, err
			}
		}
		out = append(out, Partition{Number: p.Number, Device: node, UUID: p.Content.UUID, Label: p.Content.Label, PartLabel: p.Label})
	}
	return out, nil
}

// nodeWait is how long a partition's node may take to appear.
const nodeWait = 20 * time.Second

// loadable is the kernel of an installed system, copied into memory.
type loadable struct{ kernel, initrd, cmdline string }

// byDefault finds what the system on a disk would boot by default and copies
// it: once its file systems are unmounted nothing can change it any more.
func (m Machine) byDefault(ctx context.Context, f *files, path string) (s loadable, err error) {
	parts, err := m.Partitions(ctx, path)
	if err != nil {
		return s, err
	}
	var volumes []entry.Volume
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	for _, p := range parts {
		dir, unmount, err := m.Mount(ctx, p.Device)
		if err != nil {
			f.rep.Log(step.Agent, fmt.Sprintf("passing over %s: %v", p.Device, err))
			continue
		}
		undo = append(undo, unmount)
		root, err := os.OpenRoot(dir)
		if err != nil {
			return s, fmt.Errorf("opening %s: %w", p.Device, err)
		}
		undo = append(undo, root.Close)
		volumes = append(volumes, entry.Volume{Number: p.Number, UUID: p.UUID, Label: p.Label, FS: root.FS()})
	}
	e, err := entry.Find(volumes, m.uefi())
	if err != nil {
		return s, fmt.Errorf("looking for the kernel that %s boots: %w", path, err)
	}
	f.rep.Log(step.Agent, fmt.Sprintf("%s: %s, kernel %s, of %s", path, e.Title, e.Kernel.Path, e.Source))
	return copyEntry(f, e)
}

// copyEntry copies kernel and initramfs; several of those become one, as the
// kernel would have them from a boot loader.
func copyEntry(f *files, e entry.Entry) (s loadable, err error) {
	s.cmdline = e.Cmdline
	k, err := e.Kernel.Open()
	if err != nil {
		return s, fmt.Errorf("opening kernel: %w", err)
	}
	defer k.Close()
	if s.kernel, err = f.save(k, "kernel", 0); err != nil || len(e.Initrds) == 0 {
		return s, err
	}
	var all []io.Reader
	for _, i := range e.Initrds {
		r, err := i.Open()
		if err != nil {
			return s, fmt.Errorf("opening initramfs: %w", err)
		}
		defer r.Close()
		all = append(all, r)
	}
	s.initrd, err = f.save(io.MultiReader(all...), "initrd", 0)
	return s, err
}

// panicAfter has a kernel that fails to come up restart the machine, which then
// boots its disk by way of its firmware. An installed system that says
// otherwise is left alone.
func panicAfter(cmdline string) string {
	for w := range strings.FieldsSeq(cmdline) {
		if strings.HasPrefix(w, "panic=") {
			return cmdline
		}
	}
	return strings.TrimSpace(cmdline + " panic=30")
}

func (m Machine) uefi() bool {
	_, err := os.Stat(m.path("sys/firmware/efi"))
	return err == nil
}

func (m Machine) path(elem ...string) string {
	root := m.Root
	if root == "" {
		root = "/"
	}
	return filepath.Join(append([]string{root}, elem...)...)
}
