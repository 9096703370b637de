package system

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mount is one line of the table of what process 1 mounts.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	// optional mounts are passed over where the kernel or the firmware has no such thing.
	optional bool
	// when, if given, is a path that must exist for the mount to be tried.
	when string
}

const nothingSpecial = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mounts is in order: /dev before /dev/pts.
func mounts() []mount {
	return []mount{
		{source: "proc", target: "/proc", fstype: "proc", flags: nothingSpecial},
		{source: "sysfs", target: "/sys", fstype: "sysfs", flags: nothingSpecial},
		{source: "devtmpfs", target: "/dev", fstype: "devtmpfs", flags: unix.MS_NOSUID, data: "mode=0755"},
		{source: "devpts", target: "/dev/pts", fstype: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "ptmxmode=0666,mode=0620,gid=5", optional: true},
		{source: "tmpfs", target: "/dev/shm", fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777"},
		{source: "tmpfs", target: "/run", fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=0755"},
		{source: "tmpfs", target: "/tmp", fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777"},
		{source: "cgroup2", target: "/sys/fs/cgroup", fstype: "cgroup2", flags: nothingSpecial, optional: true},
		{source: "securityfs", target: "/sys/kernel/security", fstype: "securityfs", flags: nothingSpecial, optional: true},
		{source: "efivarfs", target: "/sys/firmware/efi/efivars", fstype: "efivarfs", flags: nothingSpecial, optional: true, when: "/sys/firmware/efi"},
		{source: "pstore", target: "/sys/fs/pstore", fstype: "pstore", flags: nothingSpecial, optional: true, when: "/sys/fs/pstore"},
		{source: "debugfs", target: "/sys/kernel/debug", fstype: "debugfs", flags: nothingSpecial, optional: true},
	}
}

// Mount mounts the kernel's file systems, the temporary ones and /dev, and
// makes the links in /dev that programs expect. Only process 1 calls it, once,
// before it starts anything. It does all it can and joins the errors.
func Mount() error {
	var errs []error
	for _, m := range mounts() {
		if err := m.do(); err != nil && !m.optional {
			errs = append(errs, err)
		}
	}
	links := [][2]string{{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"}}
	for _, l := range links {
		if err := os.Symlink(l[0], l[1]); err != nil && !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// MountFirmwareVariables mounts efivarfs where it wasn't possible before its
// module was loaded.
func MountFirmwareVariables() error {
	for _, m := range mounts() {
		if m.fstype != "efivarfs" {
			continue
		}
		if entries, err := os.ReadDir(m.target); err == nil && len(entries) > 0 {
			return nil
		}
		return m.do()
	}
	return nil
}

func (m mount) do() error {
	if m.when != "" {
		if _, err := os.Stat(m.when); err != nil {
			return nil
		}
	}
	if err := os.MkdirAll(m.target, 0o755); err != nil && !m.optional {
		return fmt.Errorf("making mount point: %w", err)
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if errors.Is(err, unix.EBUSY) {
		return nil // the kernel mounts devtmpfs itself (CONFIG_DEVTMPFS_MOUNT) in some builds
	}
	if err != nil {
		return fmt.Errorf("mounting %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

// EnableControllers lets groups below the root of the cgroup2 tree at root
// have limits of memory, processes and CPU.
func EnableControllers(root string) error {
	var errs []error
	for _, c := range []string{"+memory", "+pids", "+cpu"} {
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte(c), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("enabling controller %s: %w", c, err))
		}
	}
	return errors.Join(errs...)
}
