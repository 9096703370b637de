package resource

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// showPath writes the parts of a path for people. Numbers are indexes: no
// field has a number for a name, and a map key that looks like one is told
// from an index well enough by what is around it.
func showPath(parts []string) string {
	path := ""
	for _, p := range parts {
		if i, err := strconv.Atoi(p); err == nil && i >= 0 {
			path = joinIndex(path, i)
		} else {
			path = joinKey(path, p)
		}
		if len(path) > maxPathBytes {
			return path + "…"
		}
	}
	return path
}

// maxPathBytes is where the path in a message is cut off.
const maxPathBytes = 200

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// describe says what a node is, for a person who expected something else.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if isNull(n) {
			return "nothing"
		}
		text := n.Value
		if len(text) > 40 {
			text = strings.ToValidUTF8(text[:40], "") + "…"
		}
		return strconv.Quote(text)
	}
	return "this"
}

// expected says what a field takes.
func expected(fd protoreflect.FieldDescriptor) string {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return "text"
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.EnumKind:
		return "one of " + strings.Join(enumNames(fd.Enum()), ", ")
	case protoreflect.BytesKind:
		return "base64"
	case protoreflect.DoubleKind:
		return "a number"
	}
	return "a whole number"
}

func enumNames(d protoreflect.EnumDescriptor) []string {
	var out []string
	for i := range d.Values().Len() {
		if name := enumName(d, d.Values().Get(i).Number()); name != "" {
			out = append(out, name)
		}
	}
	return out
}

func suggestField(name string, fields protoreflect.FieldDescriptors) string {
	var names []string
	for i := range fields.Len() {
		names = append(names, string(fields.Get(i).Name()))
	}
	return suggest(name, names, "there are "+strings.Join(names, ", "))
}

// suggest names the nearest of the choices, or says otherwise when none is near.
func suggest(word string, choices []string, otherwise string) string {
	best, least := "", 1+max(1, len(word)/3)
	for _, c := range choices {
		if n := distance(strings.ToLower(word), strings.ToLower(c)); n < least {
			best, least = c, n
		}
	}
	if best == "" {
		return otherwise
	}
	return fmt.Sprintf("did you mean %s?", best)
}

// Nearest returns the name that is most like word, or empty when none is.
func Nearest(word string, names []string) string {
	s := suggest(word, names, "")
	return strings.TrimSuffix(strings.TrimPrefix(s, "did you mean "), "?")
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that make b of a.
func distance(a, b string) int {
	const longest = 128
	if len(a) > longest || len(b) > longest {
		return longest
	}
	var before, last, row [longest + 1]int
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
