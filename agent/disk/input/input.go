// Package input reads the inputs of a step: the values of Request.With, with
// one error for everything that is wrong with them. It does no I/O; a Reader
// belongs to one goroutine.
package input

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Reader takes values by name and remembers what was wrong with them.
type Reader struct {
	with map[string]any
	seen map[string]bool
	errs []error
}

// Of returns a Reader of a step's inputs.
func Of(with map[string]any) *Reader {
	return &Reader{with: with, seen: map[string]bool{}}
}

// Err returns everything that was wrong, and names inputs nobody asked for.
// Call it after the last value was read.
func (r *Reader) Err() error {
	errs := slices.Clone(r.errs)
	var unknown []string
	for name := range r.with {
		if !r.seen[name] {
			unknown = append(unknown, name)
		}
	}
	sort.Strings(unknown)
	for _, name := range unknown {
		errs = append(errs, fmt.Errorf("with.%s: this action has no such input", name))
	}
	return errors.Join(errs...)
}

// Known is Err without the complaint about inputs nobody asked for.
func (r *Reader) Known() error { return errors.Join(r.errs...) }

// Fail adds an error about one input.
func (r *Reader) Fail(name, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("with.%s: %w", name, fmt.Errorf(format, args...)))
}

// Has reports whether the input was given and is not null.
func (r *Reader) Has(name string) bool {
	r.seen[name] = true
	return r.with[name] != nil
}

// Value returns the input as it came; nil when it is absent.
func (r *Reader) Value(name string) any {
	r.seen[name] = true
	return r.with[name]
}

// String returns a text; empty when it is absent. Numbers and booleans are
// taken as they are written.
func (r *Reader) String(name string) string {
	if !r.Has(name) {
		return ""
	}
	s, ok := text(r.with[name])
	if !ok {
		r.Fail(name, "wants a string, not %s", kind(r.with[name]))
	}
	return s
}

// Required is String for an input that must be there.
func (r *Reader) Required(name string) string {
	s := r.String(name)
	if s == "" {
		r.Fail(name, "is required")
	}
	return s
}

// Choice is String for one of several words; absent means the first.
func (r *Reader) Choice(name string, words ...string) string {
	s := r.String(name)
	if s == "" {
		return words[0]
	}
	if !slices.Contains(words, s) {
		r.Fail(name, "%q is none of %s", s, strings.Join(words, ", "))
	}
	return s
}

// Bool returns a truth value; false when it is absent.
func (r *Reader) Bool(name string) bool {
	if !r.Has(name) {
		return false
	}
	switch v := r.with[name].(type) {
	case bool:
		return v
	case string:
		if b, err := strconv.ParseBool(v); err == nil {
			return b
		}
	}
	r.Fail(name, "wants true or false, not %v", r.with[name])
	return false
}

// Int returns a whole number, or otherwise when it is absent.
func (r *Reader) Int(name string, otherwise int64) int64 {
	if !r.Has(name) {
		return otherwise
	}
	n, err := whole(r.with[name])
	if err != nil {
		r.Fail(name, "%w", err)
	}
	return n
}

// Size returns a number of bytes, given as a number or as text such as 512MiB;
// 0 when it is absent.
func (r *Reader) Size(name string) int64 {
	if !r.Has(name) {
		return 0
	}
	n, err := SizeOf(r.with[name])
	if err != nil {
		r.Fail(name, "%w", err)
	}
	return n
}

// Strings returns a list of texts; one text alone is a list of one.
func (r *Reader) Strings(name string) []string {
	if !r.Has(name) {
		return nil
	}
	list, ok := r.with[name].([]any)
	if !ok {
		list = []any{r.with[name]}
	}
	var out []string
	for i, v := range list {
		s, ok := text(v)
		if !ok {
			r.Fail(name, "item %d is %s, not a string", i, kind(v))
			continue
		}
		out = append(out, s)
	}
	return out
}

// Maps returns a list of maps, each with a Reader of its own.
func (r *Reader) Maps(name string) []*Reader {
	if !r.Has(name) {
		return nil
	}
	list, ok := r.with[name].([]any)
	if !ok {
		r.Fail(name, "wants a list, not %s", kind(r.with[name]))
		return nil
	}
	var out []*Reader
	for i, v := range list {
		m, ok := v.(map[string]any)
		if !ok {
			r.Fail(name, "item %d is %s, not a map", i, kind(v))
			continue
		}
		out = append(out, Of(m))
	}
	return out
}

func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool, int, int64, uint64, uint32:
		return fmt.Sprint(v), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	}
	return "", false
}

func whole(v any) (int64, error) {
	switch v := v.(type) {
	case int:
		return int64(v), nil
	case int64:
		return v, nil
	case uint32:
		return int64(v), nil
	case uint64:
		if v > math.MaxInt64 {
			return 0, fmt.Errorf("%d is too large", v)
		}
		return int64(v), nil
	case float64:
		if v != math.Trunc(v) || math.Abs(v) > 1<<53 {
			return 0, fmt.Errorf("%v is not a whole number", v)
		}
		return int64(v), nil
	case string:
		n, err := strconv.ParseInt(v, 0, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not a whole number", v)
		}
		return n, nil
	}
	return 0, fmt.Errorf("wants a number, not %s", kind(v))
}

var units = map[string]int64{
	"": 1, "b": 1,
	"k": 1 << 10, "kib": 1 << 10, "kb": 1e3,
	"m": 1 << 20, "mib": 1 << 20, "mb": 1e6,
	"g": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "tib": 1 << 40, "tb": 1e12,
	"p": 1 << 50, "pib": 1 << 50, "pb": 1e15,
}

// SizeOf returns the number of bytes that a number, or text such as 512MiB,
// 20GB or 1.5TiB, stands for. K, M, G, T alone are powers of 1024, as fdisk
// has them.
func SizeOf(v any) (int64, error) {
	s, ok := v.(string)
	if !ok {
		n, err := whole(v)
		if err == nil && n < 0 {
			err = fmt.Errorf("%d is negative", n)
		}
		return n, err
	}
	s = strings.TrimSpace(s)
	i := strings.IndexFunc(s, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
	if i < 0 {
		i = len(s)
	}
	unit, known := units[strings.ToLower(strings.TrimSpace(s[i:]))]
	if n, err := strconv.ParseInt(s[:i], 10, 64); err == nil && known && n <= math.MaxInt64/unit {
		return n * unit, nil
	}
	f, err := strconv.ParseFloat(s[:i], 64)
	if err != nil || !known || f*float64(unit) >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size such as 512MiB or 20GB", s)
	}
	return int64(f * float64(unit)), nil
}

func kind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	case nil:
		return "null"
	}
	return "a number"
}
