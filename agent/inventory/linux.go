package inventory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// Linux is the Devices of the running system. Dev is where its nodes are (/dev).
type Linux struct{ Dev string }

// commandLimit is how long a disk may take over one question.
const commandLimit = 3 * time.Second

func (l Linux) open(name string, flags int) (*os.File, error) {
	return os.OpenFile(filepath.Join(l.Dev, name), flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// ioctl's arg, and what it points to with unsafe.Pointer fields, is on the heap
// and stays there: it escapes into the closure.
func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	if err := conn.Control(func(fd uintptr) { _, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg)) }); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// Identity implements Devices.
func (l Linux) Identity(_ context.Context, disk string) ([]byte, error) {
	f, err := l.open(disk, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const hdioGetIdentity = 0x030d
	buf := make([]byte, 512)
	if err := ioctl(f, hdioGetIdentity, unsafe.Pointer(&buf[0])); err != nil {
		return nil, fmt.Errorf("HDIO_GET_IDENTITY: %w", err)
	}
	return buf, nil
}

// Health implements Devices.
func (l Linux) Health(_ context.Context, disk, bus string) (*pb.SMART, error) {
	read := map[string]func(*os.File) (*pb.SMART, error){"nvme": nvmeHealth, "sata": ataHealth, "sas": scsiHealth, "scsi": scsiHealth}[bus]
	if read == nil {
		return nil, fmt.Errorf("%w (%s)", errNoHealth, bus)
	}
	f, err := l.open(disk, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f)
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

func nvmeHealth(f *os.File) (*pb.SMART, error) {
	const (
		nvmeIoctlAdmin = 0xc0484e41
		getLogPage     = 0x02
		healthLog      = 0x02
		allNamespaces  = 0xffffffff
	)
	buf := make([]byte, 512)
	cmd := nvmeCommand{
		opcode: getLogPage, nsid: allNamespaces, addr: unsafe.Pointer(&buf[0]), dataLen: uint32(len(buf)),
		cdw10: healthLog | uint32(len(buf)/4-1)<<16, timeoutMS: uint32(commandLimit.Milliseconds()),
	}
	err := ioctl(f, nvmeIoctlAdmin, unsafe.Pointer(&cmd))
	if err != nil {
		return nil, fmt.Errorf("reading NVMe health log: %w", err)
	}
	return parseNVMeHealth(buf)
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

// scsi sends one command and returns the sense data. buf, if any, is read into.
func scsi(f *os.File, cdb, buf []byte) (sense []byte, err error) {
	const (
		sgIO          = 0x2285
		directionNone = -1
		directionIn   = -3
	)
	sense = make([]byte, 64)
	h := sgHeader{
		interfaceID: 'S', direction: directionNone, cmdLen: uint8(len(cdb)), maxSense: uint8(len(sense)),
		cmd: unsafe.Pointer(&cdb[0]), sense: unsafe.Pointer(&sense[0]), timeout: uint32(commandLimit.Milliseconds()),
	}
	if len(buf) > 0 {
		h.direction, h.dataLen, h.data = directionIn, uint32(len(buf)), unsafe.Pointer(&buf[0])
	}
	err = ioctl(f, sgIO, unsafe.Pointer(&h))
	if err != nil {
		return nil, err
	}
	if h.hostStatus != 0 || (h.status != 0 && h.senseSize == 0) {
		return nil, fmt.Errorf("command %#02x: status %#02x, host %#02x", cdb[0], h.status, h.hostStatus)
	}
	return sense[:h.senseSize], nil
}

// ATA PASS-THROUGH (16), SAT-3 §12.2.2.
func ataPassThrough(protocol, flags, feature byte) []byte {
	const passThrough, smart, signatureMid, signatureHigh = 0x85, 0xb0, 0x4f, 0xc2
	return []byte{passThrough, protocol << 1, flags, 0, feature, 0, 1, 0, 0, 0, signatureMid, 0, signatureHigh, 0, smart, 0}
}

func ataHealth(f *os.File) (*pb.SMART, error) {
	const (
		nonData, pioIn           = 3, 4
		checkCondition, readData = 0x20, 0x0e // CK_COND; T_DIR, BYT_BLOK, T_LENGTH in the count
		returnStatus, smartData  = 0xda, 0xd0
		recoveredError           = 1
	)
	sense, err := scsi(f, ataPassThrough(nonData, checkCondition, returnStatus), nil)
	if err != nil {
		return nil, fmt.Errorf("asking ATA SMART status: %w", err)
	}
	healthy, ok := ataStatus(sense)
	if !ok {
		return nil, errors.New("asking ATA SMART status: the disk or its controller does not answer")
	}
	buf := make([]byte, 512)
	sense, err = scsi(f, ataPassThrough(pioIn, readData, smartData), buf)
	if err == nil && len(sense) > 2 && sense[1]&0xf > recoveredError {
		err = fmt.Errorf("sense key %d", sense[1]&0xf)
	}
	if err != nil {
		return &pb.SMART{Supported: true, Healthy: healthy}, fmt.Errorf("reading ATA SMART data: %w", err)
	}
	return parseATAHealth(buf, healthy)
}

func scsiHealth(f *os.File) (*pb.SMART, error) {
	const logSense, cumulative, page = 0x4d, 1 << 6, 0x2f
	buf := make([]byte, 252)
	sense, err := scsi(f, []byte{logSense, 0, cumulative | page, 0, 0, 0, 0, 0, byte(len(buf)), 0}, buf)
	if err != nil {
		return nil, fmt.Errorf("reading SCSI log page: %w", err)
	}
	if len(sense) > 0 {
		return nil, errors.New("reading SCSI log page: the disk has no page of informational exceptions")
	}
	return parseSCSIHealth(buf)
}

// BMC implements Devices.
func (l Linux) BMC(ctx context.Context) (*pb.BMCInfo, error) {
	f, err := l.open("ipmi0", os.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var id int64
	return readBMC(func(netfn, cmd byte, data ...byte) ([]byte, error) {
		id++
		return ipmi(ctx, f, id, netfn, cmd, data)
	})
}

// The structures of linux/ipmi.h.
type (
	ipmiAddr struct {
		kind    int32
		channel int16
		lun     uint8
		_       uint8
	}
	ipmiMessage struct {
		netfn, cmd uint8
		dataLen    uint16
		data       unsafe.Pointer
	}
	ipmiRequest struct {
		addr    unsafe.Pointer
		addrLen uint32
		_       uint32
		id      int64
		msg     ipmiMessage
	}
	ipmiReply struct {
		kind    int32
		_       uint32
		addr    unsafe.Pointer
		addrLen uint32
		_       uint32
		id      int64
		msg     ipmiMessage
	}
)

func ipmi(ctx context.Context, f *os.File, id int64, netfn, cmd byte, data []byte) ([]byte, error) {
	const (
		sendCommand    = 0x8028690d
		receiveTrunc   = 0xc030690b
		interfaceKind  = 0x0c
		interfaceLocal = 0x0f
		step           = 20 * time.Millisecond
	)
	addr := ipmiAddr{kind: interfaceKind, channel: interfaceLocal}
	data = append(data, 0) // never empty, so that it has an address
	req := ipmiRequest{addr: unsafe.Pointer(&addr), addrLen: uint32(unsafe.Sizeof(addr)), id: id, msg: ipmiMessage{netfn: netfn, cmd: cmd, dataLen: uint16(len(data) - 1), data: unsafe.Pointer(&data[0])}}
	err := ioctl(f, sendCommand, unsafe.Pointer(&req))
	if err != nil {
		return nil, fmt.Errorf("sending IPMI command %#02x: %w", cmd, err)
	}
	timer := time.NewTicker(step)
	defer timer.Stop()
	for {
		buf := make([]byte, 272) // IPMI_MAX_MSG_LENGTH
		var from [32]byte
		rep := ipmiReply{addr: unsafe.Pointer(&from), addrLen: uint32(len(from)), msg: ipmiMessage{data: unsafe.Pointer(&buf[0]), dataLen: uint16(len(buf))}}
		err := ioctl(f, receiveTrunc, unsafe.Pointer(&rep))
		switch {
		case err == nil && rep.id == id:
			n := min(int(rep.msg.dataLen), len(buf))
			if n < 1 || buf[0] != 0 {
				return nil, fmt.Errorf("IPMI command %#02x: completion code %#02x", cmd, buf[0])
			}
			return buf[1:n], nil
		case err == nil: // an answer to a question that was given up
			continue
		case !errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("receiving IPMI answer: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("IPMI command %#02x: %w", cmd, ctx.Err())
		case <-timer.C:
		}
	}
}

// Driver implements Devices by ETHTOOL_GDRVINFO.
func (l Linux) Driver(iface string) (driver, firmware string, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", "", err
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, iface)
	if err != nil {
		return "", "", err
	}
	firmware = unix.ByteSliceToString(info.Fw_version[:])
	if firmware == "N/A" {
		firmware = ""
	}
	return unix.ByteSliceToString(info.Driver[:]), firmware, nil
}

// Addresses is a Config.Addresses of the running system.
func Addresses(iface string) []string {
	ifc, err := net.InterfaceByName(iface)
	if err != nil {
		return nil
	}
	addrs, err := ifc.Addrs()
	if err != nil {
		return nil
	}
	var all []string
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			all = append(all, a.String())
		}
	}
	return all
}
