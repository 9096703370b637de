package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// plainYAML makes of JSON what the YAML library reads. Tabs become spaces
// (valid JSON has none inside of strings), escaped slashes and surrogate pairs
// the characters that they stand for, and characters that YAML doesn't let
// stand in a text escapes. Anything else is returned as it is.
func plainYAML(data []byte) []byte {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' || !json.Valid(data) {
		return data
	}
	out := make([]byte, 0, len(data)+len(data)/64)
	for i := 0; i < len(data); {
		c := data[i]
		switch {
		case c == '\t':
			out = append(out, ' ')
			i++
		case c == '\\':
			var n int
			out, n = appendEscape(out, data[i:])
			i += n
		case c < utf8.RuneSelf-1:
			out = append(out, c)
			i++
		default:
			r, n := utf8.DecodeRune(data[i:])
			out = appendRune(out, r)
			i += n
		}
	}
	return out
}

// appendEscape copies one escape of valid JSON and returns its length.
func appendEscape(out, s []byte) ([]byte, int) {
	const short, long = len(`\n`), len(`\u0000`)
	if s[1] == '/' {
		return append(out, '/'), short
	}
	if s[1] != 'u' {
		return append(out, s[:short]...), short
	}
	first := unit(s)
	if !utf16.IsSurrogate(first) {
		return append(out, s[:long]...), long
	}
	r := utf8.RuneError
	if len(s) >= 2*long {
		r = utf16.DecodeRune(first, unit(s[long:]))
	}
	if r == utf8.RuneError {
		return append(out, `\ufffd`...), long
	}
	return appendRune(out, r), 2 * long
}

// unit reads \uXXXX; -1 is none.
func unit(s []byte) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	n, err := strconv.ParseUint(string(s[2:6]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

// appendRune writes a character of a string, as an escape where YAML 1.2 §5.1
// doesn't let it stand, or takes it for a line break, as 1.1 §4.1 did.
func appendRune(out []byte, r rune) []byte {
	switch {
	case 0x7f <= r && r <= 0x9f, r == 0x2028, r == 0x2029, r == 0xfeff, r == 0xfffe, r == 0xffff:
		return fmt.Appendf(out, `\u%04x`, r)
	}
	return utf8.AppendRune(out, r)
}
