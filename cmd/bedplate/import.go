package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/discovery"
	"github.com/bedplate/bedplate/discovery/roster"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func newImportListCommand(a *app) *cobra.Command {
	im := &listImporter{app: a}
	cmd := &cobra.Command{
		Use:   "import FILE...",
		Short: "Add machines from a list: CSV, YAML, or NetBox's JSON",
		Long: `Add the machines of a list that people or another system keep: a table (CSV with
commas, semicolons or tabs), YAML, or the JSON of NetBox's API. docs/discovery.md
has the names of the columns. Columns that nobody knows are errors.

All files are read and checked, and the server is asked whether it would take
every machine, before anything is changed: one mistake, and nothing is. What a
list says of a machine that is there already is set, everything else stays as it
is, so importing a list again is safe.

Passwords of BMCs are put into a Secret, under the names of the machines. It is
named after the first file, so that importing that list again replaces it.`,
		Example: `  bedplate import rack1.csv --dry-run
  bedplate import rack1.csv --pool compute --label site=dc1
  bedplate import devices.json interfaces.json addresses.json
  bedplate import rack1.csv -o yaml > rack1.yaml`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, words []string) error { return im.run(cmd.Context(), words) },
	}
	f := cmd.Flags()
	f.StringVar(&im.format, "format", string(roster.Auto), "`format` of the files: "+formatList())
	f.StringVar(&im.opts.Secret, "secret", "", "`name` of the Secret for the passwords (default: the first file's, with -bmc)")
	f.StringVar(&im.opts.Pool, "pool", "", "`pool` for machines that the files give none")
	f.StringArrayVar(&im.labels, "label", nil, "`key=value` label for all machines; those of the files win; may be given more than once")
	f.StringArrayVar(&im.opts.Ignore, "ignore-column", nil, "`column` that is passed over; may be given more than once")
	f.BoolVar(&im.dryRun, "dry-run", false, "check with the server and print what would change, but change nothing")
	f.StringVarP(&im.output, "output", "o", "", "print the resources, with the passwords, as `format`: yaml|json, and change nothing unless --apply is given")
	f.BoolVar(&im.apply, "apply", false, "with -o: apply the resources as well")
	completeFlag(cmd, "format", strings.Split(formatList(), "|")...)
	completeFlag(cmd, "output", formatYAML, formatJSON)
	return cmd
}

func formatList() string {
	var names []string
	for _, f := range roster.Formats() {
		names = append(names, string(f))
	}
	return strings.Join(names, "|")
}

// listImporter adds the machines of lists.
type listImporter struct {
	*app
	opts           roster.Options
	format, output string
	labels         []string
	dryRun, apply  bool
}

func (im *listImporter) run(ctx context.Context, names []string) error {
	if err := im.options(names); err != nil {
		return err
	}
	list, err := im.read(names)
	if err != nil {
		return err
	}
	for _, n := range list.Notes {
		fprintf(im.stderr, "note: %s\n", n)
	}
	if len(list.Machines)+len(list.Resources) == 0 {
		return fmt.Errorf("there are no machines in %s", strings.Join(names, ", "))
	}
	if im.output != "" {
		format := map[string]resource.Format{formatYAML: resource.YAML, formatJSON: resource.JSON}[im.output]
		if err := resource.Encode(im.stdout, format, objectsOf(list)...); err != nil || !im.apply && !im.dryRun {
			return err
		}
	}
	return im.with(ctx, func(c *client) error { return im.send(ctx, c, list) })
}

// options checks the flags.
func (im *listImporter) options(names []string) error {
	im.opts.Format = roster.Format(im.format)
	if !slices.Contains(roster.Formats(), im.opts.Format) {
		return usageError{fmt.Errorf("--format %s: not one of %s", im.format, formatList())}
	}
	if im.output != "" && im.output != formatYAML && im.output != formatJSON {
		return usageError{fmt.Errorf("-o %s: not one of yaml, json", im.output)}
	}
	im.opts.Labels = map[string]string{}
	for _, l := range im.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return usageError{fmt.Errorf("--label %s: not of the form key=value", l)}
		}
		im.opts.Labels[k] = v
	}
	if im.opts.Secret == "" {
		im.opts.Secret = secretFor(names[0])
	}
	if !resource.ValidName(im.opts.Secret) {
		return usageError{fmt.Errorf("--secret %s: %w", im.opts.Secret, resource.ErrName)}
	}
	return nil
}

// secretFor names the Secret for a list's passwords after its file.
func secretFor(file string) string {
	base := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	name, err := discovery.Name(base)
	if err != nil || file == "-" {
		return "bmc-passwords"
	}
	return name + "-bmc"
}

func (im *listImporter) read(names []string) (roster.List, error) {
	var files []roster.File
	for _, name := range names {
		data, err := im.readAll(name)
		if err != nil {
			return roster.List{}, err
		}
		if name == "-" {
			name = "stdin"
		}
		files = append(files, roster.File{Name: name, Data: data})
	}
	list, err := roster.Read(files, im.opts)
	var items []resource.Item
	items = append(items, list.Resources...)
	if wrong := wrongItems(items); err == nil && len(wrong) > 0 {
		err = wrong
	}
	if err != nil {
		return list, hint(err, "nothing was changed")
	}
	if len(list.Secrets) > 0 {
		list.Notes = append(list.Notes, exposed(names)...)
	}
	return list, nil
}

// exposed warns of files with passwords that everybody can read.
func exposed(names []string) []string {
	var notes []string
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && name != "-" && info.Mode().Perm()&0o004 != 0 {
			notes = append(notes, fmt.Sprintf("there are passwords in these files, and everybody on this computer can read %s: `chmod 600 %s`", name, name))
		}
	}
	return notes
}

// readAll reads one file up to the longest that is taken.
func (im *listImporter) readAll(name string) ([]byte, error) {
	in := im.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("reading files: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, roster.MaxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// objectsOf returns all resources of a list, those that others refer to first.
func objectsOf(list roster.List) []resource.Object {
	var objs []resource.Object
	for _, s := range list.Secrets {
		objs = append(objs, s)
	}
	for _, m := range list.Machines {
		objs = append(objs, m.Machine)
	}
	for _, item := range list.Resources {
		objs = append(objs, item.Object)
	}
	slices.SortStableFunc(objs, func(x, y resource.Object) int { return rank(x) - rank(y) })
	return objs
}

// send asks the server whether it would take everything, and if so has it.
func (im *listImporter) send(ctx context.Context, c *client, list roster.List) error {
	items, fresh, err := im.items(ctx, c, list)
	if err != nil {
		return err
	}
	if err := im.check(ctx, c, items, fresh); err != nil {
		return err
	}
	if im.dryRun {
		ap := &applier{app: im.app, client: c, dryRun: true, fresh: fresh}
		return ap.all(ctx, items)
	}
	ap := &applier{app: im.app, client: c}
	return ap.all(ctx, items)
}

// items returns what is to be applied: machines as they are with what the list
// says of them. fresh has the names of the Secrets that are not there yet.
func (im *listImporter) items(ctx context.Context, c *client, list roster.List) (items []resource.Item, fresh map[string]bool, err error) {
	fresh = map[string]bool{}
	for _, s := range list.Secrets {
		if err := im.replaces(ctx, c, s, fresh); err != nil {
			return nil, nil, err
		}
		items = append(items, resource.ItemAt(s, "the passwords", nil))
	}
	there, err := c.list(ctx, mustKind("Machine"), "")
	if err != nil {
		return nil, nil, err
	}
	current := map[string]*pb.Machine{}
	for _, obj := range there {
		current[obj.GetMetadata().GetName()], _ = obj.(*pb.Machine)
	}
	for _, m := range list.Machines {
		items = append(items, m.Over(current[m.GetMetadata().GetName()]).Item())
	}
	items = append(items, list.Resources...)
	slices.SortStableFunc(items, func(x, y resource.Item) int { return rank(x.Object) - rank(y.Object) })
	return items, fresh, nil
}

// replaces makes sure that a Secret of that name has no passwords of other
// machines: they would be lost, as nobody can read them again.
func (im *listImporter) replaces(ctx context.Context, c *client, s *pb.Secret, fresh map[string]bool) error {
	name := s.GetMetadata().GetName()
	obj, err := c.call(ctx, mustKind("Secret"), "GetSecret", fields{"name": name})
	if codeOf(err) == codes.NotFound {
		fresh[name] = true
		return nil
	}
	if err != nil {
		return err
	}
	var lost []string
	was, _ := obj.(*pb.Secret)
	for _, k := range was.GetStatus().GetKeys() {
		if _, given := s.GetSpec().GetData()[k]; !given {
			lost = append(lost, k)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	more := ""
	if len(lost) > maxLost {
		more = fmt.Sprintf(" and %d more", len(lost)-maxLost)
	}
	return hint(fmt.Errorf("secret/%s has passwords that are not in these files, and would be lost: %s%s", name, strings.Join(lost[:min(len(lost), maxLost)], ", "), more),
		"choose another Secret with --secret NAME, or delete it first if they are not needed any more")
}

// maxLost is how many keys an error names.
const maxLost = 4

// check has the server look at everything without changing it.
func (im *listImporter) check(ctx context.Context, c *client, items []resource.Item, fresh map[string]bool) error {
	failed := 0
	ask := func(ctx context.Context, it resource.Item) (struct{}, error) {
		switch kind := resource.KindOf(it.Object); kind.Name {
		case "Instance", "Workflow", "Token": // they may refer to what isn't there yet; apply says so
			return struct{}{}, nil
		default:
			_, err := c.update(ctx, kind, without(it.Object, fresh), true, true)
			return struct{}{}, err
		}
	}
	err := inOrder(ctx, items, ask, func(it resource.Item, _ struct{}, err error) error {
		if err == nil {
			return nil
		}
		if fatal(err) {
			return err
		}
		im.report(placed(it, err))
		failed++
		return nil
	})
	if err != nil {
		return err
	}
	if failed == 0 {
		return nil
	}
	return hint(fmt.Errorf("the server refuses %d of %d resources", failed, len(items)), "nothing was changed: correct these and import again")
}

// without leaves out what refers to a Secret that is only about to be made.
func without(obj resource.Object, fresh map[string]bool) resource.Object {
	m, ok := obj.(*pb.Machine)
	if !ok || !fresh[m.GetSpec().GetBmc().GetPasswordSecret()] {
		return obj
	}
	m = proto.Clone(m).(*pb.Machine)
	m.Spec.Bmc.PasswordSecret = ""
	return m
}
