package expression

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bedplate/bedplate/workflow/action"
)

var inputName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]{0,62}$`)

// value is one field of a step, ready to be evaluated: a literal, one
// expression, text with expressions in it, or a list or map of values.
type value struct {
	in      action.Input
	literal any
	whole   *compiled
	parts   []valuePart
	list    []*value
	fields  map[string]*value
}

type valuePart struct {
	text string
	expr *compiled
}

// value checks one input of an action.
func (c *checker) value(path string, in action.Input, v *structpb.Value) *value {
	out := &value{in: in}
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		if hasExpression(k.StringValue) {
			c.expressions(path, in, k.StringValue, out)
			return out
		}
		c.literal(path, in, k.StringValue, out)
	case *structpb.Value_ListValue:
		c.list(path, in, k.ListValue.GetValues(), out)
	case *structpb.Value_StructValue:
		c.fields(path, in, k.StructValue.GetFields(), out)
	default:
		c.literal(path, in, whole64(v.AsInterface()), out)
	}
	return out
}

func (c *checker) literal(path string, in action.Input, v any, out *value) {
	v, err := coerce(in, v)
	if err != nil {
		offset := 0
		var at *offsetError
		if errors.As(err, &at) {
			offset = at.offset
		}
		c.problems.Add(path, offset, "%v", err)
	}
	out.literal = v
}

func (c *checker) list(path string, in action.Input, values []*structpb.Value, out *value) {
	if in.Type != action.List && in.Type != action.Strings && in.Type != action.Any {
		c.problems.Add(path, 0, "a list is given, %s is wanted", in.Type)
		return
	}
	out.list = []*value{}
	for i, v := range values {
		element := action.Input{Type: action.Any}
		switch {
		case in.Type == action.Strings:
			element.Type = action.String
		case len(in.Fields) > 0:
			element = action.Input{Type: action.Map, Fields: in.Fields}
		}
		out.list = append(out.list, c.value(fmt.Sprintf("%s[%d]", path, i), element, v))
	}
}

func (c *checker) fields(path string, in action.Input, values map[string]*structpb.Value, out *value) {
	if in.Type != action.Map && in.Type != action.Any {
		c.problems.Add(path, 0, "a map is given, %s is wanted", in.Type)
		return
	}
	out.fields = map[string]*value{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		f, ok := in.Field(name)
		if len(in.Fields) == 0 {
			f = action.Input{Type: action.Any}
		} else if !ok {
			c.problems.Add(joinKey(path, name), 0, "there is no %q here; %s", name, inputNames(in.Fields))
			continue
		}
		out.fields[name] = c.value(joinKey(path, name), f, values[name])
	}
	for _, f := range in.Fields {
		if _, ok := values[f.Name]; f.Required && !ok {
			c.problems.Add(path+"."+f.Name, 0, "this is needed: %s", f.Doc)
		}
	}
}

// joinKey appends the key of a map to a path: .key, or ["key"] where that
// would be misread.
func joinKey(path, key string) string {
	if plainKey.MatchString(key) {
		return path + "." + key
	}
	return path + "[" + strconv.Quote(key) + "]"
}

var plainKey = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]*$`)

// text checks a field that takes a string.
func (c *checker) text(path, s string) *value {
	out := &value{in: action.Input{Type: action.String}, literal: s}
	if hasExpression(s) {
		c.expressions(path, out.in, s, out)
	}
	return out
}

// expressions checks a string with expressions in it.
func (c *checker) expressions(path string, in action.Input, s string, out *value) {
	parts, err := split(s)
	if err != nil {
		c.fail(path, 0, err)
		return
	}
	if p, ok := whole(parts); ok {
		out.whole = c.expression(path, p)
		if out.whole != nil && !assignable(out.whole.typ, in.Type) {
			c.problems.Add(path, p.offset, "the expression is %s, %s is wanted", typeName(out.whole.typ), article(in.Type))
		}
		return
	}
	out.parts = []valuePart{}
	for _, p := range parts {
		if !p.expr {
			out.parts = append(out.parts, valuePart{text: p.text})
			continue
		}
		e := c.expression(path, p)
		if e != nil && !printable(e.typ) {
			c.problems.Add(path, p.offset, "the expression is %s, which can't stand in a text; use toJSON() or join()", typeName(e.typ))
		}
		out.parts = append(out.parts, valuePart{expr: e})
	}
	if !slices.Contains([]action.Type{action.String, action.Any, action.Size, action.IntOrString, action.DiskHint}, in.Type) {
		c.problems.Add(path, 0, "text is given, %s is wanted", article(in.Type))
	}
}

// expression checks one expression and what it speaks of.
func (c *checker) expression(path string, p part) *compiled {
	if !c.made {
		var err error
		if c.inner, err = c.template.scope(); err != nil {
			c.problems.Add(path, p.offset, "%v", err)
			return nil
		}
		c.made = true
	}
	s := c.inner
	if !c.node.OnFailure {
		s.roots = maps.Clone(s.roots)
		delete(s.roots, "failure")
	}
	e, errs := s.compile(p.text)
	for _, err := range errs {
		c.fail(path, p.offset, err)
	}
	if e == nil {
		return nil
	}
	c.template.secrets = append(c.template.secrets, e.refs.secrets...)
	c.template.images = append(c.template.images, e.refs.images...)
	c.checkSteps(path, p.offset, e.refs)
	return e
}

// checkSteps makes sure that the steps an expression speaks of are over by
// then. In on_failure nothing is certain: has() in the step's `if`, or in the
// expression, will do.
func (c *checker) checkSteps(path string, offset int, r refs) {
	graph := c.template.graph
	for _, id := range slices.Sorted(maps.Keys(r.steps)) {
		guarded := c.node.OnFailure && (slices.Contains(r.guards, id) || slices.Contains(c.guards, id))
		if guarded || graph.Upstream(c.node.ID, id) {
			continue
		}
		at := offset + r.steps[id]
		switch {
		case id == c.node.ID:
			c.problems.Add(path, at, "step %q speaks of its own outputs", id)
		case c.node.OnFailure:
			c.problems.Add(path, at, "step %q may not have run when on_failure runs; put `if: has(steps.%s.outputs)` on this step", id, fieldWord(id))
		default:
			c.problems.Add(path, at, "step %q is not certain to have run before this one; add it to needs", id)
		}
	}
}

// condition checks an `if`, with the ${{ }} or without.
func (c *checker) condition(path, s string) *compiled {
	p := part{text: s, expr: true}
	if hasExpression(s) {
		parts, err := split(s)
		if err != nil {
			c.fail(path, 0, err)
			return nil
		}
		parts = slices.DeleteFunc(parts, func(p part) bool { return !p.expr && strings.TrimSpace(p.text) == "" })
		var ok bool
		if p, ok = whole(parts); !ok {
			c.problems.Add(path, 0, "an if is one expression, without text around it")
			return nil
		}
	}
	e := c.expression(path, p)
	if e != nil {
		c.guards = e.refs.guards // for the step's other fields
	}
	if e != nil && e.typ.Kind() != types.BoolKind && e.typ.Kind() != types.DynKind {
		c.problems.Add(path, p.offset, "the expression is %s, an if wants bool", typeName(e.typ))
	}
	return e
}

func (c *checker) fail(path string, offset int, err error) {
	var at *offsetError
	if errors.As(err, &at) {
		offset += at.offset
	}
	c.problems.Add(path, offset, "%v", err)
}

// assignable reports whether an expression of type t can be an input of type
// want.
func assignable(t *cel.Type, want action.Type) bool {
	k := t.Kind()
	if k == types.DynKind || k == types.AnyKind || want == action.Any {
		return true
	}
	number, text := k == types.IntKind || k == types.UintKind, k == types.StringKind
	switch want {
	case action.String, action.DiskHint:
		return text
	case action.Int:
		return number
	case action.Double:
		return number || k == types.DoubleKind
	case action.Bool:
		return k == types.BoolKind
	case action.List:
		return k == types.ListKind
	case action.Strings:
		return k == types.ListKind && assignable(t.Parameters()[0], action.String)
	case action.Map:
		return k == types.MapKind || k == types.StructKind
	default: // Size, IntOrString
		return number || text
	}
}

func printable(t *cel.Type) bool {
	switch t.Kind() {
	case types.ListKind, types.MapKind, types.StructKind:
		return false
	default:
		return true
	}
}

func typeName(t *cel.Type) string { return tidy(cel.FormatCELType(t)) }

func article(t action.Type) string {
	switch t {
	case action.Size:
		return "a size (a number of bytes, or text such as 20GB)"
	case action.IntOrString:
		return "a number or text"
	case action.DiskHint:
		return "an expression over disk, as text"
	default:
		return string(t)
	}
}

// coerce checks a value against an input of an action and gives it the type
// that executors expect.
func coerce(in action.Input, v any) (any, error) {
	wrong := func() (any, error) {
		hint := ""
		if _, ok := v.(int64); ok && in.Type == action.String {
			hint = "; put it in quotes"
		}
		return nil, fmt.Errorf("%s is given, %s is wanted%s", goType(v), article(in.Type), hint)
	}
	switch in.Type {
	case action.String:
		s, ok := v.(string)
		if !ok {
			return wrong()
		}
		if len(in.Values) > 0 && !slices.Contains(in.Values, s) {
			return nil, fmt.Errorf("%q is not one of %s", s, list(in.Values))
		}
	case action.Int:
		if f, ok := v.(float64); ok && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return int64(f), nil
		}
		if _, ok := v.(int64); !ok {
			return wrong()
		}
	case action.Double:
		if n, ok := v.(int64); ok {
			return float64(n), nil
		}
		if _, ok := v.(float64); !ok {
			return wrong()
		}
	case action.Bool:
		if _, ok := v.(bool); !ok {
			return wrong()
		}
	case action.List:
		if _, ok := v.([]any); !ok {
			return wrong()
		}
	case action.Strings:
		l, ok := v.([]any)
		if !ok || slices.ContainsFunc(l, func(e any) bool { _, text := e.(string); return !text }) {
			return wrong()
		}
	case action.Map:
		if _, ok := v.(map[string]any); !ok {
			return wrong()
		}
	case action.Size:
		return coerceSize(v, wrong)
	case action.IntOrString:
		switch v.(type) {
		case int64, string:
		default:
			return wrong()
		}
	case action.DiskHint:
		s, ok := v.(string)
		if !ok {
			return wrong()
		}
		if s != "" {
			return s, CheckDiskHint(s)
		}
	}
	return v, nil
}

// coerceSize turns a size into bytes.
func coerceSize(v any, wrong func() (any, error)) (any, error) {
	switch v := v.(type) {
	case string:
		return ParseSize(v)
	case int64:
		if v >= 0 {
			return v, nil
		}
	}
	return wrong()
}

func goType(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "double"
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	default:
		return "nothing"
	}
}

func inputNames(inputs []action.Input) string {
	if len(inputs) == 0 {
		return "it has none"
	}
	names := make([]string, len(inputs))
	for i, in := range inputs {
		names[i] = in.Name
	}
	return "there are " + strings.Join(names, ", ")
}

// list writes a, b or c.
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
