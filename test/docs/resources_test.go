package docs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bedplate/bedplate/layout"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack/catalog"
	"github.com/bedplate/bedplate/stack/layer"
	"github.com/bedplate/bedplate/workflow/expression"
	"github.com/bedplate/bedplate/workflow/plan"
)

// someKey stands in for keys that a page only hints at.
const someKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHAk2MKyNHBZ3uoYqV/n3Uq477nQEZGzk/BL7D5OVAD0"

// problems returns what `bedplate apply -f name` would say of a file, one line each.
func problems(name, text string) []string {
	items, err := resource.Decode(name, strings.NewReader(strings.ReplaceAll(text, "ssh-ed25519 AAAA…", someKey)))
	if err != nil {
		return strings.Split(err.Error(), "\n")
	}
	var out resource.FileErrors
	for _, item := range items {
		var err error
		switch o := item.Object.(type) {
		case *pb.Template:
			err = expression.Check(o.GetSpec())
		case *pb.Rule:
			err = expression.CheckRule(o.GetSpec())
		case *pb.Stack:
			var c *catalog.Catalog
			if c, err = catalog.Builtin(); err == nil {
				_, err = layer.Resolve(o.GetSpec(), c)
			}
		case *pb.Instance:
			if s := o.GetSpec().GetSelector(); s != "" {
				err = expression.CheckSelector(s)
			}
			if s := o.GetSpec().GetDiskHint(); s != "" {
				err = errors.Join(err, expression.CheckDiskHint(s))
			}
			for _, s := range layout.Hints(o.GetSpec().GetStorage()) {
				err = errors.Join(err, expression.CheckDiskHint(s))
			}
		}
		var found plan.Problems
		var fields *resource.FieldErrors
		if errors.As(err, &fields) {
			for _, f := range fields.Errors {
				out = append(out, item.At(f))
			}
			err = nil
		}
		if errors.As(err, &found) {
			for _, p := range found {
				out = append(out, item.At(resource.FieldError{Path: p.Field, Message: p.Message}))
			}
		} else if err != nil {
			out = append(out, item.At(resource.FieldError{Path: "spec", Message: err.Error()}))
		}
	}
	slices.SortStableFunc(out, func(a, b resource.FileError) int { return a.Line - b.Line })
	if len(out) == 0 {
		return nil
	}
	return strings.Split(out.Error(), "\n")
}

func TestResources(t *testing.T) {
	n := 0
	for _, p := range written(t) {
		all := p.blocks()
		for i, b := range all {
			if !strings.HasPrefix(b.info, "yaml") || !strings.Contains(b.text, "apiVersion: "+resource.APIVersion) {
				continue
			}
			n++
			where := fmt.Sprintf("%s:%d", p.path, b.line)
			got := problems("bad.yaml", b.text)
			if b.info == "yaml" {
				for _, problem := range got {
					t.Errorf("%s: %s", where, problem)
				}
				continue
			}
			// The block after a bad one has what is said of it.
			var want []string
			for line := range strings.Lines(all[i+1].text) {
				want = append(want, strings.TrimPrefix(strings.TrimSpace(line), "error: "))
			}
			if got, want := strings.Join(got, "\n"), strings.Join(want, "\n"); got != want {
				t.Errorf("%s: errors are\n%s\nthe page has\n%s", where, got, want)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d resources were found: the pages are not understood", n)
	}
}

// fields returns the names of a message's fields, with those of its parts.
func fields(m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) []string {
	var out []string
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		out = append(out, string(f.Name()))
		part := f.Message()
		if f.IsMap() {
			part = f.MapValue().Message()
		}
		if part != nil && strings.HasPrefix(string(part.FullName()), "bedplate.") && !seen[part.FullName()] {
			seen[part.FullName()] = true
			out = append(out, fields(part, seen)...)
		}
	}
	return out
}

// TestFields wants every field that a person can give on the page of its kind.
func TestFields(t *testing.T) {
	for path, specs := range map[string][]protoreflect.ProtoMessage{
		"docs/network.md":            {&pb.NetworkSpec{}},
		"docs/machines.md":           {&pb.MachineSpec{}},
		"docs/pools.md":              {&pb.ErasePolicy{}, &pb.Hook{}},
		"docs/inspection.md":         {&pb.Expectation{}, &pb.TestPolicy{}},
		"docs/images.md":             {&pb.ImageSpec{}},
		"docs/templates.md":          {&pb.TemplateSpec{}},
		"docs/workflows.md":          {&pb.WorkflowSpec{}},
		"docs/instances.md":          {&pb.InstanceSpec{}},
		"docs/storage.md":            {&pb.StorageSpec{}},
		"docs/machine-network.md":    {&pb.MachineNetwork{}},
		"docs/tokens-and-secrets.md": {&pb.TokenSpec{}, &pb.SecretSpec{}},
	} {
		p := pageNamed(t, path)
		for _, spec := range specs {
			d := spec.ProtoReflect().Descriptor()
			// Storage and networks have pages of their own.
			for _, f := range fields(d, map[protoreflect.FullName]bool{"bedplate.v1.StorageSpec": true, "bedplate.v1.MachineNetwork": true}) {
				if !strings.Contains(p.text, "`"+f+"`") && !strings.Contains(p.text, f+":") {
					t.Errorf("%s says nothing of %s.%s", path, d.Name(), f)
				}
			}
		}
	}
}

// TestStates wants every state on the page of its kind.
func TestStates(t *testing.T) {
	for path, enums := range map[string][]protoreflect.Enum{
		"docs/machines.md":           {pb.MachineState(0), pb.NextBoot(0)},
		"docs/images.md":             {pb.ImageState(0)},
		"docs/workflows.md":          {pb.WorkflowState(0), pb.StepState(0)},
		"docs/instances.md":          {pb.InstanceState(0)},
		"docs/network.md":            {pb.DHCPMode(0), pb.UnknownMachines(0)},
		"docs/tokens-and-secrets.md": {pb.Role(0)},
	} {
		p := pageNamed(t, path)
		for _, e := range enums {
			values := e.Descriptor().Values()
			for i := range values.Len() {
				if values.Get(i).Number() == 0 {
					continue
				}
				word := resource.EnumName(e.Type().New(values.Get(i).Number()))
				if !strings.Contains(p.text, "`"+word+"`") {
					t.Errorf("%s says nothing of %s %s", path, e.Descriptor().Name(), word)
				}
			}
		}
	}
}
