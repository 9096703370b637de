package main

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

// describedEvents is how many events a description ends with.
const describedEvents = 10

// page collects a description.
type page struct {
	a   *app
	out strings.Builder
}

// line writes `Name:   value`, unless the value is empty.
func (p *page) line(name, value string) {
	if value == "" {
		return
	}
	fmt.Fprintf(&p.out, "%-15s %s\n", name+":", value)
}

// section begins a new part.
func (p *page) section(name string) {
	fmt.Fprintf(&p.out, "\n%s\n", p.a.style(p.a.stdout).Bold(name+":"))
}

func (p *page) table(t *table.Table) {
	t.Indent = "  "
	_ = t.Write(&p.out) // a strings.Builder doesn't fail
}

// text writes text of several lines, indented.
func (p *page) text(text string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		fmt.Fprintf(&p.out, "  %s\n", strings.TrimRight(table.Clean(line), " "))
	}
}

// describe prints all about a resource, with its last events.
func (a *app) describe(ctx context.Context, c *client, obj resource.Object) error {
	p := &page{a: a}
	md := obj.GetMetadata()
	p.line("Name", md.GetName())
	switch o := obj.(type) {
	case *pb.Machine:
		p.machine(o)
	case *pb.Workflow:
		p.workflow(o)
	case *pb.Instance:
		p.instance(o)
	case *pb.Stack:
		p.stack(o)
	case *pb.Template:
		p.template(o)
	case *pb.Image:
		p.common(obj)
		if err := p.fields(withoutProof(o)); err != nil {
			return err
		}
	default:
		p.common(obj)
		if err := p.fields(obj); err != nil {
			return err
		}
	}
	if err := p.events(ctx, c, obj); err != nil {
		return err
	}
	_, err := fmt.Fprint(a.stdout, p.out.String())
	return err
}

// withoutProof leaves out what only programs read.
func withoutProof(i *pb.Image) *pb.Image {
	i = proto.CloneOf(i)
	if o := i.GetSpec().GetOrigin(); o != nil {
		o.Checksums, o.Signature, o.Keys = nil, nil, nil
	}
	return i
}

// common writes what all resources have.
func (p *page) common(obj resource.Object) {
	md := obj.GetMetadata()
	p.line("Labels", labelText(md.GetLabels()))
	p.line("Annotations", labelText(md.GetAnnotations()))
	p.line("Created", p.a.ago(md.GetCreateTime()))
	p.line("Changed", p.a.ago(md.GetUpdateTime()))
}

// fields writes spec and status as YAML.
func (p *page) fields(obj resource.Object) error {
	var text strings.Builder
	if err := resource.Encode(&text, resource.YAML, obj); err != nil {
		return err
	}
	inside := false
	for line := range strings.SplitSeq(strings.TrimRight(text.String(), "\n"), "\n") {
		if !strings.HasPrefix(line, " ") {
			name := strings.TrimSuffix(line, ":")
			inside = name == "spec" || name == "status"
			if inside {
				p.section(strings.ToUpper(name[:1]) + name[1:])
			}
			continue
		}
		if inside {
			fmt.Fprintln(&p.out, line)
		}
	}
	return nil
}

func (p *page) events(ctx context.Context, c *client, obj resource.Object) error {
	events, err := c.events(ctx, eventFilter{resource.KindOf(obj).Name, obj.GetMetadata().GetName()}, describedEvents)
	if err != nil || len(events) == 0 {
		return err
	}
	p.section("Events")
	t := &table.Table{Header: []string{"AGE", "TYPE", "REASON", "ACTOR", "MESSAGE"}}
	style := p.a.style(p.a.stdout)
	for _, o := range events {
		e := o.(*pb.Event)
		t.Add(p.a.age(e.GetTime()), style.State(e.GetType()), e.GetReason(), e.GetActor(), table.Clean(e.GetMessage()))
	}
	p.table(t)
	return nil
}

func (p *page) instance(i *pb.Instance) {
	s, st := i.GetSpec(), i.GetStatus()
	p.line("State", p.a.style(p.a.stdout).State(resource.EnumName(st.GetState())))
	p.line("Cause", table.Clean(st.GetCause()))
	p.line("Since", p.a.ago(st.GetStateTime()))
	p.line("Deadline", p.a.ago(st.GetDeadline()))
	p.line("Machine", orElse(st.GetMachine(), s.GetMachine()))
	p.line("Selector", s.GetSelector())
	p.line("Workflow", st.GetWorkflow())
	p.line("Addresses", strings.Join(st.GetAddresses(), ", "))
	p.line("First boot", p.a.ago(st.GetPhoneHomeTime()))
	p.line("Image", s.GetImage())
	p.line("Template", s.GetTemplate())
	p.line("Hostname", s.GetHostname())
	p.line("Disk", s.GetDiskHint())
	for _, k := range s.GetSshKeys() {
		p.line("SSH key", table.Truncate(table.Clean(k), maxCell))
	}
	if n := len(s.GetUserData()); n > 0 {
		p.line("User data", fmt.Sprintf("%d bytes", n))
	}
	if n := len(s.GetNetworkConfig()); n > 0 {
		p.line("Network config", fmt.Sprintf("%d bytes", n))
	}
	p.common(i)
	p.inputs(s.GetInputs())
}

func (p *page) template(t *pb.Template) {
	s := t.GetSpec()
	p.line("Description", s.GetDescription())
	p.line("Timeout", s.GetTimeout())
	p.common(t)
	if len(s.GetInputs()) > 0 {
		p.section("Inputs")
		tb := &table.Table{Header: []string{"NAME", "TYPE", "REQUIRED", "DEFAULT", "DESCRIPTION"}}
		for _, name := range sortedKeys(s.GetInputs()) {
			in := s.GetInputs()[name]
			required := "no"
			if in.GetRequired() {
				required = "yes"
			}
			tb.Add(name, orElse(in.GetType(), "string"), required, valueText(in.GetDefault()), in.GetDescription())
		}
		p.table(tb)
	}
	for _, list := range []struct {
		name  string
		steps []*pb.Step
	}{{"Steps", s.GetSteps()}, {"On failure", s.GetOnFailure()}} {
		if len(list.steps) == 0 {
			continue
		}
		p.section(list.name)
		tb := &table.Table{Header: []string{"STEP", "USES", "NEEDS", "IF", "TIMEOUT", "RETRIES"}}
		for _, st := range list.steps {
			retries := ""
			if n := st.GetRetries().GetMax(); n > 0 {
				retries = fmt.Sprint(n)
			}
			uses := st.GetUses()
			if st.GetImage() != "" {
				uses += " " + st.GetImage()
			}
			tb.Add(orElse(st.GetId(), st.GetName()), uses, strings.Join(st.GetNeeds(), ","), st.GetIf(), st.GetTimeout(), retries)
		}
		p.table(tb)
	}
}
