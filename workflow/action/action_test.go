package action

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite docs/actions.md")

func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range All() {
		if seen[a.Name] {
			t.Errorf("%s is there twice", a.Name)
		}
		seen[a.Name] = true
		if a.DefaultTimeout <= 0 {
			t.Errorf("%s has no default timeout", a.Name)
		}
		sentences := append([]string{a.Doc}, a.Errors...)
		for _, in := range a.Inputs {
			sentences = append(sentences, in.Doc)
			for _, f := range in.Fields {
				sentences = append(sentences, f.Doc)
			}
		}
		for _, out := range a.Outputs {
			sentences = append(sentences, out.Doc)
		}
		for _, s := range sentences {
			if !strings.HasSuffix(s, ".") {
				t.Errorf("%s: %q is no sentence", a.Name, s)
			}
		}
		for _, group := range a.OneOf {
			for _, name := range group {
				if in, ok := a.Input(name); !ok || in.Required {
					t.Errorf("%s: one of %v is no optional input", a.Name, group)
				}
			}
		}
		if got, ok := Lookup(a.Name); !ok || got.Name != a.Name {
			t.Errorf("Lookup(%s) finds %v", a.Name, got.Name)
		}
	}
	if _, ok := Lookup("nothing"); ok {
		t.Error("Lookup finds what isn't there")
	}
	if got := len(Names()); got != len(All()) {
		t.Errorf("%d names of %d actions", got, len(All()))
	}
}

func TestDocumentation(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "actions.md")
	want := document()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/actions.md isn't what the table says; rewrite it with `go test ./workflow/action -update` (-want +got):\n%s", diff)
	}
}

const preface = `# Actions

What a step can say in ` + "`uses`" + `. This page is made from the table in ` + "`workflow/action`" + `.

A *size* is a number of bytes or text with a unit: KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024).
An action that *can run again* is retried when the machine loses power while it runs; any other fails then, unless the step
says ` + "`on_interrupt: retry`" + `. The timeout is for one attempt, when the step gives none.

`

// document writes docs/actions.md.
func document() string {
	var b strings.Builder
	b.WriteString(preface)
	b.WriteString("| action | |\n| --- | --- |\n")
	for _, a := range All() {
		first, _, _ := strings.Cut(a.Doc, ". ")
		fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", a.Name, strings.ReplaceAll(a.Name, ".", ""), strings.TrimSuffix(first, "."))
	}
	for _, a := range All() {
		documentAction(&b, a)
	}
	return b.String()
}

func documentAction(b *strings.Builder, a Action) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n", a.Name, a.Doc)
	again := "does not run again by itself"
	if a.Idempotent {
		again = "can run again"
	}
	fmt.Fprintf(b, "Timeout %s; %s.", a.DefaultTimeout, again)
	if a.Container {
		b.WriteString(" Takes the step's `image`, `args` and `entrypoint`.")
	}
	if a.Environment {
		b.WriteString(" Takes the step's `env`.")
	}
	if a.OnServer {
		b.WriteString(" Decided by the server.")
	}
	b.WriteString("\n")
	documentInputs(b, a)
	if len(a.Outputs) > 0 {
		b.WriteString("\n| output | type | |\n| --- | --- | --- |\n")
		for _, out := range a.Outputs {
			fmt.Fprintf(b, "| `%s` | %s | %s |\n", out.Name, out.Type, out.Doc)
		}
	}
	if len(a.Errors) > 0 {
		b.WriteString("\nErrors:\n\n")
		for _, e := range a.Errors {
			fmt.Fprintf(b, "- %s\n", e)
		}
	}
}

func documentInputs(b *strings.Builder, a Action) {
	if len(a.Inputs) == 0 {
		return
	}
	b.WriteString("\n| input | type | default | |\n| --- | --- | --- | --- |\n")
	for _, in := range a.Inputs {
		documentInput(b, a, "", in)
		for _, f := range in.Fields {
			documentInput(b, a, in.Name+"[].", f)
		}
	}
}

func documentInput(b *strings.Builder, a Action, prefix string, in Input) {
	otherwise := in.Default
	switch {
	case in.Required:
		otherwise = "**required**"
	case prefix == "" && otherTo(a, in.Name) != "":
		otherwise = "or `" + otherTo(a, in.Name) + "`"
	case otherwise != "":
		otherwise = strings.ReplaceAll(otherwise, `\`, `\\`)
	}
	kind := string(in.Type)
	if len(in.Values) > 0 {
		kind = strings.Join(in.Values, ", ")
	}
	fmt.Fprintf(b, "| `%s%s` | %s | %s | %s |\n", prefix, in.Name, kind, otherwise, strings.ReplaceAll(in.Doc, "|", `\|`))
}

// otherTo returns the input that may be given in place of this one.
func otherTo(a Action, name string) string {
	for _, g := range a.OneOf {
		if i := slices.Index(g, name); i >= 0 {
			return g[1-i]
		}
	}
	return ""
}
