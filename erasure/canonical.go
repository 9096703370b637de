package erasure

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// MaxDocument bounds a document: 128 disks with all that they can say.
	MaxDocument = 1 << 20
	// maxDepth bounds how deep it is nested.
	maxDepth = 16
	// maxWhole is the highest number that every JSON reader has exactly.
	maxWhole = 1<<53 - 1
)

// parse reads JSON more strictly than encoding/json does: valid UTF-8, no member
// twice, whole numbers only, nothing after the end. Values are map[string]any,
// []any, string, int64, bool and nil.
func parse(doc []byte) (any, error) {
	if len(doc) > MaxDocument {
		return nil, fmt.Errorf("%d bytes, at most %d", len(doc), MaxDocument)
	}
	if !utf8.Valid(doc) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	v, err := parseValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the end")
	}
	return v, nil
}

func parseValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deep")
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return parseObject(d, depth)
		}
		return parseList(d, depth)
	case json.Number:
		n, err := strconv.ParseInt(t.String(), 10, 64)
		if err != nil || n > maxWhole || n < -maxWhole || t.String() != strconv.FormatInt(n, 10) {
			return nil, fmt.Errorf("%s is not a whole number", t)
		}
		return n, nil
	default:
		return t, nil
	}
}

func parseObject(d *json.Decoder, depth int) (any, error) {
	out := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok {
			return nil, errors.New("a member without a name")
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("member %q is there twice", key)
		}
		if out[key], err = parseValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return out, err
}

func parseList(d *json.Decoder, depth int) (any, error) {
	out := []any{}
	for d.More() {
		v, err := parseValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	_, err := d.Token()
	return out, err
}

// appendCanonical appends a value that parse returned in the form of RFC 8785.
func appendCanonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case string:
		return appendString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendCanonical(b, e)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, k := range sortedKeys(v) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, k), ':')
			b = appendCanonical(b, v[k])
		}
		return append(b, '}')
	}
	return b
}

// sortedKeys returns names in the order of their UTF-16 code units (RFC 8785 §3.2.3).
func sortedKeys(m map[string]any) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
	})
}

// appendString appends a string as RFC 8785 §3.2.2.2 has it.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			b = append(b, '\\', byte(r))
		case '\b':
			b = append(b, `\b`...)
		case '\t':
			b = append(b, `\t`...)
		case '\n':
			b = append(b, `\n`...)
		case '\f':
			b = append(b, `\f`...)
		case '\r':
			b = append(b, `\r`...)
		default:
			if r < ' ' {
				b = fmt.Appendf(b, `\u%04x`, r)
				continue
			}
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// sums returns, for each object and list, two octets of the digest of each of
// its members.
func sums(v any) map[string]string {
	out := map[string]string{}
	addSums(out, "", v)
	return out
}

func addSums(out map[string]string, path string, v any) {
	names, values := members(v)
	if names == nil {
		return
	}
	var all strings.Builder
	for i, name := range names {
		all.WriteString(sum(values[i]))
		addSums(out, path+"/"+name, values[i])
	}
	out[path] = all.String()
}

// sumDigits is how many digits each member has in a sum.
const sumDigits = 4

func sum(v any) string {
	d := sha256.Sum256(appendCanonical(nil, v))
	return hex.EncodeToString(d[:sumDigits/2])
}

// members returns the members of an object or list in order; nil for others.
func members(v any) (names []string, values []any) {
	switch v := v.(type) {
	case map[string]any:
		names = sortedKeys(v)
		for _, k := range names {
			values = append(values, v[k])
		}
	case []any:
		names = []string{}
		for i, e := range v {
			names, values = append(names, strconv.Itoa(i)), append(values, e)
		}
	}
	if _, object := v.(map[string]any); object && names == nil {
		names = []string{}
	}
	return names, values
}

// changed returns the JSON pointers of what doesn't have the sums any more.
func changed(sums map[string]string, path string, v any) []string {
	names, values := members(v)
	was, known := sums[path]
	if names == nil || !known {
		return []string{orElse(path, "/")}
	}
	if len(was) != sumDigits*len(names) {
		return []string{orElse(path, "/") + " (members were added or removed)"}
	}
	var out []string
	for i, name := range names {
		if was[i*sumDigits:(i+1)*sumDigits] != sum(values[i]) {
			out = append(out, changed(sums, path+"/"+name, values[i])...)
		}
	}
	return out
}
