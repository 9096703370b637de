package inventory

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"
)

// ErrNoSelfTest says that a disk has no self-test, or none that can be asked for.
var ErrNoSelfTest = errors.New("the disk has no self-test")

// SelfTest is how far a disk's newest self-test is, or how it ended.
type SelfTest struct {
	Running bool
	// Percent is how much is done, where the disk says so.
	Percent int
	// Passed is true if it ended without an error.
	Passed bool
	// Aborted tests say nothing about the disk.
	Aborted bool
	// Message is what the disk says.
	Message string
	// LBA is the first bad block, if HasLBA.
	LBA    uint64
	HasLBA bool
}

// selfTester is one kind of disk.
type selfTester struct {
	start, stop func(*os.File) error
	ask         func(*os.File) (SelfTest, error)
}

func selfTesterOf(bus string) (selfTester, error) {
	switch bus {
	case "nvme":
		return selfTester{nvmeSelfTest(1), nvmeSelfTest(0xf), askNVMe}, nil
	case "sata":
		return selfTester{ataSelfTest(1), ataSelfTest(0x7f), askATA}, nil
	case "sas", "scsi":
		return selfTester{scsiSelfTest(1), scsiSelfTest(4), askSCSI}, nil
	}
	return selfTester{}, ErrNoSelfTest
}

// StartSelfTest has a disk begin its short self-test, in the background.
func (l Linux) StartSelfTest(_ context.Context, disk, bus string) error {
	return l.selfTest(disk, bus, func(t selfTester, f *os.File) error {
		// A disk that can't say how the last one went can't say it of the next.
		if _, err := t.ask(f); err != nil {
			return fmt.Errorf("%w: %v", ErrNoSelfTest, err)
		}
		return t.start(f)
	})
}

// StopSelfTest ends a self-test early.
func (l Linux) StopSelfTest(_ context.Context, disk, bus string) error {
	return l.selfTest(disk, bus, func(t selfTester, f *os.File) error { return t.stop(f) })
}

// SelfTest returns how far a disk's newest self-test is.
func (l Linux) SelfTest(_ context.Context, disk, bus string) (s SelfTest, err error) {
	err = l.selfTest(disk, bus, func(t selfTester, f *os.File) error {
		s, err = t.ask(f)
		return err
	})
	return s, err
}

func (l Linux) selfTest(disk, bus string, do func(selfTester, *os.File) error) error {
	t, err := selfTesterOf(bus)
	if err != nil {
		return err
	}
	f, err := l.open(disk, os.O_RDWR) // SEND DIAGNOSTIC is not among what a reader may send
	if err != nil {
		return err
	}
	defer f.Close()
	return do(t, f)
}

// nvmeAdmin sends one admin command that reads into buf.
func nvmeAdmin(f *os.File, opcode uint8, nsid, cdw10 uint32, buf []byte) error {
	const nvmeIoctlAdmin = 0xc0484e41
	cmd := nvmeCommand{opcode: opcode, nsid: nsid, cdw10: cdw10, timeoutMS: uint32(commandLimit.Milliseconds())}
	if len(buf) > 0 {
		cmd.addr, cmd.dataLen = unsafe.Pointer(&buf[0]), uint32(len(buf))
	}
	return ioctl(f, nvmeIoctlAdmin, unsafe.Pointer(&cmd))
}

const everyNamespace = 0xffffffff

// nvmeSelfTest is Device Self-test (NVMe 1.4 §5.8), if the controller has it
// (bit 4 of OACS, figure 247).
func nvmeSelfTest(code uint32) func(*os.File) error {
	const identify, controller, selfTest, oacs, hasSelfTest = 0x06, 1, 0x14, 256, 1 << 4
	return func(f *os.File) error {
		id := make([]byte, 4096)
		if err := nvmeAdmin(f, identify, 0, controller, id); err != nil {
			return fmt.Errorf("identifying NVMe controller: %w", err)
		}
		if binary.LittleEndian.Uint16(id[oacs:])&hasSelfTest == 0 {
			return ErrNoSelfTest
		}
		if err := nvmeAdmin(f, selfTest, everyNamespace, code, nil); err != nil {
			return fmt.Errorf("NVMe device self-test: %w", err)
		}
		return nil
	}
}

func askNVMe(f *os.File) (SelfTest, error) {
	const getLogPage, selfTestLog = 0x02, 0x06
	buf := make([]byte, 564)
	if err := nvmeAdmin(f, getLogPage, everyNamespace, selfTestLog|uint32(len(buf)/4-1)<<16, buf); err != nil {
		return SelfTest{}, fmt.Errorf("reading NVMe self-test log: %w", err)
	}
	return parseNVMeSelfTest(buf)
}

// parseNVMeSelfTest reads log page 6 (NVMe 1.4 §5.14.1.6): what runs, how much
// of it is done, two reserved bytes, then results of 28 bytes, the newest first.
func parseNVMeSelfTest(b []byte) (SelfTest, error) {
	if len(b) < 4+28 {
		return SelfTest{}, errHealth
	}
	if b[0]&0xf != 0 {
		return SelfTest{Running: true, Percent: int(b[1] & 0x7f)}, nil
	}
	newest := b[4:]
	s := SelfTest{Percent: 100}
	switch code := newest[0] & 0xf; code {
	case 0:
		s.Passed, s.Message = true, "completed without error"
	case 0xf:
		s.Aborted, s.Message = true, "none was ever run"
	case 1, 2, 3, 4, 8, 9:
		s.Aborted, s.Message = true, fmt.Sprintf("aborted, code %d", code)
	default:
		s.Message = fmt.Sprintf("failed, code %d, segment %d", code, newest[1])
	}
	const lbaValid = 1 << 1
	if newest[2]&lbaValid != 0 && !s.Passed && !s.Aborted {
		s.HasLBA, s.LBA = true, binary.LittleEndian.Uint64(newest[16:])
	}
	return s, nil
}

// ataSelfTest is SMART EXECUTE OFF-LINE IMMEDIATE (ACS-3 §7.48.5), in the background.
func ataSelfTest(routine byte) func(*os.File) error {
	const nonData, executeOffline, lbaLow = 3, 0xd4, 8
	return func(f *os.File) error {
		cdb := ataPassThrough(nonData, 0, executeOffline)
		cdb[lbaLow] = routine
		sense, err := scsi(f, cdb, nil)
		if err == nil && len(sense) > 2 && sense[1]&0xf > 1 {
			err = fmt.Errorf("sense key %d", sense[1]&0xf)
		}
		if err != nil {
			return fmt.Errorf("ATA self-test: %w", err)
		}
		return nil
	}
}

func askATA(f *os.File) (SelfTest, error) {
	const pioIn, readData, smartData = 4, 0x0e, 0xd0
	buf := make([]byte, 512)
	if _, err := scsi(f, ataPassThrough(pioIn, readData, smartData), buf); err != nil {
		return SelfTest{}, fmt.Errorf("reading ATA SMART data: %w", err)
	}
	return parseATASelfTest(buf)
}

// parseATASelfTest reads the self-test execution status of SMART READ DATA
// (ACS-3 §7.48.6, tables 62 and 64): result and tens of percent that are left.
func parseATASelfTest(b []byte) (SelfTest, error) {
	const status, capability, hasSelfTest = 363, 367, 1 << 4
	if len(b) < 512 {
		return SelfTest{}, errHealth
	}
	if b[capability]&hasSelfTest == 0 {
		return SelfTest{}, ErrNoSelfTest
	}
	left := int(b[status]&0xf) * 10
	switch result := b[status] >> 4; result {
	case 0:
		return SelfTest{Passed: true, Percent: 100, Message: "completed without error"}, nil
	case 0xf:
		return SelfTest{Running: true, Percent: 100 - left}, nil
	case 1, 2:
		return SelfTest{Aborted: true, Percent: 100 - left, Message: [...]string{"aborted by the host", "interrupted by a reset"}[result-1]}, nil
	default:
		what := map[byte]string{3: "fatal or unknown error", 5: "electrical failure", 6: "servo failure", 7: "read failure", 8: "handling damage"}[result]
		if what == "" {
			what = fmt.Sprintf("failed, code %d", result)
		}
		return SelfTest{Percent: 100 - left, Message: what}, nil
	}
}

// scsiSelfTest is SEND DIAGNOSTIC (SPC-4 §6.42) with a self-test code.
func scsiSelfTest(code byte) func(*os.File) error {
	const sendDiagnostic = 0x1d
	return func(f *os.File) error {
		sense, err := scsi(f, []byte{sendDiagnostic, code << 5, 0, 0, 0, 0}, nil)
		if err == nil && len(sense) > 2 {
			err = fmt.Errorf("sense key %d", senseKey(sense))
		}
		if err != nil {
			return fmt.Errorf("SCSI self-test: %w", err)
		}
		return nil
	}
}

// senseKey reads fixed and descriptor format (SPC-4 §4.5).
func senseKey(sense []byte) byte {
	if sense[0]&0x7f >= 0x72 {
		return sense[1] & 0xf
	}
	return sense[2] & 0xf
}

func askSCSI(f *os.File) (SelfTest, error) {
	const logSense, cumulative, page = 0x4d, 1 << 6, 0x10
	buf := make([]byte, 4+20)
	sense, err := scsi(f, []byte{logSense, 0, cumulative | page, 0, 0, 0, 0, 0, byte(len(buf)), 0}, buf)
	if err != nil {
		return SelfTest{}, fmt.Errorf("reading SCSI self-test log: %w", err)
	}
	if len(sense) > 0 {
		return SelfTest{}, errors.New("reading SCSI self-test log: the disk has none")
	}
	return parseSCSISelfTest(buf)
}

// parseSCSISelfTest reads the newest result of log page 10h (SPC-4 §7.3.19).
func parseSCSISelfTest(b []byte) (SelfTest, error) {
	const page = 0x10
	if len(b) < 24 || b[0]&0x3f != page || b[7] < 0x10 {
		return SelfTest{}, errHealth
	}
	newest := b[4:]
	s := SelfTest{Percent: 100}
	switch result := newest[4] & 0xf; result {
	case 0:
		s.Passed, s.Message = true, "completed without error"
	case 0xf:
		return SelfTest{Running: true}, nil
	case 1, 2:
		s.Aborted, s.Message = true, fmt.Sprintf("aborted, code %d", result)
	default:
		s.Message = fmt.Sprintf("failed, code %d, number %d", result, newest[5])
		if lba := binary.BigEndian.Uint64(newest[8:]); lba != 1<<64-1 {
			s.HasLBA, s.LBA = true, lba
		}
	}
	return s, nil
}
