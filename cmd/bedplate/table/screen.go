package table

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Bar is how far something has come.
type Bar struct {
	Label string
	Done  int64
	// Total is 0 when it isn't known.
	Total int64
	// Unit is bytes, or another one in the plural.
	Unit string
	// Rate is per second; 0 when it isn't known.
	Rate    float64
	Message string
}

// Intervals of a screen.
const (
	redrawEvery = 100 * time.Millisecond
	// Where lines can't be redrawn one is written when a bar has come on by a
	// tenth, but not more often than every second, and else every ten.
	lineAtLeast = time.Second
	lineAtMost  = 10 * time.Second
)

// Screen writes lines, and below them the bars of what is under way. On a
// terminal the bars are redrawn in place. Its methods are called from one
// goroutine; errors of the writer are kept for Close.
type Screen struct {
	w io.Writer
	// width of the terminal; 0 when it is none.
	width int
	now   func() time.Time
	bars  []entry
	drawn int
	last  time.Time
	err   error
}

type entry struct {
	id  string
	bar Bar
	// What was written last, where lines aren't redrawn.
	at   time.Time
	tens int64
}

// NewScreen returns a screen on w, which is a terminal of that width, or none
// if width is 0.
func NewScreen(w io.Writer, width int, now func() time.Time) *Screen {
	return &Screen{w: w, width: width, now: now}
}

// Line writes one line above the bars.
func (s *Screen) Line(text string) {
	s.write(s.erase() + strings.TrimRight(text, " \n") + "\n" + s.draw())
}

// Set shows a bar, or shows it anew.
func (s *Screen) Set(id string, bar Bar) {
	i := slices.IndexFunc(s.bars, func(e entry) bool { return e.id == id })
	if i < 0 {
		i = len(s.bars)
		s.bars = append(s.bars, entry{id: id, tens: -1})
	}
	s.bars[i].bar = bar
	now := s.now()
	if s.width > 0 {
		if now.Sub(s.last) >= redrawEvery {
			s.last = now
			s.write(s.erase() + s.draw())
		}
		return
	}
	e := &s.bars[i]
	tens := int64(0)
	if bar.Total > 0 {
		tens = bar.Done * 10 / bar.Total
	}
	since := now.Sub(e.at)
	if e.tens < 0 || tens > e.tens && since >= lineAtLeast || since >= lineAtMost {
		e.at, e.tens = now, tens
		s.write(bar.Text(0) + "\n")
	}
}

// Remove takes a bar away.
func (s *Screen) Remove(id string) {
	i := slices.IndexFunc(s.bars, func(e entry) bool { return e.id == id })
	if i < 0 {
		return
	}
	erase := s.erase()
	s.bars = slices.Delete(s.bars, i, i+1)
	s.write(erase + s.draw())
}

// Close takes all bars away and returns the first error of the writer.
func (s *Screen) Close() error {
	erase := s.erase()
	s.bars = nil
	s.write(erase)
	return s.err
}

func (s *Screen) write(text string) {
	if text == "" || s.err != nil {
		return
	}
	_, s.err = io.WriteString(s.w, text)
}

// erase goes back to where the bars begin.
func (s *Screen) erase() string {
	if s.drawn == 0 {
		return ""
	}
	text := fmt.Sprintf("\x1b[%dA\r\x1b[J", s.drawn)
	s.drawn = 0
	return text
}

func (s *Screen) draw() string {
	if s.width == 0 {
		return ""
	}
	var out strings.Builder
	for _, e := range s.bars {
		out.WriteString(e.bar.Text(s.width))
		out.WriteByte('\n')
	}
	s.drawn = len(s.bars)
	return out.String()
}

// barWidth is the number of cells of a drawn bar.
const barWidth = 24

// Text returns the bar as one line; with a drawn bar, and cut to that width,
// unless it is 0.
func (b Bar) Text(width int) string {
	parts := []string{"  " + b.Label}
	if b.Total > 0 {
		done := min(max(b.Done, 0), b.Total)
		if width > 0 {
			full := int(float64(done) / float64(b.Total) * barWidth)
			parts = append(parts, "["+strings.Repeat("=", full)+strings.Repeat(" ", barWidth-full)+"]")
		}
		parts = append(parts, fmt.Sprintf("%3d%%", int(float64(done)/float64(b.Total)*100)))
	}
	if text := b.amount(); text != "" {
		parts = append(parts, text)
	}
	if b.Rate > 0 {
		parts = append(parts, b.quantity(b.Rate)+"/s")
	}
	if left, ok := b.left(); ok {
		parts = append(parts, Took(left)+" left")
	}
	if b.Message != "" {
		parts = append(parts, Clean(b.Message))
	}
	return Truncate(strings.Join(parts, "  "), max(0, width-1))
}

func (b Bar) amount() string {
	switch {
	case b.Total > 0 && b.Unit != "bytes":
		return strings.TrimSpace(fmt.Sprintf("%d of %d %s", b.Done, b.Total, b.Unit))
	case b.Total > 0:
		return Bytes(b.Done) + " of " + Bytes(b.Total)
	case b.Done > 0:
		return b.quantity(float64(b.Done))
	}
	return ""
}

func (b Bar) quantity(n float64) string {
	if b.Unit == "bytes" {
		return Bytes(n)
	}
	return strings.TrimSpace(fmt.Sprintf("%.4g %s", n, b.Unit))
}

// left estimates how long it still takes.
func (b Bar) left() (time.Duration, bool) {
	if b.Rate <= 0 || b.Total <= b.Done {
		return 0, false
	}
	seconds := float64(b.Total-b.Done) / b.Rate
	if seconds > 7*24*3600 {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}
