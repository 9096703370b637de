package logs

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/agent/step"
)

type lines []string

func (l *lines) Log(stream, line string)             { *l = append(*l, stream+": "+line) }
func (*lines) Progress(int64, int64, string, string) {}

func TestRing(t *testing.T) {
	r := NewRing(3)
	fmt.Fprint(r, "a\r\nb\nc")
	if diff := cmp.Diff([]string{"a", "b"}, r.Last(9)); diff != "" {
		t.Errorf("not full (-want +got):\n%s", diff)
	}
	fmt.Fprint(r, "c\nd\ne\n")
	if diff := cmp.Diff([]string{"cc", "d", "e"}, r.Last(9)); diff != "" {
		t.Errorf("full (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"d", "e"}, r.Last(2)); diff != "" {
		t.Errorf("the last two (-want +got):\n%s", diff)
	}
}

func TestCollector(t *testing.T) {
	r := NewRing(10)
	fmt.Fprint(r, "hello\nthere\n")
	c := Collector{Agent: r, Kernel: func() ([]string, error) { return []string{"k1", "k2", "k3"}, nil }}
	var got lines
	result, err := c.Execute(t.Context(), step.Request{With: map[string]any{"lines": int64(2)}}, &got)
	if err != nil || result.Outputs["lines"] != int64(4) {
		t.Errorf("%v, %v", result, err)
	}
	if diff := cmp.Diff(lines{"agent: kernel: k2", "agent: kernel: k3", "agent: hello", "agent: there"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestParseKernel(t *testing.T) {
	got, ok := parseKernel("6,339,5140900,-;NET: Registered PF_INET\n SUBSYSTEM=net\n")
	if want := "[    5.140900] NET: Registered PF_INET"; got != want || !ok {
		t.Errorf("%q, want %q", got, want)
	}
	for _, bad := range []string{"", "a;b", "1,2;x", "1,2,y;z"} {
		if got, ok := parseKernel(bad); ok {
			t.Errorf("%q gives %q", bad, got)
		}
	}
}
