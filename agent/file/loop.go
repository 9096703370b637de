package file

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loopTries bounds the race for a free loop device.
const loopTries = 20

// attach makes a loop device of a part of a disk. It frees itself when neither
// the returned file nor a mount has it open.
func attach(ctx context.Context, src source, readOnly bool) (*os.File, error) {
	mode, flags := os.O_RDWR, uint32(unix.LO_FLAGS_AUTOCLEAR)
	if readOnly {
		mode, flags = os.O_RDONLY, flags|unix.LO_FLAGS_READ_ONLY
	}
	back, err := os.OpenFile(src.path, mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", src.path, err)
	}
	defer back.Close() // The loop device keeps it.
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("a partition without a device node needs a loop device: %w", err)
	}
	defer control.Close() // Only asked.
	for range loopTries {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("asking for a free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), mode|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("opening loop device: %w", err)
		}
		config := unix.LoopConfig{Fd: uint32(back.Fd()), Info: unix.LoopInfo64{
			Offset: uint64(src.offset), Sizelimit: uint64(src.length), Flags: flags,
		}}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		if err := loop.Close(); err != nil {
			return nil, fmt.Errorf("closing loop device: %w", err)
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("making a loop device of %s: %w", src.path, err)
		}
	}
	return nil, errors.New("every loop device is taken by others as soon as it is free")
}
