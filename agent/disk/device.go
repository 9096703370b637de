package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Alignment is that of memory and lengths with which direct writes are sure to
// be taken: the largest block size of a disk in use.
const Alignment = 4096

// zeroPiece bounds one request to clear a range, so that a cancelled step
// stops soon.
const zeroPiece = 256 << 20

// Device is an open disk or partition. A regular file does as well, as a disk
// with blocks of 512 bytes. Its methods may be called from several goroutines,
// Close excepted.
type Device struct {
	path     string
	size     int64
	logical  int
	physical int
	block    bool
	number   uint64
	file     *os.File // Through the page cache.
	direct   *os.File // Around it; nil when refused.
	noDirect atomic.Bool
	noZero   atomic.Bool
}

// Open opens a disk for writing. The kernel is asked for it exclusively, so a
// disk with a mounted partition is refused, and no one can mount it until Close.
func Open(path string) (*Device, error) {
	d, err := open(path, os.O_RDWR|unix.O_EXCL)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%w: it or a part of it is mounted, or used by LVM, RAID or swap%s", err, usersHint(path))
	}
	if err != nil {
		return nil, err
	}
	if d.readOnly() {
		return nil, errors.Join(fmt.Errorf("opening %s: the disk is read only: %w", path, unix.EROFS), d.Close())
	}
	if f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0); err == nil {
		d.direct = f
	}
	return d, nil
}

// OpenRead opens a disk for reading, beside others that use it.
func OpenRead(path string) (*Device, error) { return open(path, os.O_RDONLY) }

func open(path string, flags int) (*Device, error) {
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no such disk; disk.select finds the ones that are there", err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening disk: %w", err)
	}
	d := &Device{path: path, file: f, logical: 512, physical: 512}
	if err := d.measure(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

func (d *Device) measure() error {
	st, err := d.file.Stat()
	if err != nil {
		return fmt.Errorf("asking about %s: %w", d.path, err)
	}
	switch {
	case st.Mode().IsRegular():
		d.size = st.Size()
		return nil
	case st.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice:
		return fmt.Errorf("%s is not a block device", d.path)
	}
	d.block = true
	d.number = st.Sys().(*syscall.Stat_t).Rdev
	var size uint64
	if err := d.ioctl(unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return fmt.Errorf("asking for the size of %s: %w", d.path, err)
	}
	d.size = int64(size)
	fd := int(d.file.Fd())
	if d.logical, err = unix.IoctlGetInt(fd, unix.BLKSSZGET); err != nil {
		return fmt.Errorf("asking for the block size of %s: %w", d.path, err)
	}
	if d.physical, err = unix.IoctlGetInt(fd, unix.BLKPBSZGET); err != nil || d.physical < d.logical {
		d.physical = d.logical
	}
	return nil
}

func (d *Device) ioctl(request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.file.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func (d *Device) readOnly() bool {
	if !d.block {
		return false
	}
	ro, err := unix.IoctlGetInt(int(d.file.Fd()), unix.BLKROGET)
	return err == nil && ro != 0
}

// Path returns the path that it was opened by.
func (d *Device) Path() string { return d.path }

// Size returns its size in bytes.
func (d *Device) Size() int64 { return d.size }

// BlockSize returns the logical block size: the unit of its partition table,
// and the least that can be written.
func (d *Device) BlockSize() int { return d.logical }

// IsBlock reports whether it is a block device and not a file that stands for one.
func (d *Device) IsBlock() bool { return d.block }

// Close gives it back. What was written is only safe after Sync.
func (d *Device) Close() error {
	var err error
	if d.direct != nil {
		err = d.direct.Close()
	}
	return errors.Join(err, d.file.Close())
}

// ReadAt reads through the page cache, which direct writes keep right.
func (d *Device) ReadAt(p []byte, off int64) (int, error) { return d.file.ReadAt(p, off) }

// ReadDirect reads around the page cache where memory, offset and length are
// aligned, else through it. It is for reading more than will be wanted again.
func (d *Device) ReadDirect(p []byte, off int64) (int, error) {
	if d.direct == nil || d.noDirect.Load() || !d.aligned(p, off) {
		return d.file.ReadAt(p, off)
	}
	n, err := d.direct.ReadAt(p, off)
	if errors.Is(err, unix.EINVAL) {
		d.noDirect.Store(true)
		return d.file.ReadAt(p, off)
	}
	return n, err
}

// WriteAt writes around the page cache where memory, offset and length are
// aligned, else through it. An error names the place.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > d.size-off {
		return 0, fmt.Errorf("writing %d bytes at %d of %s: beyond its %d bytes", len(p), off, d.path, d.size)
	}
	if d.direct != nil && !d.noDirect.Load() && d.aligned(p, off) {
		n, err := d.direct.WriteAt(p, off)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, unix.EINVAL) {
			return n, fmt.Errorf("writing %d bytes at offset %d: %w", len(p), off, err)
		}
		d.noDirect.Store(true) // A file system or driver that takes O_DIRECT at open and not at write.
	}
	n, err := d.file.WriteAt(p, off)
	if err != nil {
		return n, fmt.Errorf("writing %d bytes at offset %d: %w", len(p), off, err)
	}
	return n, nil
}

func (d *Device) aligned(p []byte, off int64) bool {
	unit := int64(d.logical)
	return len(p) > 0 && off%unit == 0 && int64(len(p))%unit == 0 &&
		uintptr(unsafe.Pointer(unsafe.SliceData(p)))%Alignment == 0
}

// Aligned returns n bytes of memory fit for direct writes.
func Aligned(n int) []byte {
	b := make([]byte, n+Alignment)
	skip := (Alignment - int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Alignment)) % Alignment
	return b[skip : skip+n : skip+n]
}

// ZeroRange has the device itself make a range read as zeros, without zeros
// crossing the bus. It reports false when the device can't; then nothing has
// changed and zeros have to be written. off and n are whole blocks.
func (d *Device) ZeroRange(off, n int64) (bool, error) {
	if off < 0 || n < 0 || n > d.size-off {
		return false, fmt.Errorf("clearing %d bytes at %d of %s: beyond its %d bytes", n, off, d.path, d.size)
	}
	if d.noZero.Load() || off%int64(d.logical) != 0 || n%int64(d.logical) != 0 {
		return false, nil
	}
	for n > 0 {
		piece := min(n, zeroPiece)
		// For a block device this is "write zeroes, deallocating if you like, and
		// fail rather than send zeros" (block/fops.c, blkdev_fallocate).
		err := unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, piece)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EREMOTEIO):
			d.noZero.Store(true)
			return false, nil
		case err != nil:
			return false, fmt.Errorf("clearing %d bytes at offset %d: %w", piece, off, err)
		}
		off, n = off+piece, n-piece
	}
	return true, nil
}

// Discard tells the device that a range is not needed any more. What it reads
// as afterwards is up to the device. It reports false when the device can't.
func (d *Device) Discard(off, n int64) (bool, error) {
	if !d.block {
		return d.ZeroRange(off, n)
	}
	return d.discard(unix.BLKDISCARD, off, n)
}

// SecureDiscard is Discard that reaches copies of the range as well, as eMMC
// has it. It reports false when the device can't.
func (d *Device) SecureDiscard(off, n int64) (bool, error) {
	if !d.block {
		return false, nil
	}
	return d.discard(unix.BLKSECDISCARD, off, n)
}

func (d *Device) discard(request uintptr, off, n int64) (bool, error) {
	arg := [2]uint64{uint64(off), uint64(n)}
	err := d.ioctl(request, unsafe.Pointer(&arg))
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("discarding %d bytes at offset %d: %w", n, off, err)
	}
	return true, nil
}

// Sync returns when everything that was written is on stable storage.
func (d *Device) Sync() error {
	if err := d.file.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", d.path, err)
	}
	return nil
}

// DropCache forgets what the page cache holds, so that reads come from the disk.
func (d *Device) DropCache() error {
	if d.block {
		// Needs CAP_SYS_ADMIN; the advice below needs nothing.
		if err := d.ioctl(unix.BLKFLSBUF, nil); err == nil {
			return nil
		}
	}
	if err := unix.Fadvise(int(d.file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("dropping the page cache of %s: %w", d.path, err)
	}
	return nil
}

// ErrNoPartitions says that the kernel can't make partitions on this device,
// as on a plain loop device.
var ErrNoPartitions = errors.New("the kernel makes no partitions on this device")

// rereadTries times 100 ms is how long a busy device may take to be let go.
const rereadTries = 50

// Reread has the kernel read the partition table anew. It waits a while for
// whoever, such as a probe of the old partitions, still holds one.
func (d *Device) Reread(ctx context.Context) error {
	if !d.block {
		return fmt.Errorf("%s: %w", d.path, ErrNoPartitions)
	}
	var err error
	for range rereadTries {
		err = d.ioctl(unix.BLKRRPART, nil)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTTY):
			return fmt.Errorf("%s: %w", d.path, ErrNoPartitions)
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("having the kernel read the partition table of %s: %w", d.path, err)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("having the kernel read the partition table of %s: %w: a partition of the old table is still in use", d.path, err)
}
