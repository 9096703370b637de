package roster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strconv"

	"github.com/bedplate/bedplate/resource"
)

// Bounds of the JSON that is read.
const (
	maxDepth  = 64
	maxValues = 2_000_000
)

// node is one value of JSON with its place. A nil node has nothing in it.
type node struct {
	at     place
	scalar string // of a string, number or bool
	isText bool   // it is one of those, not null
	list   []*node
	fields map[string]*node
	isList bool
}

// get returns the field that a path of names leads to; nil if there is none.
func (n *node) get(path ...string) *node {
	for _, name := range path {
		if n == nil {
			return nil
		}
		n = n.fields[name]
	}
	return n
}

// text returns what a value says: itself, or of an object its value, slug,
// name, label or display, as NetBox has them in choices and nested objects.
func (n *node) text() string {
	switch {
	case n == nil:
		return ""
	case n.isText:
		return n.scalar
	}
	for _, name := range []string{"value", "slug", "name", "label", "display"} {
		if f := n.fields[name]; f != nil && f.isText && f.scalar != "" {
			return f.scalar
		}
	}
	return ""
}

// title is text for people: the name of an object rather than its slug.
func (n *node) title() string {
	if t := n.get("name"); t != nil && t.isText {
		return t.scalar
	}
	return n.text()
}

// items returns a list's values; of anything else, itself.
func (n *node) items() []*node {
	switch {
	case n == nil:
		return nil
	case n.isList:
		return n.list
	}
	return []*node{n}
}

// jsonReader reads one file into nodes.
type jsonReader struct {
	file   File
	dec    *json.Decoder
	lines  []int // offsets of the lines' beginnings
	values int
}

// parseJSON reads a file. The error is a resource.FileError.
func parseJSON(f File) (*node, *resource.FileError) {
	r := &jsonReader{file: f, dec: json.NewDecoder(bytes.NewReader(f.Data)), lines: []int{0}}
	r.dec.UseNumber()
	for i, c := range f.Data {
		if c == '\n' {
			r.lines = append(r.lines, i+1)
		}
	}
	n, err := r.value(0)
	if err == nil && len(bytes.TrimSpace(f.Data[r.dec.InputOffset():])) > 0 {
		err = errors.New("there is more after its end")
	}
	if err != nil {
		at := r.place(r.dec.InputOffset())
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			at = r.place(syntax.Offset)
		}
		e := at.fail("", "not JSON: %v", err)
		return nil, &e
	}
	return n, nil
}

// place turns an offset into line and column.
func (r *jsonReader) place(offset int64) place {
	line := sort.SearchInts(r.lines, int(offset)+1)
	return place{r.file.Name, line, int(offset) - r.lines[line-1] + 1}
}

// start returns where the next token begins.
func (r *jsonReader) start() place {
	i := int(r.dec.InputOffset())
	for i < len(r.file.Data) && bytes.IndexByte([]byte(" \t\r\n,:"), r.file.Data[i]) >= 0 {
		i++
	}
	return r.place(int64(i))
}

func (r *jsonReader) value(depth int) (*node, error) {
	n := &node{at: r.start()}
	t, err := r.dec.Token()
	if err != nil {
		return nil, err
	}
	if r.values++; r.values > maxValues || depth > maxDepth {
		return nil, fmt.Errorf("more than %d values, or more than %d levels", maxValues, maxDepth)
	}
	switch t := t.(type) {
	case json.Delim:
		return n, r.inside(n, t, depth+1)
	case string:
		n.scalar, n.isText = t, true
	case json.Number:
		n.scalar, n.isText = t.String(), true
	case bool:
		n.scalar, n.isText = strconv.FormatBool(t), true
	}
	return n, nil
}

// inside reads what a list or an object has, and its end.
func (r *jsonReader) inside(n *node, open json.Delim, depth int) error {
	n.isList = open == '['
	if !n.isList {
		n.fields = map[string]*node{}
	}
	for r.dec.More() {
		key := ""
		if !n.isList {
			t, err := r.dec.Token()
			if err != nil {
				return err
			}
			key, _ = t.(string)
		}
		v, err := r.value(depth)
		if err != nil {
			return err
		}
		if n.isList {
			n.list = append(n.list, v)
		} else {
			n.fields[key] = v
		}
	}
	_, err := r.dec.Token()
	return err
}
