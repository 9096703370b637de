package resource

import (
	"slices"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// FieldChange is one field that two versions of a resource have differently.
type FieldChange struct {
	// Path such as spec.interfaces[0].mac.
	Path string
	// Old and New are the values as files write them; empty where the field
	// isn't there, in which case Added or Removed is set.
	Old, New       string
	Added, Removed bool
}

// Diff compares what people decide of a resource, labels, annotations and
// spec, field by field in the order of the fields. A nil before is a resource
// that isn't there yet.
func Diff(before, after Object) []FieldChange {
	var old, now flat
	if before != nil {
		old = flatten(before)
	}
	now = flatten(after)
	var out []FieldChange
	for _, path := range mergedPaths(old.paths, now.paths) {
		was, had := old.values[path]
		is, has := now.values[path]
		if had != has || was != is {
			out = append(out, FieldChange{Path: path, Old: was, New: is, Added: !had, Removed: !has})
		}
	}
	return out
}

// flat is a resource as text values by path.
type flat struct {
	paths  []string
	values map[string]string
}

func flatten(obj Object) flat {
	f := flat{values: map[string]string{}}
	md := obj.GetMetadata()
	for _, m := range []struct {
		path   string
		values map[string]string
	}{{"metadata.labels", md.GetLabels()}, {"metadata.annotations", md.GetAnnotations()}} {
		for _, k := range sortedKeys(m.values) {
			f.add(joinKey(m.path, k), m.values[k])
		}
	}
	m := obj.ProtoReflect()
	if fd := m.Descriptor().Fields().ByName(protoreflect.Name("spec")); fd != nil && m.Has(fd) {
		f.node("spec", messageNode(m.Get(fd).Message()))
	}
	return f
}

func (f *flat) add(path, value string) {
	f.paths = append(f.paths, path)
	f.values[path] = value
}

func (f *flat) node(path string, n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			f.node(joinKey(path, n.Content[i].Value), n.Content[i+1])
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			f.node(joinIndex(path, i), c)
		}
	default:
		f.add(path, n.Value)
	}
}

// mergedPaths returns the paths of both, those that only the old one has where
// they were.
func mergedPaths(old, now []string) []string {
	out := slices.Clone(now)
	at := 0
	for _, p := range old {
		if i := slices.Index(out, p); i >= 0 {
			at = i + 1
			continue
		}
		out = slices.Insert(out, at, p)
		at++
	}
	return out
}
