package expression

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/common/types"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/action"
	"github.com/bedplate/bedplate/workflow/plan"
)

// Bound is a Template with the facts of one Plan. It doesn't change.
type Bound struct {
	template *Template
	facts    map[string]any
}

// Call is one step with every expression evaluated.
type Call struct {
	// With holds string, bool, int64, float64, []any, map[string]any or nil,
	// by the types of the action's inputs; a size is an int64.
	With       map[string]any
	Env        map[string]string
	Image      string
	Args       []string
	Entrypoint []string
}

// Bind gives the template the facts that a Plan carries.
func (t *Template) Bind(p *pb.Plan) *Bound {
	inputs := map[string]any{}
	for name, v := range p.GetInputs() {
		inputs[name] = t.inputValue(name, v.AsInterface())
	}
	secrets := map[string]any{}
	for name, s := range p.GetSecrets() {
		secrets[name] = s.GetData()
	}
	server := map[string]any{}
	for k, v := range p.GetServer() {
		server[k] = v
	}
	images := map[string]any{}
	for name, v := range p.GetImages().AsMap() {
		if m, ok := v.(map[string]any); ok {
			images[name] = t.objects.typed(typeImage, m)
		}
	}
	return &Bound{template: t, facts: map[string]any{
		"inputs":   inputs,
		"machine":  t.objects.typed(typeMachine, p.GetMachine().AsMap()),
		"instance": t.objects.typed(typeInstance, withKeys(p)),
		"images":   images,
		"server":   server,
		"secrets":  secrets,
	}}
}

// StorageKey is the key of a Secret under which an encrypted device's
// passphrase is.
const StorageKey = "passphrase"

// withKeys adds the passphrases that the instance's storage names, by the
// names of their secrets: these can't stand in a template, which is for many.
func withKeys(p *pb.Plan) map[string]any {
	instance := p.GetInstance().AsMap()
	keys := map[string]any{}
	for _, name := range StorageSecrets(p.GetTemplate(), instance) {
		if v, ok := p.GetSecrets()[name].GetData()[StorageKey]; ok {
			keys[name] = v
		}
	}
	if len(keys) > 0 {
		instance["keys"] = keys
	}
	return instance
}

// StorageSecrets returns the names of the secrets that the storage declaration
// of an instance, as InstanceFacts has it, names; none where no step of the
// template makes storage.
func StorageSecrets(t *pb.TemplateSpec, instance map[string]any) []string {
	makes := func(s *pb.Step) bool { return s.GetUses() == "storage.apply" }
	if !slices.ContainsFunc(t.GetSteps(), makes) {
		return nil
	}
	spec, _ := instance["spec"].(map[string]any)
	storage, _ := spec["storage"].(map[string]any)
	list, _ := storage["encryption"].([]any)
	var names []string
	for _, e := range list {
		m, _ := e.(map[string]any)
		if name, _ := m["key_secret"].(string); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (t *Template) inputValue(name string, v any) any {
	in := t.spec.GetInputs()[name]
	out, err := coerce(action.Input{Type: inputType(in)}, whole64(v))
	if err != nil {
		return v // it was checked when the workflow was made
	}
	return out
}

// WithInventory returns b with the machine's hardware as it was just read: a
// Plan carries what was known when it was made, which on a machine's first
// boot is nothing.
func (b *Bound) WithInventory(inv *pb.Inventory) *Bound {
	machine := maps.Clone(b.facts["machine"].(map[string]any))
	machine["inventory"] = b.template.objects.typed("bedplate.Inventory", protoMessage(inv.ProtoReflect()))
	facts := maps.Clone(b.facts)
	facts["machine"] = machine
	return &Bound{template: b.template, facts: facts}
}

// vars are the facts and what the run has brought so far.
func (b *Bound) vars(run *plan.Run) map[string]any {
	vars := make(map[string]any, len(b.facts)+2)
	for k, v := range b.facts {
		vars[k] = v
	}
	steps := map[string]any{}
	for id, outputs := range run.Outputs() {
		typed := map[string]any{}
		o := b.template.objects[outputsPrefix+id]
		for k, v := range outputs {
			if f, ok := o.fields[k]; ok {
				typed[k] = b.template.objects.typedField(f, v)
			}
		}
		steps[id] = map[string]any{"outputs": typed}
	}
	vars["steps"] = steps
	failure := map[string]any{}
	for _, s := range run.Steps() {
		if s.GetState() == pb.StepState_STEP_FAILED && !s.GetOnFailure() {
			failure["step"] = s.GetId()
			if n := len(s.Attempts); n > 0 {
				failure["error"] = s.Attempts[n-1].GetError()
			}
			break
		}
	}
	vars["failure"] = failure
	return vars
}

// If evaluates whether step id is to run: true for one without an `if`.
func (b *Bound) If(ctx context.Context, id string, run *plan.Run) (bool, error) {
	code, ok := b.template.steps[id]
	if !ok {
		return false, fmt.Errorf("there is no step %q", id)
	}
	if code.condition == nil {
		return true, nil
	}
	v, err := code.condition.eval(ctx, b.vars(run))
	if err != nil {
		return false, fmt.Errorf("evaluating if: %w", err)
	}
	yes, ok := v.(types.Bool)
	if !ok {
		return false, fmt.Errorf("evaluating if: it is %s, not bool", v.Type().TypeName())
	}
	return bool(yes), nil
}

// Call evaluates the fields of step id.
func (b *Bound) Call(ctx context.Context, id string, run *plan.Run) (Call, error) {
	code, ok := b.template.steps[id]
	if !ok {
		return Call{}, fmt.Errorf("there is no step %q", id)
	}
	e := evaluator{ctx: ctx, vars: b.vars(run)}
	call := Call{With: map[string]any{}, Env: map[string]string{}}
	for name, v := range code.with {
		if result := e.value("with."+name, v); result != nil {
			call.With[name] = result
		}
	}
	for name, v := range code.env {
		call.Env[name] = e.text("env."+name, v)
	}
	if code.image != nil {
		call.Image = e.text("image", code.image)
	}
	for i, v := range code.args {
		call.Args = append(call.Args, e.text(fmt.Sprintf("args[%d]", i), v))
	}
	for i, v := range code.entrypoint {
		call.Entrypoint = append(call.Entrypoint, e.text(fmt.Sprintf("entrypoint[%d]", i), v))
	}
	return call, errors.Join(e.errs...)
}

// evaluator evaluates the fields of one step and collects what goes wrong.
type evaluator struct {
	ctx  context.Context
	vars map[string]any
	errs []error
}

func (e *evaluator) fail(path string, err error) any {
	e.errs = append(e.errs, fmt.Errorf("evaluating %s: %w", path, err))
	return nil
}

func (e *evaluator) value(path string, v *value) any {
	switch {
	case v.whole != nil:
		return e.coerced(path, v, e.native(path, v.whole))
	case v.parts != nil:
		return e.coerced(path, v, e.joined(path, v.parts))
	case v.list != nil:
		out := make([]any, len(v.list))
		for i, one := range v.list {
			out[i] = e.value(fmt.Sprintf("%s[%d]", path, i), one)
		}
		return out
	case v.fields != nil:
		out := make(map[string]any, len(v.fields))
		for name, one := range v.fields {
			if result := e.value(path+"."+name, one); result != nil {
				out[name] = result
			}
		}
		return out
	default:
		return v.literal
	}
}

func (e *evaluator) coerced(path string, v *value, result any) any {
	if result == nil {
		return nil
	}
	out, err := coerce(v.in, result)
	if err != nil {
		return e.fail(path, err)
	}
	return out
}

func (e *evaluator) native(path string, c *compiled) any {
	v, err := c.eval(e.ctx, e.vars)
	if err != nil {
		return e.fail(path, err)
	}
	out, err := toNative(v)
	if err != nil {
		return e.fail(path, err)
	}
	return out
}

func (e *evaluator) joined(path string, parts []valuePart) any {
	var text strings.Builder
	for _, p := range parts {
		if p.expr == nil {
			text.WriteString(p.text)
			continue
		}
		s, err := toText(e.native(path, p.expr))
		if err != nil {
			return e.fail(path, err)
		}
		text.WriteString(s)
	}
	if text.Len() > MaxResultBytes {
		return e.fail(path, errTooMuch)
	}
	return text.String()
}

func (e *evaluator) text(path string, v *value) string {
	s, ok := e.value(path, v).(string)
	if !ok && len(e.errs) == 0 {
		e.fail(path, errors.New("it is no text"))
	}
	return s
}

// Early evaluates the text that step id gives as the input `name`, if that
// takes nothing but what is known before the workflow starts: no outputs of
// steps and no secrets.
func (b *Bound) Early(ctx context.Context, id, name string) (string, bool) {
	code, ok := b.template.steps[id]
	if !ok || code.with[name] == nil {
		return "", false
	}
	v := code.with[name]
	parts := v.parts
	if v.whole != nil {
		parts = []valuePart{{expr: v.whole}}
	}
	for _, p := range parts {
		if p.expr != nil && (len(p.expr.refs.steps) > 0 || len(p.expr.refs.secrets) > 0) {
			return "", false
		}
	}
	e := evaluator{ctx: ctx, vars: b.facts}
	text, ok := e.value(name, v).(string)
	return text, ok && len(e.errs) == 0
}
