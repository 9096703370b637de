package erase

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/disk/erase/nvme"
	"github.com/bedplate/bedplate/agent/disk/erase/scsi"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// linuxPort is a Port through ioctls on the disk's device node.
type linuxPort struct{ f *os.File }

func openPort(d *pb.Disk) (Port, error) {
	// Reading is enough with CAP_SYS_ADMIN and CAP_SYS_RAWIO, and works where the disk is read only.
	f, err := os.OpenFile(d.GetPath(), os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return linuxPort{f}, nil
}

// Close implements Port.
func (p linuxPort) Close() error { return p.f.Close() }

// ioctl returns what the system call does. A command can't be taken back: when
// ctx ends, it is left to end by itself and unheard, with all that it uses.
func (p linuxPort) ioctl(ctx context.Context, request uintptr, arg unsafe.Pointer) (uintptr, error) {
	if ctx.Err() != nil {
		return 0, stopped(ctx)
	}
	type answer struct {
		value uintptr
		err   error
	}
	done := make(chan answer, 1)
	conn, err := p.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	go func() { // ends with the command, for which the kernel has a limit
		var a answer
		err := conn.Control(func(fd uintptr) {
			r, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg))
			a.value = r
			if errno != 0 {
				a.err = errno
			}
		})
		if err != nil {
			a.err = err
		}
		done <- a
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		return 0, stopped(ctx)
	}
}

// nvmeCommand is struct nvme_passthru_cmd of linux/nvme_ioctl.h.
type nvmeCommand struct {
	opcode, flags                            uint8
	_                                        uint16
	nsid, cdw2, cdw3                         uint32
	metadata, addr                           unsafe.Pointer
	metadataLen, dataLen                     uint32
	cdw10, cdw11, cdw12, cdw13, cdw14, cdw15 uint32
	timeoutMS, result                        uint32
}

// NVMe implements Port.
func (p linuxPort) NVMe(ctx context.Context, c nvme.Command) error {
	const nvmeIoctlAdmin = 0xc0484e41
	cmd := &nvmeCommand{opcode: c.Opcode, nsid: c.NSID, cdw10: c.CDW10, cdw11: c.CDW11, timeoutMS: uint32(c.Timeout.Milliseconds())}
	data := make([]byte, len(c.Data)) // The caller's stays its own if ctx ends first.
	if len(data) > 0 {
		cmd.addr, cmd.dataLen = unsafe.Pointer(&data[0]), uint32(len(data))
	}
	status, err := p.ioctl(ctx, nvmeIoctlAdmin, unsafe.Pointer(cmd))
	if err != nil {
		return err
	}
	if status != 0 {
		return nvme.Status(status)
	}
	copy(c.Data, data)
	return nil
}

// sgHeader is struct sg_io_hdr of scsi/sg.h.
type sgHeader struct {
	interfaceID, direction             int32
	cmdLen, maxSense                   uint8
	iovecCount                         uint16
	dataLen                            uint32
	data, cmd, sense                   unsafe.Pointer
	timeout, flags                     uint32
	packID                             int32
	_                                  [4]byte
	user                               unsafe.Pointer
	status, masked, message, senseSize uint8
	hostStatus, driverStatus           uint16
	residual                           int32
	duration, info                     uint32
}

// SCSI implements Port.
func (p linuxPort) SCSI(ctx context.Context, c scsi.Command) (scsi.Reply, error) {
	const (
		sgIO          = 0x2285
		directionNone = -1
		directionOut  = -2
		directionIn   = -3
	)
	cdb, sense, data := append([]byte(nil), c.CDB...), make([]byte, 64), append([]byte(nil), c.Data...)
	h := &sgHeader{
		interfaceID: 'S', direction: directionNone, cmdLen: uint8(len(cdb)), maxSense: uint8(len(sense)),
		cmd: unsafe.Pointer(&cdb[0]), sense: unsafe.Pointer(&sense[0]), timeout: uint32(c.Timeout.Milliseconds()),
	}
	if len(data) > 0 {
		h.direction, h.dataLen, h.data = directionIn, uint32(len(data)), unsafe.Pointer(&data[0])
		if c.Out {
			h.direction = directionOut
		}
	}
	if _, err := p.ioctl(ctx, sgIO, unsafe.Pointer(h)); err != nil {
		return scsi.Reply{}, err
	}
	if h.hostStatus != 0 {
		return scsi.Reply{}, fmt.Errorf("the controller gave up on command %02xh (host status %02xh)", cdb[0], h.hostStatus)
	}
	if !c.Out {
		copy(c.Data, data)
	}
	return scsi.Reply{Status: h.status, Sense: sense[:min(int(h.senseSize), len(sense))]}, nil
}

// factsOf reads what sysfs knows of a disk.
func factsOf(sys, name string) Facts {
	dir := filepath.Join(sys, "block", name)
	f := Facts{Subsystem: read(dir, "device/subsysnqn"), Transport: read(dir, "device/transport")}
	if n, err := strconv.ParseUint(read(dir, "nsid"), 10, 32); err == nil {
		f.Namespace = uint32(n)
	}
	if f.Subsystem != "" && f.Transport == "" {
		// With native multipath the disk hangs on the subsystem, the transport on its controllers.
		paths, _ := filepath.Glob(filepath.Join(dir, "device/nvme*/transport")) // The pattern is sound.
		for _, p := range paths {
			if t := read(p); f.Transport == "" || t != "pcie" {
				f.Transport = t
			}
		}
	}
	return f
}

func read(elem ...string) string {
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
