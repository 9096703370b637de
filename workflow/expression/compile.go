package expression

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// evalTime bounds one evaluation.
const evalTime = time.Second

// compiled is one expression, checked.
type compiled struct {
	program cel.Program
	typ     *cel.Type
	refs    refs
}

// refs is what an expression speaks of by name.
type refs struct {
	steps   map[string]int // with the offset of the first mention
	secrets []string
	images  []string
	// guards are the steps that has() asks about.
	guards []string
}

// scope is what expressions of one place can speak of.
type scope struct {
	env     *cel.Env
	objects schema
	roots   map[string]*cel.Type
}

// compile checks one expression. The errors are *offsetError, as many as
// there are mistakes.
func (s scope) compile(text string) (*compiled, []error) {
	if strings.TrimSpace(text) == "" {
		return nil, []error{&offsetError{0, errors.New("the expression is empty")}}
	}
	parsed, issues := s.env.Parse(text)
	if issues.Err() != nil {
		return nil, celErrors(text, issues)
	}
	w := walk{scope: s, text: text, types: map[int64]*cel.Type{}, shadow: map[string]bool{}}
	w.run(parsed.NativeRep())
	if len(w.errs) > 0 {
		return nil, w.errs
	}
	checked, issues := s.env.Check(parsed)
	if issues.Err() != nil {
		return nil, celErrors(text, issues)
	}
	program, err := s.env.Program(checked, cel.CostLimit(maxCost), cel.InterruptCheckFrequency(checkInterrupted))
	if err != nil {
		return nil, []error{&offsetError{0, err}}
	}
	return &compiled{program: program, typ: checked.OutputType(), refs: w.refs}, nil
}

// eval evaluates the expression; ctx and evalTime bound it.
func (c *compiled) eval(ctx context.Context, vars map[string]any) (ref.Val, error) {
	ctx, cancel := context.WithTimeout(ctx, evalTime)
	defer cancel()
	v, _, err := c.program.ContextEval(ctx, vars)
	if err != nil {
		return nil, errors.New(tidy(err.Error()))
	}
	if types.IsUnknownOrError(v) {
		return nil, fmt.Errorf("%v", v)
	}
	return v, nil
}

func celErrors(text string, issues *cel.Issues) []error {
	var errs []error
	for _, e := range issues.Errors() {
		errs = append(errs, &offsetError{byteOffset(text, e.Location.Line(), e.Location.Column()), errors.New(tidy(e.Message))})
	}
	if len(errs) == 0 {
		errs = append(errs, &offsetError{0, errors.New(tidy(issues.Err().Error()))})
	}
	return errs
}

// byteOffset turns CEL's line (from 1) and column (from 0, in characters)
// into bytes.
func byteOffset(text string, line, column int) int {
	offset := 0
	for ; line > 1; line-- {
		k := strings.IndexByte(text[offset:], '\n')
		if k < 0 {
			return len(text)
		}
		offset += k + 1
	}
	for i := range text[offset:] {
		if column <= 0 {
			return offset + i
		}
		column--
	}
	return len(text)
}

var (
	overload   = regexp.MustCompile(`found no matching overload for '([^']*)' applied to '([^']*)'`)
	undeclared = regexp.MustCompile(`undeclared reference to '([^']*)' \(in container '[^']*'\)`)
	undefined  = regexp.MustCompile(`undefined field '([^']*)'`)
)

// tidy puts CEL's messages into the words of this package.
func tidy(m string) string {
	m = overload.ReplaceAllStringFunc(m, func(s string) string {
		sub := overload.FindStringSubmatch(s)
		op := sub[1]
		if plain, ok := operators.FindReverse(op); ok && plain != "" {
			op = plain
		}
		return fmt.Sprintf("%q can't be used with %s", op, sub[2])
	})
	m = undeclared.ReplaceAllString(m, `there is no variable or function "$1"`)
	m = undefined.ReplaceAllString(m, `there is no field "$1" here`)
	m = strings.ReplaceAll(m, "Syntax error: ", "syntax error: ")
	return strings.ReplaceAll(m, "bedplate.", "")
}

// walk looks at an expression before CEL's own checker does, because it can
// say what names there are.
type walk struct {
	scope
	text   string
	info   *ast.SourceInfo
	types  map[int64]*cel.Type
	shadow map[string]bool
	named  map[int64]bool // mentions of secrets that say which one
	refs   refs
	errs   []error
}

func (w *walk) run(tree *ast.AST) {
	w.info = tree.SourceInfo()
	w.refs.steps = map[string]int{}
	w.named = map[int64]bool{}
	var mentions []ast.Expr
	ast.PreOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.ComprehensionKind {
			w.shadow[e.AsComprehension().IterVar()] = true
			w.shadow[e.AsComprehension().IterVar2()] = true
		}
		if e.Kind() == ast.IdentKind && e.AsIdent() == "secrets" {
			mentions = append(mentions, e)
		}
	}))
	ast.PostOrderVisit(tree.Expr(), ast.NewExprVisitor(w.visit))
	for _, e := range mentions {
		if !w.named[e.ID()] && w.roots["secrets"] != nil && !w.shadow["secrets"] {
			w.fail(e.ID(), "say which secret, as in secrets.NAME.KEY or secrets[\"NAME\"].KEY")
		}
	}
	for _, list := range []*[]string{&w.refs.secrets, &w.refs.images, &w.refs.guards} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
}

func (w *walk) offset(id int64) int {
	r, ok := w.info.GetOffsetRange(id)
	if !ok {
		return 0
	}
	return byteOffset(w.text, 1, int(r.Start))
}

func (w *walk) fail(id int64, format string, args ...any) {
	w.errs = append(w.errs, &offsetError{w.offset(id), fmt.Errorf(format, args...)})
}

func (w *walk) visit(e ast.Expr) {
	switch e.Kind() {
	case ast.IdentKind:
		if t, ok := w.roots[e.AsIdent()]; ok && !w.shadow[e.AsIdent()] {
			w.types[e.ID()] = t
		}
	case ast.SelectKind:
		w.visitSelect(e)
	case ast.CallKind:
		if c := e.AsCall(); c.FunctionName() == operators.Index && len(c.Args()) == 2 {
			w.visitIndex(e, c.Args()[0], c.Args()[1])
		}
	}
}

func (w *walk) visitSelect(e ast.Expr) {
	s := e.AsSelect()
	operand := s.Operand()
	t := w.types[operand.ID()]
	if t == nil {
		return
	}
	w.note(operand, s.FieldName())
	if t.Kind() == types.MapKind {
		w.types[e.ID()] = t.Parameters()[1]
		return
	}
	o, ok := w.objects[t.TypeName()]
	if t.Kind() != types.StructKind || !ok {
		return
	}
	f, ok := o.fields[s.FieldName()]
	if !ok {
		w.fail(e.ID(), "%s", missing(o, operand, s.FieldName()))
		return
	}
	if t.TypeName() == typeSteps {
		if _, seen := w.refs.steps[s.FieldName()]; !seen {
			w.refs.steps[s.FieldName()] = w.offset(operand.ID())
		}
	}
	if s.IsTestOnly() {
		w.guard(e)
		return
	}
	w.types[e.ID()] = f.typ
}

// guard notes which step a has() asks about.
func (w *walk) guard(e ast.Expr) {
	for e.Kind() == ast.SelectKind {
		operand := e.AsSelect().Operand()
		if t := w.types[operand.ID()]; t != nil && t.TypeName() == typeSteps {
			w.refs.guards = append(w.refs.guards, e.AsSelect().FieldName())
		}
		e = operand
	}
}

func (w *walk) visitIndex(e, operand, index ast.Expr) {
	t := w.types[operand.ID()]
	if t == nil {
		return
	}
	name, literal := "", false
	if index.Kind() == ast.LiteralKind {
		var s types.String
		s, literal = index.AsLiteral().(types.String)
		name = string(s)
	}
	switch t.Kind() {
	case types.ListKind:
		w.types[e.ID()] = t.Parameters()[0]
	case types.MapKind:
		w.types[e.ID()] = t.Parameters()[1]
		if literal {
			w.note(operand, name)
		}
	case types.StructKind:
		if literal {
			w.fail(e.ID(), "write .%s", fieldWord(name))
		}
	}
}

// note keeps the names of secrets and images.
func (w *walk) note(operand ast.Expr, name string) {
	if operand.Kind() != ast.IdentKind {
		return
	}
	switch operand.AsIdent() {
	case "secrets":
		w.named[operand.ID()] = true
		w.refs.secrets = append(w.refs.secrets, name)
	case "images":
		w.refs.images = append(w.refs.images, name)
	}
}

// missing says that an object has no such field, and which it has.
func missing(o *object, operand ast.Expr, name string) string {
	names := o.names()
	there := "there are none"
	if len(names) > 0 {
		words := make([]string, len(names))
		for i, n := range names {
			words[i] = fieldWord(n)
		}
		there = "there are " + strings.Join(words, ", ")
	}
	switch o.name {
	case typeSteps:
		return fmt.Sprintf("there is no step %q; %s%s", name, there, dashed(names, name))
	case typeInputs:
		return fmt.Sprintf("the template has no input %q; %s%s", name, there, dashed(names, name))
	}
	if strings.HasPrefix(o.name, outputsPrefix) {
		return fmt.Sprintf("step %q has no output %q; %s", strings.TrimPrefix(o.name, outputsPrefix), name, there)
	}
	if strings.HasPrefix(o.name, stepPrefix) {
		return fmt.Sprintf("a step has no %q; write steps.%s.outputs.NAME", name, fieldWord(strings.TrimPrefix(o.name, stepPrefix)))
	}
	return fmt.Sprintf("%s has no field %q; %s", describe(operand), name, there)
}

func describe(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		return describe(e.AsSelect().Operand()) + "." + e.AsSelect().FieldName()
	default:
		return "this"
	}
}

// dashed explains names with a dash in them, which CEL takes for a minus.
func dashed(names []string, name string) string {
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, name+"-") }) {
		return "; a name with a dash goes between backquotes"
	}
	return ""
}

// fieldWord returns name as it is written after a dot.
func fieldWord(name string) string {
	for i, c := range name {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return "`" + name + "`"
		}
	}
	return name
}
