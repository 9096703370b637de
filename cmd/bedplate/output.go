package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/resource"
)

// output is how resources are printed: -o and --no-headers.
type output struct {
	format    string
	noHeaders bool
}

// The formats of -o.
const (
	formatTable = "table"
	formatWide  = "wide"
	formatJSON  = "json"
	formatYAML  = "yaml"
	formatName  = "name"
)

func formats() []string {
	return []string{formatTable, formatWide, formatJSON, formatYAML, formatName}
}

func (o *output) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", formatTable, "`format`: "+strings.Join(formats(), "|"))
	cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, "leave out the table's header")
	completeFlag(cmd, "output", formats()...)
}

func (o *output) check() error {
	for _, f := range formats() {
		if o.format == f {
			return nil
		}
	}
	return usageError{fmt.Errorf("-o %s: not one of %s", o.format, strings.Join(formats(), ", "))}
}

// print writes resources of one or several kinds; each kind has its own table.
func (a *app) print(o output, objs []resource.Object) error {
	switch o.format {
	case formatJSON:
		return resource.Encode(a.stdout, resource.JSON, objs...)
	case formatYAML:
		return resource.Encode(a.stdout, resource.YAML, objs...)
	case formatName:
		for _, obj := range objs {
			fmt.Fprintln(a.stdout, label(obj))
		}
		return nil
	}
	for i, group := range byKind(objs) {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		t := a.table(o, group)
		if err := t.Write(a.stdout); err != nil {
			return err
		}
	}
	return nil
}

// byKind splits resources where the kind changes.
func byKind(objs []resource.Object) [][]resource.Object {
	var out [][]resource.Object
	last := ""
	for _, obj := range objs {
		if name := resource.KindOf(obj).Name; name != last {
			out = append(out, nil)
			last = name
		}
		out[len(out)-1] = append(out[len(out)-1], obj)
	}
	return out
}

// table makes the table of resources of one kind.
func (a *app) table(o output, objs []resource.Object) *table.Table {
	columns := a.columns(o, resource.KindOf(objs[0]))
	t := &table.Table{}
	if !o.noHeaders {
		t.Header = header(columns)
	}
	for _, obj := range objs {
		t.Add(row(columns, obj)...)
	}
	return t
}

func header(columns []column) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = c.name
	}
	return out
}

func row(columns []column, obj resource.Object) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = table.Truncate(table.Clean(c.value(obj)), maxCell)
		if c.style != nil {
			out[i] = c.style(out[i])
		}
	}
	return out
}

// maxCell keeps one long value from pushing a table off the screen.
const maxCell = 120

// label names a resource: machine/web-1.
func label(obj resource.Object) string {
	return resource.KindOf(obj).Singular + "/" + obj.GetMetadata().GetName()
}

// age says how long ago a time was; empty for none.
func (a *app) age(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return table.Age(a.now().Sub(t.AsTime()))
}

// ago writes a time as "3m ago (2026-01-02 15:04:05)", also one to come.
func (a *app) ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	at := t.AsTime().In(a.zone).Format(time.DateTime)
	if d := a.now().Sub(t.AsTime()); d < 0 {
		return fmt.Sprintf("in %s (%s)", table.Age(-d), at)
	}
	return fmt.Sprintf("%s ago (%s)", a.age(t), at)
}

// clock is a time of day.
func (a *app) clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return a.now().In(a.zone).Format(time.TimeOnly)
	}
	return t.AsTime().In(a.zone).Format(time.TimeOnly)
}

// fprintf writes, and drops the error of a closed terminal or pipe: the next
// command will find out.
func fprintf(w io.Writer, format string, values ...any) {
	_, _ = fmt.Fprintf(w, format, values...)
}
