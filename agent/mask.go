package agent

import (
	"slices"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// masked is what a secret is shown as.
const masked = "***"

// minSecret is the shortest text that is looked for: hiding every "a" because
// a secret is "a" would hide the log and tell the secret.
const minSecret = 4

// mask replaces the values of a plan's secrets in everything that leaves the
// machine. A secret of several lines is replaced line by line too, for logs
// are lines. The zero value replaces nothing.
type mask struct{ replacer *strings.Replacer }

func newMask(secrets map[string]*pb.SecretValues) mask {
	var values []string
	for _, s := range secrets {
		for _, v := range s.GetData() {
			values = append(values, v, strings.TrimSpace(v))
			for line := range strings.Lines(v) {
				values = append(values, strings.TrimSpace(line))
			}
		}
	}
	values = slices.DeleteFunc(values, func(v string) bool { return len(v) < minSecret })
	// The longest first: where two begin alike the replacer takes the earlier.
	slices.SortFunc(values, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	values = slices.Compact(values)
	if len(values) == 0 {
		return mask{}
	}
	pairs := make([]string, 0, 2*len(values))
	for _, v := range values {
		pairs = append(pairs, v, masked)
	}
	return mask{replacer: strings.NewReplacer(pairs...)}
}

// text returns s without secrets.
func (m mask) text(s string) string {
	if m.replacer == nil {
		return s
	}
	return m.replacer.Replace(s)
}

// value returns v with every string in it without secrets.
func (m mask) value(v any) any {
	switch v := v.(type) {
	case string:
		return m.text(v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = m.value(e)
		}
		return out
	case []string:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = m.text(e)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = m.value(e)
		}
		return out
	default:
		return v
	}
}
