package plan

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a template.
type Problem struct {
	// Field is where, such as spec.steps[2].with.disk.
	Field string
	// Offset is where in the field's string, in bytes; 0 when it is the whole.
	Offset int
	// Message says what is wrong and what would be right.
	Message string
}

// String returns `field: message`.
func (p Problem) String() string { return p.Field + ": " + p.Message }

// Problems is everything that is wrong with a template; as an error it names
// each.
type Problems []Problem

// Error returns every problem, one to a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// OrNil returns p as an error, or nil when there is none.
func (p Problems) OrNil() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// Add appends one more problem.
func (p *Problems) Add(field string, offset int, format string, args ...any) {
	*p = append(*p, Problem{Field: field, Offset: offset, Message: fmt.Sprintf(format, args...)})
}
