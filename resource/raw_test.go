package resource

import (
	"bytes"

	"go.yaml.in/yaml/v3"
)

// decodeRaw reads one resource as Decode does, but doesn't validate it.
func decodeRaw(d *decoder, kind Kind, data []byte) (Object, FileErrors) {
	var node yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(plainYAML(data))).Decode(&node); err != nil {
		return nil, FileErrors{syntaxError(d.file, err)}
	}
	d.maxValues = MaxFileBytes
	d.positions = map[string]position{}
	obj := kind.New()
	d.message(node.Content[0], obj.ProtoReflect(), nil, true)
	return obj, d.errs
}
