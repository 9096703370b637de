package expression

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/plan"
)

const (
	// maxRuleText bounds each text of a machine that a rule's expression sees:
	// an unknown machine says of itself what it likes.
	maxRuleText = 1 << 10
	// maxRuleResult bounds what its string functions make.
	maxRuleResult = 64 << 10
	// maxRuleCode bounds how many compiled expressions are kept.
	maxRuleCode = 512
)

// ruleScope is what the expressions of discovery rules see: a machine, and the
// string functions that make names.
var ruleScope = sync.OnceValues(func() (scope, error) { return bareScope(ruleEnv, "machine", typeMachine) })

// ruleEnv has version 0 of CEL's string functions: the later ones (format,
// quote, reverse) make no names. Of version 0, replace and join can make much
// out of little, which CEL's cost limit doesn't see, so they are bounded here.
var ruleEnv = sync.OnceValues(func() (*cel.Env, error) {
	return withObjects(base(), cel.Variable("machine", cel.ObjectType(typeMachine)),
		ext.Strings(ext.StringsVersion(0)),
		cel.Function("replace",
			cel.MemberOverload("string_replace_string_string", []*cel.Type{cel.StringType, cel.StringType, cel.StringType}, cel.StringType, cel.FunctionBinding(replaceText)),
			cel.MemberOverload("string_replace_string_string_int", []*cel.Type{cel.StringType, cel.StringType, cel.StringType, cel.IntType}, cel.StringType, cel.FunctionBinding(replaceText))),
		cel.Function("join",
			cel.MemberOverload("list_join", []*cel.Type{cel.ListType(cel.StringType)}, cel.StringType, cel.FunctionBinding(joinTexts)),
			cel.MemberOverload("list_join_string", []*cel.Type{cel.ListType(cel.StringType), cel.StringType}, cel.StringType, cel.FunctionBinding(joinTexts))))
})

// replaceText is text.replace(old, new) or text.replace(old, new, times).
func replaceText(args ...ref.Val) ref.Val {
	text, ok := texts(args[:3])
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	times := strings.Count(text[0], text[1])
	if len(args) == 4 {
		limit, ok := args[3].(types.Int)
		if !ok {
			return types.MaybeNoSuchOverloadErr(args[3])
		}
		if limit >= 0 && int64(limit) < int64(times) {
			times = int(limit)
		}
	}
	if len(text[0])+times*(len(text[2])-len(text[1])) > maxRuleResult {
		return types.NewErr("replace: %v", errTooMuch)
	}
	return types.String(strings.Replace(text[0], text[1], text[2], times))
}

// joinTexts is list.join() or list.join(separator).
func joinTexts(args ...ref.Val) ref.Val {
	list, ok := args[0].(traits.Lister)
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	separator, ok := texts(args[1:])
	if !ok {
		return types.MaybeNoSuchOverloadErr(args[1])
	}
	var out strings.Builder
	for it := list.Iterator(); it.HasNext() == types.True; {
		v := it.Next()
		s, ok := v.(types.String)
		if !ok {
			return types.MaybeNoSuchOverloadErr(v)
		}
		if out.Len() > 0 && len(separator) > 0 {
			out.WriteString(separator[0])
		}
		out.WriteString(string(s))
		if out.Len() > maxRuleResult {
			return types.NewErr("join: %v", errTooMuch)
		}
	}
	return types.String(out.String())
}

func texts(values []ref.Val) ([]string, bool) {
	out := make([]string, len(values))
	for i, v := range values {
		s, ok := v.(types.String)
		if !ok {
			return nil, false
		}
		out[i] = string(s)
	}
	return out, true
}

// CheckRule finds everything that is wrong with the expressions of a discovery
// rule. The error is a plan.Problems whose messages say where in the
// expression.
func CheckRule(spec *pb.RuleSpec) error {
	var problems plan.Problems
	check := func(path, text string, want *cel.Type) {
		if text == "" {
			return
		}
		_, errs := compileRule(text, want)
		for _, err := range errs {
			offset := 0
			var at *offsetError
			if errors.As(err, &at) {
				offset = at.offset
			}
			problems.Add(path, offset, "%s: %v", place(text, offset), err)
		}
	}
	check("spec.match", spec.GetMatch(), cel.BoolType)
	check("spec.name", spec.GetName(), cel.StringType)
	check("spec.rack", spec.GetRack(), cel.StringType)
	for _, key := range slices.Sorted(maps.Keys(spec.GetLabels())) {
		path := joinKey("spec.labels", key)
		if strings.TrimSpace(spec.GetLabels()[key]) == "" {
			problems.Add(path, 0, "missing: an expression that gives a string, such as \"worker\" in quotes of its own")
			continue
		}
		check(path, spec.GetLabels()[key], cel.StringType)
	}
	return problems.OrNil()
}

// place says where an offset is, counting from 1 as editors do.
func place(text string, offset int) string {
	before := text[:min(offset, len(text))]
	line := strings.Count(before, "\n") + 1
	column := len([]rune(before[strings.LastIndexByte(before, '\n')+1:])) + 1
	if line == 1 && !strings.Contains(text, "\n") {
		return fmt.Sprintf("character %d", column)
	}
	return fmt.Sprintf("line %d, character %d", line, column)
}

// compileRule reads one expression of a rule, which has to give that type.
func compileRule(text string, want *cel.Type) (*compiled, []error) {
	if len(text) > MaxExpressionBytes {
		return nil, []error{fmt.Errorf("this expression is longer than %d bytes", MaxExpressionBytes)}
	}
	s, err := ruleScope()
	if err != nil {
		return nil, []error{err}
	}
	code, errs := s.compile(text)
	if len(errs) > 0 {
		return nil, errs
	}
	if k := code.typ.Kind(); k != want.Kind() && k != types.DynKind {
		hint := ""
		if want.Kind() == types.StringKind && printable(code.typ) {
			hint = "; string() makes one of it"
		}
		return nil, []error{fmt.Errorf("the expression is %s, %s is wanted%s", typeName(code.typ), typeName(want), hint)}
	}
	return code, nil
}

// RuleEvaluator evaluates the expressions of discovery rules, and keeps what
// it has compiled. The zero value is ready; it may be used by any number of
// goroutines.
type RuleEvaluator struct {
	mu   sync.Mutex
	code map[string]*compiled
}

// Match reports whether an expression says yes to m. The empty one does.
func (r *RuleEvaluator) Match(text string, m *pb.Machine) (bool, error) {
	if text == "" {
		return true, nil
	}
	v, err := r.eval(text, cel.BoolType, m)
	if err != nil {
		return false, err
	}
	yes, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("the expression is %s, bool is wanted", v.Type().TypeName())
	}
	return bool(yes), nil
}

// Text returns the text that an expression makes of m.
func (r *RuleEvaluator) Text(text string, m *pb.Machine) (string, error) {
	v, err := r.eval(text, cel.StringType, m)
	if err != nil {
		return "", err
	}
	s, ok := v.(types.String)
	if !ok {
		return "", fmt.Errorf("the expression is %s, string is wanted", v.Type().TypeName())
	}
	if len(s) > maxRuleResult {
		return "", errTooMuch
	}
	return string(s), nil
}

func (r *RuleEvaluator) eval(text string, want *cel.Type, m *pb.Machine) (ref.Val, error) {
	code, err := r.compile(text, want)
	if err != nil {
		return nil, err
	}
	facts, _ := clip(machineMap(m)).(map[string]any)
	return code.eval(context.Background(), map[string]any{"machine": base().typed(typeMachine, facts)})
}

// compile returns the code of an expression. When there is too much of it, it
// begins anew: rules are few, and rarely change.
func (r *RuleEvaluator) compile(text string, want *cel.Type) (*compiled, error) {
	key := want.String() + " " + text
	r.mu.Lock()
	code := r.code[key]
	r.mu.Unlock()
	if code != nil {
		return code, nil
	}
	code, errs := compileRule(text, want)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.code) >= maxRuleCode || r.code == nil {
		r.code = map[string]*compiled{}
	}
	r.code[key] = code
	return code, nil
}

// clip cuts every text in v to maxRuleText bytes.
func clip(v any) any {
	switch v := v.(type) {
	case string:
		if len(v) > maxRuleText {
			return strings.ToValidUTF8(v[:maxRuleText], "")
		}
	case []any:
		for i := range v {
			v[i] = clip(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = clip(v[k])
		}
	}
	return v
}
