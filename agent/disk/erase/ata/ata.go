// Package ata builds the commands with which an ATA disk is erased and reads
// what it answers (ATA/ATAPI Command Set 3 and 4): IDENTIFY DEVICE, the
// Security and the Sanitize Device feature sets, and what tells of hidden
// sectors (HPA, DCO, Accessible Max Address). Commands travel inside SCSI's
// ATA PASS-THROUGH (16) (SAT-3 §12.2.2), answers as sense data.
//
//	85h  protocol<<1|extend  flags  feature (2)  count (2)  LBA, low and high bytes in turn (6)  device  command  control
//
// It does no I/O. All functions may be called from several goroutines at once.
package ata

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bedplate/bedplate/agent/disk/erase/scsi"
)

type protocol byte

const (
	nonData protocol = 3
	pioIn   protocol = 4
	pioOut  protocol = 5
)

// Commands of ACS-3 §7.
const (
	cmdReadNativeMax   = 0x27
	cmdGetNativeMax    = 0x78
	cmdDeviceConfig    = 0xb1
	cmdSanitize        = 0xb4
	cmdIdentify        = 0xec
	cmdSetPassword     = 0xf1
	cmdUnlock          = 0xf2
	cmdErasePrepare    = 0xf3
	cmdEraseUnit       = 0xf4
	cmdDisablePassword = 0xf6
)

const questionTimeout = 15 * time.Second

// request is one ATA command.
type request struct {
	command        byte
	feature, count uint16
	lba            uint64
	protocol       protocol
	data           []byte
	// ask has the registers come back.
	ask     bool
	timeout time.Duration
}

// pack puts the request into ATA PASS-THROUGH (16).
func (r request) pack() scsi.Command {
	const passThrough, extend, checkCondition, fromDevice, inBlocks, lengthInCount, lbaMode = 0x85, 1, 0x20, 0x08, 0x04, 0x02, 0x40
	cdb := make([]byte, 16)
	cdb[0], cdb[1] = passThrough, byte(r.protocol)<<1
	switch r.command {
	case cmdReadNativeMax, cmdGetNativeMax, cmdSanitize: // 48-bit commands
		cdb[1] |= extend
	}
	if r.ask {
		cdb[2] |= checkCondition
	}
	if len(r.data) > 0 {
		cdb[2] |= inBlocks | lengthInCount
		r.count = uint16(len(r.data) / 512)
	}
	if r.protocol == pioIn {
		cdb[2] |= fromDevice
	}
	binary.BigEndian.PutUint16(cdb[3:], r.feature)
	binary.BigEndian.PutUint16(cdb[5:], r.count)
	for i := range 3 {
		cdb[7+2*i] = byte(r.lba >> (24 + 8*i))
		cdb[8+2*i] = byte(r.lba >> (8 * i))
	}
	cdb[13], cdb[14] = lbaMode, r.command
	return scsi.Command{CDB: cdb, Data: r.data, Out: r.protocol == pioOut, Timeout: r.timeout}
}

// IdentifyDevice asks who the disk is and what it can do.
func IdentifyDevice() scsi.Command {
	return request{command: cmdIdentify, protocol: pioIn, data: make([]byte, 512), timeout: questionTimeout}.pack()
}

// Registers are what the disk leaves in its task file.
type Registers struct {
	Error, Status byte
	Count         uint16
	LBA           uint64
	// Whole is false when only the low bytes of Count and LBA came.
	Whole bool
}

// ErrNoRegisters means that a controller didn't hand back the registers: it
// doesn't know ATA PASS-THROUGH, or only half.
var ErrNoRegisters = errors.New("the controller does not hand on the disk's answer")

// ParseRegisters reads the ATA status return descriptor (SAT-3 §12.2.2.6), or
// fixed sense data of the same meaning (§12.2.2.7).
func ParseRegisters(sense []byte) (Registers, error) {
	if len(sense) < 8 {
		return Registers{}, ErrNoRegisters
	}
	switch sense[0] & 0x7f {
	case 0x72, 0x73:
		return descriptor(sense[8:min(len(sense), 8+int(sense[7]))])
	case 0x70, 0x71:
		const ataPassThrough, available = 0x00, 0x1d // ATA PASS-THROUGH INFORMATION AVAILABLE
		if len(sense) < 14 || sense[12] != ataPassThrough || sense[13] != available {
			return Registers{}, ErrNoRegisters
		}
		const countMore, lbaMore = 0x40, 0x20
		return Registers{
			Error: sense[3], Status: sense[4], Count: uint16(sense[6]), Whole: sense[8]&(countMore|lbaMore) == 0,
			LBA: uint64(sense[9]) | uint64(sense[10])<<8 | uint64(sense[11])<<16,
		}, nil
	}
	return Registers{}, ErrNoRegisters
}

func descriptor(b []byte) (Registers, error) {
	const ataReturn = 0x09
	for len(b) >= 2 {
		n := 2 + int(b[1])
		if n > len(b) {
			break
		}
		if d := b[:n]; d[0] == ataReturn && n >= 14 {
			return Registers{
				Error: d[3], Status: d[13], Count: uint16(d[4])<<8 | uint16(d[5]), Whole: true,
				LBA: uint64(d[7]) | uint64(d[9])<<8 | uint64(d[11])<<16 | uint64(d[6])<<24 | uint64(d[8])<<32 | uint64(d[10])<<40,
			}, nil
		}
		b = b[n:]
	}
	return Registers{}, ErrNoRegisters
}

// Err returns what the reply to any command of this package says went wrong.
func Err(r scsi.Reply) error {
	const statusError, statusFault, aborted = 0x01, 0x20, 0x04
	regs, err := ParseRegisters(r.Sense)
	switch {
	case err != nil:
		return r.Err()
	case regs.Status&(statusError|statusFault) == 0:
		return nil
	case regs.Error&aborted != 0:
		return errors.New("the disk aborted the command")
	}
	return fmt.Errorf("the disk failed the command (status %02xh, error %02xh)", regs.Status, regs.Error)
}

// Identity is what is used of IDENTIFY DEVICE (ACS-3 §7.12.7).
type Identity struct {
	Serial, Model, Firmware string
	// Sectors that can be addressed.
	Sectors  uint64
	Security Security
	Sanitize SanitizeCapability
	// HPA, DCO and AMAC say how more sectors may be hidden: the Host Protected
	// Area, Device Configuration Overlay and Accessible Max Address feature sets.
	HPA, DCO, AMAC bool
}

// Security is the state of the Security feature set (words 82, 89, 90, 128).
type Security struct {
	Supported, Enabled, Locked, Frozen, Expired, CanEnhance bool
	// Normal and Enhanced are how long an erase takes; 0 when the disk doesn't say.
	Normal, Enhanced time.Duration
}

// SanitizeCapability is word 59.
type SanitizeCapability struct{ Supported, CryptoScramble, Overwrite, BlockErase bool }

// ErrIdentity means that the answer to IDENTIFY DEVICE is not one.
var ErrIdentity = errors.New("not an answer to IDENTIFY DEVICE")

// ParseIdentity reads the 512 bytes of IDENTIFY DEVICE.
func ParseIdentity(b []byte) (Identity, error) {
	if len(b) < 512 {
		return Identity{}, fmt.Errorf("%d bytes: %w", len(b), ErrIdentity)
	}
	word := func(n int) uint16 { return binary.LittleEndian.Uint16(b[2*n:]) }
	bit := func(n, bit int) bool { return word(n)&(1<<bit) != 0 }
	id := Identity{Serial: text(b[20:40]), Firmware: text(b[46:54]), Model: text(b[54:94])}
	if bit(0, 15) || id.Model == "" && id.Serial == "" { // bit 15: ATAPI, or nothing at all
		return Identity{}, ErrIdentity
	}
	id.Sectors = uint64(word(60)) | uint64(word(61))<<16
	if bit(83, 10) { // 48-bit addresses
		id.Sectors = binary.LittleEndian.Uint64(b[200:])
	}
	id.Security = Security{
		Supported: bit(82, 1) && bit(128, 0), Enabled: bit(128, 1), Locked: bit(128, 2), Frozen: bit(128, 3), Expired: bit(128, 4), CanEnhance: bit(128, 5),
		Normal: minutes(word(89)), Enhanced: minutes(word(90)),
	}
	id.Sanitize = SanitizeCapability{Supported: bit(59, 12)}
	if id.Sanitize.Supported {
		id.Sanitize.CryptoScramble, id.Sanitize.Overwrite, id.Sanitize.BlockErase = bit(59, 13), bit(59, 14), bit(59, 15)
	}
	id.HPA, id.DCO, id.AMAC = bit(82, 10), bit(83, 11), bit(119, 8)
	return id, nil
}

// minutes reads a time in units of two minutes: 8 bits, or 15 with bit 15 set.
// The highest value means longer than that.
func minutes(w uint16) time.Duration {
	n := w & 0xff
	if w&0x8000 != 0 {
		n = w & 0x7fff
	}
	return time.Duration(n) * 2 * time.Minute
}

// text has two characters to a word, the first in its upper half.
func text(b []byte) string {
	s := make([]byte, 0, len(b))
	for i := 0; i+1 < len(b); i += 2 {
		s = append(s, b[i+1], b[i])
	}
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(s))
	return strings.Join(strings.Fields(clean), " ")
}

// password fills the block that SECURITY SET PASSWORD, UNLOCK, ERASE UNIT and
// DISABLE PASSWORD send: a word of flags, 32 bytes of password. Always the user
// password, at level high.
func password(p string, flags uint16) []byte {
	b := make([]byte, 512)
	binary.LittleEndian.PutUint16(b, flags)
	copy(b[2:34], p)
	return b
}

// SetPassword sets the user password, without which nothing can be erased.
func SetPassword(p string) scsi.Command {
	return request{command: cmdSetPassword, protocol: pioOut, data: password(p, 0), timeout: questionTimeout}.pack()
}

// Unlock opens a disk that is locked with the user password.
func Unlock(p string) scsi.Command {
	return request{command: cmdUnlock, protocol: pioOut, data: password(p, 0), timeout: questionTimeout}.pack()
}

// DisablePassword takes the user password away again.
func DisablePassword(p string) scsi.Command {
	return request{command: cmdDisablePassword, protocol: pioOut, data: password(p, 0), timeout: questionTimeout}.pack()
}

// ErasePrepare must come right before EraseUnit.
func ErasePrepare() scsi.Command {
	return request{command: cmdErasePrepare, protocol: nonData, timeout: questionTimeout}.pack()
}

// EraseUnit erases the disk and takes the password away. It ends when the disk
// is erased, which takes up to a day.
func EraseUnit(p string, enhanced bool, timeout time.Duration) scsi.Command {
	var flags uint16
	if enhanced {
		flags = 1 << 1
	}
	return request{command: cmdEraseUnit, protocol: pioOut, data: password(p, flags), timeout: timeout}.pack()
}

// Action is one of the sanitize commands, by its feature value.
type Action uint16

// The sanitize commands (ACS-3 §7.36).
const (
	sanitizeStatus Action = 0x0000
	CryptoScramble Action = 0x0011
	BlockErase     Action = 0x0012
	Overwrite      Action = 0x0014
)

// Sanitize starts a sanitize command, which ends in the background. A failed
// one may be left again (count bit 4, FAILURE MODE).
func Sanitize(a Action) scsi.Command {
	const failureMode, onePass = 1 << 4, 1
	r := request{command: cmdSanitize, feature: uint16(a), count: failureMode, protocol: nonData, ask: true, timeout: time.Minute}
	switch a { // Each has letters to be told from noise by: "Cryp", "BkEr", "OW".
	case CryptoScramble:
		r.lba = 0x43727970
	case BlockErase:
		r.lba = 0x426b4572
	case Overwrite:
		r.lba, r.count = 0x4f57<<32, failureMode|onePass
	}
	return r.pack()
}

// SanitizeStatus asks how the last sanitize command gets on. With clear a
// failed one is left behind (count bit 0).
func SanitizeStatus(clear bool) scsi.Command {
	r := request{command: cmdSanitize, feature: uint16(sanitizeStatus), protocol: nonData, ask: true, timeout: questionTimeout}
	if clear {
		r.count = 1
	}
	return r.pack()
}

// SanitizeState is the answer to SanitizeStatus.
type SanitizeState struct {
	// Completed without an error, InProgress, and Frozen: no sanitize command is
	// taken until the next power cycle.
	Completed, InProgress, Frozen bool
	// Progress counts to 65535.
	Progress uint16
	// Failure says why an operation failed; empty when none did.
	Failure string
}

// Fraction is how much is done, from 0 to 1.
func (s SanitizeState) Fraction() float64 {
	if !s.InProgress {
		return 1
	}
	return float64(s.Progress) / 65536
}

// ParseSanitizeStatus reads the registers after SanitizeStatus.
func ParseSanitizeStatus(sense []byte) (SanitizeState, error) {
	r, err := ParseRegisters(sense)
	if err != nil {
		return SanitizeState{}, err
	}
	if !r.Whole {
		return SanitizeState{}, ErrNoRegisters
	}
	const statusError = 0x01
	if r.Status&statusError != 0 {
		reasons := map[byte]string{1: "sanitize command unsuccessful", 2: "unsupported command", 3: "in the frozen state", 4: "freeze lock is enabled"}
		why := reasons[byte(r.LBA)]
		if why == "" {
			why = fmt.Sprintf("reason %d", byte(r.LBA))
		}
		return SanitizeState{Failure: why}, nil
	}
	return SanitizeState{Completed: r.Count&(1<<15) != 0, InProgress: r.Count&(1<<14) != 0, Frozen: r.Count&(1<<13) != 0, Progress: uint16(r.LBA)}, nil
}

// ReadNativeMax asks for the highest address with a Host Protected Area counted in.
func ReadNativeMax() scsi.Command {
	return request{command: cmdReadNativeMax, protocol: nonData, ask: true, timeout: questionTimeout}.pack()
}

// GetNativeMax is ReadNativeMax of disks since ACS-3.
func GetNativeMax() scsi.Command {
	return request{command: cmdGetNativeMax, protocol: nonData, ask: true, timeout: questionTimeout}.pack()
}

// ParseNativeMax returns how many sectors the disk has.
func ParseNativeMax(sense []byte) (uint64, error) {
	const statusError = 0x01
	r, err := ParseRegisters(sense)
	switch {
	case err != nil:
		return 0, err
	case r.Status&statusError != 0:
		return 0, errors.New("the disk aborted the command")
	case !r.Whole:
		return 0, ErrNoRegisters
	}
	return r.LBA&(1<<48-1) + 1, nil
}

// DeviceConfiguration asks for the Device Configuration Overlay.
func DeviceConfiguration() scsi.Command {
	const identify = 0xc2
	return request{command: cmdDeviceConfig, feature: identify, protocol: pioIn, data: make([]byte, 512), timeout: questionTimeout}.pack()
}

// ParseDeviceConfiguration returns how many sectors the disk was made with.
func ParseDeviceConfiguration(b []byte) (uint64, error) {
	if len(b) < 512 {
		return 0, fmt.Errorf("device configuration, %d bytes: %w", len(b), ErrIdentity)
	}
	return binary.LittleEndian.Uint64(b[6:])&(1<<48-1) + 1, nil
}
