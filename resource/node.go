package resource

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// decoder turns the YAML nodes of one file into messages.
type decoder struct {
	file  string
	items []Item
	errs  FileErrors
	// positions of the fields of the resource that is being read.
	positions map[string]position
	// values counts what has been read, aliases expanded.
	values, maxValues int
	// nested is set inside a List.
	nested bool
}

// add records an error, up to the limit.
func (d *decoder) add(e FileError) {
	if len(d.errs) < maxFileErrors {
		d.errs = append(d.errs, e)
	}
}

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	d.add(FileError{File: d.file, Line: n.Line, Column: n.Column, Path: path, Message: fmt.Sprintf(format, args...)})
}

// resolve follows aliases, and stops what is too deep or expands to too much.
func (d *decoder) resolve(n *yaml.Node, path string, depth int) (*yaml.Node, bool) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.values++
	switch {
	case depth > maxDepth:
		d.fail(n, path, "nested deeper than %d levels", maxDepth)
	case d.values == d.maxValues:
		d.fail(n, path, "aliases make the file more than %d values long", d.maxValues)
	case d.values < d.maxValues:
		return n, true
	}
	return nil, false
}

// pair is one entry of a mapping.
type pair struct {
	key, value *yaml.Node
}

// pairs returns a mapping's entries, merge keys (<<) expanded. What is given
// twice is an error.
func (d *decoder) pairs(n *yaml.Node, path []string, depth int) []pair {
	var out, merged []pair
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		for key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch line, twice := first[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			d.fail(key, showPath(path), "a key must be plain text")
		case key.Tag == "!!merge":
			merged = append(merged, d.merged(value, path, depth+1)...)
		case twice:
			d.fail(key, showPath(append(path, key.Value)), "given twice: line %d has it too", line)
		default:
			first[key.Value] = key.Line
			out = append(out, pair{key, value})
		}
	}
	for _, p := range merged {
		if _, own := first[p.key.Value]; !own {
			first[p.key.Value] = p.key.Line
			out = append(out, p)
		}
	}
	return out
}

// merged returns what a merge key brings in: a mapping's entries, or those of
// several, the first of which wins.
func (d *decoder) merged(n *yaml.Node, path []string, depth int) []pair {
	n, ok := d.resolve(n, showPath(path), depth)
	if !ok {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		return d.pairs(n, path, depth)
	case yaml.SequenceNode:
		var out []pair
		for _, c := range n.Content {
			out = append(out, d.merged(c, path, depth+1)...)
		}
		return out
	}
	d.fail(n, showPath(path), "<< takes a mapping, not %s", describe(n))
	return nil
}

// message reads a mapping into m.
func (d *decoder) message(n *yaml.Node, m protoreflect.Message, path []string, root bool) {
	n, ok := d.resolve(n, showPath(path), len(path))
	if !ok || d.wellKnown(n, m, path) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, showPath(path), "a mapping is expected, not %s", describe(n))
		return
	}
	fields := m.Descriptor().Fields()
	set := map[protoreflect.FieldNumber]int{}
	for _, p := range d.pairs(n, path, len(path)) {
		name := p.key.Value
		if root && (name == "apiVersion" || name == "kind") {
			continue
		}
		fd := fields.ByName(protoreflect.Name(name))
		if fd == nil {
			fd = fields.ByJSONName(name)
		}
		if fd == nil {
			d.fail(p.key, showPath(append(path, name)), "unknown field: %s", suggestField(name, fields))
			continue
		}
		name = string(fd.Name())
		if line, twice := set[fd.Number()]; twice {
			d.fail(p.key, showPath(append(path, name)), "given twice: line %d has it too", line)
			continue
		}
		set[fd.Number()] = p.key.Line
		here := append(path[:len(path):len(path)], name)
		d.place(here, p)
		d.field(p.value, m, fd, here)
	}
}

// place records where a field is: at its value if that is a scalar, else at its name.
func (d *decoder) place(path []string, p pair) {
	at := p.key
	if p.value.Kind == yaml.ScalarNode && p.value.Value != "" {
		at = p.value
	}
	d.positions[positionKey(path)] = position{at.Line, at.Column}
}

// field reads the value of one field.
func (d *decoder) field(n *yaml.Node, m protoreflect.Message, fd protoreflect.FieldDescriptor, path []string) {
	isValue := fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Value" && fd.Cardinality() != protoreflect.Repeated
	if isNull(n) && !isValue {
		return
	}
	switch {
	case fd.IsMap():
		d.mapping(n, m.Mutable(fd).Map(), fd, path)
	case fd.IsList():
		d.sequence(n, m.Mutable(fd).List(), fd, path)
	case fd.Message() != nil:
		d.message(n, m.Mutable(fd).Message(), path, false)
	default:
		if v, ok := d.scalar(n, fd, path); ok {
			m.Set(fd, v)
		}
	}
}

func (d *decoder) sequence(n *yaml.Node, list protoreflect.List, fd protoreflect.FieldDescriptor, path []string) {
	n, ok := d.resolve(n, showPath(path), len(path))
	if !ok {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.fail(n, showPath(path), "a list is expected, not %s", describe(n))
		return
	}
	for i, c := range n.Content {
		here := append(path[:len(path):len(path)], strconv.Itoa(i))
		d.positions[positionKey(here)] = position{c.Line, c.Column}
		if fd.Message() != nil {
			v := list.NewElement()
			d.message(c, v.Message(), here, false)
			list.Append(v)
			continue
		}
		if v, ok := d.scalar(c, fd, here); ok {
			list.Append(v)
		}
	}
}

func (d *decoder) mapping(n *yaml.Node, values protoreflect.Map, fd protoreflect.FieldDescriptor, path []string) {
	n, ok := d.resolve(n, showPath(path), len(path))
	if !ok {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, showPath(path), "a mapping is expected, not %s", describe(n))
		return
	}
	for _, p := range d.pairs(n, path, len(path)) {
		here := append(path[:len(path):len(path)], p.key.Value)
		d.place(here, p)
		key := protoreflect.ValueOfString(p.key.Value).MapKey()
		if fd.MapValue().Message() != nil {
			v := values.NewValue()
			d.message(p.value, v.Message(), here, false)
			values.Set(key, v)
			continue
		}
		if v, ok := d.scalar(p.value, fd.MapValue(), here); ok {
			values.Set(key, v)
		}
	}
}

// scalar reads text, a number, true or false, or an enum's value.
func (d *decoder) scalar(n *yaml.Node, fd protoreflect.FieldDescriptor, path []string) (protoreflect.Value, bool) {
	n, ok := d.resolve(n, showPath(path), len(path))
	if !ok {
		return protoreflect.Value{}, false
	}
	if n.Kind != yaml.ScalarNode {
		d.fail(n, showPath(path), "%s is expected, not %s", expected(fd), describe(n))
		return protoreflect.Value{}, false
	}
	v, err := parseScalar(n, fd)
	if err != nil {
		d.fail(n, showPath(path), "%v", err)
		return protoreflect.Value{}, false
	}
	return v, true
}

func parseScalar(n *yaml.Node, fd protoreflect.FieldDescriptor) (protoreflect.Value, error) {
	tag, text := n.ShortTag(), n.Value
	wrong := fmt.Errorf("%s is expected, not %s", expected(fd), describe(n))
	switch fd.Kind() {
	case protoreflect.StringKind:
		switch tag {
		case "!!str", "!!int", "!!float", "!!bool", "!!timestamp", "!!merge":
			// Unquoted text that YAML takes for a number is text all the same: rack: 12.
			return protoreflect.ValueOfString(text), nil
		}
	case protoreflect.BoolKind:
		if tag == "!!bool" {
			return protoreflect.ValueOfBool(strings.EqualFold(text, "true")), nil
		}
	case protoreflect.EnumKind:
		number, ok := enumNumber(fd.Enum(), text)
		if !ok {
			return protoreflect.Value{}, fmt.Errorf("%q: %s", text, suggest(text, enumNames(fd.Enum()), "one of "+strings.Join(enumNames(fd.Enum()), ", ")))
		}
		return protoreflect.ValueOfEnum(number), nil
	case protoreflect.BytesKind:
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil || tag != "!!str" && tag != "!!binary" {
			return protoreflect.Value{}, fmt.Errorf("not base64")
		}
		return protoreflect.ValueOfBytes(b), nil
	case protoreflect.DoubleKind:
		var f float64
		if (tag == "!!float" || tag == "!!int") && n.Decode(&f) == nil {
			return protoreflect.ValueOfFloat64(f), nil
		}
	default:
		// protojson writes 64-bit integers as strings; those are taken, too.
		if tag == "!!int" || tag == "!!str" && n.Style&yaml.DoubleQuotedStyle != 0 {
			return parseInteger(text, fd)
		}
	}
	return protoreflect.Value{}, wrong
}

func parseInteger(text string, fd protoreflect.FieldDescriptor) (protoreflect.Value, error) {
	text = strings.ReplaceAll(text, "_", "")
	var v protoreflect.Value
	var err error
	switch fd.Kind() {
	case protoreflect.Int32Kind:
		var i int64
		i, err = strconv.ParseInt(text, 0, 32)
		v = protoreflect.ValueOfInt32(int32(i))
	case protoreflect.Int64Kind:
		var i int64
		i, err = strconv.ParseInt(text, 0, 64)
		v = protoreflect.ValueOfInt64(i)
	case protoreflect.Uint32Kind:
		var i uint64
		i, err = strconv.ParseUint(text, 0, 32)
		v = protoreflect.ValueOfUint32(uint32(i))
	case protoreflect.Uint64Kind:
		var i uint64
		i, err = strconv.ParseUint(text, 0, 64)
		v = protoreflect.ValueOfUint64(i)
	default:
		return v, fmt.Errorf("fields of type %s can't be given in a file", fd.Kind())
	}
	if err != nil {
		return v, fmt.Errorf("%s: not a whole number in the range of %s", text, fd.Kind())
	}
	return v, nil
}

// wellKnown reads the messages that files write in another way than as a
// mapping of their fields, and reports whether m is one.
func (d *decoder) wellKnown(n *yaml.Node, m protoreflect.Message, path []string) bool {
	switch out := m.Interface().(type) {
	case *timestamppb.Timestamp:
		t, err := time.Parse(time.RFC3339Nano, n.Value)
		if ts := timestamppb.New(t); err == nil && ts.CheckValid() == nil && n.Kind == yaml.ScalarNode {
			out.Seconds, out.Nanos = ts.Seconds, ts.Nanos
			return true
		}
		d.fail(n, showPath(path), "a time such as 2026-01-02T15:04:05Z is expected, not %s", describe(n))
	case *durationpb.Duration:
		t, err := time.ParseDuration(n.Value)
		if err == nil && n.Kind == yaml.ScalarNode {
			dp := durationpb.New(t)
			out.Seconds, out.Nanos = dp.Seconds, dp.Nanos
			return true
		}
		d.fail(n, showPath(path), "a duration such as 90s or 1h30m is expected, not %s", describe(n))
	case *structpb.Value:
		out.Kind = d.value(n, path).GetKind()
	default:
		return false
	}
	return true
}

// value reads any YAML. n has been resolved.
func (d *decoder) value(n *yaml.Node, path []string) *structpb.Value {
	switch n.Kind {
	case yaml.SequenceNode:
		list := &structpb.ListValue{}
		for i, c := range n.Content {
			here := append(path[:len(path):len(path)], strconv.Itoa(i))
			if c, ok := d.resolve(c, showPath(here), len(here)); ok {
				d.positions[positionKey(here)] = position{c.Line, c.Column}
				list.Values = append(list.Values, d.value(c, here))
			}
		}
		return structpb.NewListValue(list)
	case yaml.MappingNode:
		fields := map[string]*structpb.Value{}
		for _, p := range d.pairs(n, path, len(path)) {
			here := append(path[:len(path):len(path)], p.key.Value)
			if c, ok := d.resolve(p.value, showPath(here), len(here)); ok {
				d.place(here, pair{p.key, c})
				fields[p.key.Value] = d.value(c, here)
			}
		}
		return structpb.NewStructValue(&structpb.Struct{Fields: fields})
	}
	switch n.ShortTag() {
	case "!!null":
		return structpb.NewNullValue()
	case "!!bool":
		return structpb.NewBoolValue(strings.EqualFold(n.Value, "true"))
	case "!!int", "!!float":
		return d.number(n, path)
	}
	return structpb.NewStringValue(n.Value)
}

// maxExact is the largest integer up to which a float64 holds every one.
const maxExact = 1 << 53

func (d *decoder) number(n *yaml.Node, path []string) *structpb.Value {
	var f float64
	if err := n.Decode(&f); err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		d.fail(n, showPath(path), "%s: not a number that can be kept; quote it", n.Value)
	} else if n.ShortTag() == "!!int" && math.Abs(f) > maxExact {
		d.fail(n, showPath(path), "%s: too large to be kept exactly; quote it", n.Value)
	}
	return structpb.NewNumberValue(f)
}
