// Package pxe recognises boot clients in the options of a DHCPv4 message and
// says which options tell them what to boot. It is pure: no I/O, no clock.
//
// It reads option 60 (vendor class), 77 (user class, RFC 3004 or iPXE's bare
// string), 93 (client architecture, RFC 4578 §2.1), 97 (machine identifier,
// RFC 4578 §2.3), 175 (iPXE's encapsulated options) and 43 (PXE 2.1 table 2-1):
//
//	option 43      +------+-----+------+----- - - -----+------+-----+
//	               | tag  | len | data |   more tags   | 0xff |
//	               +------+-----+------+----- - - -----+------+-----+
//	tag 6          PXE_DISCOVERY_CONTROL, one octet; bit 3: boot the file named
//	               in this packet, without prompt, menu or server discovery
//	tag 71         PXE_BOOT_ITEM, four octets: type and layer that the client chose
//	option 175     the same shape; tag 176 (no-pxedhcp) = 1 keeps iPXE from
//	               waiting for a ProxyDHCP server; tag 19 says that it speaks HTTP
//
// It does not know the names of boot files: package ipxe has that one table,
// and it reaches this package as a Files function.
package pxe

import (
	"bytes"
	"strconv"

	"github.com/bedplate/bedplate/machine"
)

// Option codes of DHCPv4 that boot clients use.
const (
	optVendorSpecific = 43
	optVendorClass    = 60
	optUserClass      = 77
	optArch           = 93
	optUUID           = 97
	optIPXE           = 175
)

// Method is how a client fetches what it runs next.
type Method uint8

// The methods. The zero value is a client that isn't booting from the network,
// such as an installed operating system.
const (
	None Method = iota
	// TFTP is PXE firmware: a file name in option 67 and by TFTP.
	TFTP
	// HTTP is UEFI HTTP Boot firmware: the URL of an EFI program in option 67.
	HTTP
	// Script is iPXE itself: the URL of a script.
	Script
)

// String returns none, tftp, http or script.
func (m Method) String() string {
	switch m {
	case TFTP:
		return "tftp"
	case HTTP:
		return "http"
	case Script:
		return "script"
	default:
		return "none"
	}
}

// Client is a boot client as its message shows it. The zero value is a client
// that doesn't boot from the network.
type Client struct {
	Method   Method
	Platform Platform
	// Arch is option 93 (or what option 60 says in its place); meaningful when HasArch.
	Arch    Arch
	HasArch bool
	// IPXE is set when the user class says iPXE, whatever the method is.
	IPXE bool
	// UUID is the system's UUID from option 97, or empty.
	UUID machine.UUID
}

// Options is the options of a DHCPv4 message by code, each with the octets of
// all its occurrences joined (RFC 3396).
type Options = map[uint8][]byte

// Classify says what kind of boot client sent the options.
func Classify(o Options) Client {
	c := Client{UUID: parseUUID(o[optUUID])}
	c.Arch, c.HasArch = clientArch(o)
	c.Platform = c.Arch.Platform()
	if !c.HasArch {
		c.Platform = Unknown
	}
	c.IPXE = hasUserClass(o[optUserClass], "iPXE")
	switch class := o[optVendorClass]; {
	case c.IPXE && speaksHTTP(o[optIPXE]):
		// Never a boot file: an iPXE that is given iPXE again would do so for ever.
		c.Method = Script
	case bytes.HasPrefix(class, []byte("PXEClient")):
		// Also an iPXE that was built without HTTP: it fetches ours by TFTP, which has it.
		c.Method = TFTP
	case bytes.HasPrefix(class, []byte("HTTPClient")):
		c.Method = HTTP
	}
	return c
}

// String describes the client for people, such as "tftp UEFI x86-64 (7)".
func (c Client) String() string {
	if c.Method == None {
		return "no boot client"
	}
	if c.Method == Script {
		return "iPXE"
	}
	if !c.HasArch {
		return c.Method.String() + " of unknown architecture"
	}
	return c.Method.String() + " " + c.Platform.String() + " (" + strconv.Itoa(int(c.Arch)) + ")"
}

// parseUUID reads option 97: one octet of type, 0, and sixteen of GUID. All
// zeros and all ones are what boards without a number send.
func parseUUID(b []byte) machine.UUID {
	if len(b) != 17 || b[0] != 0 {
		return ""
	}
	id := [16]byte(b[1:])
	if id == ([16]byte{}) || bytes.Count(id[:], []byte{0xff}) == len(id) {
		return ""
	}
	return machine.UUIDFromWire(id)
}

// hasUserClass looks for one class in option 77: RFC 3004 has octet-counted
// instances, iPXE sends the bare string, and some firmware ends it with a NUL.
func hasUserClass(b []byte, class string) bool {
	if string(bytes.TrimRight(b, "\x00")) == class {
		return true
	}
	for len(b) > 0 {
		n := int(b[0])
		if n == 0 || n >= len(b) {
			return false
		}
		if string(b[1:1+n]) == class {
			return true
		}
		b = b[1+n:]
	}
	return false
}

// ipxeHTTP is the feature tag for HTTP in option 175.
const ipxeHTTP = 19

// speaksHTTP reads the feature list of an iPXE. One that sends no list, or one
// that can't be read, is taken to speak HTTP: every build since 2010 does.
func speaksHTTP(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	has := false
	ok := eachTag(b, func(tag uint8, v []byte) {
		if tag == ipxeHTTP && (len(v) == 0 || v[0] != 0) {
			has = true
		}
	})
	return has || !ok
}

// eachTag calls f for every tag of an encapsulated option (43 or 175). It
// reports whether all of it could be read; f is called for what came before a fault.
func eachTag(b []byte, f func(tag uint8, v []byte)) bool {
	for len(b) > 0 {
		switch b[0] {
		case 0:
			b = b[1:]
			continue
		case 0xff:
			return true
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return false
		}
		n := 2 + int(b[1])
		f(b[0], b[2:n])
		b = b[n:]
	}
	return true
}
