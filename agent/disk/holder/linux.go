package holder

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linux is the running kernel.
type linux struct{}

// Unmount implements Kernel.
func (linux) Unmount(path string) error { return unix.Unmount(path, unix.UMOUNT_NOFOLLOW) }

// SwapOff implements Kernel.
func (linux) SwapOff(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// StopArray implements Kernel: STOP_ARRAY of linux/raid/md_u.h.
func (linux) StopArray(node string) error {
	const stopArray = 0x932
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), stopArray, 0); errno != 0 {
		return errno
	}
	return nil
}

// mapCommand is struct dm_ioctl of linux/dm-ioctl.h.
type mapCommand struct {
	version                                           [3]uint32
	dataSize, dataStart, targets, open, flags, events uint32
	_                                                 uint32
	dev                                               uint64
	name                                              [128]byte
	uuid                                              [129]byte
	data                                              [7]byte
}

// RemoveMap implements Kernel: DM_DEV_REMOVE.
func (linux) RemoveMap(name string) error {
	const devRemove = 0xc138fd04
	c := &mapCommand{version: [3]uint32{4, 0, 0}}
	c.dataSize = uint32(unsafe.Sizeof(*c))
	if len(name) >= len(c.name) {
		return fmt.Errorf("%q is too long a name", name)
	}
	copy(c.name[:], name)
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), devRemove, uintptr(unsafe.Pointer(c))); errno != 0 {
		return errno
	}
	return nil
}
