package workflow

import (
	"encoding/base64"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

const (
	masked = "***"
	// minMasked is the shortest value that is masked: a shorter one is in
	// every text, and no secret.
	minMasked = 3
)

// masker hides the values of secrets in text: as they are, line by line, and
// in base64. The zero value and nil hide nothing. It doesn't change.
type masker struct {
	values   []string
	replacer *strings.Replacer
}

// with returns a masker that hides these values as well.
func (m *masker) with(secrets map[string]*pb.SecretValues) *masker {
	out := &masker{}
	if m != nil {
		out.values = slices.Clone(m.values)
	}
	for _, s := range secrets {
		for _, v := range s.GetData() {
			out.values = append(out.values, forms(v)...)
		}
	}
	// Of two that begin at the same place the first given wins: the longer.
	slices.SortFunc(out.values, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	out.values = slices.Compact(out.values)
	var pairs []string
	for _, v := range out.values {
		pairs = append(pairs, v, masked)
	}
	if len(pairs) > 0 {
		out.replacer = strings.NewReplacer(pairs...)
	}
	return out
}

// forms are the ways in which a value may be printed.
func forms(v string) []string {
	var out []string
	add := func(s string) {
		if len(s) >= minMasked {
			out = append(out, s, base64.StdEncoding.EncodeToString([]byte(s)))
		}
	}
	add(v)
	if trimmed := strings.TrimSpace(v); trimmed != v {
		add(trimmed)
	}
	if strings.Contains(v, "\n") {
		for line := range strings.Lines(v) {
			add(strings.TrimSpace(line))
		}
	}
	return out
}

func (m *masker) text(s string) string {
	if m == nil || m.replacer == nil {
		return s
	}
	return m.replacer.Replace(s)
}

func (m *masker) lines(in []string) []string {
	for i := range in {
		in[i] = m.text(in[i])
	}
	return in
}

// value returns v with every text in it masked.
func (m *masker) value(v *structpb.Value) *structpb.Value {
	if m == nil || m.replacer == nil {
		return v
	}
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return structpb.NewStringValue(m.text(k.StringValue))
	case *structpb.Value_ListValue:
		out := &structpb.ListValue{}
		for _, e := range k.ListValue.GetValues() {
			out.Values = append(out.Values, m.value(e))
		}
		return structpb.NewListValue(out)
	case *structpb.Value_StructValue:
		out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for name, e := range k.StructValue.GetFields() {
			out.Fields[m.text(name)] = m.value(e)
		}
		return structpb.NewStructValue(out)
	default:
		return v
	}
}

// cut shortens s to so many bytes, and makes it proper text.
func cut(s string, most int) string {
	if len(s) > most {
		s = s[:most]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if len(s) > 0 {
			s = s[:len(s)-1]
		}
		s += "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
