package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/bedplate/bedplate/agent/boot"
	"github.com/bedplate/bedplate/agent/command"
	"github.com/bedplate/bedplate/agent/container"
	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/erase"
	"github.com/bedplate/bedplate/agent/efi"
	"github.com/bedplate/bedplate/agent/file"
	"github.com/bedplate/bedplate/agent/finish"
	"github.com/bedplate/bedplate/agent/hardware"
	"github.com/bedplate/bedplate/agent/image"
	"github.com/bedplate/bedplate/agent/inventory"
	"github.com/bedplate/bedplate/agent/logs"
	"github.com/bedplate/bedplate/agent/rescue"
	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/agent/storage"
	"github.com/bedplate/bedplate/agent/system"
	"github.com/bedplate/bedplate/agent/tpm"
	"github.com/bedplate/bedplate/agent/tpm/wipe"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/expression"
)

// temp is a folder in memory.
const temp = "/run/bedplate"

// executors are the actions of this agent; package agent adds inventory.
func (m *machine) executors() (step.Set, error) {
	disks, err := disk.New(disk.Config{Random: rand.Reader, Log: m.log, Disks: m.disks, Match: matchDisk})
	if err != nil {
		return nil, err
	}
	erasure, err := erase.New(erase.Config{
		Disks: func(ctx context.Context) ([]*pb.Disk, error) {
			m.awaitDrivers(ctx)
			return m.collector.Disks(ctx)
		},
		Random: rand.Reader, Now: time.Now, Log: m.log,
	})
	if err != nil {
		return nil, err
	}
	images, err := image.New(image.Config{Now: time.Now, Log: m.log})
	if err != nil {
		return nil, err
	}
	files, err := file.New(file.Config{LoadModule: m.loadModule, Folder: temp, Log: m.log})
	if err != nil {
		return nil, err
	}
	entries, err := efi.New(efi.Config{
		Log: m.log,
		Mount: func(ctx context.Context, disk, partition string) (efi.Files, error) {
			v, err := files.Mount(ctx, disk, partition, true)
			if err != nil {
				return nil, err // and no Files at all
			}
			return v, nil
		},
	})
	if err != nil {
		return nil, err
	}
	finishing, err := finish.New(finish.Config{
		Files: files, Make: disks.Steps()["disk.format"], BootEntry: entries.Steps()["efi.boot-entry"],
		Loader: entries.Loader, Fallback: entries.Fallback(), Log: m.log,
	})
	if err != nil {
		return nil, err
	}
	tests, err := hardware.New(hardware.Config{
		Disks: m.disks, Devices: inventory.Linux{Dev: "/dev"}, Identity: m.identity.get, Random: rand.Reader, Now: time.Now, Log: m.log,
	})
	if err != nil {
		return nil, err
	}
	volumes, err := m.storage(files)
	if err != nil {
		return nil, err
	}
	rescues, err := rescue.New(rescue.Config{
		Prepare: m.loadFileSystems,
		Busybox: "/usr/lib/bedplate/busybox", Folder: temp, Cgroup: "/sys/fs/cgroup",
		Consoles: func() []string { return system.Consoles("/sys/class/tty/console/active", "/dev") },
		Address:  func() string { return m.network.Address().String() },
		Banner:   "Bedplate's rescue system: all of it is in memory, and gone after a restart.\nDisks are as they were; mount what you need below /mnt.\n",
		Random:   rand.Reader, Now: time.Now, Log: m.log,
	})
	if err != nil {
		return nil, err
	}
	set := step.Set{
		"command":      step.Func(command.Execute),
		"noop":         step.Func(command.Noop),
		"logs.collect": logs.Collector{Agent: m.ring, Kernel: logs.ReadKernel},
		"container":    &container.Executor{Temp: temp, Cgroup: "/sys/fs/cgroup", MemoryLimit: memoryLimit(), ResolvConf: "/etc/resolv.conf"},
	}
	machine := boot.Machine{Leave: m.leave, Load: boot.LoadKernel, Mount: boot.MountReadOnly(temp), Partitions: boot.Partitions, Temp: temp}
	for _, more := range []step.Set{
		disks.Steps(), images.Steps(), finishing.Steps(), files.Steps(), entries.Steps(), volumes.Steps(), tests.Steps(), rescues.Steps(), machine.Executors(),
		erasure.Steps(), wipe.New(wipe.Config{}).Steps(),
	} {
		maps.Copy(set, more)
	}
	return set, nil
}

// storage is the action that makes disks hold what is declared.
func (m *machine) storage(files *file.Service) (*storage.Service, error) {
	return storage.New(storage.Config{
		Disks: m.disks, Match: matchDisk, LoadModule: m.loadModule, OpenTPM: tpm.Open, Random: rand.Reader, Log: m.log,
		MountImage: func(ctx context.Context, disk string, images map[string]any) (storage.Files, error) {
			v, err := files.MountImage(ctx, disk, images)
			if err != nil {
				return nil, err // and no Files at all
			}
			return v, nil
		},
		MountDevice: func(ctx context.Context, device string) (storage.Files, error) {
			v, err := files.MountDevice(ctx, device)
			if err != nil {
				return nil, err // and no Files at all
			}
			return v, nil
		},
	})
}

// disks are the machine's, once their drivers are there.
func (m *machine) disks(ctx context.Context) ([]*pb.Disk, error) {
	m.awaitDrivers(ctx)
	return m.collector.Disks(ctx)
}

func matchDisk(hint string, d *pb.Disk) (bool, error) {
	return expression.EvalDiskHint(context.Background(), hint, d)
}

// loadModule is for file systems. A system without modules has what it needs
// in its kernel.
func (m *machine) loadModule(name string) error {
	<-m.settled
	if m.loader == nil {
		return nil
	}
	return m.loader.Load(name)
}

// loadFileSystems is for people who mount by hand: busybox's mount tries those
// that the kernel knows, and asks for no others.
func (m *machine) loadFileSystems() {
	for _, name := range []string{"ext4", "xfs", "btrfs", "vfat", "nls_cp437", "nls_iso8859_1", "isofs", "squashfs", "dm_mod", "loop"} {
		if err := m.loadModule(name); err != nil {
			m.log.Debug("module not loaded", "file", name, "err", err)
		}
	}
}

// memoryLimit is what a container may have: three quarters of the machine.
func memoryLimit() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			return kib << 10 / 4 * 3
		}
	}
	return 0
}
