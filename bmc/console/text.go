package console

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLine is where Lines cuts a line off.
const maxLine = 200

// Lines returns what a terminal would have shown, roughly, as lines of text:
// without escape sequences (ECMA-48 §5.4), control characters, what a carriage
// return has overwritten, and empty lines.
func Lines(data []byte) []string {
	var out []string
	for raw := range strings.SplitSeq(plain(data), "\n") {
		raw = strings.TrimRight(raw, "\r")
		if i := strings.LastIndexByte(raw, '\r'); i >= 0 {
			raw = raw[i+1:]
		}
		text := strings.TrimSpace(strings.Map(printable, raw))
		if text == "" {
			continue
		}
		out = append(out, cut(text))
	}
	return out
}

func cut(text string) string {
	if utf8.RuneCountInString(text) <= maxLine {
		return text
	}
	return string([]rune(text)[:maxLine]) + "…"
}

func printable(r rune) rune {
	if r == '\t' {
		return ' '
	}
	if r == utf8.RuneError || !unicode.IsPrint(r) {
		return -1
	}
	return r
}

// plain takes escape sequences out. A move of the cursor to another line, with
// which firmware draws its screens, becomes a new line.
func plain(data []byte) string {
	var b strings.Builder
	for i := 0; i < len(data); i++ {
		if data[i] != 0x1b {
			b.WriteByte(data[i])
			continue
		}
		i++
		if i >= len(data) {
			break
		}
		switch data[i] {
		case '[': // control sequence: parameters, intermediates, one final byte
			i++
			for i < len(data) && data[i] >= 0x20 && data[i] < 0x40 {
				i++
			}
			if i < len(data) && strings.IndexByte("HfEFd", data[i]) >= 0 {
				b.WriteByte('\n')
			}
		case ']', 'P', '_', '^', 'X': // strings, up to BEL or ESC \
			for i < len(data) && data[i] != 0x07 && data[i] != 0x1b {
				i++
			}
			if i+1 < len(data) && data[i] == 0x1b && data[i+1] == '\\' {
				i++
			}
		case '(', ')', '*', '+', '#', '%', ' ': // one more byte
			i++
		}
	}
	return b.String()
}
