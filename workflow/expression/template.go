// Package expression gives templates their expressions: CEL between ${{ and
// }} in strings, checked when a template is submitted, evaluated on the
// machine that runs it.
//
// A string that is one expression and nothing else takes the expression's
// type; with text around it the result is text. $${{ stands for ${{ itself. A
// step's `if` may leave the marks out.
//
// Expressions see inputs, steps.ID.outputs.NAME, machine, instance, images,
// server, secrets.NAME.KEY and, in on_failure, failure; the units KB, MB, GB,
// TB, PB and KiB to PiB; CEL's own functions, those of its strings, lists and
// encoders extensions, parseJSON and toJSON. A field of machine or instance
// that is not known reads as zero, an absent label as "".
//
// The package also checks and evaluates the bare expressions of
// Instance.selector (over machine) and of disk hints (over disk).
//
// Cost, time, size and depth are bounded. Everything may be used by any number
// of goroutines.
package expression

import (
	"fmt"
	"maps"
	"slices"

	"cel.dev/cel-go/cel"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/action"
	"github.com/bedplate/bedplate/workflow/plan"
)

const (
	stepPrefix    = "bedplate.step."
	outputsPrefix = "bedplate.outputs."
)

// Template is a template whose every expression has been checked. It doesn't
// change.
type Template struct {
	graph   *plan.Graph
	spec    *pb.TemplateSpec
	objects schema
	steps   map[string]*stepCode
	secrets []string
	images  []string
}

// stepCode is one step's fields, ready to be evaluated.
type stepCode struct {
	condition  *compiled
	with       map[string]*value
	env        map[string]*value
	image      *value
	args       []*value
	entrypoint []*value
}

// Check finds everything that is wrong with a template. The error is a
// plan.Problems.
func Check(spec *pb.TemplateSpec) error {
	_, err := Compile(spec)
	return err
}

// Compile checks a template and makes it ready to be evaluated. The error is
// a plan.Problems.
func Compile(spec *pb.TemplateSpec) (*Template, error) {
	graph, problems := plan.Check(spec)
	t := &Template{graph: graph, spec: spec, objects: maps.Clone(base()), steps: map[string]*stepCode{}}
	t.declare(&problems)
	c := &checker{template: t, problems: &problems}
	for _, id := range graph.IDs() {
		n, _ := graph.Node(id)
		t.steps[id] = c.step(n)
	}
	slices.Sort(t.secrets)
	slices.Sort(t.images)
	t.secrets, t.images = slices.Compact(t.secrets), slices.Compact(t.images)
	if len(problems) > 0 {
		return nil, problems
	}
	return t, nil
}

// Graph returns the order of the template's steps.
func (t *Template) Graph() *plan.Graph { return t.graph }

// Secrets returns the names of the secrets that the template speaks of, in
// order.
func (t *Template) Secrets() []string { return t.secrets }

// Images returns the names of the images that the template itself speaks of,
// in order.
func (t *Template) Images() []string { return t.images }

// declare makes the objects that inputs and steps are.
func (t *Template) declare(problems *plan.Problems) {
	inputs := &object{name: typeInputs, fields: map[string]field{}}
	for _, name := range slices.Sorted(maps.Keys(t.spec.GetInputs())) {
		if !inputName.MatchString(name) {
			problems.Add(joinKey("spec.inputs", name), 0, "an input's name has letters, digits, _ and - only, and begins with a letter or _")
		}
		in := t.spec.Inputs[name]
		inputs.fields[name] = scalar(actionType(inputType(in)))
		if in.GetDefault() != nil {
			if _, err := convertInput(in, in.Default); err != nil {
				problems.Add(joinKey("spec.inputs", name)+".default", 0, "%v", err)
			}
		}
	}
	t.objects[typeInputs] = inputs
	steps := &object{name: typeSteps, fields: map[string]field{}}
	for _, id := range t.graph.IDs() {
		n, _ := t.graph.Node(id)
		outputs := &object{name: outputsPrefix + id, fields: map[string]field{}}
		for _, out := range n.Action.Outputs {
			outputs.fields[out.Name] = scalar(actionType(out.Type))
		}
		f := objectField(outputs.name)
		f.absent = fmt.Sprintf("step %q has no outputs: it was skipped or has not succeeded", id)
		t.objects[outputs.name] = outputs
		t.objects[stepPrefix+id] = &object{name: stepPrefix + id, fields: map[string]field{"outputs": f}}
		steps.fields[id] = objectField(stepPrefix + id)
	}
	t.objects[typeSteps] = steps
}

// scope makes the environment of the template's steps.
func (t *Template) scope() (scope, error) {
	base, err := templateEnv()
	if err != nil {
		return scope{}, err
	}
	env, err := base.Extend(cel.CustomTypeProvider(provider{Provider: base.CELTypeProvider(), objects: t.objects}))
	if err != nil {
		return scope{}, fmt.Errorf("making the expression environment: %w", err)
	}
	roots := map[string]*cel.Type{}
	for _, v := range env.Variables() {
		roots[v.Name()] = v.Type()
	}
	return scope{env: env, objects: t.objects, roots: roots}, nil
}

// checker goes through a template and collects what is wrong.
type checker struct {
	template *Template
	problems *plan.Problems
	// made when the first expression is met: most templates have few, some none.
	made  bool
	inner scope
	// of the step that is looked at
	node   plan.Node
	guards []string
}

func (c *checker) step(n plan.Node) *stepCode {
	c.node, c.guards = n, nil
	code := &stepCode{with: map[string]*value{}, env: map[string]*value{}}
	if n.Step.GetIf() != "" {
		code.condition = c.condition(n.Field+".if", n.Step.GetIf())
	}
	c.checkWith(code)
	for _, name := range slices.Sorted(maps.Keys(n.Step.GetEnv())) {
		code.env[name] = c.text(joinKey(n.Field+".env", name), n.Step.Env[name])
	}
	if n.Step.GetImage() != "" {
		code.image = c.text(n.Field+".image", n.Step.GetImage())
	}
	for i, s := range n.Step.GetArgs() {
		code.args = append(code.args, c.text(fmt.Sprintf("%s.args[%d]", n.Field, i), s))
	}
	for i, s := range n.Step.GetEntrypoint() {
		code.entrypoint = append(code.entrypoint, c.text(fmt.Sprintf("%s.entrypoint[%d]", n.Field, i), s))
	}
	c.checkContainer()
	return code
}

// checkContainer looks at the fields that only some actions have.
func (c *checker) checkContainer() {
	s, a := c.node.Step, c.node.Action
	switch {
	case a.Name == "":
		return
	case a.Container && s.GetImage() == "":
		c.problems.Add(c.node.Field+".image", 0, "a container step needs an image")
	case !a.Container:
		for field, given := range map[string]bool{"image": s.GetImage() != "", "args": len(s.GetArgs()) > 0, "entrypoint": len(s.GetEntrypoint()) > 0} {
			if given {
				c.problems.Add(c.node.Field+"."+field, 0, "%s is for container steps; %s takes its inputs in with", field, a.Name)
			}
		}
	}
	if !a.Environment && len(s.GetEnv()) > 0 {
		c.problems.Add(c.node.Field+".env", 0, "%s takes no env", a.Name)
	}
}

func (c *checker) checkWith(code *stepCode) {
	with, a := c.node.Step.GetWith(), c.node.Action
	for _, name := range slices.Sorted(maps.Keys(with)) {
		field := joinKey(c.node.Field+".with", name)
		in, ok := a.Input(name)
		if !ok && a.Name != "" {
			c.problems.Add(field, 0, "%s has no input %q; %s", a.Name, name, inputNames(a.Inputs))
			continue
		}
		if a.Name == "" {
			in.Type = action.Any
		}
		code.with[name] = c.value(field, in, with[name])
	}
	for _, in := range a.Inputs {
		if _, given := with[in.Name]; in.Required && !given {
			c.problems.Add(c.node.Field+".with."+in.Name, 0, "%s needs this input: %s", a.Name, in.Doc)
		}
	}
	for _, group := range a.OneOf {
		c.checkOneOf(group)
	}
}

func (c *checker) checkOneOf(group []string) {
	var given []string
	for _, name := range group {
		if _, ok := c.node.Step.GetWith()[name]; ok {
			given = append(given, name)
		}
	}
	switch len(given) {
	case 0:
		c.problems.Add(c.node.Field+".with", 0, "%s needs one of %s", c.node.Action.Name, list(group))
	case 1:
	default:
		c.problems.Add(c.node.Field+".with."+given[1], 0, "%s takes only one of %s", c.node.Action.Name, list(group))
	}
}
