package resource

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Format is a way of writing resources.
type Format string

// The formats that Encode writes and Decode reads.
const (
	YAML Format = "yaml"
	JSON Format = "json"
)

// ErrFormat is what Encode returns for another format.
var ErrFormat = errors.New("not a format: yaml or json")

// Encode writes resources such that Decode reads the same again: in YAML one
// document each, in JSON one object, or a List unless it is exactly one.
func Encode(w io.Writer, format Format, objs ...Object) error {
	nodes := make([]*yaml.Node, len(objs))
	for i, obj := range objs {
		nodes[i] = resourceNode(obj)
	}
	switch format {
	case YAML:
		return writeYAML(w, nodes)
	case JSON:
		root := &yaml.Node{Kind: yaml.SequenceNode, Content: nodes}
		if len(nodes) == 1 {
			root = nodes[0]
		} else {
			root = mappingNode("apiVersion", textNode(APIVersion), "kind", textNode("List"), "items", root)
		}
		return writeJSON(w, root)
	}
	return fmt.Errorf("%q: %w", format, ErrFormat)
}

// EncodeMessages writes messages that are no resources, with the names of
// fields and values that resources have. One is written as it is unless it is
// to be a list, as several are.
func EncodeMessages(w io.Writer, format Format, list bool, messages ...proto.Message) error {
	root := &yaml.Node{Kind: yaml.SequenceNode}
	for _, m := range messages {
		root.Content = append(root.Content, messageNode(m.ProtoReflect()))
	}
	if !list && len(messages) == 1 {
		root = root.Content[0]
	}
	switch format {
	case YAML:
		return writeYAML(w, []*yaml.Node{root})
	case JSON:
		return writeJSON(w, root)
	}
	return fmt.Errorf("%q: %w", format, ErrFormat)
}

func writeYAML(w io.Writer, nodes []*yaml.Node) error {
	// The encoder panics on no document at all.
	if len(nodes) == 0 {
		return nil
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	for _, n := range nodes {
		if err := enc.Encode(n); err != nil {
			return fmt.Errorf("writing YAML: %w", err)
		}
	}
	return enc.Close()
}

func writeJSON(w io.Writer, root *yaml.Node) error {
	var compact, pretty bytes.Buffer
	if err := appendJSON(&compact, root); err != nil {
		return err
	}
	if err := json.Indent(&pretty, compact.Bytes(), "", "  "); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	pretty.WriteByte('\n')
	_, err := w.Write(pretty.Bytes())
	return err
}

func appendJSON(w *bytes.Buffer, n *yaml.Node) error {
	switch n.Kind {
	case yaml.MappingNode:
		w.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				w.WriteByte(',')
			}
			if err := appendText(w, n.Content[i].Value); err != nil {
				return err
			}
			w.WriteByte(':')
			if err := appendJSON(w, n.Content[i+1]); err != nil {
				return err
			}
		}
		w.WriteByte('}')
	case yaml.SequenceNode:
		w.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				w.WriteByte(',')
			}
			if err := appendJSON(w, c); err != nil {
				return err
			}
		}
		w.WriteByte(']')
	default:
		switch n.Tag {
		case "!!int", "!!bool", "!!null", "!!float":
			w.WriteString(n.Value)
		default:
			return appendText(w, n.Value)
		}
	}
	return nil
}

// appendText quotes s without turning <, > and & into escapes.
func appendText(w *bytes.Buffer, s string) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	w.Truncate(w.Len() - 1) // the newline
	return nil
}

func resourceNode(obj Object) *yaml.Node {
	n := mappingNode("apiVersion", textNode(APIVersion), "kind", textNode(KindOf(obj).Name))
	n.Content = append(n.Content, messageNode(obj.ProtoReflect()).Content...)
	return n
}

func messageNode(m protoreflect.Message) *yaml.Node {
	switch v := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!timestamp", Value: v.AsTime().UTC().Format(time.RFC3339Nano)}
	case *durationpb.Duration:
		return textNode(v.AsDuration().String())
	case *structpb.Value:
		return valueNode(v)
	}
	n := mappingNode()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if m.Has(fd) {
			n.Content = append(n.Content, textNode(string(fd.Name())), fieldNode(fd, m.Get(fd)))
		}
	}
	return n
}

func fieldNode(fd protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch {
	case fd.IsMap():
		values := map[string]protoreflect.Value{}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			values[k.String()] = v
			return true
		})
		n := mappingNode()
		for _, k := range sortedKeys(values) {
			n.Content = append(n.Content, textNode(k), singleNode(fd.MapValue(), values[k]))
		}
		return n
	case fd.IsList():
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.List().Len() {
			n.Content = append(n.Content, singleNode(fd, v.List().Get(i)))
		}
		return n
	}
	return singleNode(fd, v)
}

func singleNode(fd protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return messageNode(v.Message())
	case protoreflect.EnumKind:
		if name := enumName(fd.Enum(), v.Enum()); name != "" {
			return textNode(name)
		}
		return textNode(strconv.Itoa(int(v.Enum())))
	case protoreflect.StringKind:
		return textNode(v.String())
	case protoreflect.BytesKind:
		return textNode(base64.StdEncoding.EncodeToString(v.Bytes()))
	case protoreflect.BoolKind:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v.Bool())}
	case protoreflect.DoubleKind:
		return numberNode(v.Float())
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: v.String()}
}

func valueNode(v *structpb.Value) *yaml.Node {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return textNode(k.StringValue)
	case *structpb.Value_NumberValue:
		return numberNode(k.NumberValue)
	case *structpb.Value_BoolValue:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(k.BoolValue)}
	case *structpb.Value_ListValue:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, e := range k.ListValue.GetValues() {
			n.Content = append(n.Content, valueNode(e))
		}
		return n
	case *structpb.Value_StructValue:
		n := mappingNode()
		for _, name := range sortedKeys(k.StructValue.GetFields()) {
			n.Content = append(n.Content, textNode(name), valueNode(k.StructValue.GetFields()[name]))
		}
		return n
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
}

// numberNode writes whole numbers as such. What JSON has no number for becomes text.
func numberNode(f float64) *yaml.Node {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return textNode(strconv.FormatFloat(f, 'g', -1, 64))
	case f == math.Trunc(f) && math.Abs(f) <= maxExact:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatFloat(f, 'f', 0, 64)}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!float", Value: strconv.FormatFloat(f, 'g', -1, 64)}
}

func textNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if s == "<<" {
		// The library quotes what it would take for another type, but not this.
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

func mappingNode(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i+1 < len(pairs); i += 2 {
		n.Content = append(n.Content, textNode(pairs[i].(string)), pairs[i+1].(*yaml.Node))
	}
	return n
}
