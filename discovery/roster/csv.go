package roster

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"strings"

	"github.com/bedplate/bedplate/resource"
)

// readCSV reads a table: a line with the names of the columns, and one for each
// machine. Commas, semicolons or tabs are between the cells; lines that begin
// with # are passed over.
func (r *reader) readCSV(f File) {
	in := csv.NewReader(bytes.NewReader(f.Data))
	in.Comma, in.Comment, in.TrimLeadingSpace = separator(f.Data), '#', true
	in.FieldsPerRecord = -1
	var head []csvColumn
	for {
		cells, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			r.fail(csvError(f.Name, err))
			return
		}
		if head == nil {
			if head = r.header(f, in, cells); head == nil {
				return
			}
			continue
		}
		r.row(f, in, head, cells)
		if len(r.records) > MaxMachines {
			return // Read says so
		}
	}
	if head == nil {
		r.fail(place{f.Name, 1, 1}.fail("", "there is no line with the names of the columns"))
	}
}

// csvColumn is one column of a table.
type csvColumn struct {
	field
	skip bool
}

// separator returns what is between the cells: what the first line that is no
// comment has most of.
func separator(data []byte) rune {
	best, most := ',', 0
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		for _, c := range []rune{',', ';', '\t'} {
			if n := strings.Count(string(line), string(c)); n > most {
				best, most = c, n
			}
		}
		break
	}
	return best
}

func csvError(file string, err error) resource.FileError {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return place{file, parse.Line, parse.Column}.fail("", "not CSV: %v", parse.Err)
	}
	return place{file: file}.fail("", "not CSV: %v", err)
}

// header reads the names of the columns; nil if one is wrong.
func (r *reader) header(f File, in *csv.Reader, cells []string) []csvColumn {
	head := make([]csvColumn, len(cells))
	seen := map[field]bool{}
	bad := false
	for i, cell := range cells {
		line, column := in.FieldPos(i)
		at := place{f.Name, line, column}
		name, n, key, ok := parseColumn(cell)
		switch {
		case strings.TrimSpace(cell) == "" || r.ignored(cell):
			head[i].skip = true
			continue
		case !ok:
			r.fail(at.fail(strings.TrimSpace(cell), "%s", unknownColumn(cell)))
			bad = true
			continue
		}
		id := field{column: name, n: n, key: key}
		if seen[id] {
			r.fail(at.fail(strings.TrimSpace(cell), "another column is %s already: pass over one of them with --ignore-column", name))
			bad = true
		}
		seen[id] = true
		id.written = strings.TrimSpace(cell)
		head[i].field = id
	}
	if bad {
		return nil
	}
	return head
}

// row reads one machine.
func (r *reader) row(f File, in *csv.Reader, head []csvColumn, cells []string) {
	line, _ := in.FieldPos(0)
	rec := record{at: place{f.Name, line, 1}}
	for i, cell := range cells {
		line, column := in.FieldPos(i)
		at := place{f.Name, line, column}
		if i >= len(head) {
			if strings.TrimSpace(cell) != "" {
				r.fail(at.fail("", "there are %d columns, but this line has %d cells", len(head), len(cells)))
				return
			}
			continue
		}
		if head[i].skip || strings.TrimSpace(cell) == "" {
			continue
		}
		v := head[i].field
		v.value, v.at = strings.TrimSpace(cell), at
		rec.fields = append(rec.fields, v)
	}
	if len(rec.fields) > 0 {
		r.records = append(r.records, rec)
	}
}
