package expression

import (
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// labelMap is a map of strings in which an absent key reads as "", so that
// `machine.labels.burnin == "true"` is false, not an error, on a machine
// without that label. has() and `in` still tell. It is no traits.Mapper: CEL
// would ask that for presence where the value is wanted.
type labelMap struct {
	m traits.Mapper
}

// newLabelMap leaves out values that aren't strings.
func newLabelMap(in map[string]any) labelMap {
	m := make(map[string]string, len(in))
	for k, v := range in {
		if s, ok := v.(string); ok {
			m[k] = s
		}
	}
	return labelMap{types.NewStringStringMap(types.DefaultTypeAdapter, m)}
}

func (l labelMap) ConvertToNative(t reflect.Type) (any, error) { return l.m.ConvertToNative(t) }
func (l labelMap) ConvertToType(t ref.Type) ref.Val            { return l.m.ConvertToType(t) }
func (l labelMap) Type() ref.Type                              { return l.m.Type() }
func (l labelMap) Value() any                                  { return l.m.Value() }
func (l labelMap) Size() ref.Val                               { return l.m.Size() }
func (l labelMap) Iterator() traits.Iterator                   { return l.m.Iterator() }
func (l labelMap) Contains(key ref.Val) ref.Val                { return l.m.Contains(key) }
func (l labelMap) IsSet(key ref.Val) ref.Val                   { return l.m.Contains(key) }

func (l labelMap) Equal(other ref.Val) ref.Val {
	if o, ok := other.(labelMap); ok {
		other = o.m
	}
	return l.m.Equal(other)
}

func (l labelMap) Get(key ref.Val) ref.Val {
	v, found := l.m.Find(key)
	if !found && v == nil {
		return types.String("")
	}
	return v
}
