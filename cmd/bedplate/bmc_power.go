package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/bmc"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"

	"github.com/bedplate/bedplate/cmd/bedplate/table"
)

func newPowerCommand(a *app) *cobra.Command {
	kind := mustKind("Machine")
	r := &jobRun{app: a, word: "power"}
	var out output
	var selector, grace string
	cmd := &cobra.Command{
		Use:   "power NAME... | -l SELECTOR [on|off|soft|cycle|reset|nmi]",
		Short: "Show or change whether machines are on",
		Long: `Show whether machines are on, or change it through their BMCs and wait until it is
so: on, off (the power is cut), soft (the operating system shuts down), cycle (off
and on), reset, or nmi (the kernel writes a crash dump).

It is a job: it goes on when the server is restarted, and machines that share a
power group or rack are switched on a few at a time.`,
		Example: `  bedplate machine power web-1
  bedplate machine power web-1 on
  bedplate machine power web-1 soft --grace 5m
  bedplate machine power -l rack=r1 cycle`,
		Args: args(cobra.ArbitraryArgs),
		ValidArgsFunction: func(cmd *cobra.Command, words []string, begun string) ([]string, cobra.ShellCompDirective) {
			names, how := a.completeNames(kind)(cmd, words, begun)
			if len(words) > 0 || selector != "" {
				names = append(names, actionsLike(begun)...)
			}
			return names, how
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			names, action := splitAction(words)
			if err := errors.Join(out.check(), checkWait("grace", grace), checkWait("timeout", r.timeout)); err != nil {
				return err
			}
			if grace != "" && action != "soft" {
				return usageError{errors.New("--grace is for soft: how long the operating system may take")}
			}
			return a.with(cmd.Context(), func(c *client) error {
				names, err := c.machinesOf(cmd.Context(), names, selector)
				if err != nil {
					return err
				}
				if action == "" {
					return a.showMachineBMCs(cmd.Context(), c, out, names, false)
				}
				return r.run(cmd.Context(), c, names, &pb.Operation{Operation: &pb.Operation_Power{Power: &pb.PowerOperation{Action: action, Grace: grace}}})
			})
		},
	}
	r.addFlags(cmd)
	out.addFlags(cmd)
	addSelector(cmd, &selector)
	cmd.Flags().StringVar(&grace, "grace", "", "soft only: a `duration` after which the power is cut (default: it isn't)")
	return cmd
}

// splitAction takes the action off the end of the words.
func splitAction(words []string) (names []string, action string) {
	if len(words) == 0 {
		return nil, ""
	}
	last := words[len(words)-1]
	if slices.Contains(bmc.PowerActions(), bmc.PowerAction(last)) {
		return words[:len(words)-1], last
	}
	return words, ""
}

func actionsLike(begun string) []string {
	var out []string
	for _, a := range bmc.PowerActions() {
		if strings.HasPrefix(string(a), begun) {
			out = append(out, string(a))
		}
	}
	return out
}

// asked is how many BMCs a command asks at a time.
const asked = 16

// showMachineBMCs asks the BMCs of machines how they are, and shows all in one table.
func (a *app) showMachineBMCs(ctx context.Context, c *client, out output, names []string, retry bool) error {
	answers := make([]*pb.GetMachineBMCResponse, len(names))
	errs := make([]error, len(names))
	var g sync.WaitGroup
	free := make(chan struct{}, asked)
	for i, name := range names {
		free <- struct{}{}
		g.Go(func() {
			defer func() { <-free }()
			ctx, cancel := c.bounded(ctx)
			defer cancel()
			answers[i], errs[i] = pb.NewMachineServiceClient(c.conn).GetMachineBMC(ctx, &pb.GetMachineBMCRequest{Name: name, Retry: retry})
			if errs[i] != nil {
				errs[i] = c.nearest(ctx, mustKind("Machine"), name, errs[i])
			}
		})
	}
	g.Wait()
	answers = slices.DeleteFunc(answers, func(r *pb.GetMachineBMCResponse) bool { return r == nil })
	if len(answers) > 0 {
		if err := printMessages(a, out, len(names) != 1, answers, func() *table.Table { return a.bmcTable(out, answers) }); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

func (a *app) bmcTable(out output, answers []*pb.GetMachineBMCResponse) *table.Table {
	t := &table.Table{Header: []string{"MACHINE", "POWER", "HEALTH", "BOOT", "MEDIA", "CONTACT", "ERROR"}}
	if out.format == formatWide {
		t.Header = append(t.Header, "ADDRESS", "PROTOCOL", "MODEL", "FIRMWARE")
	}
	style := a.style(a.stdout)
	for _, r := range answers {
		s := r.GetStatus()
		cells := clean(r.GetMachine(), resource.EnumName(s.GetPower()), s.GetHealth(), s.GetBootOverride(), s.GetMedia(), a.age(s.GetContactTime()), table.Truncate(r.GetError(), maxCell))
		if out.format == formatWide {
			cells = append(cells, clean(r.GetAddress(), s.GetProtocol(), strings.TrimSpace(s.GetVendor()+" "+s.GetModel()), s.GetFirmwareVersion())...)
		}
		if r.GetError() != "" {
			cells[6] = style.Bad(cells[6])
		}
		t.Add(cells...)
	}
	return t
}
