package table

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	style := Style{On: true}
	tb := Table{Header: []string{"NAME", "STATE", "AGE"}, Indent: "> "}
	tb.Add("web-1", style.State("active"), "3m")
	tb.Add("größe", "", "12d")
	tb.Add("two\nlines", "x")
	var out strings.Builder
	if err := tb.Write(&out); err != nil {
		t.Fatal(err)
	}
	want := "> NAME       STATE   AGE\n" +
		"> web-1      \x1b[32mactive\x1b[0m  3m\n" +
		"> größe      -       12d\n" +
		"> two lines  x\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 125 * time.Second: "2m5s",
		59 * time.Minute: "59m", 179 * time.Minute: "179m", 3 * time.Hour: "3h", 49 * time.Hour: "2d",
	} {
		if got := Age(d); got != want {
			t.Errorf("Age(%v) is %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-1: "0.0s", 1440 * time.Millisecond: "1.4s", 59990 * time.Millisecond: "59.9s", 125 * time.Second: "2m05s", 62 * time.Minute: "1h02m",
	} {
		if got := Took(d); got != want {
			t.Errorf("Took(%v) is %s, want %s", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "0.977 KiB", 1536: "1.5 KiB", 8 << 30: "8 GiB", 1 << 50: "1 PiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) is %s, want %s", n, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 480e9: "480 GB", 1920e9: "1.92 TB", 2e15: "2 PB"} {
		if got := DiskBytes(n); got != want {
			t.Errorf("DiskBytes(%d) is %s, want %s", n, got, want)
		}
	}
	if got, want := Clean("a\x1b[2Jb\nc"), "a [2Jb c"; got != want {
		t.Errorf("Clean: %q, want %q", got, want)
	}
	if got, want := Truncate("größer", 4), "grö…"; got != want {
		t.Errorf("Truncate: %q, want %q", got, want)
	}
}

// clock is moved on by hand.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func TestScreen_Terminal(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	var out strings.Builder
	s := NewScreen(&out, 80, c.now)
	s.Line("begins")
	s.Set("w", Bar{Label: "write", Done: 0, Total: 4 << 20, Unit: "bytes"})
	c.t = c.t.Add(10 * time.Millisecond)
	s.Set("w", Bar{Label: "write", Done: 1, Total: 4 << 20, Unit: "bytes"}) // too soon
	c.t = c.t.Add(time.Second)
	s.Set("w", Bar{Label: "write", Done: 2 << 20, Total: 4 << 20, Unit: "bytes", Rate: 1 << 20})
	s.Line("a line in between")
	s.Remove("w")
	s.Remove("none")
	s.Line("ends")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := "begins\n" +
		"  write  [                        ]    0%  0 B of 4 MiB\n" +
		"\x1b[1A\r\x1b[J  write  [============            ]   50%  2 MiB of 4 MiB  1 MiB/s  2.0s left\n" +
		"\x1b[1A\r\x1b[Ja line in between\n" +
		"  write  [============            ]   50%  2 MiB of 4 MiB  1 MiB/s  2.0s left\n" +
		"\x1b[1A\r\x1b[J" +
		"ends\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestScreen_File(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	var out strings.Builder
	s := NewScreen(&out, 0, c.now)
	for i := range int64(40) { // 0.5 s each
		s.Set("w", Bar{Label: "write", Done: i * 25, Total: 1000, Unit: "blocks"})
		c.t = c.t.Add(500 * time.Millisecond)
	}
	for range 25 {
		s.Set("x", Bar{Label: "wait", Message: "for the \x1b[31mdisk"})
		c.t = c.t.Add(time.Second)
	}
	s.Remove("w")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, line := range []string{"  0%  0", " 10%  100", " 20%  200", " 30%  300", " 40%  400", " 50%  500", " 60%  600", " 70%  700", " 80%  800", " 90%  900"} {
		want += "  write  " + line + " of 1000 blocks\n"
	}
	want += strings.Repeat("  wait  for the  [31mdisk\n", 3)
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestBar_Text(t *testing.T) {
	for want, bar := range map[string]Bar{
		"  a":                         {Label: "a"},
		"  a  12 B":                   {Label: "a", Done: 12, Unit: "bytes"},
		"  a  100%  10 of 10":         {Label: "a", Done: 10, Total: 10, Rate: 0},
		"  a  100%  12 of 10  2/s":    {Label: "a", Done: 12, Total: 10, Rate: 2},
		"  a    0%  -1 of 1  0.001/s": {Label: "a", Done: -1, Total: 1, Rate: 0.001},
		"  a    0%  0 of 1000000000 files  1 files/s": {Label: "a", Total: 1e9, Unit: "files", Rate: 1},
	} {
		got := bar.Text(0)
		if bar.Done < 0 {
			got = strings.Replace(got, "  33m20s left", "", 1)
		}
		if got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	long := Bar{Label: strings.Repeat("x", 100)}.Text(40)
	if Width(long) != 39 {
		t.Errorf("a bar on 40 columns is %d wide", Width(long))
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestScreen_BrokenWriter(t *testing.T) {
	s := NewScreen(brokenWriter{}, 0, func() time.Time { return time.Time{} })
	s.Line("a")
	s.Line("b")
	if err := s.Close(); err == nil {
		t.Error("the writer's error is lost")
	}
}
