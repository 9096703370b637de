package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack/catalog"
)

func newStackCatalogCommand(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "catalog [LAYER|NAME]",
		Short: "What stacks can be made of: all, those of a layer, or one",
		Long: `What stacks can be made of, from the machine up. It needs no server: the
catalogue comes with the program. One entry is shown whole, as YAML.`,
		Example: "  bedplate stack catalog\n  bedplate stack catalog storage\n  bedplate stack catalog longhorn",
		Args:    args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: func(_ *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(words) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return catalogWords(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, words []string) error {
			c, err := catalog.Builtin()
			if err != nil {
				return err
			}
			if len(words) == 0 {
				return a.printCatalog(c.All(), all)
			}
			if e, ok := c.Named(words[0]); ok {
				return a.printEntry(e)
			}
			if slices.Contains(catalog.Layers(), words[0]) {
				return a.printCatalog(c.In(words[0]), true)
			}
			err = usageError{fmt.Errorf("%q is neither a layer nor an entry of the catalogue", words[0])}
			if near := resource.Nearest(words[0], catalogWords()); near != "" {
				return hint(err, "did you mean "+near+"?")
			}
			return hint(err, "the layers are "+strings.Join(catalog.Layers(), ", "))
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also what isn't put on a cluster, and what has ended")
	return cmd
}

func catalogWords() []string {
	words := catalog.Layers()
	c, err := catalog.Builtin()
	if err != nil {
		return words
	}
	for _, e := range c.All() {
		words = append(words, e.Name)
	}
	return words
}

func (a *app) printCatalog(entries []*catalog.Entry, all bool) error {
	t := &table.Table{Header: []string{"LAYER", "NAME", "VERSION", "OFFERS", "NEEDS", "DESCRIPTION"}}
	for _, e := range entries {
		if !all && !e.OnCluster() {
			continue
		}
		t.Add(e.Layer, e.Name, e.Version, strings.Join(e.Offers, ","), strings.Join(e.Needs, ","), table.Truncate(entryNote(e), 60))
	}
	return t.Write(a.stdout)
}

func entryNote(e *catalog.Entry) string {
	switch {
	case e.Ended:
		return "ended: use " + e.Successor
	case e.Commercial:
		return "commercial: " + e.Description
	}
	return e.Description
}

// printEntry writes an entry as its file is.
func (a *app) printEntry(e *catalog.Entry) error {
	text, err := e.Text()
	if err != nil {
		return err
	}
	fprintf(a.stdout, "%s", text)
	return nil
}

func newStackProfileCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "profile [NAME]",
		Short: "Whole stacks to begin from: list them, or write one",
		Long: `Whole stacks to begin from. Without a name the profiles are listed; with one its
file goes to the standard output, to be read, changed and applied.`,
		Example:   "  bedplate stack profile standard > stack.yaml",
		Args:      args(cobra.MaximumNArgs(1)),
		ValidArgs: catalog.Profiles(),
		RunE: func(_ *cobra.Command, words []string) error {
			if len(words) == 1 {
				text, err := catalog.Profile(words[0])
				if err != nil {
					return usageError{err}
				}
				fprintf(a.stdout, "%s", text)
				return nil
			}
			return a.printProfiles()
		},
	}
}

func (a *app) printProfiles() error {
	t := &table.Table{Header: []string{"NAME", "LAYERS", "DESCRIPTION"}}
	for _, name := range catalog.Profiles() {
		text, err := catalog.Profile(name)
		if err != nil {
			return err
		}
		var p struct {
			Spec struct {
				Description string           `yaml:"description"`
				Layers      []map[string]any `yaml:"layers"`
			} `yaml:"spec"`
		}
		if err := yaml.Unmarshal(text, &p); err != nil {
			return fmt.Errorf("reading the profile %s: %w", name, err)
		}
		t.Add(name, fmt.Sprint(len(p.Spec.Layers)), p.Spec.Description)
	}
	return t.Write(a.stdout)
}
