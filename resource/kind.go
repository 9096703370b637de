package resource

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// APIVersion is the apiVersion of every resource file.
const APIVersion = "bedplate/v1"

// Kind is one kind of resource.
type Kind struct {
	// Name is what `kind:` says in files, such as Machine.
	Name string
	// Plural is the first part of the kind's keys, such as machines.
	Plural string
	// Singular is what people type and read, such as machine.
	Singular string

	prototype Object
}

// New returns an empty resource of the kind.
func (k Kind) New() Object { return k.prototype.ProtoReflect().New().Interface().(Object) }

// Prefix is what the keys of the kind begin with, such as /machines/.
func (k Kind) Prefix() string { return "/" + k.Plural + "/" }

// Kinds returns every kind, in the order in which resources that refer to
// one another are best created.
func Kinds() []Kind {
	return []Kind{
		{"Secret", "secrets", "secret", (*pb.Secret)(nil)},
		{"Token", "tokens", "token", (*pb.Token)(nil)},
		{"Network", "networks", "network", (*pb.Network)(nil)},
		{"Image", "images", "image", (*pb.Image)(nil)},
		{"Template", "templates", "template", (*pb.Template)(nil)},
		{"Pool", "pools", "pool", (*pb.Pool)(nil)},
		{"Rule", "rules", "rule", (*pb.Rule)(nil)},
		{"Machine", "machines", "machine", (*pb.Machine)(nil)},
		{"Instance", "instances", "instance", (*pb.Instance)(nil)},
		{"Stack", "stacks", "stack", (*pb.Stack)(nil)},
		{"Workflow", "workflows", "workflow", (*pb.Workflow)(nil)},
		{"Job", "jobs", "job", (*pb.Job)(nil)},
		{"Erasure", "erasures", "erasure", (*pb.Erasure)(nil)},
		{"Event", "events", "event", (*pb.Event)(nil)},
	}
}

// KindOf returns the kind of a resource. A nil pointer of the right type will do.
func KindOf(obj Object) Kind {
	name := string(obj.ProtoReflect().Descriptor().Name())
	k, _ := KindNamed(name)
	return k
}

// KindNamed returns the kind of that name: Machine, machine or machines, in any case.
func KindNamed(name string) (Kind, bool) {
	for _, k := range Kinds() {
		if strings.EqualFold(name, k.Name) || strings.EqualFold(name, k.Plural) {
			return k, true
		}
	}
	return Kind{}, false
}

func kindOf[T Object]() Kind {
	var none T
	return KindOf(none)
}

func prefixOf[T Object]() string { return kindOf[T]().Prefix() }

func keyFor[T Object](name string) string { return prefixOf[T]() + name }

// label names a resource for messages: machine/web-1.
func label[T Object](name string) string { return kindOf[T]().Singular + "/" + name }

func newObject[T Object]() T {
	var none T
	return none.ProtoReflect().New().Interface().(T)
}

// EnumName is how people read and write an enum value: in lower case, without
// the prefix that keeps names in one protobuf file apart (STEP_RUNNING of
// StepState is running). The value 0 is the empty string.
func EnumName(e protoreflect.Enum) string {
	return enumName(e.Descriptor(), e.Number())
}

func enumName(d protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := d.Values().ByNumber(n)
	if n == 0 || v == nil {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), enumPrefix(d)))
}

// enumNumber reads an enum value by its short or its full name, in any case.
func enumNumber(d protoreflect.EnumDescriptor, name string) (protoreflect.EnumNumber, bool) {
	for i := range d.Values().Len() {
		v := d.Values().Get(i)
		full := string(v.Name())
		if strings.EqualFold(name, full) || v.Number() != 0 && strings.EqualFold(name, strings.TrimPrefix(full, enumPrefix(d))) {
			return v.Number(), true
		}
	}
	return 0, false
}

// enumPrefix is WORKFLOW_ for WorkflowState, STEP_ for StepState.
func enumPrefix(d protoreflect.EnumDescriptor) string {
	return strings.ToUpper(strings.TrimSuffix(string(d.Name()), "State")) + "_"
}
