package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

func newApplyCommand(a *app) *cobra.Command {
	ap := &applier{app: a}
	var paths []string
	var recursive bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Create or update resources from files",
		Long: `Create or update the resources in files: YAML with any number of documents, or
JSON. Of a directory all .yaml, .yml and .json files are read.

All files are read and checked before anything is changed: one wrong field in
one of them, and nothing is. Resources are then applied one by one, those that
others refer to first. If the server refuses one, the others are applied all the
same, and the command fails in the end; if the server can't be reached any
more, it stops there. Applying again is always safe.

A resource with metadata.resource_version is changed only if that is still its
version.`,
		Example: "  bedplate apply -f rack.yaml --dry-run\n  bedplate apply -f rack.d -f images.yaml\n  bedplate get machine web-1 -o yaml | sed s/r1/r2/ | bedplate apply -f -",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 {
				return usageError{errors.New("which files? give them with -f")}
			}
			items, err := a.readItems(paths, recursive)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client) error {
				ap.client = c
				return ap.all(cmd.Context(), items)
			})
		},
	}
	cmd.Flags().StringArrayVarP(&paths, "file", "f", nil, "`file` or directory; - is the standard input; may be given more than once")
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "read directories with all below them")
	cmd.Flags().BoolVar(&ap.dryRun, "dry-run", false, "check with the server and print what would change, but change nothing")
	return cmd
}

// readItems reads and checks all files, and puts resources that others refer to first.
func (a *app) readItems(paths []string, recursive bool) ([]resource.Item, error) {
	var items []resource.Item
	var wrong resource.FileErrors
	for _, p := range paths {
		files, err := filesOf(p, recursive)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			got, err := a.readFile(f)
			var errs resource.FileErrors
			if errors.As(err, &errs) {
				wrong = append(wrong, errs...)
			} else if err != nil {
				return nil, err
			}
			items = append(items, got...)
		}
	}
	wrong = append(wrong, wrongItems(items)...)
	if len(wrong) > 0 {
		return nil, hint(wrong, "nothing was changed")
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("there are no resources in %s", strings.Join(paths, ", "))
	}
	slices.SortStableFunc(items, func(x, y resource.Item) int { return rank(x.Object) - rank(y.Object) })
	return items, nil
}

// rank is the place of a kind in the order in which resources are created.
func rank(obj resource.Object) int {
	return slices.IndexFunc(resource.Kinds(), func(k resource.Kind) bool { return k.Name == resource.KindOf(obj).Name })
}

// wrongItems finds what is wrong with files together.
func wrongItems(items []resource.Item) resource.FileErrors {
	var wrong resource.FileErrors
	first := map[string]resource.FileError{}
	for _, it := range items {
		at := it.At(resource.FieldError{Path: "metadata.name"})
		if kind := resource.KindOf(it.Object); kind.Name == "Event" || kind.Name == "Erasure" {
			at.Path, at.Message = "kind", kind.Plural+" are written by the server and can't be applied"
			wrong = append(wrong, at)
			continue
		}
		was, twice := first[label(it.Object)]
		if twice {
			at.Message = fmt.Sprintf("%s is given twice: %s:%d has it too", label(it.Object), was.File, was.Line)
			wrong = append(wrong, at)
			continue
		}
		first[label(it.Object)] = at
	}
	return wrong
}

// filesOf returns the files that a path stands for.
func filesOf(path string, recursive bool) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading files: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != path && !recursive:
			return fs.SkipDir
		case !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)):
			files = append(files, name)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("there are no .yaml, .yml or .json files in %s", path)
	}
	return files, err
}

func (a *app) readFile(path string) ([]resource.Item, error) {
	if path == "-" {
		return resource.Decode("stdin", a.stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading files: %w", err)
	}
	defer f.Close()
	return resource.Decode(path, io.Reader(f))
}

// applier applies the resources of one command.
type applier struct {
	*app
	client *client
	dryRun bool
	// missing has the kinds of which a dry run would have created something:
	// the server can't check what refers to that.
	missing map[string]bool
	mu      sync.Mutex // of missing
	// fresh has the names of Secrets that a dry run would have created: the
	// server is asked about machines without them.
	fresh map[string]bool
}

func (ap *applier) all(ctx context.Context, items []resource.Item) error {
	ap.missing = map[string]bool{}
	failed := 0
	err := inOrder(ctx, items, ap.one, func(_ resource.Item, o outcome, err error) error {
		switch {
		case err == nil:
			ap.show(o)
		case fatal(err):
			return err
		default:
			ap.report(err)
			failed++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if failed == 0 {
		return nil
	}
	if len(items) == 1 {
		return errReported
	}
	if ap.dryRun {
		return fmt.Errorf("%d of %d resources would be refused", failed, len(items))
	}
	err = fmt.Errorf("%d of %d resources were not applied", failed, len(items))
	return hint(err, "the others were; correct these and apply again")
}

// fatal reports whether the next request would fail the same way.
func fatal(err error) bool {
	switch codeOf(err) {
	case codes.Unavailable, codes.Unauthenticated, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return isCancelled(err)
}

// outcome is what became of one resource.
type outcome struct {
	obj, current, after resource.Object
	changes             []resource.FieldChange
	secret              string
	unchanged           bool
}

// one applies one resource.
func (ap *applier) one(ctx context.Context, it resource.Item) (outcome, error) {
	o := outcome{obj: it.Object}
	kind := resource.KindOf(o.obj)
	if err := ap.uploadStack(ctx, ap.client, it); err != nil {
		return o, err
	}
	before, err := ap.client.call(ctx, kind, "Get"+kind.Name, fields{"name": o.obj.GetMetadata().GetName()})
	switch {
	case err == nil:
		o.current = before.(resource.Object)
	case codeOf(err) != codes.NotFound:
		return o, err
	}
	o.changes = resource.Diff(o.current, o.obj)
	if o.unchanged = o.current != nil && len(o.changes) == 0 && !outdated(o.obj, o.current); o.unchanged {
		return o, nil
	}
	if o.after, o.secret, err = ap.send(ctx, kind, o.obj, o.current); err != nil {
		return o, placed(it, err)
	}
	return o, nil
}

// show prints what became of a resource.
func (ap *applier) show(o outcome) {
	if o.unchanged {
		fprintf(ap.stdout, "%s unchanged\n", label(o.obj))
		return
	}
	ap.tell(o.obj, o.current, o.after, o.changes)
	if o.secret != "" {
		fprintf(ap.stdout, "  its secret, shown only now: %s\n", o.secret)
	}
}

// outdated reports whether obj asks for another version than the current one;
// the server then refuses it.
func outdated(obj, current resource.Object) bool {
	v := obj.GetMetadata().GetResourceVersion()
	return v != 0 && v != current.GetMetadata().GetResourceVersion()
}

// send creates or updates, or has the server check that it could.
func (ap *applier) send(ctx context.Context, kind resource.Kind, obj, current resource.Object) (after resource.Object, secret string, err error) {
	if ap.dryRun && current == nil {
		defer ap.miss(kind.Name)
	}
	if ap.dryRun && ap.misses() && (kind.Name == "Instance" || kind.Name == "Workflow") {
		return nil, "", nil
	}
	if t, ok := obj.(*pb.Token); ok && current == nil {
		ctx, cancel := ap.client.bounded(ctx)
		defer cancel()
		made, err := pb.NewTokenServiceClient(ap.client.conn).CreateToken(ctx, &pb.CreateTokenRequest{Token: t, DryRun: ap.dryRun})
		if ap.dryRun {
			return made.GetToken(), "", err
		}
		return made.GetToken(), made.GetSecret(), err
	}
	after, err = ap.client.update(ctx, kind, without(obj, ap.fresh), current == nil, ap.dryRun)
	return after, "", err
}

func (ap *applier) miss(kind string) {
	ap.mu.Lock()
	defer ap.mu.Unlock()
	ap.missing[kind] = true
}

func (ap *applier) misses() bool {
	ap.mu.Lock()
	defer ap.mu.Unlock()
	return len(ap.missing) > 0
}

// tell prints what was done to a resource.
func (ap *applier) tell(obj, current, after resource.Object, changes []resource.FieldChange) {
	style := ap.style(ap.stdout)
	result := style.Good("created")
	if current != nil {
		result = style.Busy("configured")
		// The server may write a value in another way, and so see no change.
		if after != nil && !ap.dryRun && after.GetMetadata().GetResourceVersion() == current.GetMetadata().GetResourceVersion() {
			result = "unchanged"
		}
	}
	if !ap.dryRun {
		fprintf(ap.stdout, "%s %s\n", label(obj), result)
		return
	}
	note := ""
	if after == nil {
		note = " (not checked by the server: it may refer to what isn't there yet)"
	}
	fprintf(ap.stdout, "%s would be %s%s\n", label(obj), result, note)
	_, hidden := obj.(*pb.Secret)
	for _, ch := range changes {
		fprintf(ap.stdout, "  %s\n", changeText(style, ch, hidden && strings.HasPrefix(ch.Path, "spec.data")))
	}
}

func changeText(style table.Style, ch resource.FieldChange, hidden bool) string {
	old, now := shown(ch.Old), shown(ch.New)
	if hidden {
		old, now = "(hidden)", "(hidden)"
	}
	switch {
	case ch.Added:
		return style.Good(fmt.Sprintf("+ %s: %s", ch.Path, now))
	case ch.Removed:
		return style.Bad(fmt.Sprintf("- %s: %s", ch.Path, old))
	}
	return style.Busy(fmt.Sprintf("~ %s: %s -> %s", ch.Path, old, now))
}

// shown writes a value on one line.
func shown(s string) string {
	const longest = 80
	if n := strings.Count(s, "\n"); n > 1 || len(s) > 2*longest {
		return fmt.Sprintf("%s (%d bytes)", strconv.Quote(table.Truncate(s, longest)), len(s))
	}
	if s == "" || strings.ContainsAny(s, "\n\t ") || table.Clean(s) != s {
		return strconv.Quote(s)
	}
	return s
}

// placed says where in the files the server's error is.
func placed(it resource.Item, err error) error {
	st, ok := statusOf(err)
	if !ok || fatal(err) {
		return err
	}
	var errs resource.FileErrors
	for _, v := range violations(st) {
		errs = append(errs, it.At(v))
	}
	slices.SortStableFunc(errs, func(x, y resource.FileError) int { return x.Line - y.Line })
	if len(errs) == 0 {
		at := it.At(resource.FieldError{})
		at.Message = st.Message()
		if !strings.HasPrefix(at.Message, label(it.Object)) {
			at.Message = label(it.Object) + ": " + at.Message
		}
		errs = append(errs, at)
	}
	return errs
}
