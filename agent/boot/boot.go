// Package boot is the actions that end a boot of the machine: machine.reboot,
// machine.poweroff and boot.kexec.
//
// None of them goes down by itself: they return a step.Leave, which the runner
// carries out once the server knows. boot.kexec fetches kernel and initramfs
// and loads them first (kexec_file_load(2), which works under Secure Boot for
// signed kernels), so that what can go wrong goes wrong while the machine can
// still say so. Where it was told to, it restarts the machine by way of its
// firmware when a kexec can't be had or is known to end badly.
package boot

import (
	"context"
	"errors"
	"fmt"

	"github.com/bedplate/bedplate/agent/step"
	"github.com/bedplate/bedplate/agent/system"
)

// Machine is what the actions do to the machine.
type Machine struct {
	// Leave is system.Leave outside tests.
	Leave func(system.Way) error
	// Load is LoadKernel outside tests.
	Load func(kernel, initrd, cmdline string) error
	// Mount mounts a block device's file system read only and returns where,
	// and how to undo it. MountReadOnly outside tests.
	Mount func(ctx context.Context, device string) (root string, unmount func() error, err error)
	// Partitions lists those of a disk that can be mounted. Partitions outside tests.
	Partitions func(ctx context.Context, disk string) ([]Partition, error)
	// Temp is a folder in memory.
	Temp string
	// Root is what /sys and /proc are below; empty: /.
	Root string
}

// Reboot is the action machine.reboot. With: boot (agent or disk).
func (m Machine) Reboot(_ context.Context, req step.Request, _ step.Reporter) (step.Result, error) {
	next, err := nextBoot(req.With["boot"], step.NextBootAgent)
	if err != nil {
		return step.Result{}, err
	}
	return step.Result{Leave: &step.Leave{NextBoot: next, Do: func() error { return m.Leave(system.Restart) }}}, nil
}

// PowerOff is the action machine.poweroff.
func (m Machine) PowerOff(context.Context, step.Request, step.Reporter) (step.Result, error) {
	return step.Result{Leave: &step.Leave{NextBoot: step.NextBootOff, Do: func() error { return m.Leave(system.PowerOff) }}}, nil
}

func nextBoot(v any, otherwise string) (string, error) {
	switch s, _ := v.(string); s {
	case "":
		return otherwise, nil
	case step.NextBootAgent, step.NextBootDisk:
		return s, nil
	default:
		return "", fmt.Errorf("%q is not a thing to boot: agent or disk", s)
	}
}

// Executors returns the actions by name.
func (m Machine) Executors() step.Set {
	return step.Set{"machine.reboot": step.Func(m.Reboot), "machine.poweroff": step.Func(m.PowerOff), "boot.kexec": step.Func(m.Kexec)}
}

var errNoKernel = errors.New("no kernel found")
