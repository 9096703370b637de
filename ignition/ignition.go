// Package ignition reads what people write for systems that are configured by
// Ignition (Flatcar, Fedora CoreOS and their kin), and joins it with what
// Bedplate has to tell the same system.
//
// People write Butane (YAML with `variant`) or Ignition (JSON with
// `ignition.version`); which of both is told from the text. Both are checked by
// their own libraries, coreos/butane and coreos/ignition, so what is accepted
// here is what the system accepts, and an error names the line.
//
// A joined configuration has the user's specification version, but at least 3.3.0:
// the oldest that has kernel arguments, and the newest that Debian 12's Ignition
// 2.14 and Flatcar's long-term releases read. Where the user and Bedplate say
// something about the same thing, the user wins.
//
// Nothing here fetches or reads files: Butane's `local` and `tree` are errors.
// All functions are pure and may be used by any number of goroutines.
package ignition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	butane "github.com/coreos/butane/config"
	butanecommon "github.com/coreos/butane/config/common"
	"github.com/coreos/ignition/v2/config/util"
	"github.com/coreos/ignition/v2/config/v3_3"
	"github.com/coreos/ignition/v2/config/v3_4"
	"github.com/coreos/ignition/v2/config/v3_5"
	"github.com/coreos/vcontext/report"
)

// MaxSize bounds what a person may write, in bytes.
const MaxSize = 256 << 10

// Problem is one thing that is wrong with a text.
type Problem struct {
	// Line and Column count from 1; 0 when the place isn't known.
	Line, Column int
	// Field is the path in the text, such as storage.files.0.path; empty when not known.
	Field   string
	Message string
}

// String returns `line 3, column 5: systemd.units.0.name: message`.
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d, column %d: ", p.Line, p.Column)
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems is the error for a text that is not right.
type Problems []Problem

// Error lists every problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, x := range p {
		lines[i] = x.String()
	}
	return strings.Join(lines, "; ")
}

// Compile checks text, Butane or Ignition, and returns it as Ignition JSON in
// the version that it was written for (Butane: the one that its version stands
// for). The second result is what the libraries warn of. An error is Problems.
func Compile(text string) ([]byte, []Problem, error) {
	if len(text) > MaxSize {
		return nil, nil, Problems{{Message: fmt.Sprintf("%d bytes; at most %d", len(text), MaxSize)}}
	}
	if strings.TrimSpace(text) == "" {
		return nil, nil, Problems{{Message: "empty: neither Butane nor Ignition"}}
	}
	raw, warnings := []byte(text), []Problem(nil)
	if !isJSON(text) {
		out, rep, err := butane.TranslateBytes(raw, butanecommon.TranslateBytesOptions{Raw: true})
		if found := problems(rep, true); len(found) > 0 {
			return nil, nil, Problems(found)
		}
		if err != nil {
			return nil, nil, Problems{butaneProblem(err)}
		}
		raw, warnings = out, problems(rep, false)
	}
	rep, err := check(raw)
	if found := problems(rep, true); len(found) > 0 {
		return nil, nil, Problems(found)
	}
	if err != nil {
		return nil, nil, Problems{ignitionProblem(raw, err)}
	}
	return raw, append(warnings, problems(rep, false)...), nil
}

// isJSON tells Ignition from Butane, which is YAML and begins with a key.
func isJSON(text string) bool { return strings.HasPrefix(strings.TrimSpace(text), "{") }

// butaneProblem says what a person can do about errors that the library has no
// place for.
func butaneProblem(err error) Problem {
	if errors.Is(err, butanecommon.ErrNoVariant) {
		return Problem{Message: "neither Butane nor Ignition: Butane begins with `variant: flatcar` or `variant: fcos` and `version:`, Ignition is JSON with ignition.version"}
	}
	return Problem{Message: strings.ReplaceAll(err.Error(), "\n", " ")}
}

func ignitionProblem(raw []byte, err error) Problem {
	var syntax *json.SyntaxError
	var v any
	if errors.As(json.Unmarshal(raw, &v), &syntax) {
		line, column := place(raw, syntax.Offset)
		return Problem{Line: line, Column: column, Message: syntax.Error()}
	}
	version, _, vErr := util.GetConfigVersion(raw)
	if vErr == nil && (version.Major != 3 || version.Minor > newest) {
		return Problem{Field: "ignition.version", Message: fmt.Sprintf("%s is not one of 3.0.0 to 3.%d.0", version, newest)}
	}
	return Problem{Message: strings.ReplaceAll(err.Error(), "\n", " ")}
}

// place turns an offset into line and column, both from 1.
func place(raw []byte, offset int64) (line, column int) {
	before := raw[:max(0, min(int64(len(raw)), offset)-1)]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

// newest and oldest are the minor versions of specification 3 that are given out.
const (
	oldest = 3
	newest = 5
)

// minor is the minor version that a configuration is given out in.
func minor(raw []byte) (int, error) {
	v, _, err := util.GetConfigVersion(raw)
	if err != nil {
		return 0, err
	}
	if v.Major != 3 || v.Minor > newest || v.PreRelease != "" {
		return 0, fmt.Errorf("ignition.version %s is not one of 3.0.0 to 3.%d.0", v, newest)
	}
	return max(oldest, int(v.Minor)), nil
}

// check parses raw with the library of its own version.
func check(raw []byte) (report.Report, error) {
	m, err := minor(raw)
	if err != nil {
		return report.Report{}, err
	}
	var rep report.Report
	switch m {
	case 4:
		_, rep, err = v3_4.ParseCompatibleVersion(raw)
	case 5:
		_, rep, err = v3_5.ParseCompatibleVersion(raw)
	default:
		_, rep, err = v3_3.ParseCompatibleVersion(raw)
	}
	return rep, err
}

// isFatal takes keys that the libraries only warn of for wrong, as butane
// --strict does: who misspells one would get a machine without what it says.
func isFatal(e report.Entry) bool {
	return e.Kind.IsFatal() || strings.HasPrefix(e.Message, "Unused key")
}

// problems picks the entries of a report that are fatal, or those that aren't.
func problems(rep report.Report, fatal bool) []Problem {
	var out []Problem
	for _, e := range rep.Entries {
		if isFatal(e) != fatal {
			continue
		}
		p := Problem{Message: strings.ReplaceAll(e.Message, "\n", " ")}
		if e.Context.Len() > 0 {
			p.Field = strings.TrimPrefix(e.Context.String(), "$.")
		}
		if m := e.Marker.StartP; m != nil {
			p.Line, p.Column = int(m.Line), int(m.Column)
		}
		out = append(out, p)
	}
	return out
}
