package expression

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/workflow/action"
)

// object is a type with named fields. Its values are map[string]any; a field
// that is absent reads as its zero value.
type object struct {
	name   string
	fields map[string]field
}

type field struct {
	typ *cel.Type
	// of is the type of the object, of a list's or of a map's values; "" when they are no objects.
	of string
	// zero is what an absent field reads as.
	zero func() any
	// absent, if set, makes reading an absent field an error.
	absent string
}

func (f field) get(name string) func(any) (any, error) {
	return func(target any) (any, error) {
		m, ok := target.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("no such key: %s", name)
		}
		v, ok := m[name]
		if ok && v != nil {
			return v, nil
		}
		if f.absent != "" {
			return nil, fmt.Errorf("%s", f.absent)
		}
		return f.zero(), nil
	}
}

// provider adds objects to the types that CEL knows. It doesn't change once
// it is in use.
type provider struct {
	types.Provider
	objects map[string]*object
}

func (p provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.objects[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Provider.FindStructType(name)
}

func (p provider) FindStructFieldNames(name string) ([]string, bool) {
	if o, ok := p.objects[name]; ok {
		return o.names(), true
	}
	return p.Provider.FindStructFieldNames(name)
}

func (p provider) FindStructFieldType(name, fieldName string) (*types.FieldType, bool) {
	o, ok := p.objects[name]
	if !ok {
		return p.Provider.FindStructFieldType(name, fieldName)
	}
	f, ok := o.fields[fieldName]
	if !ok {
		return nil, false
	}
	return &types.FieldType{
		Type:    f.typ,
		GetFrom: f.get(fieldName),
		IsSet: func(target any) bool {
			m, ok := target.(map[string]any)
			return ok && m[fieldName] != nil
		},
	}, true
}

func (p provider) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if _, ok := p.objects[name]; ok {
		return types.NewErr("a %s can't be made in an expression", name)
	}
	return p.Provider.NewValue(name, fields)
}

func (o *object) names() []string { return slices.Sorted(maps.Keys(o.fields)) }

// scalar returns a field of a simple type.
func scalar(t *cel.Type) field {
	return field{typ: t, zero: func() any { return zeroOf(t) }}
}

func zeroOf(t *cel.Type) any {
	switch t.Kind() {
	case types.StringKind:
		return ""
	case types.IntKind:
		return int64(0)
	case types.DoubleKind:
		return float64(0)
	case types.BoolKind:
		return false
	case types.ListKind:
		return []any{}
	case types.TimestampKind:
		return time.Time{}
	case types.DurationKind:
		return time.Duration(0)
	case types.MapKind, types.StructKind:
		return map[string]any{}
	default:
		return types.NullValue
	}
}

// actionType is the CEL type of an action's or template's value.
func actionType(t action.Type) *cel.Type {
	switch t {
	case action.String, action.DiskHint:
		return cel.StringType
	case action.Int:
		return cel.IntType
	case action.Double:
		return cel.DoubleType
	case action.Bool:
		return cel.BoolType
	case action.List:
		return cel.ListType(cel.DynType)
	case action.Strings:
		return cel.ListType(cel.StringType)
	case action.Map:
		return cel.MapType(cel.StringType, cel.DynType)
	default:
		return cel.DynType
	}
}

// schema collects the objects of messages.
type schema map[string]*object

// message adds the object of a message, under its short name.
func (s schema) message(d protoreflect.MessageDescriptor) string {
	name := "bedplate." + string(d.Name())
	if _, ok := s[name]; ok {
		return name
	}
	o := &object{name: name, fields: map[string]field{}}
	s[name] = o
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		if f, ok := s.field(fd); ok {
			o.fields[string(fd.Name())] = f
		}
	}
	return name
}

func (s schema) field(fd protoreflect.FieldDescriptor) (field, bool) {
	switch {
	case fd.IsMap():
		v := fd.MapValue()
		t, of, ok := s.single(v)
		if v.Kind() == protoreflect.StringKind {
			return labels(), ok
		}
		return field{typ: cel.MapType(cel.StringType, t), of: of, zero: func() any { return map[string]any{} }}, ok
	case fd.IsList():
		t, of, ok := s.single(fd)
		return field{typ: cel.ListType(t), of: of, zero: func() any { return []any{} }}, ok
	default:
		t, of, ok := s.single(fd)
		f := scalar(t)
		f.of = of
		return f, ok
	}
}

// labels is a field of free keys, which read as "" where they are absent.
func labels() field {
	return field{typ: cel.MapType(cel.StringType, cel.StringType), zero: func() any { return newLabelMap(nil) }}
}

func (s schema) single(fd protoreflect.FieldDescriptor) (*cel.Type, string, bool) {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return cel.BoolType, "", true
	case protoreflect.StringKind, protoreflect.EnumKind:
		return cel.StringType, "", true
	case protoreflect.BytesKind, protoreflect.GroupKind:
		return nil, "", false
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return cel.DoubleType, "", true
	case protoreflect.MessageKind:
		switch fd.Message().FullName() {
		case "google.protobuf.Timestamp":
			return cel.TimestampType, "", true
		case "google.protobuf.Duration":
			return cel.DurationType, "", true
		case "google.protobuf.Value":
			return cel.DynType, "", true
		}
		name := s.message(fd.Message())
		return cel.ObjectType(name), name, true
	default:
		return cel.IntType, "", true
	}
}

// The names of the objects that expressions see.
const (
	typeMachine  = "bedplate.machine"
	typeBMC      = "bedplate.bmc"
	typeInstance = "bedplate.instance"
	typeDisk     = "bedplate.disk"
	typeServer   = "bedplate.server"
	typeImage    = "bedplate.image"
	typeLive     = "bedplate.live"
	typeFailure  = "bedplate.failure"
	typeInputs   = "bedplate.inputs"
	typeSteps    = "bedplate.steps"
)

// baseSchema is every object that doesn't depend on the template.
func baseSchema() schema {
	s := schema{}
	str, num := scalar(cel.StringType), scalar(cel.IntType)
	spec := s.message((&pb.MachineSpec{}).ProtoReflect().Descriptor())
	inventory := s.message((&pb.Inventory{}).ProtoReflect().Descriptor())
	s[typeMachine] = &object{name: typeMachine, fields: map[string]field{
		"name": str, "uid": str, "state": str, "labels": labels(), "annotations": labels(),
		"spec": objectField(spec), "inventory": objectField(inventory), "addresses": scalar(cel.ListType(cel.StringType)),
		"warm": scalar(cel.BoolType), "bmc": objectField(typeBMC),
	}}
	s[typeBMC] = &object{name: typeBMC, fields: map[string]field{"address": str, "mac": str, "vendor": str, "product": str}}
	instance := s.message((&pb.InstanceSpec{}).ProtoReflect().Descriptor())
	s[typeInstance] = &object{name: typeInstance, fields: map[string]field{
		"name": str, "uid": str, "labels": labels(), "annotations": labels(), "spec": objectField(instance),
		"keys": {typ: cel.MapType(cel.StringType, cel.StringType), zero: func() any { return map[string]any{} }},
	}}
	disk := s[s.message((&pb.Disk{}).ProtoReflect().Descriptor())]
	fields := maps.Clone(disk.fields)
	fields["size"] = num
	s[typeDisk] = &object{name: typeDisk, fields: fields}
	s[typeServer] = &object{name: typeServer, fields: map[string]field{"http_url": str, "registry": str, "metadata_url": str, "network_config_url": str, "ignition_url": str, "talos_url": str, "address": str}}
	finish := s.message((&pb.ImageFinish{}).ProtoReflect().Descriptor())
	s[typeLive] = &object{name: typeLive, fields: map[string]field{"kernel_url": str, "initramfs_url": str, "command_line": str}}
	s[typeImage] = &object{name: typeImage, fields: map[string]field{
		"live":   objectField(typeLive),
		"finish": objectField(finish),
		"url":    str, "digest": str, "format": str, "compression": str, "size_bytes": num, "root_partition": num,
		"os": str, "os_version": str, "architecture": str, "configuration": str, "handover": str,
		"index": str, "chunks_url": str,
	}}
	s[typeFailure] = &object{name: typeFailure, fields: map[string]field{"step": str, "error": str}}
	return s
}

func objectField(name string) field {
	f := scalar(cel.ObjectType(name))
	f.of = name
	return f
}

// value makes what expressions see of one field of a message.
func protoValue(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case fd.IsMap():
		out := map[string]any{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			out[k.String()] = protoSingle(fd.MapValue(), v)
			return true
		})
		return out
	case fd.IsList():
		out := make([]any, v.List().Len())
		for i := range out {
			out[i] = protoSingle(fd, v.List().Get(i))
		}
		return out
	default:
		return protoSingle(fd, v)
	}
}

func protoSingle(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch fd.Kind() {
	case protoreflect.EnumKind:
		return enumName(fd.Enum(), v.Enum())
	case protoreflect.MessageKind:
		switch m := v.Message().Interface().(type) {
		case *timestamppb.Timestamp:
			return m.AsTime().Format(time.RFC3339Nano)
		case *durationpb.Duration:
			return m.AsDuration().Seconds()
		case *structpb.Value:
			return m.AsInterface()
		}
		return protoMessage(v.Message())
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return v.Float()
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return float64(v.Uint())
	case protoreflect.BoolKind:
		return v.Bool()
	case protoreflect.StringKind:
		return v.String()
	default:
		return float64(v.Int())
	}
}

// enumName returns the value's name in lower case; "" for the zero value.
func enumName(d protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := d.Values().ByNumber(n)
	if v == nil || n == 0 {
		return ""
	}
	return strings.ToLower(string(v.Name()))
}

func enumWord(e protoreflect.Enum) string { return enumName(e.Descriptor(), e.Number()) }

// protoMessage makes a JSON-like map of what is set in a message; bytes are
// left out.
func protoMessage(m protoreflect.Message) map[string]any {
	out := map[string]any{}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Kind() != protoreflect.BytesKind {
			out[string(fd.Name())] = protoValue(fd, v)
		}
		return true
	})
	return out
}

// typed turns a JSON-like value into what its type says: numbers into
// integers, text into times, maps of free keys into label maps.
func (s schema) typed(name string, in map[string]any) map[string]any {
	o, ok := s[name]
	if !ok {
		return in
	}
	out := make(map[string]any, len(in))
	for k, v := range in {
		f, ok := o.fields[k]
		if !ok {
			continue
		}
		out[k] = s.typedField(f, v)
	}
	return out
}

func (s schema) typedField(f field, v any) any {
	switch v := v.(type) {
	case map[string]any:
		if f.typ.Kind() == types.StructKind {
			return s.typed(f.of, v)
		}
		if f.typ.Kind() == types.MapKind && f.typ.Parameters()[1].Kind() == types.StringKind {
			return newLabelMap(v)
		}
	case []any:
		if f.of == "" {
			return v
		}
		out := make([]any, len(v))
		for i, e := range v {
			m, _ := e.(map[string]any)
			out[i] = s.typed(f.of, m)
		}
		return out
	case float64:
		if f.typ.Kind() == types.IntKind {
			return int64(v)
		}
		if f.typ.Kind() == types.DurationKind {
			return time.Duration(v * float64(time.Second))
		}
	case string:
		if f.typ.Kind() == types.TimestampKind {
			t, _ := time.Parse(time.RFC3339Nano, v)
			return t
		}
	}
	return v
}
