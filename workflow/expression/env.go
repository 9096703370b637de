package expression

import (
	"encoding/json"
	"fmt"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
)

// Limits on what an expression may cost.
const (
	maxCost          = 1_000_000
	maxNesting       = 64
	maxNodes         = 2_000
	maxRegexProgram  = 2_000
	checkInterrupted = 100
)

// units are the constants that every expression knows, in bytes.
var units = []struct {
	name  string
	bytes int64
}{
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"PB", 1e15},
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"PiB", 1 << 50},
}

// common is what all environments share. It takes milliseconds to make and
// doesn't change, so it is made once.
var common = sync.OnceValues(func() (*cel.Env, error) {
	opts := []cel.EnvOption{
		cel.CrossTypeNumericComparisons(true),
		cel.EnableIdentifierEscapeSyntax(),
		cel.EnableErrorOnBadPresenceTest(false),
		cel.DefaultUTCTimeZone(true),
		cel.ExpressionNestingDepthLimit(maxNesting),
		cel.ExpressionNodeLimit(maxNodes),
		cel.ParserRecursionLimit(maxNesting),
		cel.ParserErrorRecoveryLimit(4),
		cel.ParserExpressionSizeLimit(MaxExpressionBytes),
		cel.RegexProgramSizeLimit(maxRegexProgram),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals()),
	}
	for _, u := range units {
		opts = append(opts, cel.Constant(u.name, cel.IntType, types.Int(u.bytes)))
	}
	return cel.NewEnv(opts...)
})

// base is the schema that doesn't depend on a template.
var base = sync.OnceValue(baseSchema)

// withObjects returns the common environment with some objects as variables.
func withObjects(objects schema, opts ...cel.EnvOption) (*cel.Env, error) {
	env, err := common()
	if err != nil {
		return nil, fmt.Errorf("making the expression environment: %w", err)
	}
	opts = append(opts, cel.CustomTypeProvider(provider{Provider: env.CELTypeProvider(), objects: objects}))
	env, err = env.Extend(opts...)
	if err != nil {
		return nil, fmt.Errorf("making the expression environment: %w", err)
	}
	return env, nil
}

// templateEnv is what the steps of templates see but for their own inputs and steps.
var templateEnv = sync.OnceValues(func() (*cel.Env, error) {
	return withObjects(base(), templateOptions()...)
})

func templateOptions() []cel.EnvOption {
	stringMap := cel.MapType(cel.StringType, cel.StringType)
	return append(functions(),
		cel.Variable("inputs", cel.ObjectType(typeInputs)),
		cel.Variable("steps", cel.ObjectType(typeSteps)),
		cel.Variable("machine", cel.ObjectType(typeMachine)),
		cel.Variable("instance", cel.ObjectType(typeInstance)),
		cel.Variable("server", cel.ObjectType(typeServer)),
		cel.Variable("images", cel.MapType(cel.StringType, cel.ObjectType(typeImage))),
		cel.Variable("secrets", cel.MapType(cel.StringType, stringMap)),
		cel.Variable("failure", cel.ObjectType(typeFailure)),
	)
}

// functions are those beside CEL's own that texts are put together with.
func functions() []cel.EnvOption {
	return []cel.EnvOption{
		ext.Strings(), ext.Encoders(), ext.Lists(ext.ListsVersion(2)),
		cel.Function("parseJSON", cel.Overload("parse_json_string", []*cel.Type{cel.StringType}, cel.DynType, cel.UnaryBinding(parseJSON))),
		cel.Function("toJSON", cel.Overload("to_json_dyn", []*cel.Type{cel.DynType}, cel.StringType, cel.UnaryBinding(toJSON))),
	}
}

func parseJSON(v ref.Val) ref.Val {
	text, ok := v.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(v)
	}
	var out any
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return types.NewErr("parsing JSON: %v", err)
	}
	return types.DefaultTypeAdapter.NativeToValue(whole64(out))
}

func toJSON(v ref.Val) ref.Val {
	native, err := toNative(v)
	if err != nil {
		return types.NewErr("writing JSON: %v", err)
	}
	out, err := json.Marshal(native)
	if err != nil {
		return types.NewErr("writing JSON: %v", err)
	}
	return types.String(out)
}

// whole64 makes integers of the numbers of JSON that are whole, however deep.
func whole64(v any) any {
	switch v := v.(type) {
	case float64:
		if n := int64(v); float64(n) == v && n > -1<<53 && n < 1<<53 {
			return n
		}
		return v
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = whole64(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = whole64(v[k])
		}
		return out
	default:
		return v
	}
}

// selectorEnv is what Instance.selector sees; hintEnv what a disk hint sees.
// Both are for people without much trust: the string functions that can make
// much out of little are left out.
var (
	selectorEnv = sync.OnceValues(func() (*cel.Env, error) {
		return withObjects(base(), cel.Variable("machine", cel.ObjectType(typeMachine)))
	})
	hintEnv = sync.OnceValues(func() (*cel.Env, error) {
		return withObjects(base(), cel.Variable("disk", cel.ObjectType(typeDisk)))
	})
)
