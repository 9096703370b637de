// Package disk holds the actions disk.select, disk.wipe, disk.partition and
// disk.format, and what the other disk-writing packages need of a disk: a
// Device (direct writes, clearing, discard, re-reading of the table), what is
// recognised on it, and which partition a word such as `root` stands for.
//
// It talks to the kernel through system calls and sysfs alone; only file
// systems are made by programs (mkfs.ext4, mkfs.xfs, mkfs.vfat, mkswap), which
// the agent's system brings along. It doesn't mount anything.
//
// A disk that is mounted, swapped on, or held by LVM or RAID is refused. A
// Service may be used by several goroutines at once, for different disks.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Config is what a Service needs.
type Config struct {
	// Disks returns the machine's disks, as the inventory has them.
	Disks func(context.Context) ([]*pb.Disk, error)
	// Match evaluates a hint, an expression over `disk`.
	Match func(hint string, d *pb.Disk) (bool, error)
	// Random makes the GUIDs of disks and partitions.
	Random io.Reader
	Log    *slog.Logger
	// Run runs a program and hands on each line that it prints. Nil: found in
	// the usual folders and executed.
	Run func(ctx context.Context, args []string, line func(stream, text string)) error
	// Sys and Proc are where those file systems are; empty: /sys and /proc.
	Sys, Proc string
	// NodeWait is how long a partition's node may take to appear; 0: 20 s.
	NodeWait time.Duration
}

// Service carries out the actions.
type Service struct{ Config }

// New checks the configuration.
func New(c Config) (*Service, error) {
	if c.Disks == nil || c.Match == nil || c.Random == nil {
		return nil, errors.New("disk: Disks, Match and Random are needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Run == nil {
		c.Run = run
	}
	if c.Sys == "" {
		c.Sys = "/sys"
	}
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.NodeWait == 0 {
		c.NodeWait = 20 * time.Second
	}
	return &Service{c}, nil
}

// Steps returns the actions by name.
func (s *Service) Steps() step.Set {
	return step.Set{
		"disk.select":    step.Func(s.selectDisk),
		"disk.wipe":      step.Func(s.wipe),
		"disk.partition": step.Func(s.partition),
		"disk.format":    step.Func(s.format),
	}
}

// Path returns the device path for what a template calls a disk: a path, or a
// kernel name such as nvme0n1.
func Path(word string) (string, error) {
	if word == "" {
		return "", errors.New("no disk is named; take ${{ steps.ID.outputs.path }} of a disk.select step")
	}
	if !strings.Contains(word, "/") {
		word = "/dev/" + word
	}
	path, err := filepath.EvalSymlinks(word)
	if err != nil {
		return "", fmt.Errorf("finding disk: %w; disk.select finds the ones that are there", err)
	}
	return path, nil
}

// pause waits, and ends early with the context's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
