package resource

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Field paths are written as people write them: spec.interfaces[0].mac, map
// keys like fields where they look like one (spec.inputs.image) and quoted in
// brackets otherwise (metadata.labels["a/b"]).

func joinField(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func joinIndex(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func joinKey(path, key string) string {
	if isPlainKey(key) {
		return joinField(path, key)
	}
	return path + "[" + strconv.Quote(key) + "]"
}

func isPlainKey(key string) bool {
	for i := range len(key) {
		c := key[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '-') {
			return false
		}
	}
	return key != ""
}

// splitPath returns the fields, indexes and keys of a path, in either way of
// writing map keys. Where it can't read on it returns what it has.
func splitPath(path string) []string {
	var out []string
	for path != "" {
		switch {
		case path[0] == '.':
			path = path[1:]
		case strings.HasPrefix(path, `["`):
			quoted, err := strconv.QuotedPrefix(path[1:])
			if err != nil {
				return out
			}
			key, err := strconv.Unquote(quoted)
			if err != nil {
				return out
			}
			out = append(out, key)
			path = strings.TrimPrefix(path[1+len(quoted):], "]")
		case path[0] == '[':
			index, rest, _ := strings.Cut(path[1:], "]")
			out = append(out, index)
			path = rest
		default:
			i := strings.IndexAny(path, ".[")
			if i < 0 {
				i = len(path)
			}
			out = append(out, path[:i])
			path = path[i:]
		}
	}
	return out
}

// sortedKeys returns the keys of m in order.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
