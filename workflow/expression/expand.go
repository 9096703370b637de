package expression

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// Values with expressions outside of templates, such as a Stack's: the
// variables are plain maps and lists, whose fields are known only when they
// are evaluated.

// dynamic returns the environment with variables of any type.
func dynamic(names []string) (*cel.Env, error) {
	env, err := common()
	if err != nil {
		return nil, fmt.Errorf("making the expression environment: %w", err)
	}
	opts := functions()
	for _, n := range names {
		opts = append(opts, cel.Variable(n, cel.DynType))
	}
	return env.Extend(opts...)
}

func compileDynamic(env *cel.Env, text string) (*compiled, error) {
	if len(text) > MaxExpressionBytes {
		return nil, fmt.Errorf("this expression is longer than %d bytes", MaxExpressionBytes)
	}
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("the expression is empty")
	}
	checked, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, errors.Join(celErrors(text, issues)...)
	}
	program, err := env.Program(checked, cel.CostLimit(maxCost), cel.InterruptCheckFrequency(checkInterrupted))
	if err != nil {
		return nil, err
	}
	return &compiled{program: program, typ: checked.OutputType()}, nil
}

// visit calls f with every string in v that holds expressions, and its place.
func visit(v any, path string, f func(path string, parts []part) (any, error)) (any, error) {
	switch v := v.(type) {
	case string:
		if !strings.Contains(v, opening) {
			return v, nil
		}
		parts, err := split(v)
		if err != nil {
			return nil, placed(path, err)
		}
		out, err := f(path, parts)
		return out, placed(path, err)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			var err error
			if out[i], err = visit(v[i], fmt.Sprintf("%s[%d]", path, i), f); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			var err error
			if out[k], err = visit(v[k], strings.TrimPrefix(path+"."+k, "."), f); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

func placed(path string, err error) error {
	if err == nil || path == "" {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// CheckValue compiles the expressions of all strings in v, which is made of
// map[string]any, []any and what JSON has. The error names the place.
func CheckValue(v any, variables []string) error {
	env, err := dynamic(variables)
	if err != nil {
		return err
	}
	_, err = visit(v, "", func(_ string, parts []part) (any, error) {
		for _, p := range parts {
			if p.expr {
				if _, err := compileDynamic(env, p.text); err != nil {
					return nil, err
				}
			}
		}
		return "", nil
	})
	return err
}

// CheckCondition compiles one expression that has to be a bool.
func CheckCondition(text string, variables []string) error {
	env, err := dynamic(variables)
	if err != nil {
		return err
	}
	code, err := compileDynamic(env, text)
	if err != nil {
		return err
	}
	if k := code.typ.Kind(); k != types.BoolKind && k != types.DynKind {
		return fmt.Errorf("the expression is %s, bool is wanted", typeName(code.typ))
	}
	return nil
}

// ExpandValue returns v with the expressions of all strings evaluated. A
// string that is one expression becomes its result, whatever that is.
func ExpandValue(ctx context.Context, v any, facts map[string]any) (any, error) {
	env, err := dynamic(slices.Sorted(maps.Keys(facts)))
	if err != nil {
		return nil, err
	}
	return visit(v, "", func(_ string, parts []part) (any, error) {
		var text strings.Builder
		for _, p := range parts {
			if !p.expr {
				text.WriteString(p.text)
				continue
			}
			result, err := evalDynamic(ctx, env, p.text, facts)
			if err != nil {
				return nil, err
			}
			if len(parts) == 1 {
				return result, nil
			}
			s, err := toText(result)
			if err != nil {
				return nil, err
			}
			text.WriteString(s)
		}
		return text.String(), nil
	})
}

// EvalCondition evaluates one expression that has to be a bool.
func EvalCondition(ctx context.Context, text string, facts map[string]any) (bool, error) {
	env, err := dynamic(slices.Sorted(maps.Keys(facts)))
	if err != nil {
		return false, err
	}
	v, err := evalDynamic(ctx, env, text, facts)
	if err != nil {
		return false, err
	}
	yes, ok := v.(bool)
	if !ok {
		return false, fmt.Errorf("the expression is %T, bool is wanted", v)
	}
	return yes, nil
}

func evalDynamic(ctx context.Context, env *cel.Env, text string, facts map[string]any) (any, error) {
	code, err := compileDynamic(env, text)
	if err != nil {
		return nil, err
	}
	v, err := code.eval(ctx, facts)
	if err != nil {
		return nil, err
	}
	return toNative(v)
}
