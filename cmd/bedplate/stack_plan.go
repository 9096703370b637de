package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

func newStackPlanCommand(a *app) *cobra.Command {
	var paths []string
	var out output
	var brief bool
	cmd := &cobra.Command{
		Use:   "plan -f FILE | NAME",
		Short: "Say what applying a stack would change in its cluster",
		Long: `Say what applying a stack would change in its cluster, layer by layer, down to
the lines of every object: by a dry run on its API server, with its defaults
and webhooks. Nothing is changed. With a name, it is the stack on record: what
would put right what others have changed.`,
		Example:           "  bedplate stack plan -f stack.yaml\n  bedplate stack plan edge --brief",
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Stack")),
		RunE: func(cmd *cobra.Command, words []string) error {
			if (len(words) == 1) == (len(paths) > 0) {
				return usageError{errors.New("which stack? give a file with -f, or the name of one on record")}
			}
			if err := out.check(); err != nil {
				return err
			}
			var items []resource.Item
			if len(paths) > 0 {
				var err error
				if items, err = a.readItems(paths, false); err != nil {
					return err
				}
			}
			return a.with(cmd.Context(), func(c *client) error {
				if len(words) == 1 {
					obj, err := c.get(cmd.Context(), mustKind("Stack"), words[0])
					if err != nil {
						return err
					}
					items = []resource.Item{{Object: obj}}
				}
				return a.planStacks(cmd, c, items, out, brief)
			})
		},
	}
	cmd.Flags().StringArrayVarP(&paths, "file", "f", nil, "`file` with the stack; - is the standard input")
	cmd.Flags().BoolVar(&brief, "brief", false, "only which objects, not what of them")
	out.addFlags(cmd)
	return cmd
}

func (a *app) planStacks(cmd *cobra.Command, c *client, items []resource.Item, out output, brief bool) error {
	planned := 0
	for _, it := range items {
		s, ok := it.Object.(*pb.Stack)
		if !ok {
			continue
		}
		planned++
		if it.File != "" {
			if err := a.uploadStack(cmd.Context(), c, it); err != nil {
				return err
			}
		}
		ctx, cancel := c.bounded(cmd.Context())
		defer cancel()
		resp, err := pb.NewStackServiceClient(c.conn).PlanStack(ctx, &pb.PlanStackRequest{Stack: s})
		if err != nil {
			if it.File != "" {
				return placed(it, err)
			}
			return err
		}
		if out.format == formatTable || out.format == formatWide {
			a.showPlan(resp, brief)
			continue
		}
		if err := printMessages(a, out, false, []*pb.PlanStackResponse{resp}, nil); err != nil {
			return err
		}
	}
	if planned == 0 {
		return usageError{errors.New("there is no Stack in these files")}
	}
	return nil
}

func (a *app) showPlan(p *pb.PlanStackResponse, brief bool) {
	style := a.style(a.stdout)
	count := map[string]int{}
	for _, l := range p.GetLayers() {
		fprintf(a.stdout, "%s %s %s\n", style.Bold(l.GetName()), table.Clean(l.GetVersion()), style.State(l.GetAction()))
		if l.GetMessage() != "" {
			fprintf(a.stdout, "  %s\n", style.Bad(table.Clean(l.GetMessage())))
		}
		for _, o := range l.GetObjects() {
			count[o.GetAction()]++
			fprintf(a.stdout, "  %s %s\n", mark(style, o.GetAction()), table.Clean(o.GetObject())+note(o.GetAction()))
			if brief || o.GetAction() == "create" {
				continue
			}
			for line := range strings.SplitSeq(o.GetDiff(), "\n") {
				if line != "" {
					fprintf(a.stdout, "      %s\n", diffLine(style, table.Clean(line)))
				}
			}
		}
	}
	fprintf(a.stdout, "%d to create, %d to change, %d to take over, %d to delete\n", count["create"]+count["unknown"], count["update"], count["adopt"], count["delete"])
}

func mark(style table.Style, action string) string {
	switch action {
	case "create", "unknown":
		return style.Good("+")
	case "delete":
		return style.Bad("-")
	}
	return style.Busy("~")
}

func note(action string) string {
	switch action {
	case "unknown":
		return " (its kind comes with a layer below)"
	case "adopt":
		return " (is there already, and nobody's)"
	}
	return ""
}

func diffLine(style table.Style, line string) string {
	switch {
	case strings.HasPrefix(line, "+"):
		return style.Good(line)
	case strings.HasPrefix(line, "-"):
		return style.Bad(line)
	}
	return line
}

func newStackRetryCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "retry NAME",
		Short:             "Try the layers again that failed or have drifted",
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeOne(mustKind("Stack")),
		RunE: func(cmd *cobra.Command, words []string) error {
			return a.with(cmd.Context(), func(c *client) error {
				ctx, cancel := c.bounded(cmd.Context())
				defer cancel()
				s, err := pb.NewStackServiceClient(c.conn).RetryStack(ctx, &pb.RetryStackRequest{Name: words[0]})
				if err != nil {
					return err
				}
				fprintf(a.stdout, "%s is tried again; `bedplate stack follow %s` shows how it goes\n", label(s), words[0])
				return nil
			})
		},
	}
}

// stack describes a stack.
func (p *page) stack(s *pb.Stack) {
	p.common(s)
	st := s.GetStatus()
	p.line("State", p.a.style(p.a.stdout).State(stackState(s)))
	p.line("Description", s.GetSpec().GetDescription())
	p.line("Cluster", s.GetSpec().GetCluster().GetKubeconfigSecret())
	p.line("Kubernetes", st.GetClusterVersion())
	p.line("Took", p.a.took(st.GetStartTime(), st.GetEndTime()))
	p.line("Compared", p.a.ago(st.GetDriftCheckTime()))
	if len(st.GetLayers()) > 0 {
		p.section("Layers")
		t := &table.Table{Header: []string{"NAME", "STATE", "VERSION", "REVISION", "OBJECTS", "TOOK"}}
		for _, l := range st.GetLayers() {
			t.Add(l.GetName(), resource.EnumName(l.GetState()), l.GetVersion(), fmt.Sprint(l.GetRevision()), fmt.Sprint(l.GetObjects()), p.a.took(l.GetStartTime(), l.GetEndTime()))
		}
		p.table(t)
	}
	for _, l := range st.GetLayers() {
		if l.GetCause() != "" {
			p.section(l.GetName())
			p.text(l.GetCause())
		}
	}
	if st.GetCause() != "" && st.GetState() != pb.StackState_STACK_READY {
		p.section("Cause")
		p.text(st.GetCause())
	}
}
