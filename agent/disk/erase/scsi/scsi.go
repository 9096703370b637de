// Package scsi builds the commands with which a SCSI disk is erased and reads
// what it answers: SANITIZE (SBC-4 §5.31), REPORT SUPPORTED OPERATION CODES
// (SPC-5 §6.33), REQUEST SENSE and sense data (SPC-5 §4.4, both formats).
//
//	SANITIZE:  48h  7 IMMED 6 ZNR 5 AUSE 0-4 service action  0 0 0 0 0  length (2)  control
//
// It does no I/O. All functions may be called from several goroutines at once.
package scsi

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Command is one command and the data that goes with it.
type Command struct {
	CDB []byte
	// Data is read into, or sent if Out is set; may be empty.
	Data []byte
	Out  bool
	// Timeout is what the kernel gives the disk.
	Timeout time.Duration
}

// Reply is how a command ended.
type Reply struct {
	// Status is GOOD (0), CHECK CONDITION (2) or another of SAM-5 §5.3.
	Status byte
	// Sense is the sense data, if any.
	Sense []byte
}

// Key is a sense key.
type Key uint8

// Sense keys (SPC-5 table 48).
const (
	NoSense        Key = 0
	RecoveredError Key = 1
	NotReady       Key = 2
	MediumError    Key = 3
	HardwareError  Key = 4
	IllegalRequest Key = 5
	UnitAttention  Key = 6
	DataProtect    Key = 7
	AbortedCommand Key = 0xb
)

// String is as the standard has it.
func (k Key) String() string {
	if s, ok := map[Key]string{
		NoSense: "no sense", RecoveredError: "recovered error", NotReady: "not ready", MediumError: "medium error", HardwareError: "hardware error",
		IllegalRequest: "illegal request", UnitAttention: "unit attention", DataProtect: "data protect", AbortedCommand: "aborted command",
	}[k]; ok {
		return s
	}
	return fmt.Sprintf("sense key %#x", uint8(k))
}

// Sense is what sense data says.
type Sense struct {
	Key       Key
	ASC, ASCQ byte
	// Progress counts to 65536; negative when there is none.
	Progress int
}

// Error describes a failed command.
func (s Sense) Error() string {
	if text, ok := codes[[2]byte{s.ASC, s.ASCQ}]; ok {
		return fmt.Sprintf("%s: %s (%02xh/%02xh)", s.Key, text, s.ASC, s.ASCQ)
	}
	return fmt.Sprintf("%s (%02xh/%02xh)", s.Key, s.ASC, s.ASCQ)
}

var codes = map[[2]byte]string{
	{0x04, 0x1b}: "sanitize in progress", {0x04, 0x04}: "format in progress", {0x31, 0x03}: "sanitize command failed", {0x20, 0x00}: "invalid command operation code",
	{0x24, 0x00}: "invalid field in command", {0x27, 0x00}: "write protected", {0x1d, 0x00}: "miscompare", {0x20, 0x02}: "no access rights", {0x74, 0x71}: "logical unit access not authorized",
}

// Sanitizing reports whether a sanitize operation is in progress.
func (s Sense) Sanitizing() bool { return s.Key == NotReady && s.ASC == 0x04 && s.ASCQ == 0x1b }

// SanitizeFailed reports whether the last sanitize operation failed.
func (s Sense) SanitizeFailed() bool { return s.ASC == 0x31 && s.ASCQ == 0x03 }

// Fraction is how much is done, from 0 to 1; 0 when the disk doesn't say.
func (s Sense) Fraction() float64 { return float64(max(0, s.Progress)) / 65536 }

// ParseSense reads sense data in fixed (70h, 71h) or descriptor format (72h,
// 73h); false if it is neither or cut off.
func ParseSense(b []byte) (Sense, bool) {
	if len(b) < 8 {
		return Sense{}, false
	}
	s := Sense{Progress: -1}
	switch b[0] & 0x7f {
	case 0x70, 0x71:
		s.Key = Key(b[2] & 0xf)
		if len(b) >= 14 {
			s.ASC, s.ASCQ = b[12], b[13]
		}
		if len(b) >= 18 && b[15]&0x80 != 0 && (s.Key == NoSense || s.Key == NotReady) {
			s.Progress = int(binary.BigEndian.Uint16(b[16:]))
		}
	case 0x72, 0x73:
		s.Key, s.ASC, s.ASCQ = Key(b[1]&0xf), b[2], b[3]
		s.Progress = progress(b[8:min(len(b), 8+int(b[7]))])
	default:
		return Sense{}, false
	}
	return s, true
}

// progress looks for it among descriptors: sense key specific (02h) or
// progress indication (0Ah).
func progress(b []byte) int {
	for len(b) >= 2 {
		n := 2 + int(b[1])
		if n > len(b) {
			break
		}
		switch d := b[:n]; {
		case d[0] == 0x02 && n >= 8 && d[4]&0x80 != 0:
			return int(binary.BigEndian.Uint16(d[5:]))
		case d[0] == 0x0a && n >= 8:
			return int(binary.BigEndian.Uint16(d[6:]))
		}
		b = b[n:]
	}
	return -1
}

// Err returns what a reply says went wrong; nil for GOOD and for errors that
// the disk has recovered from.
func (r Reply) Err() error {
	if r.Status == 0 {
		return nil
	}
	s, ok := ParseSense(r.Sense)
	switch {
	case ok && (s.Key == NoSense || s.Key == RecoveredError):
		return nil
	case ok:
		return s
	}
	return fmt.Errorf("SCSI status %02xh", r.Status)
}

// Action is what a SANITIZE command does.
type Action uint8

// The service actions (SBC-4 table 119).
const (
	Overwrite   Action = 0x01
	BlockErase  Action = 0x02
	CryptoErase Action = 0x03
	ExitFailure Action = 0x1f
)

const (
	opSanitize       = 0x48
	opRequestSense   = 0x03
	opMaintenanceIn  = 0xa3
	reportOpcodes    = 0x0c
	questionTimeout  = 5 * time.Second
	sanitizeTimeout  = 2 * time.Minute
	overwritePattern = 4
)

// Sanitize starts a sanitize operation, which ends in the background. A failed
// one may be left again (AUSE).
func Sanitize(a Action) Command {
	const immediate, allowUnrestrictedExit = 1 << 7, 1 << 5
	c := Command{CDB: make([]byte, 10), Timeout: sanitizeTimeout}
	c.CDB[0], c.CDB[1] = opSanitize, byte(a)
	if a != ExitFailure {
		c.CDB[1] |= immediate | allowUnrestrictedExit
	}
	if a == Overwrite {
		// One pass with a pattern of four zeros.
		c.Data, c.Out = []byte{1, 0, 0, overwritePattern, 0, 0, 0, 0}, true
		binary.BigEndian.PutUint16(c.CDB[7:], uint16(len(c.Data)))
	}
	return c
}

// RequestSense asks how a sanitize operation gets on.
func RequestSense() Command {
	data := make([]byte, 252)
	return Command{CDB: []byte{opRequestSense, 0, 0, 0, byte(len(data)), 0}, Data: data, Timeout: questionTimeout}
}

// Supports asks whether SANITIZE has that service action.
func Supports(a Action) Command {
	const oneWithServiceAction = 2
	data := make([]byte, 64)
	cdb := []byte{opMaintenanceIn, reportOpcodes, oneWithServiceAction, opSanitize, 0, byte(a), 0, 0, 0, byte(len(data)), 0, 0}
	return Command{CDB: cdb, Data: data, Timeout: questionTimeout}
}

// ParseSupports reads the answer to Supports.
func ParseSupports(b []byte) bool {
	const asStandard, asVendor = 3, 5
	return len(b) >= 4 && (b[1]&7 == asStandard || b[1]&7 == asVendor)
}
