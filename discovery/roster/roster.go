// Package roster reads lists of machines as people and other systems keep
// them: CSV, YAML, and NetBox's JSON, and makes Machine resources of them.
//
// Every format becomes records of the same named fields (see Columns), each
// with its place in the file; one piece of code then makes machines of records,
// so that all formats take the same fields and say the same of mistakes. All
// mistakes are reported at once, and nothing is returned of lists with one.
// Passwords never become part of a Machine: they are collected in Secrets.
//
// The package does no I/O. Files are what other programs have written: sizes,
// depths and numbers are bounded.
package roster

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// Format is how a list is written.
type Format string

// The formats.
const (
	// Auto finds the format out from the file's name and content.
	Auto   Format = "auto"
	CSV    Format = "csv"
	YAML   Format = "yaml"
	NetBox Format = "netbox"
)

// Formats returns every format.
func Formats() []Format { return []Format{Auto, CSV, YAML, NetBox} }

const (
	// MaxFileBytes is the longest file that is read.
	MaxFileBytes = resource.MaxFileBytes
	// MaxMachines is how many machines the files of one import may have.
	MaxMachines = 20_000
	// maxErrors is how many mistakes are reported.
	maxErrors = 100
	// secretKeys is how many passwords one Secret takes (SecretSpec.data).
	secretKeys = 4096
)

// File is one file of a list.
type File struct {
	Name string
	Data []byte
}

// Options say how files are read.
type Options struct {
	// Format of all files; empty: Auto for each.
	Format Format
	// Secret is the name of the Secret that takes the passwords. Empty: bmc-passwords.
	Secret string
	// Pool for machines that the files give none.
	Pool string
	// Labels for all machines; those of the files win.
	Labels map[string]string
	// Ignore are columns that are passed over.
	Ignore []string
}

// List is what files have.
type List struct {
	// Machines in the order of the files.
	Machines []Machine
	// Secrets have the passwords of the machines' BMCs, by machine.
	Secrets []*pb.Secret
	// Resources of files that have Bedplate's own, which are as apply takes them.
	Resources []resource.Item
	// Notes say what was understood in a way that may not be meant, one line each.
	Notes []string
}

// Machine is one machine of a list, with the places of its fields.
type Machine struct {
	*pb.Machine
	file string
	// at is where the fields are, by their path.
	at map[string]place
}

// Item is the machine as apply takes it.
func (m Machine) Item() resource.Item {
	places := make(map[string]resource.Place, len(m.at))
	for path, p := range m.at {
		places[path] = resource.Place{Line: p.line, Column: p.column}
	}
	return resource.ItemAt(m.Machine, m.file, places)
}

// place is where in a file something is. Lines and columns count from 1.
type place struct {
	file         string
	line, column int
}

func (p place) fail(path, format string, args ...any) resource.FileError {
	return resource.FileError{File: p.file, Line: p.line, Column: p.column, Path: path, Message: fmt.Sprintf(format, args...)}
}

// field is one value of a record, under the name of a column (see Columns).
type field struct {
	column string
	// n counts columns that may come several times, from 1: mac, mac2.
	n int
	// key of a label.
	key   string
	value string
	// written is the column as the file has it, for messages.
	written string
	at      place
}

// record is one machine before it is one.
type record struct {
	at     place
	fields []field
	// optional: a record without anything to know a machine by is passed over.
	optional bool
}

func (r *record) add(column string, n int, value, written string, at place) {
	if value = strings.TrimSpace(value); value != "" {
		r.fields = append(r.fields, field{column: column, n: n, value: value, written: written, at: at})
	}
}

// reader collects what files have.
type reader struct {
	opts    Options
	records []record
	list    List
	errs    resource.FileErrors
}

// fail records a mistake, up to the limit.
func (r *reader) fail(e resource.FileError) {
	if len(r.errs) < maxErrors {
		r.errs = append(r.errs, e)
	}
}

func (r *reader) note(format string, args ...any) {
	if len(r.list.Notes) < maxErrors {
		r.list.Notes = append(r.list.Notes, fmt.Sprintf(format, args...))
	}
}

// Read reads files. Those of NetBox are taken together: devices, interfaces
// and addresses may be in any of them. The error is a resource.FileErrors.
func Read(files []File, opts Options) (List, error) {
	opts.Secret = cmp.Or(opts.Secret, "bmc-passwords")
	r := &reader{opts: opts}
	var netbox []File
	for _, f := range files {
		if len(f.Data) > MaxFileBytes {
			r.fail(place{file: f.Name}.fail("", "longer than %d MiB", MaxFileBytes>>20))
			continue
		}
		f.Data = bytes.TrimPrefix(f.Data, []byte("\xef\xbb\xbf"))
		switch Detect(f, opts.Format) {
		case CSV:
			r.readCSV(f)
		case NetBox:
			netbox = append(netbox, f)
		default:
			r.readYAML(f)
		}
	}
	if len(netbox) > 0 {
		r.readNetBox(netbox)
	}
	if len(r.records) > MaxMachines {
		r.fail(r.records[MaxMachines].at.fail("", "more than %d machines: import them in parts", MaxMachines))
	} else {
		r.build()
	}
	if len(r.errs) > 0 {
		slices.SortStableFunc(r.errs, func(a, b resource.FileError) int {
			return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, a.Column-b.Column)
		})
		return List{}, r.errs
	}
	return r.list, nil
}

// Detect returns the format of a file; what is asked for, unless that is Auto.
// JSON is NetBox's unless it has apiVersion, as Bedplate's own resources do.
func Detect(f File, asked Format) Format {
	if asked != Auto && asked != "" {
		return asked
	}
	name, text := strings.ToLower(f.Name), bytes.TrimSpace(bytes.TrimPrefix(f.Data, []byte("\xef\xbb\xbf")))
	switch {
	case strings.HasSuffix(name, ".csv"), strings.HasSuffix(name, ".tsv"):
		return CSV
	case strings.HasSuffix(name, ".yaml"), strings.HasSuffix(name, ".yml"):
		return YAML
	case len(text) > 0 && (text[0] == '{' || text[0] == '['):
		if bytes.Contains(text[:min(len(text), 4096)], []byte(`"apiVersion"`)) {
			return YAML
		}
		return NetBox
	}
	first, _, _ := bytes.Cut(text, []byte("\n"))
	if bytes.ContainsAny(first, ",;\t") && !bytes.Contains(first, []byte(": ")) && !bytes.HasPrefix(first, []byte("- ")) {
		return CSV
	}
	return YAML
}
