// Package nvme builds the admin commands with which an NVMe disk is erased and
// reads what it answers (NVM Express Base Specification 2.0, NVM Command Set
// Specification 1.0): Identify, Get Log Page, Format NVM and Sanitize.
//
//	Sanitize, dword 10:  0-2 action  3 AUSE  4-7 passes  8 invert  9 no-deallocate
//	Format, dword 10:    0-3 LBA format  4 metadata  5-7 protection  8 its place
//	                     9-11 secure erase  12-13 LBA format, upper
//
// It does no I/O. All functions may be called from several goroutines at once.
package nvme

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// AllNamespaces stands for every namespace of a controller.
const AllNamespaces = 0xffffffff

// Opcodes of the admin command set (figure 138).
const (
	OpGetLogPage = 0x02
	OpIdentify   = 0x06
	OpFormat     = 0x80
	OpSanitize   = 0x84
)

// What Identify is asked for (CNS, figure 272).
const (
	CNSNamespace  = 0x00
	CNSController = 0x01
	CNSActive     = 0x02
	CNSAllocated  = 0x10
)

// LogSanitize is the identifier of the Sanitize Status log page (§5.16.1.25).
const LogSanitize = 0x81

// Command is one admin command. Data is read into; none of these commands
// sends any.
type Command struct {
	Opcode       uint8
	NSID         uint32
	CDW10, CDW11 uint32
	Data         []byte
	// Timeout is what the kernel gives the controller.
	Timeout time.Duration
}

// Status is a command that the controller did not carry out: status code type
// in bits 8 to 10, status code in 0 to 7 (figure 92).
type Status uint16

// Error names the codes that these commands are answered with.
func (s Status) Error() string {
	if text, ok := statuses[s&0x7ff]; ok {
		return fmt.Sprintf("NVMe status %#03x: %s", uint16(s&0x7ff), text)
	}
	return fmt.Sprintf("NVMe status %#03x", uint16(s&0x7ff))
}

var statuses = map[Status]string{
	0x001: "invalid command opcode", 0x002: "invalid field in command", 0x004: "data transfer error", 0x005: "aborted, power loss", 0x006: "internal error",
	0x00b: "invalid namespace or format", 0x00c: "command sequence error", 0x015: "operation denied", 0x01c: "sanitize failed", 0x01d: "sanitize in progress",
	0x020: "namespace is write protected", 0x081: "capacity exceeded", 0x082: "namespace not ready", 0x083: "reservation conflict", 0x084: "format in progress",
	0x10a: "invalid format", 0x10b: "firmware activation requires a reset", 0x123: "sanitize prohibited while persistent memory is enabled",
}

const questionTimeout = 5 * time.Second

// Identify asks for one of the CNS data structures.
func Identify(cns uint8, nsid uint32) Command {
	return Command{Opcode: OpIdentify, NSID: nsid, CDW10: uint32(cns), Data: make([]byte, 4096), Timeout: questionTimeout}
}

// SanitizeLog asks for the Sanitize Status log page.
func SanitizeLog() Command {
	data := make([]byte, 512)
	return Command{Opcode: OpGetLogPage, NSID: AllNamespaces, CDW10: LogSanitize | uint32(len(data)/4-1)<<16, Data: data, Timeout: questionTimeout}
}

// Action is what a Sanitize command does (SANACT).
type Action uint8

// The sanitize actions (figure 323).
const (
	ExitFailure Action = 1
	BlockErase  Action = 2
	Overwrite   Action = 3
	CryptoErase Action = 4
)

// String is as the specification has it.
func (a Action) String() string {
	if s, ok := map[Action]string{ExitFailure: "exit failure mode", BlockErase: "block erase", Overwrite: "overwrite", CryptoErase: "crypto erase"}[a]; ok {
		return s
	}
	return fmt.Sprintf("action %d", a)
}

// Sanitize starts a sanitize operation; it ends in the background. Afterwards
// blocks are deallocated, so that they read alike. A failed operation may be
// left again (AUSE), so that other methods can be tried.
func Sanitize(a Action) Command {
	const allowUnrestrictedExit, onePass = 1 << 3, 1 << 4
	dw := uint32(a)
	if a != ExitFailure {
		dw |= allowUnrestrictedExit
	}
	if a == Overwrite {
		dw |= onePass // 0 would mean 16
	}
	return Command{Opcode: OpSanitize, CDW10: dw, Timeout: time.Minute}
}

// Erase is the secure erase setting of Format NVM (SES).
type Erase uint8

// The secure erase settings (figure 189).
const (
	EraseUserData Erase = 1
	EraseCrypto   Erase = 2
)

// Format returns the command that formats a namespace as it is formatted now.
func Format(ns Namespace, nsid uint32, e Erase, timeout time.Duration) Command {
	dw := uint32(ns.LBAFormat&0xf) | uint32(ns.LBAFormat>>4&3)<<12 | uint32(e)<<9 | uint32(ns.Protection&0xf)<<5
	if ns.ExtendedLBA {
		dw |= 1 << 4
	}
	return Command{Opcode: OpFormat, NSID: nsid, CDW10: dw, Timeout: timeout}
}

// ErrShort is in the error for an answer that is too short to be one.
var ErrShort = errors.New("answer too short")

// Controller is what is used of Identify Controller (figure 274).
type Controller struct {
	Serial, Model, Firmware string
	// Subsystem is the qualified name; controllers of one subsystem share namespaces.
	Subsystem string
	// CanFormat, CanManage: OACS bits 1 and 3.
	CanFormat, CanManage bool
	// FormatsAll: Format NVM reaches every namespace (FNA bit 0), ErasesAll: it
	// does when it erases (bit 1), CanCrypto (bit 2).
	FormatsAll, ErasesAll, CanCrypto bool
	// Sanitize holds SANICAP as it came.
	Sanitize uint32
}

// CanSanitize reports whether SANICAP has the action.
func (c Controller) CanSanitize(a Action) bool {
	bit := map[Action]uint32{CryptoErase: 1 << 0, BlockErase: 1 << 1, Overwrite: 1 << 2}[a]
	return c.Sanitize&bit != 0
}

// ParseController reads Identify Controller.
func ParseController(b []byte) (Controller, error) {
	if len(b) < 4096 {
		return Controller{}, fmt.Errorf("identify controller, %d bytes: %w", len(b), ErrShort)
	}
	oacs, fna := binary.LittleEndian.Uint16(b[256:]), b[524]
	return Controller{
		Serial: text(b[4:24]), Model: text(b[24:64]), Firmware: text(b[64:72]), Subsystem: text(b[768:1024]),
		CanFormat: oacs&(1<<1) != 0, CanManage: oacs&(1<<3) != 0,
		FormatsAll: fna&1 != 0, ErasesAll: fna&2 != 0, CanCrypto: fna&4 != 0,
		Sanitize: binary.LittleEndian.Uint32(b[328:]),
	}, nil
}

// Namespace is what is used of Identify Namespace (NVM figure 97).
type Namespace struct {
	// Blocks is its size in logical blocks.
	Blocks uint64
	// LBAFormat is the format in use, ExtendedLBA whether metadata comes with the data.
	LBAFormat   uint8
	ExtendedLBA bool
	// Protection holds type and place of protection information (DPS).
	Protection uint8
	// BlockSize is in bytes, MetadataSize that of each block's metadata.
	BlockSize, MetadataSize int
	WriteProtected          bool
}

// ParseNamespace reads Identify Namespace. A namespace that isn't active reads
// as zeros, and has no blocks.
func ParseNamespace(b []byte) (Namespace, error) {
	if len(b) < 4096 {
		return Namespace{}, fmt.Errorf("identify namespace, %d bytes: %w", len(b), ErrShort)
	}
	flbas := b[26]
	n := Namespace{
		Blocks: binary.LittleEndian.Uint64(b), LBAFormat: flbas&0xf | flbas>>5&3<<4, ExtendedLBA: flbas&0x10 != 0,
		Protection: b[29] & 0xf, WriteProtected: b[99]&1 != 0,
	}
	format := binary.LittleEndian.Uint32(b[128+4*int(n.LBAFormat):])
	n.MetadataSize = int(format & 0xffff)
	if shift := format >> 16 & 0xff; shift >= 9 && shift <= 16 {
		n.BlockSize = 1 << shift
	}
	return n, nil
}

// ParseNamespaceList reads a list of namespace identifiers: up to 1024, rising,
// ended by 0.
func ParseNamespaceList(b []byte) ([]uint32, error) {
	if len(b) < 4096 {
		return nil, fmt.Errorf("namespace list, %d bytes: %w", len(b), ErrShort)
	}
	var out []uint32
	for i := 0; i < 4096; i += 4 {
		id := binary.LittleEndian.Uint32(b[i:])
		if id == 0 || len(out) > 0 && id <= out[len(out)-1] {
			break
		}
		out = append(out, id)
	}
	return out, nil
}

// State is how the most recent sanitize operation went.
type State uint8

// The states of SSTAT bits 0 to 2 (figure 295).
const (
	NeverSanitized State = 0
	Sanitized      State = 1
	InProgress     State = 2
	Failed         State = 3
	// SanitizedDeallocated: it went well, and blocks were deallocated although
	// the command asked to leave them.
	SanitizedDeallocated State = 4
)

// String describes the state for people.
func (s State) String() string {
	words := []string{"never sanitized", "sanitized", "in progress", "failed", "sanitized and deallocated"}
	if int(s) < len(words) {
		return words[s]
	}
	return fmt.Sprintf("state %d", s)
}

// Done reports whether the operation ended well.
func (s State) Done() bool { return s == Sanitized || s == SanitizedDeallocated }

// logBytes is how much of the log page versions 1.3 to 2.0 define.
const logBytes = 32

// SanitizeStatus is the Sanitize Status log page (figure 295).
type SanitizeStatus struct {
	// Progress counts to 65536; 65535 when none is in progress.
	Progress uint16
	State    State
	// Passes are those of an overwrite that are done.
	Passes uint8
	// Erased: nothing has been written since the last sanitize operation.
	Erased bool
	// Command is dword 10 of the command that started it.
	Command uint32
	// BlockErase, Overwrite and CryptoErase are how long each is expected to
	// take; negative where the disk doesn't say.
	Overwrite, BlockErase, CryptoErase time.Duration
	// Raw is the defined part of the page, as it came.
	Raw []byte
}

// Action is that of the command that started the operation.
func (s SanitizeStatus) Action() Action { return Action(s.Command & 7) }

// Fraction is how much is done, from 0 to 1.
func (s SanitizeStatus) Fraction() float64 {
	if s.State != InProgress {
		return 1
	}
	return float64(s.Progress) / 65536
}

// ParseSanitizeStatus reads log page 81h.
func ParseSanitizeStatus(b []byte) (SanitizeStatus, error) {
	if len(b) < logBytes {
		return SanitizeStatus{}, fmt.Errorf("sanitize status, %d bytes: %w", len(b), ErrShort)
	}
	le := binary.LittleEndian
	status := le.Uint16(b[2:])
	return SanitizeStatus{
		Progress: le.Uint16(b), State: State(status & 7), Passes: uint8(status >> 3 & 0x1f), Erased: status&(1<<8) != 0,
		Command: le.Uint32(b[4:]), Overwrite: estimate(b[8:]), BlockErase: estimate(b[12:]), CryptoErase: estimate(b[16:]),
		Raw: append([]byte(nil), b[:logBytes]...),
	}, nil
}

func estimate(b []byte) time.Duration {
	n := binary.LittleEndian.Uint32(b)
	if n == 0xffffffff {
		return -1
	}
	return time.Duration(n) * time.Second
}

// text reads a padded ASCII field.
func text(b []byte) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b))
	return strings.Join(strings.Fields(s), " ")
}
