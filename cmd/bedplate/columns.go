package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

// column is one column of a kind's table.
type column struct {
	name  string
	value func(resource.Object) string
	style func(string) string
}

// of makes a column of a function on the kind's own type.
func of[T resource.Object](name string, value func(T) string) column {
	return column{name: name, value: func(obj resource.Object) string {
		o, ok := obj.(T)
		if !ok {
			return ""
		}
		return value(o)
	}}
}

// columns returns the columns of a kind's table.
func (a *app) columns(o output, kind resource.Kind) []column {
	state := a.style(a.stdout).State
	name := column{name: "NAME", value: func(obj resource.Object) string { return obj.GetMetadata().GetName() }}
	age := column{name: "AGE", value: func(obj resource.Object) string { return a.age(obj.GetMetadata().GetCreateTime()) }}
	labels := column{name: "LABELS", value: func(obj resource.Object) string { return labelText(obj.GetMetadata().GetLabels()) }}
	if kind.Name == "Event" {
		return a.eventColumns(o)
	}
	narrow, wide := a.kindColumns(kind)
	for i, c := range narrow {
		if c.name == "STATE" {
			narrow[i].style = state
		}
	}
	out := append([]column{name}, narrow...)
	out = append(out, age)
	if o.format == formatWide {
		out = append(append(out, wide...), labels)
	}
	return out
}

// kindColumns returns what a kind's table has beside name and age, and what
// it has more when it is wide.
func (a *app) kindColumns(kind resource.Kind) (narrow, wide []column) {
	switch kind.Name {
	case "Machine":
		return machineColumns()
	case "Pool":
		return poolColumns()
	case "Rule":
		return ruleColumns()
	case "Stack":
		return a.stackColumns()
	case "Job":
		return a.jobColumns()
	case "Erasure":
		return a.erasureColumns()
	case "Network":
		return networkColumns()
	case "Image":
		return imageColumns()
	case "Template":
		return templateColumns()
	case "Workflow":
		return a.workflowColumns()
	case "Instance":
		return instanceColumns()
	case "Token":
		return a.tokenColumns()
	case "Secret":
		return []column{of("KEYS", func(s *pb.Secret) string { return strings.Join(s.GetStatus().GetKeys(), ",") })}, nil
	}
	return nil, nil
}

func machineColumns() (narrow, wide []column) {
	return []column{
			of("STATE", func(m *pb.Machine) string { return resource.EnumName(m.GetStatus().GetState()) }),
			of("WORKFLOW", func(m *pb.Machine) string { return m.GetStatus().GetWorkflow() }),
			of("INSTANCE", func(m *pb.Machine) string { return m.GetStatus().GetInstance() }),
			of("ADDRESS", machineAddress),
		}, []column{
			of("MAC", func(m *pb.Machine) string {
				return join(m.GetSpec().GetInterfaces(), func(i *pb.Interface) string { return i.GetMac() })
			}),
			of("NEXT", func(m *pb.Machine) string { return resource.EnumName(m.GetStatus().GetNextBoot()) }),
			of("AGENT", func(m *pb.Machine) string {
				if m.GetStatus().GetAgent().GetConnected() {
					return "connected"
				}
				return ""
			}),
			of("CAUSE", func(m *pb.Machine) string { return m.GetStatus().GetCause() }),
		}
}

// machineAddress is the address that a person would ping: one that was seen,
// else the first that is reserved.
func machineAddress(m *pb.Machine) string {
	if seen := m.GetStatus().GetAddresses(); len(seen) > 0 {
		return seen[0]
	}
	for _, i := range m.GetSpec().GetInterfaces() {
		if address, _, _ := strings.Cut(i.GetAddress(), "/"); address != "" {
			return address
		}
	}
	return ""
}

func networkColumns() (narrow, wide []column) {
	return []column{
			of("CIDR", func(n *pb.Network) string { return n.GetSpec().GetCidr() }),
			of("DHCP", func(n *pb.Network) string { return resource.EnumName(n.GetSpec().GetDhcpMode()) }),
			of("LEASES", func(n *pb.Network) string {
				return fmt.Sprintf("%d/%d", n.GetStatus().GetLeases(), n.GetStatus().GetPoolSize())
			}),
			of("UNKNOWN", func(n *pb.Network) string { return resource.EnumName(n.GetSpec().GetUnknownMachines()) }),
		}, []column{
			of("GATEWAY", func(n *pb.Network) string { return n.GetSpec().GetGateway() }),
			of("POOLS", func(n *pb.Network) string {
				return join(n.GetSpec().GetPools(), func(r *pb.AddressRange) string { return r.GetStart() + "-" + r.GetEnd() })
			}),
			of("INTERFACES", func(n *pb.Network) string { return strings.Join(n.GetSpec().GetInterfaces(), ",") }),
		}
}

// someBytes is a number of bytes for people; nothing for none.
func someBytes(n int64) string {
	if n == 0 {
		return ""
	}
	return table.Bytes(n)
}

func imageColumns() (narrow, wide []column) {
	return []column{
			of("STATE", func(i *pb.Image) string { return resource.EnumName(i.GetStatus().GetState()) }),
			of("OS", func(i *pb.Image) string {
				return strings.TrimSpace(i.GetSpec().GetOs() + " " + i.GetSpec().GetOsVersion())
			}),
			of("ARCH", func(i *pb.Image) string { return orElse(i.GetSpec().GetArchitecture(), "x86_64") }),
			of("SIZE", func(i *pb.Image) string {
				size := max(i.GetStatus().GetSizeBytes(), i.GetSpec().GetSizeBytes())
				if size == 0 {
					return ""
				}
				return table.Bytes(size)
			}),
		}, []column{
			of("FORMAT", func(i *pb.Image) string { return i.GetSpec().GetFormat() }),
			of("DISK", func(i *pb.Image) string { return someBytes(i.GetStatus().GetDiskBytes()) }),
			of("STORED", func(i *pb.Image) string { return someBytes(i.GetStatus().GetStoredBytes()) }),
			of("DIGEST", func(i *pb.Image) string { return orElse(i.GetSpec().GetDigest(), i.GetStatus().GetDigest()) }),
			of("SIGNED BY", func(i *pb.Image) string { return i.GetStatus().GetSignature().GetSignedBy() }),
			of("URL", func(i *pb.Image) string { return i.GetSpec().GetUrl() }),
			of("MESSAGE", func(i *pb.Image) string { return i.GetStatus().GetMessage() }),
		}
}

func templateColumns() (narrow, wide []column) {
	return []column{
		of("STEPS", func(t *pb.Template) string { return fmt.Sprint(len(t.GetSpec().GetSteps())) }),
		of("INPUTS", func(t *pb.Template) string {
			return strings.Join(slices.Sorted(maps.Keys(t.GetSpec().GetInputs())), ",")
		}),
		of("DESCRIPTION", func(t *pb.Template) string { return t.GetSpec().GetDescription() }),
	}, nil
}

func (a *app) workflowColumns() (narrow, wide []column) {
	return []column{
			of("STATE", func(w *pb.Workflow) string { return resource.EnumName(w.GetStatus().GetState()) }),
			of("MACHINE", func(w *pb.Workflow) string { return w.GetSpec().GetMachine() }),
			of("TEMPLATE", func(w *pb.Workflow) string { return w.GetSpec().GetTemplate() }),
			of("STEPS", stepCount),
			of("TOOK", func(w *pb.Workflow) string { return a.took(w.GetStatus().GetStartTime(), w.GetStatus().GetEndTime()) }),
		}, []column{
			of("INSTANCE", func(w *pb.Workflow) string { return w.GetSpec().GetInstance() }),
			of("CAUSE", func(w *pb.Workflow) string { return w.GetStatus().GetCause() }),
		}
}

// stepCount is how many steps are done, of all.
func stepCount(w *pb.Workflow) string {
	done, all := 0, 0
	for _, s := range w.GetStatus().GetSteps() {
		if s.GetOnFailure() {
			continue
		}
		all++
		if s.GetState() == pb.StepState_STEP_SUCCEEDED || s.GetState() == pb.StepState_STEP_SKIPPED {
			done++
		}
	}
	if all == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", done, all)
}

func instanceColumns() (narrow, wide []column) {
	return []column{
			of("STATE", func(i *pb.Instance) string { return resource.EnumName(i.GetStatus().GetState()) }),
			of("MACHINE", func(i *pb.Instance) string { return i.GetStatus().GetMachine() }),
			of("IMAGE", func(i *pb.Instance) string { return i.GetSpec().GetImage() }),
			of("ADDRESS", func(i *pb.Instance) string { return strings.Join(i.GetStatus().GetAddresses(), ",") }),
		}, []column{
			of("WORKFLOW", func(i *pb.Instance) string { return i.GetStatus().GetWorkflow() }),
			of("CAUSE", func(i *pb.Instance) string { return i.GetStatus().GetCause() }),
		}
}

func (a *app) tokenColumns() (narrow, wide []column) {
	return []column{
			of("ROLE", func(t *pb.Token) string { return resource.EnumName(t.GetSpec().GetRole()) }),
			of("PREFIX", func(t *pb.Token) string { return t.GetStatus().GetPrefix() }),
			of("EXPIRES", func(t *pb.Token) string {
				switch at := t.GetSpec().GetExpireTime(); {
				case at == nil:
					return "never"
				case a.now().After(at.AsTime()):
					return "expired"
				default:
					return "in " + table.Age(at.AsTime().Sub(a.now()))
				}
			}),
		}, []column{
			of("DESCRIPTION", func(t *pb.Token) string { return t.GetSpec().GetDescription() }),
		}
}

func (a *app) eventColumns(o output) []column {
	kind := of("TYPE", func(e *pb.Event) string { return e.GetType() })
	kind.style = a.style(a.stdout).State
	out := []column{
		of("AGE", func(e *pb.Event) string { return a.age(e.GetTime()) }),
		kind,
		of("SUBJECT", func(e *pb.Event) string {
			return strings.ToLower(e.GetSubjectKind()) + "/" + e.GetSubjectName()
		}),
		of("REASON", func(e *pb.Event) string { return e.GetReason() }),
	}
	if o.format == formatWide {
		out = append(out, of("ACTOR", func(e *pb.Event) string { return e.GetActor() }))
	}
	return append(out, of("MESSAGE", func(e *pb.Event) string { return e.GetMessage() }))
}

// took says how long something took, or has taken till now.
func (a *app) took(start, end *timestamppb.Timestamp) string {
	if start == nil {
		return ""
	}
	until := a.now()
	if end != nil {
		until = end.AsTime()
	}
	return table.Took(until.Sub(start.AsTime()).Truncate(100 * time.Millisecond))
}

func labelText(labels map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+"="+labels[k])
	}
	return strings.Join(parts, ",")
}

func join[T any](items []T, text func(T) string) string {
	parts := make([]string, len(items))
	for i, item := range items {
		parts[i] = text(item)
	}
	return strings.Join(parts, ",")
}

func orElse(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}
