package resource

import (
	"fmt"
	"slices"
	"strings"
)

// Selector picks resources by their labels. The zero value matches all.
type Selector struct{ terms []term }

type operator uint8

const (
	opIn operator = iota
	opNotIn
	opExists
	opAbsent
)

type term struct {
	key    string
	op     operator
	values []string
}

// maxSelectorBytes bounds what ParseSelector reads.
const maxSelectorBytes = 4096

// ParseSelector reads terms separated by commas, all of which must hold:
// a=b, a==b, a!=b, a in (x,y), a notin (x,y), a (the label is there), !a (it
// is not). As with kubectl a!=b and notin hold too where there is no label a.
func ParseSelector(s string) (Selector, error) {
	if len(s) > maxSelectorBytes {
		return Selector{}, fmt.Errorf("parsing label selector: longer than %d bytes", maxSelectorBytes)
	}
	var out Selector
	if strings.TrimSpace(s) == "" {
		return out, nil
	}
	for _, part := range splitTerms(s) {
		t, err := parseTerm(strings.TrimSpace(part))
		if err != nil {
			return Selector{}, fmt.Errorf("parsing label selector %q: %w", s, err)
		}
		out.terms = append(out.terms, t)
	}
	return out, nil
}

// splitTerms splits at the commas that aren't inside parentheses.
func splitTerms(s string) []string {
	var out []string
	depth, start := 0, 0
	for i, c := range s {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth <= 0:
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}

func parseTerm(s string) (term, error) {
	if key, ok := strings.CutPrefix(s, "!"); ok {
		return newTerm(key, opAbsent)
	}
	if i := strings.IndexAny(s, "=!"); i >= 0 && !strings.Contains(s[:i], "(") {
		key, rest := s[:i], s[i:]
		for _, o := range []struct {
			sign string
			op   operator
		}{{"!=", opNotIn}, {"==", opIn}, {"=", opIn}} {
			if value, ok := strings.CutPrefix(rest, o.sign); ok {
				return newTerm(key, o.op, value)
			}
		}
		return term{}, fmt.Errorf("%q: neither =, == nor !=", s)
	}
	head, list, ok := strings.Cut(s, "(")
	if !ok {
		return newTerm(s, opExists)
	}
	list, ok = strings.CutSuffix(list, ")")
	words := strings.Fields(head)
	if !ok || len(words) != 2 || strings.Contains(list, "(") {
		return term{}, fmt.Errorf("%q: not of the form `key in (a,b)` or `key notin (a,b)`", s)
	}
	switch words[1] {
	case "in":
		return newTerm(words[0], opIn, strings.Split(list, ",")...)
	case "notin":
		return newTerm(words[0], opNotIn, strings.Split(list, ",")...)
	}
	return term{}, fmt.Errorf("%q: %q is neither in nor notin", s, words[1])
}

func newTerm(key string, op operator, values ...string) (term, error) {
	t := term{key: strings.TrimSpace(key), op: op}
	if !isLabelText(t.key) || t.key == "" {
		return term{}, fmt.Errorf("%q: not a label's key", t.key)
	}
	for _, v := range values {
		v = strings.TrimSpace(v)
		if !isLabelText(v) {
			return term{}, fmt.Errorf("%q: not a label's value", v)
		}
		t.values = append(t.values, v)
	}
	return t, nil
}

func isLabelText(s string) bool {
	return !strings.ContainsAny(s, "=!(), \t\n")
}

// Matches reports whether the labels satisfy every term.
func (s Selector) Matches(labels map[string]string) bool {
	for _, t := range s.terms {
		value, there := labels[t.key]
		var ok bool
		switch t.op {
		case opExists:
			ok = there
		case opAbsent:
			ok = !there
		case opIn:
			ok = there && slices.Contains(t.values, value)
		case opNotIn:
			ok = !there || !slices.Contains(t.values, value)
		}
		if !ok {
			return false
		}
	}
	return true
}

// Empty reports whether the selector matches all.
func (s Selector) Empty() bool { return len(s.terms) == 0 }

// String returns the selector in a form that ParseSelector reads.
func (s Selector) String() string {
	var parts []string
	for _, t := range s.terms {
		list := strings.Join(t.values, ",")
		switch {
		case t.op == opExists:
			parts = append(parts, t.key)
		case t.op == opAbsent:
			parts = append(parts, "!"+t.key)
		case t.op == opIn && len(t.values) == 1:
			parts = append(parts, t.key+"="+list)
		case t.op == opIn:
			parts = append(parts, t.key+" in ("+list+")")
		case len(t.values) == 1:
			parts = append(parts, t.key+"!="+list)
		default:
			parts = append(parts, t.key+" notin ("+list+")")
		}
	}
	return strings.Join(parts, ",")
}
