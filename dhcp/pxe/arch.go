package pxe

import (
	"bytes"
	"strconv"
)

// Arch is a client system architecture type: RFC 4578 §2.1 and the IANA
// registry "Processor Architecture Types".
type Arch uint16

// The architecture types that are told apart. RFC 4578 calls 7 "EFI BC" and 9
// "EFI x86-64"; the registry corrected it (erratum 4625): firmware sends 7, and
// a few early boards 9, for x86-64.
const (
	ArchBIOS        Arch = 0
	ArchUEFI386     Arch = 6
	ArchUEFIAMD64   Arch = 7
	ArchUEFIAMD64BC Arch = 9
	ArchUEFIARM     Arch = 10
	ArchUEFIARM64   Arch = 11
	ArchHTTP386     Arch = 15
	ArchHTTPAMD64   Arch = 16
	ArchHTTPAMD64BC Arch = 17
	ArchHTTPARM     Arch = 18
	ArchHTTPARM64   Arch = 19
	ArchHTTPBIOS    Arch = 20
	ArchUEFIRISCV64 Arch = 27
	ArchHTTPRISCV64 Arch = 28
	ArchUEFILoong64 Arch = 39
	ArchHTTPLoong64 Arch = 40
)

// Platform is what a boot file has to be built for.
type Platform uint8

// The platforms. The zero value is one we know no boot file for.
const (
	Unknown Platform = iota
	BIOS
	UEFI386
	UEFIAMD64
	UEFIARM
	UEFIARM64
	UEFIRISCV64
	UEFILoong64
)

var platformNames = [...]string{"unknown", "BIOS", "UEFI x86", "UEFI x86-64", "UEFI arm", "UEFI arm64", "UEFI riscv64", "UEFI loongarch64"}

// String returns the platform's name for people.
func (p Platform) String() string {
	if int(p) < len(platformNames) {
		return platformNames[p]
	}
	return platformNames[Unknown]
}

// Platform returns what a boot file for a has to be built for.
func (a Arch) Platform() Platform {
	switch a {
	case ArchBIOS, ArchHTTPBIOS:
		return BIOS
	case ArchUEFI386, ArchHTTP386:
		return UEFI386
	case ArchUEFIAMD64, ArchUEFIAMD64BC, ArchHTTPAMD64, ArchHTTPAMD64BC:
		return UEFIAMD64
	case ArchUEFIARM, ArchHTTPARM:
		return UEFIARM
	case ArchUEFIARM64, ArchHTTPARM64:
		return UEFIARM64
	case ArchUEFIRISCV64, ArchHTTPRISCV64:
		return UEFIRISCV64
	case ArchUEFILoong64, ArchHTTPLoong64:
		return UEFILoong64
	default:
		return Unknown
	}
}

// clientArch reads option 93: a list of two-octet types, of which the first
// known one counts, or the first. Without the option it is in option 60,
// "PXEClient:Arch:00007:UNDI:003016", which PXE 2.1 §2.2.1 has firmware send as well.
func clientArch(o Options) (Arch, bool) {
	b := o[optArch]
	if len(b) < 2 {
		return archOfClass(o[optVendorClass])
	}
	for i := 0; i+1 < len(b); i += 2 {
		if a := Arch(b[i])<<8 | Arch(b[i+1]); a.Platform() != Unknown {
			return a, true
		}
	}
	return Arch(b[0])<<8 | Arch(b[1]), true
}

func archOfClass(class []byte) (Arch, bool) {
	_, rest, ok := bytes.Cut(class, []byte(":Arch:"))
	if !ok {
		return 0, false
	}
	digits, _, _ := bytes.Cut(rest, []byte(":"))
	n, err := strconv.ParseUint(string(digits), 10, 16)
	return Arch(n), err == nil
}
