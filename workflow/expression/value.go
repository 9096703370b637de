package expression

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// Limits on the result of one expression.
const (
	// MaxResultBytes bounds all text of a result together.
	MaxResultBytes = 1 << 20
	maxResultNodes = 10_000
	maxResultDepth = 32
)

var errTooMuch = errors.New("the result is too large")

// toNative turns a result into string, bool, int64, float64, nil, []any or
// map[string]any. Times are RFC 3339 text, durations such as 1h30m0s.
func toNative(v ref.Val) (any, error) {
	b := budget{nodes: maxResultNodes, bytes: MaxResultBytes}
	return b.native(v, 0)
}

type budget struct{ nodes, bytes int }

func (b *budget) text(s string) (string, error) {
	if b.bytes -= len(s); b.bytes < 0 {
		return "", errTooMuch
	}
	return s, nil
}

func (b *budget) native(v ref.Val, depth int) (any, error) {
	if b.nodes--; b.nodes < 0 || depth > maxResultDepth {
		return nil, errTooMuch
	}
	switch v := v.(type) {
	case types.String:
		return b.text(string(v))
	case types.Bool:
		return bool(v), nil
	case types.Int:
		return int64(v), nil
	case types.Uint:
		if v > math.MaxInt64 {
			return nil, fmt.Errorf("%d is too large a number", uint64(v))
		}
		return int64(v), nil
	case types.Double:
		return float64(v), nil
	case types.Null:
		return nil, nil
	case types.Timestamp:
		return v.Format(time.RFC3339Nano), nil
	case types.Duration:
		return v.Duration.String(), nil
	case types.Bytes:
		if !utf8.Valid(v) {
			return nil, errors.New("the result is bytes that are no text; use base64.encode")
		}
		return b.text(string(v))
	case traits.Lister:
		return b.list(v, depth)
	case traits.Iterable:
		return b.fields(v, depth)
	default:
		return nil, fmt.Errorf("a %s can't be a result", v.Type().TypeName())
	}
}

func (b *budget) list(v traits.Lister, depth int) (any, error) {
	out := []any{}
	for it := v.Iterator(); it.HasNext() == types.True; {
		e, err := b.native(it.Next(), depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// fields is for maps and labelMaps.
func (b *budget) fields(v traits.Iterable, depth int) (any, error) {
	m, ok := v.(traits.Indexer)
	if !ok {
		return nil, errors.New("this can't be a result")
	}
	out := map[string]any{}
	for it := v.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		name, err := b.native(key, depth+1)
		if err != nil {
			return nil, err
		}
		e, err := b.native(m.Get(key), depth+1)
		if err != nil {
			return nil, err
		}
		out[fmt.Sprint(name)] = e
	}
	return out, nil
}

// toText writes a result into a text around it.
func toText(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case nil:
		return "", nil
	default:
		return "", errors.New("a list or map can't stand in a text; use toJSON() or join()")
	}
}

// ParseSize reads a number of bytes such as 512MiB, 20GB, 1.5TB or 4096.
func ParseSize(text string) (int64, error) {
	s := strings.TrimSpace(text)
	factor := int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	if factor == 1 {
		s = strings.TrimSpace(strings.TrimSuffix(s, "B"))
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 && n <= math.MaxInt64/factor {
		return n * factor, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0) || f*float64(factor) >= math.MaxInt64 || factor == 1 {
		return 0, fmt.Errorf("%q is not a size such as 20GB, 512MiB or 4096", text)
	}
	return int64(f * float64(factor)), nil
}
