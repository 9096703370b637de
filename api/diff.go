package api

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bedplate/bedplate/resource"
)

// changed names the fields that differ between two versions of a resource,
// without their values: labels, annotations and the fields of the spec.
func changed(before, after resource.Object) []string {
	var out []string
	was, is := before.GetMetadata(), after.GetMetadata()
	if !equalField(was.ProtoReflect(), is.ProtoReflect(), "labels") {
		out = append(out, "metadata.labels")
	}
	if !equalField(was.ProtoReflect(), is.ProtoReflect(), "annotations") {
		out = append(out, "metadata.annotations")
	}
	a, b := before.ProtoReflect(), after.ProtoReflect()
	if spec := a.Descriptor().Fields().ByName("spec"); spec != nil {
		a, b := a.Get(spec).Message(), b.Get(spec).Message()
		fields := a.Descriptor().Fields()
		for i := range fields.Len() {
			if name := fields.Get(i).Name(); !equalField(a, b, name) {
				out = append(out, "spec."+string(name))
			}
		}
	}
	return out
}

// specEqual reports whether two versions have the same spec.
func specEqual(before, after resource.Object) bool {
	return equalField(before.ProtoReflect(), after.ProtoReflect(), "spec")
}

func equalField(a, b protoreflect.Message, name protoreflect.Name) bool {
	field := a.Descriptor().Fields().ByName(name)
	if a.Has(field) != b.Has(field) {
		return false
	}
	return a.Get(field).Equal(b.Get(field))
}

// fixed returns an error for each of the spec's fields that has changed.
func fixed(before, after resource.Object, why string, fields ...protoreflect.Name) error {
	spec := before.ProtoReflect().Descriptor().Fields().ByName("spec")
	a, b := before.ProtoReflect().Get(spec).Message(), after.ProtoReflect().Get(spec).Message()
	var wrong []resource.FieldError
	for _, f := range fields {
		if !equalField(a, b, f) {
			wrong = append(wrong, resource.FieldError{Path: "spec." + string(f), Message: why})
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fieldErrors(wrong)
}

// cloneOf returns a copy that the caller may alter.
func cloneOf[T proto.Message](m T) T { return proto.Clone(m).(T) }
