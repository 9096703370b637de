// Package holder makes a disk free of what the kernel holds it by: mounted
// file systems, swap space, members of software RAID (md), of device mapper
// (LVM, LUKS, multipath) and of bcache. What is stacked is taken off from the
// top. Nothing on the disk is changed, and nothing is killed: a file system
// that a program still uses stays mounted, and is the error.
//
// It reads sysfs and /proc, and speaks to the kernel by system calls alone.
// A Service may be used by one goroutine at a time.
package holder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how many layers are stacked on a disk.
const maxDepth = 16

// Config is where things are and how they are done; the zero value is the
// running system.
type Config struct {
	// Sys, Proc and Dev are where those file systems are; empty: /sys, /proc, /dev.
	Sys, Proc, Dev string
	// Kernel carries out what is asked of the kernel; nil: the running one.
	Kernel Kernel
	// Patience is how long a device that was just let go may stay busy; 0: 5 s.
	Patience time.Duration
}

// Kernel is what is asked of the kernel.
type Kernel interface {
	Unmount(path string) error
	SwapOff(path string) error
	// StopArray stops the md array with that device node.
	StopArray(node string) error
	// RemoveMap removes the device mapper's device of that name.
	RemoveMap(name string) error
}

// Service frees disks.
type Service struct{ Config }

// New returns a Service.
func New(c Config) *Service {
	for p, otherwise := range map[*string]string{&c.Sys: "/sys", &c.Proc: "/proc", &c.Dev: "/dev"} {
		if *p == "" {
			*p = otherwise
		}
	}
	if c.Kernel == nil {
		c.Kernel = linux{}
	}
	if c.Patience == 0 {
		c.Patience = 5 * time.Second
	}
	return &Service{c}
}

// Free takes everything off a disk and its partitions, and says what it did.
// A path that is no block device has nothing on it.
func (s *Service) Free(ctx context.Context, path string, say func(string)) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("asking about %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(s.Sys, "dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))))
	if err != nil {
		return fmt.Errorf("finding %s in sysfs: %w", path, err)
	}
	return s.free(ctx, dir, say, 0)
}

// free takes everything off the block device at that place of sysfs.
func (s *Service) free(ctx context.Context, dir string, say func(string), depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("more than %d devices are stacked on one disk", maxDepth)
	}
	parts, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return err
	}
	dirs := []string{dir}
	for _, p := range parts {
		dirs = append(dirs, filepath.Dir(p))
	}
	for _, d := range dirs {
		if err := s.freeOne(ctx, d, say, depth); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) freeOne(ctx context.Context, dir string, say func(string), depth int) error {
	name := filepath.Base(dir)
	if err := s.unmount(ctx, dir, say); err != nil {
		return err
	}
	if err := s.swapOff(name, say); err != nil {
		return err
	}
	held, err := os.ReadDir(filepath.Join(dir, "holders"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("asking what holds %s: %w", name, err)
	}
	for _, h := range held {
		up, err := filepath.EvalSymlinks(filepath.Join(s.Sys, "class/block", h.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // It went with another.
		}
		if err != nil {
			return fmt.Errorf("finding %s in sysfs: %w", h.Name(), err)
		}
		if err := s.free(ctx, up, say, depth+1); err != nil {
			return err
		}
		what, err := s.stop(ctx, up)
		if err != nil {
			return fmt.Errorf("%s is held by %s: stopping it: %w", name, h.Name(), err)
		}
		say(fmt.Sprintf("stopped %s, which held %s", what, name))
	}
	return nil
}

// stop ends one device that holds others.
func (s *Service) stop(ctx context.Context, dir string) (what string, err error) {
	name := filepath.Base(dir)
	exists := func(elem string) bool {
		_, err := os.Stat(filepath.Join(dir, elem))
		return err == nil
	}
	switch {
	case exists("dm"):
		b, err := os.ReadFile(filepath.Join(dir, "dm/name"))
		if err != nil {
			return "", err
		}
		label := strings.TrimSpace(string(b))
		return fmt.Sprintf("%s (%s)", name, label), s.patiently(ctx, func() error { return s.Kernel.RemoveMap(label) })
	case exists("md"):
		return "RAID array " + name, s.patiently(ctx, func() error { return s.Kernel.StopArray(filepath.Join(s.Dev, name)) })
	case exists("bcache"):
		return "bcache " + name, os.WriteFile(filepath.Join(dir, "bcache/stop"), []byte("1"), 0)
	}
	return name, errors.New("it is neither RAID nor device mapper; stop it by hand")
}

// patiently tries again while a device is busy, as one is that was let go just now.
func (s *Service) patiently(ctx context.Context, do func() error) error {
	const step = 100 * time.Millisecond
	for waited := time.Duration(0); ; waited += step {
		err := do()
		if !errors.Is(err, unix.EBUSY) || waited >= s.Patience {
			return err
		}
		t := time.NewTimer(step)
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

// unmount takes off file systems, the one that was mounted last first.
func (s *Service) unmount(ctx context.Context, dir string, say func(string)) error {
	b, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return fmt.Errorf("asking for the number of %s: %w", filepath.Base(dir), err)
	}
	number := strings.TrimSpace(string(b))
	mounts, err := fieldsOf(filepath.Join(s.Proc, "self/mountinfo"))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		// Btrfs has a number of its own; its device is named after the dash.
		if len(m) < 7 || m[2] != number && !slices.Contains(m[6:], filepath.Join(s.Dev, filepath.Base(dir))) {
			continue
		}
		at := unescape(m[4])
		if err := s.patiently(ctx, func() error { return s.Kernel.Unmount(at) }); err != nil {
			return fmt.Errorf("%s is mounted at %s: unmounting: %w", filepath.Base(dir), at, err)
		}
		say("unmounted " + at)
	}
	return nil
}

func (s *Service) swapOff(name string, say func(string)) error {
	swaps, err := fieldsOf(filepath.Join(s.Proc, "swaps"))
	if errors.Is(err, os.ErrNotExist) { // A kernel without swap.
		return nil
	}
	if err != nil {
		return err
	}
	node := filepath.Join(s.Dev, name)
	for _, f := range swaps {
		if len(f) == 0 || f[0] != node {
			continue
		}
		if err := s.Kernel.SwapOff(node); err != nil {
			return fmt.Errorf("switching off swap on %s: %w", node, err)
		}
		say("switched off swap on " + node)
	}
	return nil
}

// unescape reads the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func fieldsOf(path string) ([][]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out [][]string
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		out = append(out, strings.Fields(sc.Text()))
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return out, nil
}
