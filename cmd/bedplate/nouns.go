package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// ref is a resource that a command line names.
type ref struct {
	kind resource.Kind
	name string
}

// parseKind reads a kind as people write it.
func parseKind(word string) (resource.Kind, error) {
	kind, ok := resource.KindNamed(word)
	if ok {
		return kind, nil
	}
	err := usageError{fmt.Errorf("%q is not a kind of resource", word)}
	if near := resource.Nearest(word, kindWords()); near != "" {
		return kind, hint(err, "did you mean "+near+"?")
	}
	return kind, hint(err, "there are "+strings.Join(kindWords(), ", "))
}

func kindWords() []string {
	var out []string
	for _, k := range resource.Kinds() {
		out = append(out, k.Singular)
	}
	return out
}

// parseRefs reads KIND [NAME...] or KIND/NAME...; a ref without a name is all
// of its kind.
func parseRefs(words []string) ([]ref, error) {
	if !strings.Contains(words[0], "/") {
		kind, err := parseKind(words[0])
		if err != nil {
			return nil, err
		}
		return refsOf(kind, words[1:]), nil
	}
	var out []ref
	for _, w := range words {
		singular, name, ok := strings.Cut(w, "/")
		if !ok || name == "" {
			return nil, usageError{fmt.Errorf("%q is not of the form KIND/NAME, as the others are", w)}
		}
		kind, err := parseKind(singular)
		if err != nil {
			return nil, err
		}
		out = append(out, ref{kind, name})
	}
	return out, nil
}

func refsOf(kind resource.Kind, names []string) []ref {
	if len(names) == 0 {
		return []ref{{kind: kind}}
	}
	var out []ref
	for _, n := range names {
		out = append(out, ref{kind, n})
	}
	return out
}

// The commands over all kinds.

func newGetCommand(a *app) *cobra.Command {
	cmd := getCommand(a, parseRefs)
	cmd.Use = "get KIND [NAME...] | KIND/NAME..."
	cmd.Short = "Show resources"
	cmd.Long = "Show resources of a kind: all, those that are named, or those that a label selector matches."
	cmd.Example = "  bedplate get machines -l rack=r1\n  bedplate get machine web-1 -o yaml\n  bedplate get machine/web-1 image/debian-13"
	cmd.Args = args(cobra.MinimumNArgs(1))
	cmd.ValidArgsFunction = a.completeRefs
	return cmd
}

func newListCommand(a *app) *cobra.Command {
	cmd := getCommand(a, parseRefs)
	cmd.Use = "list KIND"
	cmd.Short = "List the resources of a kind"
	cmd.Args = args(cobra.ExactArgs(1))
	cmd.ValidArgsFunction = a.completeRefs
	return cmd
}

func newDescribeCommand(a *app) *cobra.Command {
	cmd := describeCommand(a, parseRefs)
	cmd.Use = "describe KIND NAME... | KIND/NAME..."
	cmd.Short = "Show everything about resources, for a person to read"
	cmd.Args = args(cobra.MinimumNArgs(1))
	cmd.ValidArgsFunction = a.completeRefs
	return cmd
}

func newDeleteCommand(a *app) *cobra.Command {
	cmd := deleteCommand(a, parseRefs)
	cmd.Use = "delete KIND NAME... | KIND/NAME... | KIND -l SELECTOR"
	cmd.Short = "Delete resources"
	cmd.Args = args(cobra.MinimumNArgs(1))
	cmd.ValidArgsFunction = a.completeRefs
	return cmd
}

func newWatchCommand(a *app) *cobra.Command {
	cmd := watchCommand(a, parseRefs)
	cmd.Use = "watch KIND [NAME]"
	cmd.Short = "Show resources, and every change of them as it happens"
	cmd.Args = args(cobra.RangeArgs(1, 2))
	cmd.ValidArgsFunction = a.completeRefs
	return cmd
}

// newNounCommand makes the commands that every kind has, under its own name.
func newNounCommand(a *app, kind resource.Kind, short string) *cobra.Command {
	noun := &cobra.Command{Use: kind.Singular, Aliases: []string{kind.Plural}, Short: short}
	refs := func(names []string) ([]ref, error) { return refsOf(kind, names), nil }
	list, get, describe := getCommand(a, refs), getCommand(a, refs), describeCommand(a, refs)
	remove, watch := deleteCommand(a, refs), watchCommand(a, refs)
	list.Use, list.Short, list.Args = "list", "List "+kind.Plural, args(cobra.NoArgs)
	get.Use, get.Short, get.Args = "get [NAME...]", "Show "+kind.Plural, args(cobra.ArbitraryArgs)
	describe.Use, describe.Short, describe.Args = "describe NAME...", "Show everything about "+withArticle(kind.Singular), args(cobra.MinimumNArgs(1))
	remove.Use, remove.Short, remove.Args = "delete NAME...", "Delete "+kind.Plural, args(cobra.ArbitraryArgs)
	watch.Use, watch.Short, watch.Args = "watch [NAME]", "Show "+kind.Plural+", and every change as it happens", args(cobra.MaximumNArgs(1))
	list.Aliases = []string{"ls"}
	remove.Aliases = []string{"rm"}
	for _, c := range []*cobra.Command{get, describe, remove, watch} {
		c.ValidArgsFunction = a.completeNames(kind)
	}
	noun.AddCommand(list, get, describe, remove, watch)
	return noun
}

// refReader makes refs of the arguments.
type refReader func([]string) ([]ref, error)

func getCommand(a *app, read refReader) *cobra.Command {
	var out output
	var selector string
	cmd := &cobra.Command{RunE: func(cmd *cobra.Command, words []string) error {
		refs, err := read(words)
		if err = errors.Join(err, out.check()); err != nil {
			return err
		}
		return a.with(cmd.Context(), func(c *client) error {
			objs, err := a.fetch(cmd, c, refs, selector)
			if err != nil {
				return err
			}
			if len(objs) == 0 && (out.format == formatTable || out.format == formatWide) {
				fprintf(a.stderr, "no %s\n", refs[0].kind.Plural)
				return nil
			}
			return a.print(out, objs)
		})
	}}
	out.addFlags(cmd)
	addSelector(cmd, &selector)
	return cmd
}

func addSelector(cmd *cobra.Command, selector *string) {
	cmd.Flags().StringVarP(selector, "selector", "l", "", "only those with these `labels`, such as rack=r1,role!=worker,zone in (a,b),!spare")
}

// fetch gets what the refs name.
func (a *app) fetch(cmd *cobra.Command, c *client, refs []ref, selector string) ([]resource.Object, error) {
	if _, err := resource.ParseSelector(selector); err != nil {
		return nil, usageError{err}
	}
	var objs []resource.Object
	for _, r := range refs {
		switch {
		case r.kind.Name == "Event":
			events, err := c.events(cmd.Context(), eventFilter{}, maxEvents)
			if err != nil {
				return nil, err
			}
			objs = append(objs, events...)
		case r.name == "":
			list, err := c.list(cmd.Context(), r.kind, selector)
			if err != nil {
				return nil, err
			}
			objs = append(objs, list...)
		default:
			obj, err := c.get(cmd.Context(), r.kind, r.name)
			if err != nil {
				return nil, err
			}
			objs = append(objs, obj)
		}
	}
	return objs, nil
}

func describeCommand(a *app, read refReader) *cobra.Command {
	return &cobra.Command{RunE: func(cmd *cobra.Command, words []string) error {
		refs, err := read(words)
		if err != nil {
			return err
		}
		return a.with(cmd.Context(), func(c *client) error {
			for i, r := range refs {
				if r.name == "" {
					return usageError{fmt.Errorf("which %s? give its name", r.kind.Singular)}
				}
				obj, err := c.get(cmd.Context(), r.kind, r.name)
				if err != nil {
					return err
				}
				if i > 0 {
					fprintf(a.stdout, "\n---\n\n")
				}
				if err := a.describe(cmd.Context(), c, obj); err != nil {
					return err
				}
			}
			return nil
		})
	}}
}

func deleteCommand(a *app, read refReader) *cobra.Command {
	var selector string
	cmd := &cobra.Command{RunE: func(cmd *cobra.Command, words []string) error {
		refs, err := read(words)
		if err != nil {
			return err
		}
		all := refs[0].name == ""
		switch {
		case all && selector == "":
			return usageError{fmt.Errorf("which %s? give names, or labels with -l", refs[0].kind.Plural)}
		case !all && selector != "":
			return usageError{errors.New("names and -l together: give one of them")}
		}
		return a.with(cmd.Context(), func(c *client) error {
			if all {
				objs, err := a.fetch(cmd, c, refs, selector)
				if err != nil {
					return err
				}
				kind := refs[0].kind
				refs = nil
				for _, o := range objs {
					refs = append(refs, ref{kind, o.GetMetadata().GetName()})
				}
			}
			return a.deleteAll(cmd, c, refs)
		})
	}}
	addSelector(cmd, &selector)
	return cmd
}

// deleteAll deletes what it can, and reports what it can't.
func (a *app) deleteAll(cmd *cobra.Command, c *client, refs []ref) error {
	var failed error
	for _, r := range refs {
		if err := c.remove(cmd.Context(), r.kind, r.name); err != nil {
			if fatal(err) || len(refs) == 1 {
				return err
			}
			a.report(err)
			failed = errReported
			continue
		}
		fprintf(a.stdout, "%s/%s %s\n", r.kind.Singular, r.name, deletedWord(r.kind))
	}
	return failed
}

// deletedWord says what has happened when the server has taken a deletion up:
// an instance is gone only when its machine's disks have been wiped.
func deletedWord(kind resource.Kind) string {
	if kind.Name == "Instance" {
		return "releasing: it is gone when its machine's disks have been wiped"
	}
	if kind.Name == "Stack" {
		return "uninstalling: it is gone when nothing of it is left in its cluster"
	}
	return "deleted"
}

// withArticle returns a noun with a or an before it.
func withArticle(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

func watchCommand(a *app, read refReader) *cobra.Command {
	var out output
	var selector string
	cmd := &cobra.Command{RunE: func(cmd *cobra.Command, words []string) error {
		refs, err := read(words)
		if err = errors.Join(err, out.check()); err != nil {
			return err
		}
		if refs[0].kind.Name == "Event" {
			return a.watchEvents(cmd.Context(), out, eventFilter{})
		}
		return a.with(cmd.Context(), func(c *client) error {
			w := &watchPrinter{a: a, out: out}
			return c.watch(cmd.Context(), refs[0].kind, refs[0].name, selector, w.print)
		})
	}}
	out.addFlags(cmd)
	addSelector(cmd, &selector)
	return cmd
}

// watchPrinter prints what is there as one table, and each change as a row.
type watchPrinter struct {
	a       *app
	out     output
	first   []resource.Object
	widths  []int
	started bool
	// headed: the header has been written.
	headed bool
}

func (w *watchPrinter) print(ch change) error {
	if w.out.format != formatTable && w.out.format != formatWide {
		return w.printOne(ch)
	}
	switch {
	case ch.kind == pb.ChangeType_SYNCED:
		return w.start()
	case !w.started:
		w.first = append(w.first, ch.object)
		return nil
	}
	return w.row(ch)
}

func (w *watchPrinter) printOne(ch change) error {
	if ch.object == nil {
		return nil
	}
	if w.out.format == formatYAML && w.started {
		fprintf(w.a.stdout, "---\n")
	}
	w.started = true
	if w.out.format == formatName {
		fprintf(w.a.stdout, "%s %s\n", label(ch.object), strings.ToLower(ch.kind.String()))
		return nil
	}
	return w.a.print(w.out, []resource.Object{ch.object})
}

func (w *watchPrinter) start() error {
	if w.started {
		return nil
	}
	w.started = true
	if len(w.first) == 0 {
		return nil
	}
	return w.rows("", w.first)
}

func (w *watchPrinter) row(ch change) error {
	return w.rows(strings.ToLower(ch.kind.String()), []resource.Object{ch.object})
}

// rows prints the kind's table with a column for the change before it.
func (w *watchPrinter) rows(what string, objs []resource.Object) error {
	t := w.a.table(w.out, objs)
	if len(t.Header) > 0 {
		t.Header = append([]string{"CHANGE"}, t.Header...)
	}
	if w.headed {
		t.Header = nil
	}
	for i := range t.Rows {
		t.Rows[i] = append([]string{what}, t.Rows[i]...)
	}
	t.Min = w.widths
	if t.Min == nil {
		t.Min = []int{len("modified")}
	}
	w.headed, w.widths = true, t.Widths()
	return t.Write(w.a.stdout)
}
