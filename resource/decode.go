package resource

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of what Decode reads.
const (
	// MaxFileBytes is the longest file.
	MaxFileBytes = 16 << 20
	// spareValues is how many values a file may expand to, by its aliases,
	// beyond one for every byte that it has.
	spareValues = 10_000
	// maxDepth bounds how deep values may be nested.
	maxDepth = 64
	// maxFileErrors is how many errors of one file are reported.
	maxFileErrors = 100
)

// FileError is what is wrong at one place of a file.
type FileError struct {
	File string
	// Line and Column count from 1; 0 when not known.
	Line, Column int
	// Path of the field, if it is about one.
	Path    string
	Message string
}

// Error returns file:line:column: path: message.
func (e FileError) Error() string {
	where := e.File
	if e.Line > 0 {
		where += ":" + strconv.Itoa(e.Line)
	}
	if e.Line > 0 && e.Column > 0 {
		where += ":" + strconv.Itoa(e.Column)
	}
	return where + ": " + FieldError{Path: e.Path, Message: e.Message}.Error()
}

// FileErrors is everything that is wrong with a file, in the order of its lines.
type FileErrors []FileError

// Error returns one line for each.
func (e FileErrors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Item is one resource of a file.
type Item struct {
	Object Object
	File   string

	positions map[string]position
}

type position struct{ line, column int }

// Place is where in a file something is. Lines and columns count from 1.
type Place struct{ Line, Column int }

// ItemAt returns an item that was read by other means than Decode: of a file
// in another format. places are those of its fields, by path; the empty path's
// is the item's own.
func ItemAt(obj Object, file string, places map[string]Place) Item {
	it := Item{Object: obj, File: file, positions: make(map[string]position, len(places))}
	for path, p := range places {
		it.positions[positionKey(splitPath(path))] = position{p.Line, p.Column}
	}
	return it
}

// Position returns where in the file the field of that path is; for a field
// that isn't there, where the nearest one around it is.
func (i Item) Position(path string) (line, column int) {
	parts := splitPath(path)
	if len(parts) > 0 && parts[0] == KindOf(i.Object).Singular {
		parts = parts[1:]
	}
	for ; len(parts) > 0; parts = parts[:len(parts)-1] {
		if p, ok := i.positions[positionKey(parts)]; ok {
			return p.line, p.column
		}
	}
	p := i.positions[""]
	return p.line, p.column
}

// At places an error of a field in the file.
func (i Item) At(e FieldError) FileError {
	line, column := i.Position(e.Path)
	return FileError{File: i.File, Line: line, Column: column, Path: e.Path, Message: e.Message}
}

// positionKey is a path in the one form that positions are kept by.
func positionKey(parts []string) string { return strings.Join(parts, "\x00") }

// Decode reads resources from a YAML or JSON file: any number of documents,
// each with apiVersion, kind, metadata and spec, or a List of such. Field names
// may be written as in proto/bedplate/v1 or in camel case, enum values in any
// case. Unknown and repeated fields, wrong types and what Validate finds come
// back all together as FileErrors; filename is only for those. Nothing is
// returned of a file with errors.
func Decode(filename string, r io.Reader) ([]Item, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", filename, err)
	}
	if len(data) > MaxFileBytes {
		return nil, FileErrors{{File: filename, Message: fmt.Sprintf("longer than %d MiB", MaxFileBytes>>20)}}
	}
	d := &decoder{file: filename, maxValues: len(data) + spareValues}
	documents := yaml.NewDecoder(bytes.NewReader(plainYAML(data)))
	for {
		var node yaml.Node
		err := documents.Decode(&node)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			d.errs = append(d.errs, syntaxError(filename, err))
			break
		}
		d.document(&node)
	}
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, func(a, b FileError) int {
			return cmp.Or(a.Line-b.Line, a.Column-b.Column)
		})
		return nil, d.errs
	}
	return d.items, nil
}

// yamlLine finds the line in the library's messages, which have no other form.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func syntaxError(filename string, err error) FileError {
	e := FileError{File: filename, Message: err.Error()}
	if m := yamlLine.FindStringSubmatch(e.Message); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Message = "not YAML: " + strings.TrimPrefix(e.Message, m[0])
	}
	return e
}

// document reads one document of the file.
func (d *decoder) document(node *yaml.Node) {
	if node.Kind != yaml.DocumentNode || len(node.Content) == 0 || isNull(node.Content[0]) {
		return
	}
	d.resource(node.Content[0])
}

// resource reads one resource, or the items of a List.
func (d *decoder) resource(node *yaml.Node) {
	root, ok := d.resolve(node, "", 0)
	if !ok {
		return
	}
	if root.Kind != yaml.MappingNode {
		d.fail(root, "", "not a resource: apiVersion, kind, metadata and spec are expected, not %s", describe(root))
		return
	}
	header := d.header(root)
	if v := header["apiVersion"]; v == nil || v.Value != APIVersion {
		d.fail(or(v, root), "apiVersion", "must be %s", APIVersion)
		return
	}
	named := header["kind"]
	if named == nil || named.Value == "" {
		d.fail(or(named, root), "kind", "missing: one of %s", kindNames())
		return
	}
	if named.Value == "List" {
		d.list(header["items"], root)
		return
	}
	kind, ok := KindNamed(named.Value)
	if !ok || kind.Name != named.Value {
		d.fail(named, "kind", "%q: %s", named.Value, suggest(named.Value, strings.Split(kindNames(), ", "), "one of "+kindNames()))
		return
	}
	d.item(kind, root)
}

// header returns the nodes of a document's first level by name. Repeated ones
// are found later.
func (d *decoder) header(root *yaml.Node) map[string]*yaml.Node {
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if v, ok := d.resolve(root.Content[i+1], "", 0); ok && out[root.Content[i].Value] == nil {
			out[root.Content[i].Value] = v
		}
	}
	return out
}

func (d *decoder) list(items, root *yaml.Node) {
	if items == nil || items.Kind != yaml.SequenceNode {
		d.fail(or(items, root), "items", "a list of resources is expected")
		return
	}
	if d.nested {
		d.fail(root, "kind", "a List inside a List")
		return
	}
	d.nested = true
	for _, n := range items.Content {
		d.resource(n)
	}
	d.nested = false
}

// item reads and checks one resource.
func (d *decoder) item(kind Kind, root *yaml.Node) {
	before := len(d.errs)
	d.positions = map[string]position{"": {root.Line, root.Column}}
	obj := kind.New()
	d.message(root, obj.ProtoReflect(), nil, true)
	item := Item{Object: obj, File: d.file, positions: d.positions}
	if len(d.errs) > before {
		return
	}
	var invalid *FieldErrors
	switch err := Validate(obj); {
	case errors.As(err, &invalid):
		for _, e := range invalid.Errors {
			d.add(item.At(e))
		}
	case err != nil:
		d.add(item.At(FieldError{Message: err.Error()}))
	default:
		d.items = append(d.items, item)
	}
}

func kindNames() string {
	var names []string
	for _, k := range Kinds() {
		names = append(names, k.Name)
	}
	return strings.Join(names, ", ")
}

func or(n, otherwise *yaml.Node) *yaml.Node {
	if n != nil {
		return n
	}
	return otherwise
}
