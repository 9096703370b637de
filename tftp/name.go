package tftp

import (
	"errors"
	"fmt"
	"strings"
)

// maxNameLength bounds a requested name. A request without options fits in 512
// octets (RFC 1350 §2); no boot file has a name half as long.
const maxNameLength = 255

// ErrName is what CleanName returns for names that no boot file can have.
var ErrName = errors.New("not a file name that can be served")

// CleanName returns the name of a file as Files knows it: relative, with single
// slashes, without "." elements. Firmware writes the same name as `/name`,
// `\name`, `./name` or `//name`. Names that are empty or too long, that climb
// with ".." or that hold anything but printable ASCII are refused with ErrName.
func CleanName(name string) (string, error) {
	if len(name) > maxNameLength {
		return "", fmt.Errorf("name of %d octets: %w", len(name), ErrName)
	}
	for i := range len(name) {
		if name[i] < 0x20 || name[i] > 0x7e {
			return "", fmt.Errorf("octet %#02x in name: %w", name[i], ErrName)
		}
	}
	var elements []string
	for element := range strings.SplitSeq(strings.ReplaceAll(name, `\`, "/"), "/") {
		switch element {
		case "", ".":
		case "..":
			return "", fmt.Errorf("%q climbs with ..: %w", name, ErrName)
		default:
			elements = append(elements, element)
		}
	}
	if len(elements) == 0 {
		return "", fmt.Errorf("%q names no file: %w", name, ErrName)
	}
	return strings.Join(elements, "/"), nil
}
