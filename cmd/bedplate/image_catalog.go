package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	"github.com/bedplate/bedplate/images/catalog"
	"github.com/bedplate/bedplate/resource"
)

func newImageCatalogCommand(a *app) *cobra.Command {
	var dir string
	var format string
	cmd := &cobra.Command{
		Use:   "catalog [NAME]",
		Short: "Operating systems that can be imported by name: all, or one",
		Long: `Operating systems that can be imported by name. It needs no server: the
catalogue comes with the program. A folder of files like those that
"-o yaml" shows adds entries, or takes the place of built-in ones.`,
		Example: "  bedplate image catalog\n  bedplate image catalog flatcar\n  bedplate image catalog debian -o yaml > catalog/ours.yaml",
		Args:    args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: func(_ *cobra.Command, words []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(words) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return catalogNames(dir), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, words []string) error {
			if !slices.Contains(catalogFormats(), format) {
				return usageError{fmt.Errorf("-o %s: not one of %s", format, strings.Join(catalogFormats(), ", "))}
			}
			c, err := catalog.Open(dir)
			if err != nil {
				return usageError{err}
			}
			if len(words) == 0 {
				return a.printImageCatalog(c.All(), format)
			}
			e, err := catalogEntry(c, words[0])
			if err != nil {
				return err
			}
			return a.printImageEntry(e, format)
		},
	}
	catalogFlag(cmd, &dir)
	cmd.Flags().StringVarP(&format, "output", "o", formatTable, "`format`: "+strings.Join(catalogFormats(), "|"))
	completeFlag(cmd, "output", catalogFormats()...)
	return cmd
}

func catalogFormats() []string { return []string{formatTable, formatJSON, formatYAML} }

func catalogFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "catalog", "", "`folder` with more entries of the image catalogue (*.yaml)")
}

func catalogNames(dir string) []string {
	c, err := catalog.Open(dir)
	if err != nil {
		return nil
	}
	return c.Names()
}

// catalogEntry returns an entry, or says which one may have been meant.
func catalogEntry(c *catalog.Catalog, name string) (*catalog.Entry, error) {
	if e, ok := c.Named(name); ok {
		return e, nil
	}
	err := usageError{fmt.Errorf("%q is not in the image catalogue", name)}
	if near := resource.Nearest(name, c.Names()); near != "" {
		return nil, hint(err, "did you mean "+near+"?")
	}
	return nil, hint(err, "`bedplate image catalog` lists what is; an image of your own needs --file or --url")
}

func (a *app) printImageCatalog(entries []*catalog.Entry, format string) error {
	if format == formatJSON || format == formatYAML {
		return a.printEntries(entries, format)
	}
	t := &table.Table{Header: []string{"NAME", "KIND", "CHANNELS", "ARCH", "CONFIGURED BY", "SIGNED", "SYSTEM"}}
	for _, e := range entries {
		t.Add(e.Name, e.Kind, orElse(strings.Join(e.Channels, ","), "-"), strings.Join(slices.Sorted(maps.Keys(e.Architectures)), ","), e.Configuration, signedBy(e), e.Title)
	}
	return t.Write(a.stdout)
}

// signedBy says in a word whether an entry's origin is checked.
func signedBy(e *catalog.Entry) string {
	switch {
	case len(e.Files) == 0:
		return "your file"
	case e.Signed():
		return e.Files[0].Signature.Kind
	}
	return "no"
}

// printEntries writes entries as their files have them, as a list.
func (a *app) printEntries(entries []*catalog.Entry, format string) error {
	var all []any
	for _, e := range entries {
		var v any
		if err := yaml.Unmarshal([]byte(e.Text()), &v); err != nil {
			return fmt.Errorf("reading the entry %s: %w", e.Name, err)
		}
		all = append(all, v)
	}
	if format == formatJSON {
		text, err := json.MarshalIndent(all, "", "  ")
		fprintf(a.stdout, "%s\n", text)
		return err
	}
	text, err := yaml.Marshal(all)
	fprintf(a.stdout, "%s", text)
	return err
}

func (a *app) printImageEntry(e *catalog.Entry, format string) error {
	switch format {
	case formatYAML:
		fprintf(a.stdout, "%s", e.Text())
		return nil
	case formatJSON:
		return a.printEntries([]*catalog.Entry{e}, format)
	}
	p := &page{a: a}
	p.line("Name", e.Name)
	p.line("System", e.Title+": "+e.Description)
	p.line("Home", e.Homepage)
	p.line("Kind", e.Kind)
	p.line("Channels", strings.Join(e.Channels, ", "))
	p.line("Architectures", strings.Join(slices.Sorted(maps.Keys(e.Architectures)), ", "))
	p.line("Firmware", strings.Join(e.Firmware, ", "))
	p.line("Configuration", e.Configuration)
	p.line("Arguments", strings.Join(e.KernelArguments, " "))
	p.line("Console", e.Console)
	p.line("User", e.User)
	p.line("First boot", e.FirstBoot)
	p.line("Upgrade", e.Upgrade)
	p.imageFiles(e)
	if e.Notes != "" {
		p.section("Notes")
		p.text(strings.TrimSpace(e.Notes))
	}
	p.section("Facts are from")
	for _, s := range e.Sources {
		p.text(s)
	}
	fprintf(a.stdout, "%s", p.out.String())
	return nil
}

// imageFiles says where a release's files and signatures are.
func (p *page) imageFiles(e *catalog.Entry) {
	if len(e.Files) > 0 {
		p.section("Files")
	}
	for _, f := range e.Files {
		p.text(f.Role + ": " + f.URL)
		if f.Checksums != "" {
			p.text("  checksums: " + f.Checksums)
		}
		switch {
		case f.Signature == nil:
			p.text("  signature: none is published that can be checked")
		case f.Signature.URL == "":
			p.text("  signature: " + f.Signature.Kind + ", in the list of checksums")
		default:
			p.text("  signature: " + f.Signature.Kind + " of the " + f.Signature.Of + ", " + f.Signature.URL)
		}
	}
	if len(e.Keys) > 0 {
		p.section("Keys")
	}
	for _, k := range e.Keys {
		p.text(k.Fingerprint + "  " + k.Of)
		p.text("  " + k.URL)
	}
}
