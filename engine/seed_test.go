package engine

import (
	"testing"

	"github.com/bedplate/bedplate/workflow/expression"
)

func TestBuiltinTemplates(t *testing.T) {
	templates, err := builtinTemplates()
	if err != nil {
		t.Fatal(err)
	}
	for _, tpl := range templates {
		t.Run(tpl.Metadata.Name, func(t *testing.T) {
			if err := expression.Check(tpl.Spec); err != nil {
				t.Error(err)
			}
		})
	}
}
