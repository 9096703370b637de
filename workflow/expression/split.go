package expression

import (
	"errors"
	"fmt"
	"strings"
)

// Limits on what is looked at.
const (
	// MaxTextBytes bounds a string that holds expressions.
	MaxTextBytes = 64 << 10
	// MaxExpressionBytes bounds one expression.
	MaxExpressionBytes = 4 << 10
)

const (
	opening = "${{"
	closing = "}}"
)

// part is a stretch of text, or one expression of it.
type part struct {
	text string
	// expr says that text is what stood between ${{ and }}.
	expr bool
	// offset is where text begins, in bytes.
	offset int
}

// offsetError says where in a string something is wrong.
type offsetError struct {
	offset int
	err    error
}

func (e *offsetError) Error() string { return e.err.Error() }
func (e *offsetError) Unwrap() error { return e.err }

var errUnclosed = errors.New("this ${{ has no }}; to write ${{ itself, double the dollar: $${{")

// split takes a string apart: text, and the expressions between ${{ and }}.
// $${{ stands for ${{ itself.
func split(s string) ([]part, error) {
	if len(s) > MaxTextBytes && strings.Contains(s, opening) {
		return nil, &offsetError{0, fmt.Errorf("text with expressions is longer than %d bytes", MaxTextBytes)}
	}
	var parts []part
	var plain strings.Builder
	start, i := 0, 0
	flush := func() {
		if plain.Len() > 0 {
			parts = append(parts, part{text: plain.String(), offset: start})
			plain.Reset()
		}
	}
	for {
		k := strings.Index(s[i:], opening)
		if k < 0 {
			plain.WriteString(s[i:])
			flush()
			return parts, nil
		}
		at := i + k
		if at > i && s[at-1] == '$' {
			plain.WriteString(s[i:at-1] + opening)
			i = at + len(opening)
			continue
		}
		plain.WriteString(s[i:at])
		flush()
		n := exprLen(s[at+len(opening):])
		if n < 0 {
			return nil, &offsetError{at, errUnclosed}
		}
		if n > MaxExpressionBytes {
			return nil, &offsetError{at, fmt.Errorf("this expression is longer than %d bytes", MaxExpressionBytes)}
		}
		parts = append(parts, part{text: s[at+len(opening) : at+len(opening)+n], expr: true, offset: at + len(opening)})
		i = at + len(opening) + n + len(closing)
		start = i
	}
}

// exprLen returns how long the expression is that s begins with, up to the }}
// that ends it: not one in a string or of a map within a map. -1: it has no end.
func exprLen(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\'', '"', '`':
			n := stringLen(s[i:], rawPrefix(s[:i]))
			if n < 0 {
				return -1
			}
			i += n - 1
		case '{':
			depth++
		case '}':
			if depth == 0 && strings.HasPrefix(s[i:], closing) {
				return i
			}
			depth = max(depth-1, 0)
		}
	}
	return -1
}

// rawPrefix reports whether a string that comes after s is a raw one.
func rawPrefix(s string) bool {
	return strings.HasSuffix(s, "r") || strings.HasSuffix(s, "R")
}

// stringLen returns how long the string literal is that s begins with; -1: it
// has no end.
func stringLen(s string, raw bool) int {
	quote := s[:1]
	if triple := strings.Repeat(quote, 3); quote != "`" && strings.HasPrefix(s, triple) {
		quote = triple
	}
	for i := len(quote); i < len(s); i++ {
		if s[i] == '\\' && !raw && quote != "`" {
			i++
			continue
		}
		if strings.HasPrefix(s[i:], quote) {
			return i + len(quote)
		}
	}
	return -1
}

// whole returns the only expression of parts when there is nothing beside it.
func whole(parts []part) (part, bool) {
	if len(parts) == 1 && parts[0].expr {
		return parts[0], true
	}
	return part{}, false
}

// hasExpression reports whether s holds an expression or an escaped one.
func hasExpression(s string) bool { return strings.Contains(s, opening) }
