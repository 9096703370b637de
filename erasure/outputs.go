package erasure

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/structpb"
)

// Bounds of what a machine may say.
const (
	maxDevices = 256
	maxTried   = 16
	maxText    = 2048
	maxRemoved = 1024
)

// ErrOutputs means that what a machine reports of its erasure can't be: it is
// broken, or it lies.
var ErrOutputs = errors.New("the machine's report can't be true")

// reader reads one map of outputs, and remembers the first thing wrong with it.
type reader struct {
	where  string
	fields map[string]*structpb.Value
	err    error
}

func (r *reader) fail(name, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %s: %s: %w", r.where, name, fmt.Sprintf(format, args...), ErrOutputs)
	}
}

// text returns a string without control characters.
func (r *reader) text(name string) string {
	v, ok := r.fields[name]
	if !ok {
		return ""
	}
	s, ok := v.GetKind().(*structpb.Value_StringValue)
	if !ok {
		r.fail(name, "not a string")
		return ""
	}
	if len(s.StringValue) > maxText {
		r.fail(name, "%d bytes", len(s.StringValue))
		return ""
	}
	if strings.ContainsFunc(s.StringValue, unicode.IsControl) {
		r.fail(name, "control characters in it")
		return ""
	}
	return s.StringValue
}

// oneOf returns a string that must be one of the words.
func (r *reader) oneOf(name string, words ...string) string {
	s := r.text(name)
	if !slices.Contains(words, s) {
		r.fail(name, "%q", s)
	}
	return s
}

func (r *reader) bool(name string) bool {
	v, ok := r.fields[name]
	if !ok {
		return false
	}
	b, ok := v.GetKind().(*structpb.Value_BoolValue)
	if !ok {
		r.fail(name, "not true or false")
		return false
	}
	return b.BoolValue
}

// number returns a number from 0 to most.
func (r *reader) number(name string, most float64) float64 {
	v, ok := r.fields[name]
	if !ok {
		return 0
	}
	n, ok := v.GetKind().(*structpb.Value_NumberValue)
	if !ok || math.IsNaN(n.NumberValue) || n.NumberValue < 0 || n.NumberValue > most {
		r.fail(name, "not a number from 0 to %.0f", most)
		return 0
	}
	return n.NumberValue
}

func (r *reader) whole(name string) int64 {
	n := r.number(name, maxWhole)
	if n != math.Trunc(n) {
		r.fail(name, "%v is not a whole number", n)
	}
	return int64(n)
}

func (r *reader) time(name string) time.Time {
	s := r.text(name)
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		r.fail(name, "%q is not a time", s)
		return time.Time{}
	}
	return t.UTC()
}

// list returns the items of a list.
func (r *reader) list(name string, most int) []*structpb.Value {
	v, ok := r.fields[name]
	if !ok {
		return nil
	}
	l, ok := v.GetKind().(*structpb.Value_ListValue)
	if !ok {
		r.fail(name, "not a list")
		return nil
	}
	items := l.ListValue.GetValues()
	if len(items) > most {
		r.fail(name, "%d items", len(items))
		return nil
	}
	return items
}

// child returns a reader of a map within.
func (r *reader) child(name string, v *structpb.Value) *reader {
	s, ok := v.GetKind().(*structpb.Value_StructValue)
	if !ok {
		r.fail(name, "not a map")
		return &reader{where: r.where + " " + name}
	}
	return &reader{where: r.where + " " + name, fields: s.StructValue.GetFields()}
}

func (r *reader) texts(name string, most int) []string {
	out := []string{}
	for i, v := range r.list(name, most) {
		one := &reader{where: fmt.Sprintf("%s %s %d", r.where, name, i), fields: map[string]*structpb.Value{"text": v}}
		out = append(out, one.text("text"))
		if one.err != nil && r.err == nil {
			r.err = one.err
		}
	}
	return out
}

// devices reads the output `results` of a disk.erase step.
func devices(step string, outputs map[string]*structpb.Value) ([]Device, error) {
	r := &reader{where: "step " + step, fields: outputs}
	var out []Device
	for i, v := range r.list("results", maxDevices) {
		c := r.child(fmt.Sprintf("results[%d]", i), v)
		if r.err != nil {
			break
		}
		d := device(c)
		if c.err != nil {
			return nil, c.err
		}
		out = append(out, d)
	}
	return out, r.err
}

// longest is the longest that erasing one disk may take: a month.
const longest = 31 * 24 * time.Hour

func device(r *reader) Device {
	d := Device{
		Path: r.text("path"), Name: r.text("name"), Model: r.text("model"), Serial: r.text("serial"), WWN: r.text("wwn"), Firmware: r.text("firmware"), Bus: r.text("bus"),
		SizeBytes: r.whole("size_bytes"), Method: r.text("method"), Level: r.oneOf("level", "", Clear, Purge), Then: r.text("then"), Resumed: r.bool("resumed"),
		NotOffered: r.text("not_offered"), Hidden: r.text("hidden"), Start: r.time("start_time"), LogPage: r.text("log_page"), OK: r.bool("ok"), Error: r.text("error"), Tried: []Tried{},
	}
	d.DurationMS = int64(math.Round(r.number("duration_seconds", longest.Seconds()) * 1000))
	for i, v := range r.list("tried", maxTried) {
		c := r.child(fmt.Sprintf("tried[%d]", i), v)
		d.Tried = append(d.Tried, Tried{Method: c.text("method"), Error: c.text("error")})
		if c.err != nil && r.err == nil {
			r.err = c.err
		}
	}
	if v, ok := r.fields["verification"]; ok {
		c := r.child("verification", v)
		d.Verification = Verification{Kind: c.text("kind"), Samples: c.whole("samples"), Seed: c.text("seed"), BytesRead: c.whole("bytes_read"), Result: c.text("result")}
		if c.err != nil && r.err == nil {
			r.err = c.err
		}
	}
	d.possible(r)
	return d
}

// possible refuses what no agent would say.
func (d Device) possible(r *reader) {
	if d.Name == "" || d.Path == "" {
		r.fail("name", "missing")
	}
	if _, err := hex.DecodeString(d.LogPage); err != nil {
		r.fail("log_page", "not hexadecimal")
	}
	if d.OK && (d.SizeBytes <= 0 || levels[d.Method] == nil || !slices.Contains(levels[d.Method], d.Level)) {
		r.fail("method", "erased by %q, level %q, of %d bytes", d.Method, d.Level, d.SizeBytes)
	}
	if family, _, _ := strings.Cut(d.Method, "-"); d.OK && buses[family] != nil && !slices.Contains(buses[family], d.Bus) {
		r.fail("method", "%q on a disk of bus %q", d.Method, d.Bus)
	}
}
