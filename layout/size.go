package layout

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is how large a part is to be.
type Size struct {
	// Bytes is the size; 0 where one of the others says it.
	Bytes int64
	// Percent is of the volume group.
	Percent int64
	// Rest is whatever is left.
	Rest bool
}

var units = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"PiB", 1 << 50},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"PB", 1e15},
}

// ParseSize reads 20GB, 512MiB, 4096, 50%, and `rest`, which an empty text is as well.
func ParseSize(text string) (Size, error) {
	s := strings.TrimSpace(text)
	if s == "" || s == "rest" {
		return Size{Rest: true}, nil
	}
	if p, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.ParseInt(strings.TrimSpace(p), 10, 64)
		if err != nil || n < 1 || n > 100 {
			return Size{}, fmt.Errorf("%q: a percentage is a whole number from 1 to 100", text)
		}
		return Size{Percent: n}, nil
	}
	factor := 1.0
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, factor = strings.TrimSpace(rest), float64(u.bytes)
			break
		}
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f > 0) || f*factor > math.MaxInt64/2 || f*factor < 1 {
		return Size{}, fmt.Errorf("%q: not a size such as 20GB, 512MiB or rest", text)
	}
	return Size{Bytes: int64(f * factor)}, nil
}
