// Package action is the table of the actions that a workflow's step can use:
// what each takes, gives and guarantees. The server checks templates against
// it, the agent registers an executor under each name, and docs/actions.md is
// generated from it. It does nothing itself and never changes, so it may be
// read by any number of goroutines.
package action

import (
	"slices"
	"time"
)

// Type is the type of an input or output.
type Type string

// The types. Size and Duration are what people write, such as 20GB and 90s.
const (
	String Type = "string"
	Int    Type = "int"
	Double Type = "double"
	Bool   Type = "bool"
	// List holds values of any kind, or maps with the Fields of its input.
	List Type = "list"
	// Strings is a list of strings.
	Strings Type = "list of strings"
	Map     Type = "map"
	Any     Type = "any"
	// Size is a number of bytes, or a string with a unit, such as 20GB or 512MiB.
	Size Type = "size"
	// DiskHint is a CEL expression over `disk`, as a plain string.
	DiskHint Type = "disk expression"
	// IntOrString is for what has a number or a name, such as a partition.
	IntOrString Type = "int or string"
)

// Input is one key of a step's `with`.
type Input struct {
	Name     string
	Type     Type
	Required bool
	// Values are the only ones allowed, for a String; empty: any.
	Values []string
	// Default is what is used when it isn't given, for people to read.
	Default string
	Doc     string
	// Fields are the keys of each map of a List; empty: not checked.
	Fields []Input
}

// Output is one value that a step leaves for later steps.
type Output struct {
	Name string
	Type Type
	Doc  string
}

// Action is one thing that a step can do.
type Action struct {
	// Name is what a step says in `uses`.
	Name    string
	Doc     string
	Inputs  []Input
	Outputs []Output
	// Errors says what can go wrong, one sentence each.
	Errors []string
	// Idempotent actions can safely run again after one was cut off.
	Idempotent bool
	// DefaultTimeout is for one attempt, when the step doesn't say.
	DefaultTimeout time.Duration
	// OnServer actions are decided by the server; the agent has no executor for them.
	OnServer bool
	// Container actions take image, args and entrypoint.
	Container bool
	// Environment actions take env.
	Environment bool
	// OneOf are groups of inputs of which exactly one must be given.
	OneOf [][]string
}

// Input returns the input of that name.
func (a Action) Input(name string) (Input, bool) {
	return find(a.Inputs, name)
}

// Output returns the output of that name.
func (a Action) Output(name string) (Output, bool) {
	i := slices.IndexFunc(a.Outputs, func(o Output) bool { return o.Name == name })
	if i < 0 {
		return Output{}, false
	}
	return a.Outputs[i], true
}

// Field returns the field of that name of a list's maps.
func (in Input) Field(name string) (Input, bool) { return find(in.Fields, name) }

func find(inputs []Input, name string) (Input, bool) {
	i := slices.IndexFunc(inputs, func(in Input) bool { return in.Name == name })
	if i < 0 {
		return Input{}, false
	}
	return inputs[i], true
}

// The names of the actions that server or runner treat in a way of their own.
const (
	Approval  = "approval"
	Container = "container"
	Noop      = "noop"
)

// Lookup returns the action of that name.
func Lookup(name string) (Action, bool) {
	for _, a := range table() {
		if a.Name == name {
			return a, true
		}
	}
	return Action{}, false
}

// All returns every action, in the order of the documentation.
func All() []Action { return table() }

// Names returns the names of all actions, in the order of the documentation.
func Names() []string {
	var names []string
	for _, a := range table() {
		names = append(names, a.Name)
	}
	return names
}
