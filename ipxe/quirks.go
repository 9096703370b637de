package ipxe

import (
	"strings"

	"github.com/bedplate/bedplate/machine"
)

// placeholderUUID reports whether a UUID is one that many machines share: SMBIOS
// 2.6 §7.2.1 gives all zeros the meaning "not present" and all ones "not set";
// 03000200-0400-0500-0006-000700080009 is what boards carry whose maker left
// AMI's default in place.
func placeholderUUID(u machine.UUID) bool {
	switch u {
	case "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
		"03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009":
		return true
	}
	return false
}

// placeholderSerial reports whether a serial number is what board makers leave in
// when they fill in none: AMI's and Supermicro's defaults, and dmidecode's words
// for none.
func placeholderSerial(s string) bool {
	switch strings.ToLower(s) {
	case "", "0", "none", "n/a", "not specified", "not available", "default string", "to be filled by o.e.m.",
		"system serial number", "0123456789", "123456789", "1234567890", "xxxxxxxxxx", "unknown":
		return true
	}
	return false
}
