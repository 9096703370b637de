package efi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/bedplate/bedplate/agent/disk/partition"
)

// active is the attribute of an option that the boot manager may start by itself.
const active = 1

// Device path nodes (§10.3): type, subtype.
const (
	typeMedia    = 4
	subHardDrive = 1
	subFile      = 4
	typeEnd      = 0x7f
	subEndAll    = 0xff
	driveLength  = 42
	formatMBR    = 1
	formatGPT    = 2
)

// maxOption bounds a variable; firmware has far less room.
const maxOption = 64 << 10

// HardDrive is the device path node of a partition (§10.3.5.1).
type HardDrive struct {
	Number        uint32
	Start, Blocks uint64
	Signature     [16]byte
	// Format is 1 for MBR, 2 for GPT; Kind is that of the signature, likewise.
	Format, Kind byte
}

func (h *HardDrive) setGPT(id partition.GUID) {
	h.Signature, h.Format, h.Kind = id, formatGPT, formatGPT
}

func (h *HardDrive) setMBR(signature uint32) {
	binary.LittleEndian.PutUint32(h.Signature[:], signature)
	h.Format, h.Kind = formatMBR, formatMBR
}

// Option is a boot option (EFI_LOAD_OPTION, §3.1.3) that starts a file of a
// partition. One of another make has Foreign set and keeps its bytes.
type Option struct {
	Attributes uint32
	Label      string
	Drive      HardDrive
	// Loader is the file's path with backslashes.
	Loader string
	// Data is what the loader is given.
	Data []byte
	// Foreign is the path of an option that starts anything else: the network,
	// a program of the firmware, a disk as a whole.
	Foreign []byte
}

// String describes the option for people.
func (o Option) String() string {
	if o.Foreign != nil {
		return fmt.Sprintf("%q", o.Label)
	}
	return fmt.Sprintf("%q, partition %d, %s", o.Label, o.Drive.Number, o.Loader)
}

// Append appends the option as the variable holds it.
func (o Option) Append(b []byte) []byte {
	path := o.Foreign
	if path == nil {
		path = o.path()
	}
	le := binary.LittleEndian
	b = le.AppendUint32(b, o.Attributes)
	b = le.AppendUint16(b, uint16(len(path)))
	b = appendString(b, o.Label)
	b = append(b, path...)
	return append(b, o.Data...)
}

func (o Option) path() []byte {
	le := binary.LittleEndian
	b := []byte{typeMedia, subHardDrive, driveLength, 0}
	b = le.AppendUint32(b, o.Drive.Number)
	b = le.AppendUint64(b, o.Drive.Start)
	b = le.AppendUint64(b, o.Drive.Blocks)
	b = append(b, o.Drive.Signature[:]...)
	b = append(b, o.Drive.Format, o.Drive.Kind)
	file := appendString(nil, o.Loader)
	b = append(b, typeMedia, subFile)
	b = le.AppendUint16(b, uint16(4+len(file)))
	b = append(b, file...)
	return append(b, typeEnd, subEndAll, 4, 0)
}

func appendString(b []byte, s string) []byte {
	for _, c := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return append(b, 0, 0)
}

var errOption = errors.New("not a boot option")

// ParseOption reads the value of a variable Boot####.
func ParseOption(b []byte) (Option, error) {
	if len(b) < 8 || len(b) > maxOption {
		return Option{}, fmt.Errorf("%d bytes: %w", len(b), errOption)
	}
	o := Option{Attributes: binary.LittleEndian.Uint32(b)}
	n := int(binary.LittleEndian.Uint16(b[4:]))
	label, rest, ok := cutString(b[6:])
	if !ok || n > len(rest) {
		return Option{}, fmt.Errorf("a path of %d bytes: %w", n, errOption)
	}
	o.Label = label
	if len(rest) > n {
		o.Data = rest[n:]
	}
	if !o.parsePath(rest[:n]) {
		o.Drive, o.Loader = HardDrive{}, ""
		o.Foreign = append([]byte{}, rest[:n]...)
	}
	return o, nil
}

// parsePath reads HD/File/End, and reports whether the path is just that.
func (o *Option) parsePath(b []byte) bool {
	le := binary.LittleEndian
	if len(b) < driveLength+8 || b[0] != typeMedia || b[1] != subHardDrive || le.Uint16(b[2:]) != driveLength {
		return false
	}
	o.Drive = HardDrive{Number: le.Uint32(b[4:]), Start: le.Uint64(b[8:]), Blocks: le.Uint64(b[16:]),
		Signature: [16]byte(b[24:40]), Format: b[40], Kind: b[41]}
	b = b[driveLength:]
	n := int(le.Uint16(b[2:]))
	if b[0] != typeMedia || b[1] != subFile || n < 6 || n+4 != len(b) {
		return false
	}
	loader, rest, ok := cutString(b[4:n])
	end := b[n:]
	o.Loader = loader
	// Written again it must be the same: odd surrogates or a second string are foreign.
	return ok && len(rest) == 0 && end[0] == typeEnd && end[1] == subEndAll && end[2] == 4 && end[3] == 0 &&
		string(appendString(nil, loader)) == string(b[4:n])
}

// cutString reads a UTF-16 string up to its end mark.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	var u []uint16
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			return string(utf16.Decode(u)), b[i+2:], true
		}
		u = append(u, c)
	}
	return "", nil, false
}

// sameTarget reports whether two options start the same file of the same partition.
func (o Option) sameTarget(p Option) bool {
	return o.Foreign == nil && p.Foreign == nil && o.Drive == p.Drive && strings.EqualFold(o.Loader, p.Loader)
}
