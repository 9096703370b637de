package pxe

import (
	"errors"
	"fmt"

	"github.com/bedplate/bedplate/machine"
)

// Files names the boot file for a client by the one table in package ipxe, such
// as undionly.kpxe, or a shim where policy wants Secure Boot. m is the zero
// Machine when nobody knows the client. It must not block.
type Files func(c Client, m machine.Machine) (name string, ok bool)

// The paths under the HTTP base address that this package hands out.
const (
	// BootPath is followed by a boot file's name.
	BootPath = "/boot/"
	// ScriptPath is the first script that iPXE runs.
	ScriptPath = "/ipxe/boot.ipxe"
)

// ErrNoFile means that there is no boot file for a client's architecture.
var ErrNoFile = errors.New("no boot file for this architecture")

// Boot is what a boot client is told.
type Boot struct {
	// File goes into option 67: a file name for TFTP, a URL for the others.
	File string
	// Class is option 60 of the answer, or empty.
	Class string
	// Vendor is option 43 of the answer, or nil.
	Vendor []byte
	// IPXE is option 175 of the answer, or nil.
	IPXE []byte
}

// Role is the part that the server plays towards a client.
type Role uint8

// The roles. The zero value is the server that also gives the address.
const (
	// Server gives address and boot file in one packet.
	Server Role = iota
	// Proxy answers on port 67 beside another server (PXE 2.1 §2.2.3).
	Proxy
	// BootServer answers on port 4011.
	BootServer
)

// discoverNothing is option 43 with PXE_DISCOVERY_CONTROL: boot the file named
// here at once. siaddr and option 67 have to be there with it.
var discoverNothing = []byte{6, 1, 1 << 3, 0xff}

// noProxyDHCP is option 175 with no-pxedhcp: saves iPXE 2-3 s of waiting for a
// ProxyDHCP server after it has all it needs.
var noProxyDHCP = []byte{176, 1, 1}

// Boot returns what tells c to boot: the script for iPXE, a boot file for
// firmware. A machine that is to boot its own disk gets the same: the script
// tells it so. Silence costs 60 s on UEFI and an offer without a file about as
// much (EDK2 tries for 4+8+16+32 s before "PXE-E16: No valid offer received"),
// and some BIOSes stop the boot order at "PXE-E53: No boot filename received".
func (c Client) Boot(role Role, files Files, m machine.Machine, httpBase string) (Boot, error) {
	var b Boot
	if c.IPXE {
		b.IPXE = noProxyDHCP
	}
	switch c.Method {
	case None:
		return b, nil
	case Script:
		b.File = httpBase + ScriptPath
		if role != Server {
			// iPXE takes a second offer for ProxyDHCP by this class alone.
			b.Class = "PXEClient"
		}
		return b, nil
	}
	name, ok := "", false
	if c.Platform != Unknown {
		name, ok = files(c, m)
	}
	if !ok {
		return b, fmt.Errorf("%v: %w", c, ErrNoFile)
	}
	if c.Method == HTTP {
		// OVMF 2022.11 drops an offer that doesn't repeat its class.
		b.File, b.Class = httpBase+BootPath+name, "HTTPClient"
		return b, nil
	}
	b.File, b.Class = name, "PXEClient"
	if role == Server || (role == Proxy && c.Platform == BIOS) {
		b.Vendor = discoverNothing
	}
	// UEFI beside another server goes without option 43: early firmware passes
	// over a ProxyDHCP offer that turns discovery off, and all of it takes one
	// without, either as it is or by asking port 4011 (danderson/netboot,
	// pixiecore/dhcp.go; EDK2 calls it BINL).
	return b, nil
}

// BootItem returns tag 71 of option 43 if the client asks for a boot item: a
// boot server has to repeat it in its answer (PXE 2.1 §2.2.5).
func BootItem(o Options) ([]byte, bool) {
	var item []byte
	eachTag(o[optVendorSpecific], func(tag uint8, v []byte) {
		if tag == 71 && len(v) == 4 {
			item = v
		}
	})
	return item, item != nil
}

// AppendBootItem appends tag 71 and the end tag to an option 43.
func AppendBootItem(dst, item []byte) []byte {
	if n := len(dst); n > 0 && dst[n-1] == 0xff {
		dst = dst[: n-1 : n-1]
	}
	dst = append(dst, 71, byte(len(item)))
	return append(append(dst, item...), 0xff)
}
