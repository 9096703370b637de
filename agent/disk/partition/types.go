package partition

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// Type is what a partition is for, in both kinds of table.
type Type struct {
	// Name is the word for it in templates.
	Name string
	GUID GUID
	// MBR is the type byte; 0 when MBR has none.
	MBR byte
}

// Types are the ones that have a name, by UEFI §5.3.3, the Discoverable
// Partitions Specification and common use.
var types = []Type{
	{"linux", mustGUID("0fc63daf-8483-4772-8e79-3d69d8477de4"), 0x83},
	{"esp", mustGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"), 0xef},
	{"bios-boot", mustGUID("21686148-6449-6e6f-744e-656564454649"), 0},
	{"swap", mustGUID("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"), 0x82},
	{"lvm", mustGUID("e6d6d379-f507-44c2-a23c-238f2a3df928"), 0x8e},
	{"raid", mustGUID("a19d880f-05fc-4d3b-a006-743f0f84911e"), 0xfd},
	{"boot", mustGUID("bc13c2ff-59e6-4262-a352-b275fd6f7172"), 0x83},
	{"root-x86_64", mustGUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"), 0x83},
	{"root-aarch64", mustGUID("b921b045-1df0-41c3-af44-4c6f280d3fae"), 0x83},
	{"home", mustGUID("933ac7e1-2eb4-4f13-b844-0e14e2aef915"), 0x83},
	{"var", mustGUID("4d21b016-b534-45c2-a9fb-5c16e091fd2d"), 0x83},
	{"srv", mustGUID("3b8f8425-20e0-4f3b-907f-1a25a76f98e8"), 0x83},
	{"data", mustGUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"), 0x07},
	{"prep", mustGUID("9e1a2d38-c612-4316-aa26-8b49521e5a8b"), 0x41},
}

// The types that programs look for.
var (
	TypeLinux = types[0].GUID
	TypeEFI   = types[1].GUID
	TypeSwap  = types[3].GUID
	TypeRoot  = []GUID{types[7].GUID, types[8].GUID}
)

// TypeNamed returns the type that a word, a GUID or an MBR byte such as 0x83
// stands for. Empty means linux.
func TypeNamed(s string) (Type, error) {
	if s == "" {
		return types[0], nil
	}
	name := strings.ToLower(s)
	if alias, ok := map[string]string{"efi": "esp", "bios": "bios-boot"}[name]; ok {
		name = alias
	}
	for _, t := range types {
		if t.Name == name {
			return t, nil
		}
	}
	if g, err := ParseGUID(s); err == nil {
		for _, t := range types {
			if t.GUID == g {
				return t, nil
			}
		}
		return Type{Name: g.String(), GUID: g}, nil
	}
	if b, err := strconv.ParseUint(s, 0, 8); err == nil && strings.HasPrefix(s, "0x") && b != 0 {
		return Type{Name: s, MBR: byte(b)}, nil
	}
	var names []string
	for _, t := range types {
		names = append(names, t.Name)
	}
	sort.Strings(names)
	return Type{}, fmt.Errorf("%q is no partition type: give a GUID, an MBR type such as 0x83, or one of %s", s, strings.Join(names, ", "))
}

// TypeName returns the word for a partition's type, or its number.
func TypeName(p Partition) string {
	for _, t := range types {
		if !p.Type.IsZero() && t.GUID == p.Type || p.Type.IsZero() && t.MBR == p.MBRType {
			return t.Name
		}
	}
	if p.Type.IsZero() {
		return fmt.Sprintf("0x%02x", p.MBRType)
	}
	return p.Type.String()
}
