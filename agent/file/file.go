// Package file holds the actions that work inside an installed system's file
// system: file.write, archive.extract and chroot.exec.
//
// The partition is found by number, label, type or the word `root` (package
// disk), mounted for the step, and always unmounted again, synced before. Every
// path is resolved by the kernel below the mount (openat2, RESOLVE_IN_ROOT):
// neither `..` nor a link of the installed system leads out of it, and absolute
// links mean what they will mean when that system runs.
//
// A partition without a device node (a disk that the kernel makes no partitions
// on, or a file that stands for a disk) is reached through a loop device.
//
// A Service may be used by several goroutines at once, for different partitions.
package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/input"
	"github.com/bedplate/bedplate/agent/step"
)

// Config is what a Service needs.
type Config struct {
	// LoadModule loads a kernel module by name; it succeeds for one that is built in.
	LoadModule func(name string) error
	// Folder is where file systems are mounted; empty: /run/bedplate.
	Folder string
	Log    *slog.Logger
	// ResolvConf is shown to programs as /etc/resolv.conf; empty: /etc/resolv.conf.
	ResolvConf string
	// NodeWait is how long a partition's node may take to appear, before it is
	// reached through a loop device; 0: 5 s.
	NodeWait time.Duration
	// Stall, GiveUp and Backoff are as in transfer.Config; 0 means its defaults.
	Stall, GiveUp, Backoff time.Duration
}

// Service carries out the actions.
type Service struct{ Config }

// New checks the configuration.
func New(c Config) (*Service, error) {
	if c.LoadModule == nil {
		return nil, errors.New("file: LoadModule is needed")
	}
	if c.Folder == "" {
		c.Folder = "/run/bedplate"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.NodeWait == 0 {
		c.NodeWait = 5 * time.Second
	}
	return &Service{c}, nil
}

// Steps returns the actions by name.
func (s *Service) Steps() step.Set {
	return step.Set{
		"file.write":      step.Func(s.write),
		"archive.extract": step.Func(s.extract),
		"chroot.exec":     step.Func(s.chroot),
	}
}

// place is which file system a step works in.
type place struct {
	device    string
	disk      string
	partition string
	root      int
}

func placeOf(in *input.Reader, req step.Request) place {
	p := place{device: in.String("device"), disk: in.String("disk"), partition: in.String("partition"), root: rootOf(req.Images)}
	if (p.device == "") == (p.disk == "") {
		in.Fail("disk", "give either `device`, or `disk` and `partition`")
	}
	if p.device != "" && p.partition != "" {
		in.Fail("partition", "goes with `disk`; `device` is the file system itself")
	}
	return p
}

// rootOf returns the root partition that the workflow's images agree on, or 0.
func rootOf(images map[string]any) int {
	root := int64(0)
	for _, i := range images {
		m, ok := i.(map[string]any)
		if !ok {
			return 0
		}
		n := input.Of(m).Int("root_partition", 0)
		if root != 0 && n != root {
			return 0
		}
		root = n
	}
	return int(root)
}

// within runs f with the place's file system mounted. What f returns is only a
// success if syncing and unmounting are.
func (s *Service) within(ctx context.Context, p place, readOnly bool, f func(*Volume) error) (err error) {
	v, err := s.open(ctx, p, readOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	return f(v)
}

// Mount mounts a partition, which disk.Find's words name; the whole disk if it
// has no partition table.
func (s *Service) Mount(ctx context.Context, path, partition string, readOnly bool) (*Volume, error) {
	return s.open(ctx, place{disk: path, partition: partition}, readOnly)
}

// source is where the bytes of a file system are: a block device, or a part of
// something else.
type source struct {
	path           string
	offset, length int64
	loop           bool
	kind           disk.Signature
}

func (s *Service) open(ctx context.Context, p place, readOnly bool) (*Volume, error) {
	src, err := s.locate(ctx, p)
	if err != nil {
		return nil, err
	}
	if src.kind.Type == "" {
		return nil, fmt.Errorf("%s holds no known file system: was it formatted, and is it the right partition?", src.path)
	}
	return s.mount(ctx, src, readOnly)
}

func (s *Service) locate(ctx context.Context, p place) (source, error) {
	if p.device != "" {
		path, err := disk.Path(p.device)
		if err != nil {
			return source{}, err
		}
		return s.whole(path)
	}
	path, err := disk.Path(p.disk)
	if err != nil {
		return source{}, err
	}
	d, err := disk.OpenRead(path)
	if err != nil {
		return source{}, err
	}
	defer d.Close() // Only read.
	parts, err := disk.Parts(d, d.Size(), d.BlockSize())
	if disk.IsNoTable(err) && (p.partition == "" || p.partition == disk.Root) {
		return s.whole(path)
	}
	if err != nil {
		return source{}, fmt.Errorf("%s: %w", path, err)
	}
	part, err := disk.Find(parts, p.partition, p.root)
	if err != nil {
		return source{}, fmt.Errorf("%s: %w", path, err)
	}
	src := source{path: disk.Node(path, part.Number), kind: part.Content}
	if s.hasNode(ctx, d, src.path, part.Offset) {
		return src, nil
	}
	return source{path: path, offset: part.Offset, length: part.Length, loop: true, kind: part.Content}, nil
}

// hasNode reports whether the kernel has made a node for the partition at that
// offset, having asked it to if need be.
func (s *Service) hasNode(ctx context.Context, d *disk.Device, node string, offset int64) bool {
	if !d.IsBlock() {
		return false
	}
	if nodeAt(node, offset) {
		return true
	}
	return d.Reread(ctx) == nil && disk.WaitNode(ctx, node, s.NodeWait) == nil && nodeAt(node, offset)
}

// nodeAt reports whether a node is there, and not that of an older table.
func nodeAt(node string, offset int64) bool {
	if _, err := os.Stat(node); err != nil {
		return false
	}
	b, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(node), "start"))
	sectors, perr := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return err == nil && perr == nil && sectors*512 == offset // In 512 bytes, whatever the disk's blocks are.
}

// whole is a file system that fills a device.
func (s *Service) whole(path string) (source, error) {
	d, err := disk.OpenRead(path)
	if err != nil {
		return source{}, err
	}
	defer d.Close() // Only read.
	kind, _, err := disk.FileSystem(d, d.Size())
	if err != nil {
		return source{}, err
	}
	return source{path: path, length: d.Size(), loop: !d.IsBlock(), kind: kind}, nil
}

// supported are the file systems that can be mounted, with their modules.
var supported = map[string][]string{
	"ext4": {"ext4"}, "ext3": {"ext4"}, "ext2": {"ext4"}, "xfs": {"xfs"}, "btrfs": {"btrfs"},
	"vfat": {"vfat", "nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8"},
}

// modules loads what mounting a kind of file system needs, and returns what
// went wrong, which only counts if the mount fails as well.
func (s *Service) modules(kind string) (string, error) {
	names, ok := supported[kind]
	if !ok {
		return "", fmt.Errorf("a file system of type %s can't be mounted here: ext2, ext3, ext4, xfs, btrfs and vfat can", kind)
	}
	var problems []string
	for _, m := range names {
		if err := s.LoadModule(m); err != nil {
			problems = append(problems, fmt.Sprintf("loading module %s: %v", m, err))
		}
	}
	return strings.Join(problems, "; "), nil
}
