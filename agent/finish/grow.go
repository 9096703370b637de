package finish

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/file"
)

// grow has the file system of the last partition take all of it. image.write
// has made the partition larger already. It reports whether the file system grew.
func (r *run) grow() (bool, error) {
	parts, err := r.parts()
	if err != nil || len(parts) == 0 {
		return false, err
	}
	last := parts[0]
	for _, p := range parts {
		if p.End() > last.End() {
			last = p
		}
	}
	grower, ok := growers[last.Content.Type]
	if !ok {
		r.say("partition %s: a file system of this kind can't be grown here; the installed system may do it", last)
		return false, nil
	}
	grown := false
	err = r.within(strconv.Itoa(last.Number), func(v *file.Volume) error {
		dir, err := os.Open(v.Dir)
		if err != nil {
			return fmt.Errorf("opening %s: %w", v.Device, err)
		}
		defer dir.Close() // Only a descriptor.
		before, err := room(dir)
		if err != nil {
			return err
		}
		if err := grower(dir, last); err != nil {
			return err
		}
		after, err := room(dir)
		if err != nil {
			return err
		}
		grown = after > before
		r.say("the file system of partition %d has %d MiB, before %d MiB", last.Number, after>>20, before>>20)
		return nil
	})
	return grown, err
}

// room is how many bytes a mounted file system has in all.
func room(dir *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("asking for the size: %w", err)
	}
	return int64(st.Blocks) * st.Bsize, nil
}

// growers grow a mounted file system to its partition's length.
var growers = map[string]func(*os.File, disk.Part) error{
	"ext4": growExt4, "ext3": growExt4, "xfs": growXFS, "btrfs": growBtrfs,
}

// Numbers of ioctls (linux/fs/ext4/ext4.h, linux/fs/xfs/libxfs/xfs_fs.h,
// include/uapi/linux/btrfs.h), which no package has.
const (
	ext4Resize  = 0x40086610 // _IOW('f', 16, __u64)
	xfsGeometry = 0x8070587c // _IOR('X', 124, struct xfs_fsop_geom_v4), 112 bytes
	xfsGrowData = 0x4010586e // _IOW('X', 110, struct xfs_growfs_data), 16 bytes
	btrfsResize = 0x50009403 // _IOW(0x94, 3, struct btrfs_ioctl_vol_args), 4096 bytes
)

func ioctl(dir *os.File, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// growExt4 asks for the number of blocks that the partition holds.
func growExt4(dir *os.File, p disk.Part) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("asking for the block size: %w", err)
	}
	blocks := uint64(p.Length) / uint64(st.Bsize)
	err := ioctl(dir, ext4Resize, unsafe.Pointer(&blocks))
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("ext4 refuses: %w: it was made without the feature resize_inode or meta_bg, it has errors, or this program lacks CAP_SYS_RESOURCE", err)
	}
	if err != nil {
		return fmt.Errorf("ext4 refuses: %w", err)
	}
	return nil
}

// growXFS asks for as many blocks as fit, with the share of inodes that it has.
func growXFS(dir *os.File, p disk.Part) error {
	var geometry [112]byte // blocksize, rtextsize, agblocks, agcount, logblocks, sectsize, inodesize, imaxpct: 32 bits each; datablocks: 64
	if err := ioctl(dir, xfsGeometry, unsafe.Pointer(&geometry)); err != nil {
		return fmt.Errorf("asking XFS for its geometry: %w", err)
	}
	field := func(at int) uint32 { return *(*uint32)(unsafe.Pointer(&geometry[at])) }
	size := field(0)
	if size == 0 {
		return errors.New("XFS says that its blocks have no bytes")
	}
	have := *(*uint64)(unsafe.Pointer(&geometry[32]))
	grow := struct {
		blocks uint64
		imax   uint32
		_      uint32
	}{blocks: uint64(p.Length) / uint64(size), imax: field(28)}
	if grow.blocks <= have {
		return nil
	}
	if err := ioctl(dir, xfsGrowData, unsafe.Pointer(&grow)); err != nil {
		return fmt.Errorf("XFS refuses: %w", err)
	}
	return nil
}

// growBtrfs asks for all of the device.
func growBtrfs(dir *os.File, _ disk.Part) error {
	var args [4096]byte // fd: 64 bits, then a name
	copy(args[8:], "max")
	if err := ioctl(dir, btrfsResize, unsafe.Pointer(&args)); err != nil {
		return fmt.Errorf("growing Btrfs: %w", err)
	}
	return nil
}
