package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

//go:generate go run . docs --dir ../../docs/cli

func newDocsCommand(a *app) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:    "docs --dir DIR",
		Short:  "Write the reference of all commands as Markdown",
		Hidden: true,
		Args:   args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Defaults are those without an environment.
			plain := *a
			plain.getenv = func(string) string { return "" }
			for name, text := range reference(newRootCommand(&plain)) {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return fmt.Errorf("writing the reference: %w", err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					return fmt.Errorf("writing the reference: %w", err)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "folder to write to")
	return cmd
}

// reference returns the pages by file name: one for every command below the
// root, with those below it, and an index.
func reference(root *cobra.Command) map[string]string {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpFlag()
	pages := map[string]string{}
	var index strings.Builder
	fmt.Fprintf(&index, "# %s\n\n%s\n\n%s\n\n| command | |\n| --- | --- |\n", root.Name(), root.Short+".", root.Long)
	for _, c := range root.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		var page strings.Builder
		writeCommand(&page, c, 1)
		pages[c.Name()+".md"] = page.String()
		fmt.Fprintf(&index, "| [%s](%s.md) | %s |\n", c.CommandPath(), c.Name(), c.Short)
	}
	fmt.Fprintf(&index, "\nEvery command has these flags:\n\n%s", flagTable(root.PersistentFlags()))
	pages["README.md"] = index.String()
	return pages
}

func writeCommand(w *strings.Builder, c *cobra.Command, level int) {
	fmt.Fprintf(w, "%s %s\n\n%s\n", strings.Repeat("#", min(level, 4)), c.CommandPath(), strings.TrimSpace(orElse(c.Long, c.Short+".")))
	// What has commands below it may take arguments itself: eventlog NAME.
	if c.Runnable() && (!c.HasAvailableSubCommands() || strings.Contains(c.Use, " ")) {
		fmt.Fprintf(w, "\n```\n%s\n```\n", c.UseLine())
	}
	if len(c.Aliases) > 0 {
		fmt.Fprintf(w, "\nAlso: `%s`.\n", strings.Join(c.Aliases, "`, `"))
	}
	if c.Example != "" {
		fmt.Fprintf(w, "\nFor example:\n\n```\n%s\n```\n", c.Example)
	}
	if text := flagTable(c.LocalNonPersistentFlags()); text != "" {
		fmt.Fprintf(w, "\n%s", text)
	}
	if text := flagTable(c.PersistentFlags()); text != "" {
		fmt.Fprintf(w, "\nAll of these commands have as well:\n\n%s", text)
	}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			w.WriteString("\n")
			writeCommand(w, sub, level+1)
		}
	}
}

func flagTable(flags *pflag.FlagSet) string {
	var out strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if out.Len() == 0 {
			out.WriteString("| flag | |\n| --- | --- |\n")
		}
		kind, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += " " + kind
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" && f.DefValue != "0s" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(&out, "| `%s` | %s |\n", strings.ReplaceAll(name, "|", "\\|"), strings.ReplaceAll(usage, "|", "\\|"))
	})
	return out.String()
}
