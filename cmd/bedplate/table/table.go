// Package table writes what the command line shows: aligned columns, ages and
// sizes that a person reads at a glance, colours, and lines of progress that
// are redrawn on a terminal and written now and then elsewhere.
//
// It knows no resources and reads no clock. Values of its types belong to one
// goroutine at a time.
package table

import (
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Table is rows of cells under a header.
type Table struct {
	// Header is written first, unless it is empty.
	Header []string
	Rows   [][]string
	// Indent comes before every line.
	Indent string
	// Min is how wide columns are at least: see Widths.
	Min []int
}

// Widths returns how wide the columns are: what a later table needs as Min to
// go on under this one.
func (t *Table) Widths() []int {
	widths := slices.Clone(t.Min)
	for _, cells := range append([][]string{t.Header}, t.Rows...) {
		for i, c := range cells {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], Width(c))
		}
	}
	return widths
}

// Add appends a row. Missing cells are empty.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Write writes the table with columns as wide as their widest cell.
func (t *Table) Write(w io.Writer) error {
	lines := t.Rows
	if len(t.Header) > 0 {
		lines = append([][]string{t.Header}, lines...)
	}
	widths := t.Widths()
	var out strings.Builder
	for _, cells := range lines {
		writeRow(&out, t.Indent, cells, widths)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func writeRow(out *strings.Builder, indent string, cells []string, widths []int) {
	line := indent
	pad := 0
	for i, c := range cells {
		if c == "" {
			c = "-"
		}
		line += strings.Repeat(" ", pad) + oneLine(c)
		pad = widths[i] - Width(c) + 2
	}
	out.WriteString(strings.TrimRight(line, " "))
	out.WriteByte('\n')
}

// oneLine keeps a cell, which may come from a machine, from breaking the table.
func oneLine(s string) string {
	if !strings.ContainsAny(s, "\n\r\t") {
		return s
	}
	return strings.NewReplacer("\n", " ", "\r", " ", "\t", " ").Replace(s)
}

// Width counts the characters of s that a terminal shows, colours left out.
func Width(s string) int {
	n := 0
	for {
		before, after, found := strings.Cut(s, "\x1b[")
		n += utf8.RuneCountInString(before)
		if !found {
			return n
		}
		_, s, _ = strings.Cut(after, "m")
	}
}

// Truncate cuts s to at most width characters. It is for text without colours.
func Truncate(s string, width int) string {
	if width <= 0 || utf8.RuneCountInString(s) <= width {
		return s
	}
	runes := []rune(s)
	return string(runes[:max(0, width-1)]) + "…"
}

// Clean takes out of text that comes from machines what would move the cursor
// or change colours: control characters become spaces.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || 0x7f <= r && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
