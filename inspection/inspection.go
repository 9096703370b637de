// Package inspection says what is to be thought of a machine's hardware: it
// merges what the agent and the BMC read of it, compares it with what is
// expected and with what it was before, and judges the results of its tests.
//
// Everything here is a pure function, and everything that it is given may be
// wrong: machines, BMCs and switches say of themselves what they like. Nothing
// is altered but the verdicts that Judge sets.
package inspection

import (
	"fmt"
	"strings"
	"unicode"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// maxText bounds every text of a Difference.
const maxText = 512

// difference makes one that can be shown and stored, whatever is in it.
func difference(path, want, got string) *pb.Difference {
	return &pb.Difference{Path: cut(path, maxText), Want: cut(want, maxText), Got: cut(got, maxText)}
}

// cut makes text of at most n bytes, without what a terminal would act on.
func cut(text string, n int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n-len("…")], "") + "…"
}

// fillers is what firmware says where nobody has written anything, in lower
// case (SMBIOS of AMI, Award, Insyde, SeaBIOS, and cloud vendors').
var fillers = map[string]bool{
	"": true, "to be filled by o.e.m.": true, "to be filled by oem": true, "default string": true, "not specified": true,
	"not available": true, "not applicable": true, "none": true, "n/a": true, "null": true, "unknown": true,
	"system serial number": true, "chassis serial number": true, "base board serial number": true,
	"system product name": true, "system manufacturer": true, "empty": true, "no dimm": true, "o.e.m.": true, "invalid": true,
}

// numbers are fillers where a serial number is wanted.
var numbers = map[string]bool{"0": true, "0123456789": true, "1234567890": true, "123456789": true, "12345678": true}

// fact returns text that says something: trimmed, and empty if it is a filler.
func fact(text string) string {
	text = strings.TrimSpace(text)
	if fillers[strings.ToLower(text)] {
		return ""
	}
	return text
}

// identity returns a serial number, UUID or address that can be one
// machine's alone: no filler, and not all zeros or ones.
func identity(text string) string {
	text = fact(text)
	if numbers[text] || strings.Trim(text, "0-.:x ") == "" || strings.Trim(text, "fF-.:x ") == "" && len(text) > 4 {
		return ""
	}
	return text
}

// same compares two texts as people do.
func same(a, b string) bool {
	return strings.EqualFold(strings.TrimSpace(a), strings.TrimSpace(b))
}

// sameUUID compares UUIDs. BMCs and firmware from before SMBIOS 2.6 (§7.2.1)
// have the first three fields in the other byte order.
func sameUUID(a, b string) bool {
	a, b = strings.ToLower(strings.TrimSpace(a)), strings.ToLower(strings.TrimSpace(b))
	return a == b || swapped(a) == b
}

func swapped(uuid string) string {
	h := strings.ReplaceAll(uuid, "-", "")
	if len(h) != 32 {
		return uuid
	}
	return h[6:8] + h[4:6] + h[2:4] + h[0:2] + "-" + h[10:12] + h[8:10] + "-" + h[14:16] + h[12:14] + "-" + h[16:20] + "-" + h[20:]
}

// binary writes an amount of memory.
func binary(n uint64) string { return scaled(n, 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB") }

// decimal writes the size of a disk, as its maker does.
func decimal(n uint64) string { return scaled(n, 1000, "B", "kB", "MB", "GB", "TB", "PB") }

func scaled(n, base uint64, units ...string) string {
	v, i := float64(n), 0
	for v >= float64(base) && i+1 < len(units) {
		v /= float64(base)
		i++
	}
	return fmt.Sprintf("%.4g %s", v, units[i])
}
