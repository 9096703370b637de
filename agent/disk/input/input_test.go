package input

import (
	"strings"
	"testing"
)

func TestSizeOf(t *testing.T) {
	for in, want := range map[any]int64{
		"512MiB": 512 << 20, "20GB": 20e9, "1.5 TiB": 3 << 39, "7": 7, "4k": 4096,
		int64(12): 12, float64(3): 3,
	} {
		got, err := SizeOf(in)
		if err != nil || got != want {
			t.Errorf("SizeOf(%v) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []any{"", "x", "-1", "1.2.3G", "9999999PB", "5 furlongs", 1.5, int64(-1), nil, true} {
		if n, err := SizeOf(in); err == nil {
			t.Errorf("SizeOf(%v) = %d, want an error", in, n)
		}
	}
}

func TestReader(t *testing.T) {
	t.Run("values come as they were given", func(t *testing.T) {
		r := Of(map[string]any{
			"s": "text", "n": float64(3), "b": true, "l": []any{"a", int64(2)}, "one": "x",
			"m": []any{map[string]any{"size": "1M"}},
		})
		if r.String("s") != "text" || r.Int("n", 9) != 3 || !r.Bool("b") || r.Int("absent", 9) != 9 {
			t.Error("a value was read wrongly")
		}
		if got := strings.Join(append(r.Strings("l"), r.Strings("one")...), ","); got != "a,2,x" {
			t.Errorf("lists = %q", got)
		}
		if m := r.Maps("m"); len(m) != 1 || m[0].Size("size") != 1<<20 {
			t.Error("a map in a list was read wrongly")
		}
		if err := r.Err(); err != nil {
			t.Error(err)
		}
	})
	t.Run("everything wrong is in one error", func(t *testing.T) {
		r := Of(map[string]any{"s": []any{}, "n": 1.5, "b": "perhaps", "c": "z", "strange": 1})
		r.String("s")
		r.Int("n", 0)
		r.Bool("b")
		r.Choice("c", "x", "y")
		r.Required("disk")
		err := r.Err()
		for _, want := range []string{
			"with.s: wants a string, not a list", "with.n: 1.5 is not a whole number",
			"with.b: wants true or false, not perhaps", `with.c: "z" is none of x, y`,
			"with.disk: is required", "with.strange: this action has no such input",
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v\nlacks %q", err, want)
			}
		}
	})
}
