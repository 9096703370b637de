package step

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type lines []string

func (l *lines) Log(stream, line string)             { *l = append(*l, stream+": "+line) }
func (*lines) Progress(int64, int64, string, string) {}

func TestLineWriter(t *testing.T) {
	var got lines
	w := NewLineWriter(&got, Stdout, true)
	for _, s := range []string{"one\ntw", "o\n\n10%\r20%\r", "caf\xe9\n", strings.Repeat("x", 2*MaxLine+1) + "\n", "last"} {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	long := "stdout: " + strings.Repeat("x", MaxLine)
	want := lines{"stdout: one", "stdout: two", "stdout: 10%", "stdout: 20%", "stdout: caf\uFFFD", long, long, "stdout: x", "stdout: last"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if tail := w.Tail(); !strings.HasPrefix(tail, "one\ntwo\n\n10%\r") || !strings.HasSuffix(tail, "x\nlast") {
		t.Errorf("tail %.20q...", tail)
	}
	t.Run("the tail is bounded", func(t *testing.T) {
		w := NewLineWriter(&got, Stdout, true)
		for range 100 {
			_, _ = w.Write([]byte(strings.Repeat("0123456789", 1000) + "\n"))
		}
		_, _ = w.Write([]byte("end"))
		if tail := w.Tail(); len(tail) != MaxTail || !strings.HasSuffix(tail, "\nend") {
			t.Errorf("tail of %d bytes", len(tail))
		}
	})
}

func FuzzLineWriter(f *testing.F) {
	f.Add([]byte("a\nb\r\nc"), 2)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var once, twice lines
		w := NewLineWriter(&once, Stdout, false)
		_, _ = w.Write(b)
		_ = w.Close()
		cut = max(0, min(cut, len(b)))
		w = NewLineWriter(&twice, Stdout, false)
		_, _ = w.Write(b[:cut])
		_, _ = w.Write(b[cut:])
		_ = w.Close()
		if diff := cmp.Diff(once, twice); diff != "" {
			t.Errorf("in two parts (-once +twice):\n%s", diff)
		}
	})
}
