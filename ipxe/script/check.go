package script

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

const (
	maxArg = 1024
	// maxCommandLine is what Linux keeps of its arguments: COMMAND_LINE_SIZE
	// is 2048 on x86 and arm64, with the terminating NUL.
	maxCommandLine = 2047
)

// ErrValue is what every refusal of a value wraps.
var ErrValue = errors.New("cannot be written into a boot script")

// CheckArg says why a kernel argument cannot be passed by a boot loader
// unaltered; nil when it can. A double-quoted value may contain single spaces.
func CheckArg(arg string) error {
	reason := ""
	switch {
	case arg == "":
		reason = "it is empty"
	case len(arg) > maxArg:
		reason = fmt.Sprintf("it has %d characters, at most %d", len(arg), maxArg)
	case !printable(arg):
		reason = "it has characters other than printable ASCII"
	case strings.Contains(arg, "${"):
		reason = "iPXE would expand ${"
	case strings.Count(arg, `"`)%2 != 0:
		reason = "a double quote is not closed"
	default:
		reason = wordsReason(arg)
	}
	if reason == "" {
		return nil
	}
	return fmt.Errorf("kernel argument %.80q %w: %s", arg, ErrValue, reason)
}

// wordsReason says which word of a printable argument a boot loader would take for its own.
func wordsReason(arg string) string {
	words := strings.Split(arg, " ")
	quoted := false
	for i, word := range words {
		if i > 0 && !quoted {
			return "it has a space outside double quotes"
		}
		if strings.Count(word, `"`)%2 != 0 {
			quoted = !quoted
		}
		if word == "" {
			return "it has more than one space in a row"
		}
		if special(word) {
			return fmt.Sprintf("iPXE would take %s for its own", word)
		}
	}
	return ""
}

// special reports whether iPXE would not take a word as an argument.
func special(word string) bool {
	return word == "&&" || word == "||" || word == ";" || strings.HasPrefix(word, "#")
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// checkURL says why a URL cannot stand in a script.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "tftp") || u.Host == "" ||
		!printable(s) || strings.ContainsAny(s, " \"'\\$#") {
		return fmt.Errorf("URL %.200q %w", s, ErrValue)
	}
	return nil
}

// checkArgs checks a kernel's arguments one by one and together.
func checkArgs(args []string) error {
	length := 0
	for _, arg := range args {
		if err := CheckArg(arg); err != nil {
			return err
		}
		length += len(arg) + 1
	}
	if length > maxCommandLine {
		return fmt.Errorf("kernel arguments of %d characters %w: Linux takes %d", length, ErrValue, maxCommandLine)
	}
	return nil
}

// text returns s for the console: on one line, and with nothing in it that iPXE
// would expand or take for the end of the command.
func text(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return ' '
		}
		return r
	}, s)
	words := strings.Fields(strings.ReplaceAll(s, "${", "$ {"))
	for i, word := range words {
		if special(word) {
			words[i] = "'" + word + "'"
		}
	}
	return strings.Join(words, " ")
}
