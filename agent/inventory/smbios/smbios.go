// Package smbios reads the tables that firmware leaves about a machine (DMTF
// DSP0134, System Management BIOS): the structures of types 0 to 4, 17 and 38.
//
// A table is a row of structures, each
//
//	+------+--------+--------+-- length - 4 --+-- strings, each ended by NUL --+-----+
//	| type | length | handle | formatted area |                                | NUL |
//	+------+--------+--------+----------------+--------------------------------+-----+
//	   1        1       2
//
// It reads bytes only, imports nothing of ours, and a damaged table gives what
// came before the damage. Tables are values and may be used by any goroutine.
package smbios

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Structure types (DSP0134 §7).
const (
	typeBIOS      = 0
	typeSystem    = 1
	typeBaseboard = 2
	typeChassis   = 3
	typeProcessor = 4
	typeMemory    = 17
	typeIPMI      = 38
	typeEnd       = 127
)

// MaxTable bounds a table's length; real ones have some ten kilobytes.
const MaxTable = 1 << 20

// ErrTable says that the table is cut short or no table at all.
var ErrTable = errors.New("damaged SMBIOS table")

// Tables is what the parser understood.
type Tables struct {
	BIOS       BIOS
	System     System
	Baseboard  Baseboard
	Chassis    Chassis
	Processors []Processor
	Memory     []Memory
	// IPMI reports whether there is a management controller (type 38).
	IPMI bool
}

// BIOS is type 0.
type BIOS struct{ Vendor, Version, ReleaseDate string }

// System is type 1. UUID is in lower case with dashes, empty when not set.
type System struct{ Manufacturer, Product, Version, Serial, UUID, SKU, Family string }

// Baseboard is type 2, the first of them.
type Baseboard struct{ Manufacturer, Product, Version, Serial string }

// Chassis is type 3, the first of them.
type Chassis struct{ Manufacturer, Type, Serial, AssetTag string }

// Processor is type 4. Unpopulated sockets are left out.
type Processor struct {
	Socket, Manufacturer, Version string
	MaxMHz                        uint32
	Cores, Threads                uint32
}

// Memory is type 17. Empty slots are left out.
type Memory struct {
	Locator, Type, Manufacturer, Serial, PartNumber string
	SizeBytes                                       uint64
	SpeedMTs                                        uint32
}

type structure struct {
	kind byte
	data []byte // header included
	text []string
}

// Parse reads a table as /sys/firmware/dmi/tables/DMI has it. With an error
// it returns what could be read before the damage.
func Parse(b []byte) (Tables, error) {
	var t Tables
	if len(b) > MaxTable {
		return t, fmt.Errorf("%w: %d bytes", ErrTable, len(b))
	}
	seen := map[byte]bool{}
	for len(b) > 0 {
		s, rest, err := next(b)
		if err != nil {
			return t, err
		}
		if s.kind == typeEnd {
			return t, nil
		}
		t.add(s, !seen[s.kind])
		seen[s.kind] = true
		b = rest
	}
	return t, nil
}

func next(b []byte) (structure, []byte, error) {
	if len(b) < 4 || int(b[1]) < 4 || int(b[1]) > len(b) {
		return structure{}, nil, fmt.Errorf("%w: header at %d bytes from its end", ErrTable, len(b))
	}
	s := structure{kind: b[0], data: b[:b[1]]}
	b = b[b[1]:]
	if len(b) >= 2 && b[0] == 0 && b[1] == 0 { // §6.1.3: no strings
		return s, b[2:], nil
	}
	for {
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			return structure{}, nil, fmt.Errorf("%w: strings of type %d have no end", ErrTable, s.kind)
		}
		if i == 0 {
			return s, b[1:], nil
		}
		s.text = append(s.text, clean(string(b[:i])))
		b = b[i+1:]
	}
}

// clean drops what firmware fills fields with when the maker had nothing to say.
func clean(s string) string {
	s = strings.TrimSpace(strings.ToValidUTF8(s, ""))
	switch strings.ToLower(strings.TrimRight(s, ".")) {
	case "not specified", "to be filled by o.e.m", "default string", "none", "unknown", "system serial number", "system product name", "system manufacturer", "system version", "not available", "n/a", "0123456789", "no asset tag", "no dimm", "undefined":
		return ""
	}
	return s
}

func (s structure) byteAt(i int) byte {
	if i < len(s.data) {
		return s.data[i]
	}
	return 0
}

func (s structure) uint16At(i int) uint16 {
	if i+2 <= len(s.data) {
		return binary.LittleEndian.Uint16(s.data[i:])
	}
	return 0
}

func (s structure) uint32At(i int) uint32 {
	if i+4 <= len(s.data) {
		return binary.LittleEndian.Uint32(s.data[i:])
	}
	return 0
}

// stringAt returns the string whose number is at offset i; 0 means none.
func (s structure) stringAt(i int) string {
	n := int(s.byteAt(i))
	if n == 0 || n > len(s.text) {
		return ""
	}
	return s.text[n-1]
}

// add takes one structure; of types 0 to 3 only the first counts.
func (t *Tables) add(s structure, first bool) {
	switch {
	case s.kind == typeProcessor:
		t.addProcessor(s)
	case s.kind == typeMemory:
		t.addMemory(s)
	case s.kind == typeIPMI:
		t.IPMI = true
	case !first:
	case s.kind == typeBIOS:
		t.BIOS = BIOS{Vendor: s.stringAt(0x04), Version: s.stringAt(0x05), ReleaseDate: s.stringAt(0x08)}
	case s.kind == typeSystem:
		t.System = System{
			Manufacturer: s.stringAt(0x04), Product: s.stringAt(0x05), Version: s.stringAt(0x06), Serial: s.stringAt(0x07),
			UUID: s.uuidAt(0x08), SKU: s.stringAt(0x19), Family: s.stringAt(0x1a),
		}
	case s.kind == typeBaseboard:
		t.Baseboard = Baseboard{Manufacturer: s.stringAt(0x04), Product: s.stringAt(0x05), Version: s.stringAt(0x06), Serial: s.stringAt(0x07)}
	case s.kind == typeChassis:
		t.Chassis = Chassis{Manufacturer: s.stringAt(0x04), Type: chassisType(s.byteAt(0x05) & 0x7f), Serial: s.stringAt(0x07), AssetTag: s.stringAt(0x08)}
	}
}

// uuidAt reads §7.2.1: the first three fields are little-endian, as every
// firmware since version 2.6 has them.
func (s structure) uuidAt(i int) string {
	if i+16 > len(s.data) {
		return ""
	}
	b := s.data[i : i+16]
	if bytes.Count(b, []byte{0}) == 16 || bytes.Count(b, []byte{0xff}) == 16 {
		return ""
	}
	h := hex.EncodeToString([]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}) + hex.EncodeToString(b[8:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// addProcessor reads §7.5.
func (t *Tables) addProcessor(s structure) {
	const populated = 1 << 6
	if s.byteAt(0x18)&populated == 0 {
		return
	}
	p := Processor{Socket: s.stringAt(0x04), Manufacturer: s.stringAt(0x07), Version: s.stringAt(0x10), MaxMHz: uint32(s.uint16At(0x14))}
	p.Cores, p.Threads = uint32(s.byteAt(0x23)), uint32(s.byteAt(0x25))
	if p.Cores == 0xff { // the count is in the wider field
		p.Cores = uint32(s.uint16At(0x2a))
	}
	if p.Threads == 0xff {
		p.Threads = uint32(s.uint16At(0x2e))
	}
	t.Processors = append(t.Processors, p)
}

// addMemory reads §7.18.
func (t *Tables) addMemory(s structure) {
	size := uint64(s.uint16At(0x0c))
	switch {
	case size == 0 || size == 0xffff: // empty, unknown
		return
	case size == 0x7fff:
		size = uint64(s.uint32At(0x1c)&0x7fffffff) << 20
	case size&0x8000 != 0:
		size = (size & 0x7fff) << 10
	default:
		size <<= 20
	}
	m := Memory{
		SizeBytes: size, Locator: s.stringAt(0x10), Type: memoryType(s.byteAt(0x12)), Manufacturer: s.stringAt(0x17),
		Serial: s.stringAt(0x18), PartNumber: s.stringAt(0x1a),
	}
	m.SpeedMTs = uint32(s.uint16At(0x20)) // configured speed
	if m.SpeedMTs == 0xffff {
		m.SpeedMTs = s.uint32At(0x58)
	}
	t.Memory = append(t.Memory, m)
}

func memoryType(b byte) string {
	names := map[byte]string{
		0x03: "DRAM", 0x07: "RAM", 0x0f: "SDRAM", 0x12: "DDR", 0x13: "DDR2", 0x14: "DDR2 FB-DIMM", 0x18: "DDR3", 0x1a: "DDR4",
		0x1b: "LPDDR", 0x1c: "LPDDR2", 0x1d: "LPDDR3", 0x1e: "LPDDR4", 0x1f: "non-volatile", 0x20: "HBM", 0x21: "HBM2", 0x22: "DDR5", 0x23: "LPDDR5",
	}
	return names[b]
}

func chassisType(b byte) string {
	names := map[byte]string{
		0x01: "other", 0x03: "desktop", 0x04: "low profile desktop", 0x06: "mini tower", 0x07: "tower", 0x09: "laptop", 0x0a: "notebook",
		0x0b: "hand held", 0x0d: "all in one", 0x11: "main server chassis", 0x17: "rack mount chassis", 0x18: "sealed-case pc",
		0x19: "multi-system chassis", 0x1c: "blade", 0x1d: "blade enclosure", 0x1e: "tablet", 0x20: "detachable", 0x21: "iot gateway",
		0x22: "embedded pc", 0x23: "mini pc", 0x24: "stick pc",
	}
	return names[b]
}
