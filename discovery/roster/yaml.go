package roster

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bedplate/bedplate/resource"
)

// readYAML reads a list of mappings with the names of columns, or Bedplate's
// own resources. The list may stand under the key `machines`, and a mapping may
// have parts of its own: bmc, interfaces, labels.
func (r *reader) readYAML(f File) {
	documents := yaml.NewDecoder(bytes.NewReader(f.Data))
	for n := 0; ; n++ {
		var doc yaml.Node
		err := documents.Decode(&doc)
		if errors.Is(err, io.EOF) {
			if n == 0 {
				r.fail(place{f.Name, 1, 1}.fail("", "there is nothing in it"))
			}
			return
		}
		if err != nil {
			r.fail(yamlError(f.Name, err))
			return
		}
		if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
			continue
		}
		root := doc.Content[0]
		if value(root, "apiVersion") != nil {
			r.readResources(f)
			return
		}
		if list := value(root, "machines"); list != nil {
			root = list
		}
		r.yamlList(f, root)
	}
}

// readResources reads a file of Bedplate's own resources.
func (r *reader) readResources(f File) {
	items, err := resource.Decode(f.Name, bytes.NewReader(f.Data))
	var wrong resource.FileErrors
	switch {
	case errors.As(err, &wrong):
		for _, e := range wrong {
			r.fail(e)
		}
	case err != nil:
		r.fail(place{file: f.Name}.fail("", "%v", err))
	}
	r.list.Resources = append(r.list.Resources, items...)
}

// yamlLine finds the line in the library's messages, which have no other form.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func yamlError(file string, err error) resource.FileError {
	e := resource.FileError{File: file, Message: err.Error()}
	if m := yamlLine.FindStringSubmatch(e.Message); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Message = "not YAML: " + strings.TrimPrefix(e.Message, m[0])
	}
	return e
}

// value returns the value of a mapping's key; nil if it has none.
func value(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func (f File) at(n *yaml.Node) place { return place{f.Name, n.Line, n.Column} }

func (r *reader) yamlList(f File, root *yaml.Node) {
	if root.Kind != yaml.SequenceNode {
		r.fail(f.at(root).fail("", "a list of machines is expected, each a mapping such as {name: web-1, mac: ...}, or Bedplate's own resources"))
		return
	}
	for _, n := range root.Content {
		if n.Kind != yaml.MappingNode {
			r.fail(f.at(n).fail("", "a mapping is expected, such as {name: web-1, mac: ...}"))
			continue
		}
		y := yamlRecord{reader: r, file: f, rec: record{at: f.at(n)}, seen: map[field]bool{}}
		y.mapping(n, "", 0)
		r.records = append(r.records, y.rec)
		if len(r.records) > MaxMachines {
			return // Read says so
		}
	}
}

// yamlRecord reads one machine.
type yamlRecord struct {
	*reader
	file File
	rec  record
	seen map[field]bool
}

// mapping reads a machine, or a part of one whose fields have prefix before
// their names. n is the number of the interface that it is of; 0: none.
func (y *yamlRecord) mapping(m *yaml.Node, prefix string, n int) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, v := m.Content[i], m.Content[i+1]
		name := normalName(key.Value)
		switch {
		case key.Kind != yaml.ScalarNode || key.Tag == "!!merge" || v.Kind == yaml.AliasNode:
			y.fail(y.file.at(key).fail(prefix+key.Value, "aliases and merge keys are not taken in a list of machines"))
		case y.ignored(prefix + key.Value):
		case prefix == "" && name == "labels" && v.Kind == yaml.MappingNode:
			y.labels(v)
		case prefix == "" && name == "bmc" && v.Kind == yaml.MappingNode:
			y.mapping(v, "bmc_", 0)
		case prefix == "" && name == "interfaces" && v.Kind == yaml.SequenceNode:
			y.interfaces(v)
		default:
			y.field(key, v, prefix+key.Value, n)
		}
	}
}

func (y *yamlRecord) labels(m *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		y.put(field{column: "label", key: m.Content[i].Value}, m.Content[i+1], labelPrefix+m.Content[i].Value)
	}
}

func (y *yamlRecord) interfaces(list *yaml.Node) {
	if len(list.Content) > maxInterfaces {
		y.fail(y.file.at(list).fail("interfaces", "%d interfaces, at most %d", len(list.Content), maxInterfaces))
		return
	}
	for i, e := range list.Content {
		if e.Kind != yaml.MappingNode {
			y.fail(y.file.at(e).fail("interfaces", "a mapping is expected, such as {mac: ..., address: ...}"))
			continue
		}
		y.mapping(e, "", i+1)
	}
}

// field reads one field. A list of texts is for a column that may come several times.
func (y *yamlRecord) field(key, v *yaml.Node, written string, n int) {
	column, own, label, ok := parseColumn(written)
	if !ok {
		y.fail(y.file.at(key).fail(written, "%s", strings.Replace(unknownColumn(written), "column", "field", 1)))
		return
	}
	if n > 0 && !columns[column].Many {
		y.fail(y.file.at(key).fail(written, "not a field of an interface: there are mac, address, gateway, switch, switch_port"))
		return
	}
	id := field{column: column, n: max(own, n), key: label}
	if v.Kind != yaml.SequenceNode {
		y.put(id, v, written)
		return
	}
	if !columns[column].Many && column != "kernel_args" {
		y.fail(y.file.at(v).fail(written, "a list is given, one value is wanted"))
		return
	}
	for i, e := range v.Content {
		if columns[column].Many {
			id.n = i + 1
			y.put(id, e, written)
			continue
		}
		y.rec.add(column, 1, e.Value, written, y.file.at(e))
	}
}

// put adds one value.
func (y *yamlRecord) put(id field, v *yaml.Node, written string) {
	at := y.file.at(v)
	if v.Kind != yaml.ScalarNode {
		y.fail(at.fail(written, "text is expected"))
		return
	}
	if v.Tag == "!!null" || strings.TrimSpace(v.Value) == "" {
		return
	}
	if y.seen[id] {
		y.fail(at.fail(written, "given twice"))
		return
	}
	y.seen[id] = true
	id.value, id.written, id.at = strings.TrimSpace(v.Value), written, at
	y.rec.fields = append(y.rec.fields, id)
}
