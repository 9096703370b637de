package expression

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExpandValue(t *testing.T) {
	facts := map[string]any{"inputs": map[string]any{"n": int64(3), "names": []any{"a", "b"}}, "cluster": map[string]any{"version": "v1.36.3"}}
	in := map[string]any{
		"plain": "text", "number": int64(7), "doubled": "$${{ x }}",
		"whole": "${{ inputs.names }}",
		"text":  []any{"v=${{ cluster.version }} n=${{ inputs.n + 1 }}", "${{ toJSON(inputs.names) }}"},
	}
	got, err := ExpandValue(t.Context(), in, facts)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"plain": "text", "number": int64(7), "doubled": "${{ x }}", "whole": []any{"a", "b"},
		"text": []any{"v=v1.36.3 n=4", `["a","b"]`},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, err = ExpandValue(t.Context(), map[string]any{"a": []any{"${{ inputs.m }}"}}, facts)
	if err == nil || !strings.Contains(err.Error(), "a[0]: ") {
		t.Errorf("a field that isn't there: %v", err)
	}
}

func TestCheckValue(t *testing.T) {
	for text, want := range map[string]string{
		"${{ inputs.x }}":    "",
		"${{ inputs.x":       "has no }}",
		"${{ outputs.x }}":   "outputs",
		"${{ inputs.x + }}":  "syntax error",
		"a ${{ }} b":         "empty",
		"$${{ not one, so }": "",
	} {
		err := CheckValue(map[string]any{"k": text}, []string{"inputs"})
		if (err == nil) != (want == "") || err != nil && !(strings.Contains(err.Error(), want) && strings.HasPrefix(err.Error(), "k: ")) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestEvalCondition(t *testing.T) {
	facts := map[string]any{"object": map[string]any{"status": map[string]any{"phase": "Ready"}}}
	if yes, err := EvalCondition(t.Context(), `object.status.phase == "Ready"`, facts); !yes || err != nil {
		t.Errorf("the phase is Ready: %v, %v", yes, err)
	}
	if _, err := EvalCondition(t.Context(), `object.status.phase`, facts); err == nil {
		t.Error("text is no condition")
	}
	if err := CheckCondition(`1 + 1`, nil); err == nil || !strings.Contains(err.Error(), "bool is wanted") {
		t.Errorf("a number is no condition: %v", err)
	}
}
